"""Comparing what a run left and measured with what others did at the same seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fumehood.domain.experiment import Run
from fumehood.domain.fidelity import Point, PointKind
from fumehood.services import curves, independence

MOST_NAMES = 50
LONGEST_NAME = 100
UNTRAINED = "without_gradient"
"""In a run's `parameters.json`: names of parameters whose gradient was zero whenever it was looked at."""
_OF_PLATFORM = (curves.CHECK, independence.FILE)
_TIME = re.compile(r"time|second|duration|speed|throughput|memory", re.IGNORECASE)
"""Self-reported metrics that differ from one execution to the next with nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run and its numbers."""

    run: Run
    metrics: Mapping[str, Any]
    """As its signed record has them: name to source and data sets, each with one number a seed."""


def is_same_output(run: Run, other: Run) -> bool:
    """Whether two runs left the same files, byte for byte, at the same seeds."""
    ours, theirs = (
        {path: sha for path, sha in one.outputs.items() if path not in _OF_PLATFORM} for one in (run, other)
    )
    return bool(ours) and run.seeds == other.seeds and ours == theirs


def compared(ours: Measured, others: Sequence[Measured]) -> tuple[Point, ...]:
    """Return how a run's results are another's, one point for each such run; the baseline's come first if given first.

    Outputs are compared by SHA-256, all files together. Numbers are compared one by one, exactly, at the seeds that
    both have: those of the evaluator where it gave any, else the run's own but for times. Runs without a seed in common
    are two measurements.
    """
    found = []
    for other in others:
        name = "the baseline" if other.run.index == 0 else other.run.folder
        if is_same_output(ours.run, other.run):
            told = f"{ours.run.folder} left the same bytes in every file as {name} at the same seeds."
        elif has_same_numbers(ours, other):
            told = f"{ours.run.folder} measured exactly the numbers of {name} at every seed and data set."
        else:
            continue
        found.append(Point(kind=PointKind.WITHOUT_EFFECT, path=ours.run.folder, sentence=told))
    return tuple(found)


def has_same_numbers(ours: Measured, other: Measured) -> bool:
    """Whether two runs measured the same, at each seed that both have."""
    if ours.run.seeds == other.run.seeds:
        return _values(ours) == _values(other) != {}
    common = [seed for seed in ours.run.seeds if seed in other.run.seeds]
    return bool(common) and _values(ours, common) == _values(other, common) != {}


def _values(of: Measured, seeds: Sequence[int] | None = None) -> dict[tuple[str, str], list[float]]:
    """Return the numbers that count, by metric and data set: all, or those of some seeds where there is one a seed."""
    judged = {name: one for name, one in of.metrics.items() if one.get("source") == "evaluator"}
    chosen = judged or {name: one for name, one in of.metrics.items() if not _is_time(name, one)}
    found = {}
    for name, one in chosen.items():
        for dataset, entry in one["datasets"].items():
            values = [float(value) for value in entry.get("seeds") or ()]
            if seeds is None and values:
                found[name, dataset] = values
            elif seeds is not None and len(values) == len(of.run.seeds):
                by_seed = dict(zip(of.run.seeds, values, strict=True))
                found[name, dataset] = [by_seed[seed] for seed in seeds]
    return found


def _is_time(name: str, metric: Mapping[str, Any]) -> bool:
    return bool(metric.get("is_time") or _TIME.search(name))


def untrained(parameters: bytes, baseline: bytes = b"") -> tuple[str, ...]:
    """Return the parameters that a run says never got a gradient, without those of which the baseline says so too.

    It is the run's own word, as its counts are; anything else than a list of names says nothing.
    """
    known = set(_names(baseline))
    return tuple(name for name in _names(parameters) if name not in known)


def _names(data: bytes) -> list[str]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return []
    names = told.get(UNTRAINED) if isinstance(told, dict) else None
    kept = [one for one in names if isinstance(one, str) and one] if isinstance(names, list) else []
    return [" ".join(one[:LONGEST_NAME].split()) for one in kept[:MOST_NAMES]]
