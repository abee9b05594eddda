"""How much there is of everything, for whoever watches over an installation; no figure names a single thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.step import Side


class Standing(StrEnum):
    """Why a live step is done now, or is not."""

    DUE = "due"
    """A worker may claim it, also because the lease of whoever did ran out."""
    LATER = "later"
    """It becomes due by itself."""
    HELD = "held"
    """Its direction or experiment is held, or has stopped."""
    WAITING = "waiting"
    """For executions to be collected."""
    CLAIMED = "claimed"
    """A worker has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """The live steps of one side that stand alike."""

    side: Side
    standing: Standing
    number: int
    oldest_due_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCount:
    """The directions, or the experiments, in one state under one hold."""

    state: str
    hold: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionCount:
    """The executions of one kind in one state; each that has ended has a verdict."""

    kind: Kind
    state: ExecutionState
    verdict: Verdict | None
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What one model was paid for in one role."""

    model: str
    role: str
    usd: float
    """Of calls that are over; never goes down."""
    reserved_usd: float
    """Set aside for calls under way."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What the executions of one kind took of the machine."""

    kind: Kind
    cpu_s: float
    """Of those that are over, as `gpu_s`; neither goes down."""
    gpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All of them, of one moment."""

    steps: tuple[StepCount, ...]
    directions: tuple[StateCount, ...]
    experiments: tuple[StateCount, ...]
    executions: tuple[ExecutionCount, ...]
    spending: tuple[Spending, ...]
    takings: tuple[Taking, ...]
    gpus_held: int
    """GPUs that an execution has now."""
