"""What a researcher submits, and where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.domain.ids import DirectionId, TenantId
from fumehood.errors import ConflictError


class DirectionState(StrEnum):
    """Where a direction stands."""

    QUEUED = "queued"
    IDEATING = "ideating"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Approve(StrEnum):
    """What a person is asked before it is done."""

    AUTO = "auto"
    """Nothing."""
    IDEAS = "ideas"
    """Which ideas are carried out."""
    EVERY_STEP = "every_step"
    """That too, and each move of an experiment."""


class Hold(StrEnum):
    """Why a row is not claimed for now; it goes on where it stood when the hold is lifted."""

    NONE = "none"
    APPROVAL = "approval"
    PAUSED = "paused"
    OVER_BUDGET = "over_budget"
    NO_MODEL = "no_model"
    """The model's side does not answer, or refuses the platform's key."""
    POLICY = "policy"
    """The admin's policy wants a person; only an admin lifts it, never whoever submitted."""


_STOPS = frozenset({DirectionState.FAILED, DirectionState.CANCELLED})
DIRECTION_MOVES: Mapping[DirectionState, frozenset[DirectionState]] = {
    DirectionState.QUEUED: _STOPS | {DirectionState.IDEATING},
    DirectionState.IDEATING: _STOPS | {DirectionState.RUNNING, DirectionState.DONE},
    DirectionState.RUNNING: _STOPS | {DirectionState.DONE},
    DirectionState.DONE: frozenset(),
    DirectionState.FAILED: frozenset(),
    DirectionState.CANCELLED: frozenset(),
}
"""The allowed moves. `ideating` ends in `done` when no idea was worth an experiment; only a fork opens an end again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A template, a sentence or two, a model and a budget."""

    id: DirectionId
    tenant: TenantId
    template: str
    """The template's name."""
    text: str
    model: str
    review_model: str
    profile: str
    ideas: int
    runs: int
    novelty: bool = True
    seed: int = 0
    """Base of everything drawn for this direction: seeds of runs are offset by it."""
    sandbox: str = "auto"
    budget_usd: float | None = None
    approve: Approve = Approve.AUTO
    template_files: Mapping[str, str] = field(default_factory=dict)
    """Path in the template's folder to the SHA-256 of its bytes, as they were at submission."""
    state: DirectionState = DirectionState.QUEUED
    hold: Hold = Hold.NONE
    created_at: float = 0.0
    ended_at: float | None = None
    error: str = ""

    def to(self, state: DirectionState, **changes: object) -> Direction:
        """Return this direction moved to `state`; `ConflictError` when the table does not allow it."""
        if state not in DIRECTION_MOVES[self.state]:
            raise ConflictError(f"A direction that is {self.state} cannot become {state}.")
        return dataclasses.replace(self, state=state, **changes)  # type: ignore[arg-type]

    def reopened(self) -> Direction:
        """Return this direction, which has ended, going on with a fork; `ConflictError` where it was cancelled."""
        if self.state not in {DirectionState.DONE, DirectionState.FAILED}:
            raise ConflictError(f"The direction is {self.state}, so nothing of it goes on.")
        return dataclasses.replace(self, state=DirectionState.RUNNING, hold=Hold.NONE, ended_at=None, error="")

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return not DIRECTION_MOVES[self.state]
