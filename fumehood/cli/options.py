"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from fumehood.errors import BadInputError

Adapter = Literal["auto", "docker", "local"]
SandboxOption = Annotated[Adapter, typer.Option(help="Which sandbox.")]


def folder(text: str | Path) -> Path:
    """Return a path that a person gave; an empty one would silently mean the folder one stands in."""
    if not str(text).strip():
        raise BadInputError("--out is empty: give a folder's path.")
    return Path(text)


def setting_fault(error: ValidationError) -> str:
    """Return what is wrong with the environment's settings, as one sentence."""
    first = error.errors()[0]
    name = "FUMEHOOD_" + "__".join(str(part) for part in first["loc"]).upper()
    return f"The setting {name} cannot be {first['input']!r}: {first['msg']}."
