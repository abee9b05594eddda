"""What a step wants committed, all in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fumehood.domain.audit import AuditEntry
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId
from fumehood.domain.step import Event, Step
from fumehood.ports import Clock, Transaction

Payload = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """A step to be done next. `key` makes it one step however often it is asked for."""

    name: str
    key: str
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    payload: Payload = field(default_factory=dict)
    waits_for: tuple[ExecutionId, ...] = ()
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """That the step is not done and is due once more, which costs it no try."""

    delay_s: float
    payload: Payload
    """What it then knows besides what it knew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Values to save, executions wanted, steps to follow, and what people should read."""

    directions: tuple[Direction, ...] = ()
    ideas: tuple[Idea, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    runs: tuple[Run, ...] = ()
    executions: tuple[Execution, ...] = ()
    """Saved; those that are `wanted` get their `launch` step."""
    steps: tuple[Next, ...] = ()
    events: tuple[Event, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    """What the admin's policy said."""
    again: Again | None = None
    holds: Callable[[Transaction], bool] | None = None
    """Whether what the step went by is still so, asked in the transaction that saves it; else it is done again."""


def key_of(name: str, execution: Execution) -> str:
    """Return the key of a step of an execution: one for each time that it is tried."""
    return f"{name}:{execution.id}:{execution.fence}"


def happened(clock: Clock, of: Direction | Experiment | Execution | Step, kind: str, text: str) -> Event:
    """Return what happened to a direction or an experiment, or in one of their steps or executions, just now."""
    if isinstance(of, Direction):
        direction_id, experiment_id = of.id, None
    elif isinstance(of, Experiment):
        direction_id, experiment_id = of.direction_id, of.id
    else:
        direction_id, experiment_id = of.direction_id, of.experiment_id
    return Event(direction_id=direction_id, experiment_id=experiment_id, kind=kind, text=text, at=clock.now())
