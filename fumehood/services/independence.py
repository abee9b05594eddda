"""Whether an edit leaves the seeds of a run independent, which one process trains; else each is run by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Run
from fumehood.domain.template import Template
from fumehood.ports import Artifacts
from fumehood.services import templates
from fumehood.services.query_driver import TOGETHER

FILE = "together.json"
"""Beside a run's outputs: what was found, written by the program that runs it."""
_PLACE = f"in/driver/{TOGETHER.name}"


class Told(BaseModel):
    """What a short run of two seeds and of one of them came to; a part of the record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    apart: bool
    """Whether each seed was run by a process of its own."""
    seed: int
    """The one that was looked at."""
    largest: float | None = Field(allow_inf_nan=False)
    """How far its files were apart at most, as a share of the numbers in them; None where nothing could be compared."""
    allowed: float = Field(allow_inf_nan=False)
    file: str = Field(max_length=300)
    """Which file that was."""
    reason: str = Field(max_length=1000)
    """Why seeds are run apart; empty where they are not."""


def is_checked(direction: Direction, template: Template, run: Run) -> bool:
    """Whether a run's seeds are looked at: those of code that its template's own tests do not know."""
    is_edited = dict(run.files) != templates.workspace(direction.template_files)
    asks_model = template.llm is not None  # whose answers differ from one call to the next, and cost
    return template.together is not None and is_edited and len(run.seeds) > 1 and not asks_model


def program(
    artifacts: Artifacts, direction: Direction, template: Template, run: Run
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what carries a run out, up to the arguments of `experiment.py`, and the files it needs itself."""
    out = f"--out_dir={run.folder}"
    if template.together is None or not is_checked(direction, template, run):
        return ("python", "experiment.py", out), {}
    check = (f"--check={one}" for one in template.together.check)
    return ("python", f"/{_PLACE}", out, *check, "--"), {_PLACE: artifacts.put(TOGETHER.read_bytes())}


def told(data: bytes) -> dict[str, Any] | None:
    """Return what was found, as a record holds it; None for what is none of it."""
    try:
        return Told.model_validate_json(data).model_dump()
    except ValidationError:
        return None


def sentence(record: Mapping[str, Any]) -> str:
    """Return in words that a run's seeds were not independent; empty where they were, or nobody looked."""
    found = record.get("together") or {}
    return f"had each seed run by a process of its own: {found['reason']}" if found.get("apart") else ""
