"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from fumehood.errors import BadInputError

INTERRUPTED = 130
"""The status of a command that Ctrl-C ended."""
Adapter = Literal["auto", "docker", "local"]
SandboxOption = Annotated[Adapter, typer.Option(help="Which sandbox.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, all else on standard error.")
]
Url = Annotated[str, typer.Option("--url", help="The server's address; FUMEHOOD_URL when left out.")]
Text = Annotated[str | None, typer.Option(help="The research direction; the template's own task when left out.")]
Ideas = Annotated[int, typer.Option(help="How many ideas to propose.")]
Runs = Annotated[int, typer.Option(help="Runs an idea may have, the baseline not counted.")]
Model = Annotated[str, typer.Option(help="A model's name, or `offline`.")]
ReviewModel = Annotated[str | None, typer.Option(help="The reviewer's model; the same when left out.")]
Profile = Annotated[str, typer.Option(help="The size, such as tiny, cpu or gpu.")]
NoveltyCheck = Annotated[Literal["on", "off"], typer.Option(help="Whether ideas are checked against the literature.")]
Budget = Annotated[float | None, typer.Option(help="The most that models may cost.")]
ExperimentBudget = Annotated[float | None, typer.Option(help="The most that the calls for one experiment may cost.")]
CallBudget = Annotated[float | None, typer.Option(help="The most that one call of a model may cost.")]
GpuBudget = Annotated[float | None, typer.Option(help="GPU-seconds after which no execution begins.")]
WallBudget = Annotated[float | None, typer.Option(help="Seconds of executions after which none begins.")]
Strategy = Annotated[str, typer.Option(help="How ideas are searched for; `list` is all there is.")]
Seed = Annotated[int, typer.Option(min=0, help="Moves every seed of this direction.")]
Packages = Annotated[
    list[str] | None,
    typer.Option(
        "--packages",
        metavar="LIST",
        help="Packages that the lab lacks, as NAME==VERSION, parted by commas; may be repeated.",
    ),
]
Wheels = Annotated[
    list[Path] | None,
    typer.Option("--wheel", metavar="FILE", help="The same, as a wheel's file; may be repeated."),
]


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
