"""The page about configuration names every setting, and no setting that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from fumehood.settings import Settings

SET_UP = {"FUMEHOOD_TORCH"}
"""Read by the set-up scripts, which run before the platform is installed."""


def variables(model: type[BaseModel], prefix: str) -> set[str]:
    """Return the name of each setting's variable, those of nested settings too."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= variables(kind, f"{prefix}{name.upper()}__")
        else:
            found.add(f"{prefix}{name.upper()}")
    return found


@pytest.fixture(scope="module")
def documented(root: Path) -> set[str]:
    """The variables that have a row of their own."""
    page = (root / "docs/configuration.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(FUMEHOOD_\w+)` \|", page, re.MULTILINE))


def test_every_setting_has_its_row(documented: set[str]) -> None:
    assert sorted(variables(Settings, "FUMEHOOD_") - documented) == []


def test_every_row_is_a_setting(documented: set[str]) -> None:
    assert sorted(documented - variables(Settings, "FUMEHOOD_") - SET_UP) == []
