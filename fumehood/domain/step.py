"""One row of the table of steps: a piece of work that can be claimed, done once, and done again after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId


class Side(StrEnum):
    """Which kind of worker may claim a step."""

    WRITE = "write"
    """Talks to models, never to the container engine."""
    RUN = "run"
    """Holds the container engine, no model key and no way out."""


CLEARING = frozenset({"collect", "remove"})
"""Steps that clear a machine of what ended; a worker of one direction does them for every direction."""


class StepState(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    """For executions to be collected."""
    DUE = "due"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One piece of work. `key` is unique, so that a step asked for twice is one step."""

    id: str
    key: str
    name: str
    side: Side
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    state: StepState = StepState.DUE
    due_at: float = 0.0
    payload: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    waits_for: tuple[ExecutionId, ...] = ()
    fence: int = 0
    """Raised by each claim; only the holder of the newest fence may commit."""
    tries: int = 0
    lease_until: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, for people to read along."""

    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    kind: str
    """Such as `idea.proposed`, `run.measured`, `paper.compiled`."""
    text: str
    data: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    at: float = 0.0
    seq: int = 0
    """Given by the store; grows with each event."""
