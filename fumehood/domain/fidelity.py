"""What a reading of an edit beside its plan finds, and where a plan departs from what was registered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PointKind(StrEnum):
    """What became of one part of a plan, or of an edit."""

    IMPLEMENTED = "implemented"
    MISSING = "missing"
    """The plan names it, and the code has it not."""
    EXTRA = "extra"
    """The code has it, and the plan does not name it."""
    WITHOUT_EFFECT = "without_effect"
    """The code has it, and nothing that is measured can depend on it."""
    DISAGREES = "disagrees"
    """What the run says of itself is not what the platform measured."""
    UNPROVEN = "unproven"
    """What the run says of itself could not be shown to the platform."""
    ENTANGLED = "entangled"
    """What one seed gives depends on the seeds that are trained beside it, so that each was run by itself."""


class Finder(StrEnum):
    """Who found a point."""

    CALL = "call"
    """A model that was asked outside the coder's conversation."""
    PROGRAM = "program"


class Axis(StrEnum):
    """What an experiment can change."""

    ARCHITECTURE = "architecture"
    """How the model is built, trained and asked."""
    DATA = "data"
    BUDGET = "budget"
    """Updates, samples, size of a batch, time."""
    METRIC = "metric"


class Term(StrEnum):
    """What of a registration a plan can depart from, beside what it changes."""

    KIND = "kind"
    METRIC = "metric"
    COMPARISON = "comparison"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that was found."""

    kind: PointKind
    path: str
    """The file that it concerns, or a run's folder."""
    sentence: str
    found_by: Finder = Finder.PROGRAM

    @property
    def is_open(self) -> bool:
        """Whether the edit does not do what its plan says, or its run not what it says of itself."""
        return self.kind not in {PointKind.IMPLEMENTED, PointKind.EXTRA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was found of one version of the code before it runs."""

    points: tuple[Point, ...] = ()
    changes: tuple[Axis, ...] = ()
    """What the version changes, as far as somebody said."""
    departs: tuple[Term, ...] = ()
    reason: str = ""
    """How the plan departs from the registration, in a sentence."""

    @property
    def open(self) -> tuple[Point, ...]:
        """What is missing or without effect."""
        return tuple(one for one in self.points if one.is_open)
