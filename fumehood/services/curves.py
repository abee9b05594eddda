"""Metrics that are a step: what a run writes down while it trains, and how the platform sees to the axis of it.

The evaluator reads such a metric off the run's own curve of answers, which it alone can mark. That an answer was given
at the step it stands at, only the run knows. So the platform asks the kept checkpoints, and has the run's program do
some stretches of its training once more; what it comes to is `AxisCheck`.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fumehood.domain.execution import MIB, Artifact
from fumehood.domain.template import Curve, Template
from fumehood.errors import BadInputError
from fumehood.services.final_info import FinalInfo

CHECK = "curve_check.json"
"""Beside a run's outputs, written by the platform."""
_CURVE = re.compile(r"curve_(?P<dataset>.+)_(?P<seed>\d+)\.npz")
_CHECKPOINT = re.compile(r"checkpoint_(?P<dataset>.+)_(?P<seed>\d+)_(?P<step>[1-9]\d{0,11})\.[A-Za-z0-9]+")

Cell = tuple[str, int]
"""A data set and a seed."""


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(StrEnum):
    """Whose word the steps of a curve are."""

    PLATFORM = "platform"
    SELF = "self"


class Kept(_Told):
    """A checkpoint that is asked for its answers."""

    dataset: str
    seed: int
    step: int


class Stretch(_Told):
    """A part of a run's training: after `start`, up to and with `stop`."""

    dataset: str
    seed: int
    start: int
    """0 for the beginning."""
    stop: int
    checkpoint: str = ""
    """The file in the run's outputs that it goes on from; empty for the beginning."""


class Found(_Told):
    """How a checkpoint or a stretch answers, beside what was written down."""

    dataset: str
    seed: int
    step: int | None = None
    start: int | None = None
    stop: int | None = None
    evaluations: int | None = None
    updates: int | None = None
    """Of torch's optimisers, as the platform counted them; 0 where there were none."""
    apart: float
    """Share of the inputs that are answered otherwise, or the root of the mean square; the largest of a stretch."""
    moved: float
    """How far the recorded answers move there, in the same unit."""
    allowed: float
    """How far apart they may be."""
    holds: bool


class Compared(_Told):
    """What the comparing program writes."""

    checkpoints: tuple[Found, ...] = ()
    stretches: tuple[Found, ...] = ()
    problems: tuple[str, ...] = Field(default=(), max_length=10_000)


class AxisCheck(_Told):
    """What became of a run's axis; a part of its record."""

    axis: Axis
    reason: str = ""
    """Why the platform cannot say it; empty where it can."""
    checkpoints: tuple[Found, ...] = ()
    stretches: tuple[Found, ...] = ()
    resumed_s: float = 0.0
    """Seconds that the stretches took once more."""
    resumed_steps: int = 0

    def to_json(self) -> bytes:
        """Return it as it is kept."""
        return self.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"


NOT_CHECKED = AxisCheck(axis=Axis.SELF, reason="nothing was compared")


def too_much(curve: Curve, files: Mapping[str, Artifact]) -> str:
    """Return in words what a run left beyond what its template allows; empty where it keeps to it."""
    for path, item in sorted(files.items()):
        if _CURVE.fullmatch(path) and item.bytes > curve.curve_mib * MIB:
            return f"{path} has {item.bytes / MIB:.1f} MiB, and a curve may have {curve.curve_mib}"
    for (dataset, seed), kept in sorted(checkpoints(files).items()):
        if len(kept) > curve.checkpoints:
            return f"{len(kept)} checkpoints of {dataset} seed {seed} were kept, and at most {curve.checkpoints} may be"
    return ""


def of_evaluator(files: Mapping[str, str]) -> dict[str, str]:
    """Return the curves among a run's outputs, which its evaluator marks."""
    return {path: sha for path, sha in files.items() if _CURVE.fullmatch(path)}


def of_model(files: Mapping[str, str]) -> dict[str, str]:
    """Return what the run's model may see of its outputs: neither curves nor checkpoints."""
    return {path: sha for path, sha in files.items() if not _CURVE.fullmatch(path) and not _CHECKPOINT.fullmatch(path)}


def checkpoints(files: Mapping[str, object]) -> dict[Cell, dict[int, str]]:
    """Return the checkpoints among a run's outputs: by data set and seed, step to path."""
    found: dict[Cell, dict[int, str]] = {}
    for path in sorted(files):
        if match := _CHECKPOINT.fullmatch(path):
            found.setdefault((match["dataset"], int(match["seed"])), {})[int(match["step"])] = path
    return found


def asked(files: Mapping[str, str]) -> dict[str, str]:
    """Return the checkpoints as the asking program finds them: `<dataset>/<seed>/<step>.<suffix>` to SHA-256."""
    return {
        f"{dataset}/{seed}/{step}.{path.rpartition('.')[2]}": files[path]
        for (dataset, seed), kept in checkpoints(files).items()
        for step, path in kept.items()
    }


def stretches(
    template: Template, seeds: Sequence[int], files: Mapping[str, object], judged: FinalInfo, draw: str
) -> list[Stretch]:
    """Return the stretches of a run that are done once more: those that its metrics are read off, and one before each.

    Args:
        template: One that asks for a curve.
        seeds: The run's.
        files: Its outputs.
        judged: What the evaluator read off the curves.
        draw: What nobody could know before the run had ended; decides which data sets and seeds it is done for.

    Raises:
        BadInputError: Nothing can be done again; the message says why.
    """
    curve, kept = _curve(template), checkpoints(files)
    cells = [(dataset, seed) for dataset in template.datasets for seed in seeds]
    for dataset, seed in cells:
        if (dataset, seed) not in kept:
            raise BadInputError(f"no checkpoint of {dataset} seed {seed} was kept")
    chance = random.Random(draw)  # noqa: S311 - begins from an id that was made after the run
    found: dict[Stretch, None] = {}
    for cell in sorted(chance.sample(cells, min(curve.reruns, len(cells)))):
        ends = [_step(judged, metric, cell, seeds) for metric in curve.metrics]
        for end in ends:
            found[_stretch(cell, kept[cell], end)] = None
        before = [0, *(step for step in sorted(kept[cell]) if step < max(ends))]
        if len(before) > 1:
            start, stop = chance.choice(list(pairwise(before)))
            found[_between(cell, kept[cell], start, stop)] = None
    return list(found)


def _curve(template: Template) -> Curve:
    if template.curve is None:
        raise BadInputError("The template asks for no curve.")
    return template.curve


def _step(judged: FinalInfo, metric: str, cell: Cell, seeds: Sequence[int]) -> int:
    dataset, seed = cell
    series = judged.datasets.get(dataset, {}).get(metric)
    if series is None or len(series.values) != len(seeds):
        raise BadInputError(f"the evaluator gave no {metric} of each seed of {dataset}")
    step = series.values[list(seeds).index(seed)]
    if not 1 <= step < 1e12:
        raise BadInputError(f"{metric} of {dataset} seed {seed} is {step:g}, which is no step")
    return math.ceil(step)


def _stretch(cell: Cell, kept: Mapping[int, str], stop: int) -> Stretch:
    return _between(cell, kept, max((step for step in kept if step < stop), default=0), stop)


def _between(cell: Cell, kept: Mapping[int, str], start: int, stop: int) -> Stretch:
    return Stretch(dataset=cell[0], seed=cell[1], start=start, stop=stop, checkpoint=kept.get(start, ""))


def plan(template: Template, files: Mapping[str, object], again: Sequence[Stretch]) -> bytes:
    """Return what the comparing program is told."""
    curve = _curve(template)
    kept = [
        Kept(dataset=dataset, seed=seed, step=step)
        for (dataset, seed), steps in sorted(checkpoints(files).items())
        for step in sorted(steps)
    ]
    told = {
        "answers": curve.answers,
        "evaluations": curve.evaluations,
        "tolerance": curve.tolerance,
        "checkpoints": [one.model_dump() for one in kept],
        "stretches": [one.model_dump() for one in again],
    }
    return json.dumps(told, indent=2).encode() + b"\n"


def checked(data: bytes, again: Sequence[Stretch], resumed_s: float) -> AxisCheck:
    """Return what a comparison comes to: the axis is the platform's where everything that was asked for holds."""
    try:
        told = Compared.model_validate_json(data)
    except ValidationError:
        return NOT_CHECKED
    wanted = {(one.dataset, one.seed, one.start, one.stop) for one in again}
    seen = {(one.dataset, one.seed, one.start, one.stop) for one in told.stretches}
    problems = told.problems or (() if wanted and wanted <= seen and told.checkpoints else (NOT_CHECKED.reason,))
    return AxisCheck(
        axis=Axis.SELF if problems else Axis.PLATFORM,
        reason="; ".join(problem.rstrip(".") for problem in problems[:3]),
        checkpoints=told.checkpoints,
        stretches=told.stretches,
        resumed_s=round(resumed_s, 3),
        resumed_steps=sum(one.stop - one.start for one in again),
    )


def is_own_word(record: Mapping[str, Any], metric: str) -> bool:
    """Whether a record's metric is read off a curve whose axis the platform could not confirm."""
    return bool(record.get("metrics", {}).get(metric, {}).get("axis") == Axis.SELF)


def updates(record: Mapping[str, Any]) -> int | None:
    """Return how many updates were counted in a record's stretches; None where no stretch was done again."""
    done = (record.get("curve") or {}).get("stretches") or ()
    return sum(int(one.get("updates") or 0) for one in done) if done else None


def read(data: bytes | None) -> AxisCheck:
    """Return the check that was kept with a run; that nothing was compared where there is none."""
    return AxisCheck.model_validate_json(data) if data else NOT_CHECKED
