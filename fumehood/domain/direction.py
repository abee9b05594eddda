"""What a researcher submits, and where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.domain.confirmation import ConfirmRule
from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.errors import ConflictError, OverBudgetError


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


BUDGETS = ("budget_usd", "budget_usd_per_experiment", "budget_usd_per_call", "budget_gpu_s", "budget_wall_s")
"""The fields of a direction that only people set, while it goes on too."""
LEAST_PRIORITY, MOST_PRIORITY = -5, 5
PRIORITY_S = 30.0
"""How much older a step counts beside its tenant's others for each point of its direction's priority, in seconds."""
STRATEGIES = ("list",)
"""How ideas are searched for: one list, carried out in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewing:
    """How a paper is to be reviewed; None leaves it to the reviewer."""

    reflections: int | None = None
    ensemble: int | None = None
    fewshot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a direction's executions have used so far; what runs now is not counted."""

    gpu_s: float
    wall_s: float


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
    budget_usd_per_experiment: float | None = None
    """US dollars that the calls for one of its experiments may cost."""
    budget_usd_per_call: float | None = None
    budget_gpu_s: float | None = None
    """GPU-seconds after which no execution begins."""
    budget_wall_s: float | None = None
    """Seconds that executions ran, one after the other, after which no execution begins."""
    priority: int = 0
    """Within its tenant; a higher one goes first, but for what has waited long."""
    parent: ExperimentId | None = None
    """The confirmed experiment that this direction starts from."""
    parent_files: Mapping[str, str] = field(default_factory=dict)
    """The parent's code, path to SHA-256: it takes the place of the template's in every working copy."""
    strategy: str = "list"
    reviewing: Reviewing = Reviewing()
    approve: Approve = Approve.AUTO
    template_files: Mapping[str, str] = field(default_factory=dict)
    """Path in the template's folder to the SHA-256 of its bytes, as they were at submission."""
    rule: ConfirmRule | None = None
    """How results are confirmed, fixed before anything is measured; None where the profile does not confirm."""
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

    def check_budget(self, spent: Spending) -> None:
        """Refuse that anything begins where a budget of seconds is used up."""
        for most, used, words in (
            (self.budget_gpu_s, spent.gpu_s, "GPU-seconds"),
            (self.budget_wall_s, spent.wall_s, "seconds of executions"),
        ):
            if most is not None and used >= most:
                raise OverBudgetError(
                    f"The direction's budget is {most:g} {words}, and {used:g} are used.", is_directions=True
                )

    def reopened(self) -> Direction:
        """Return this direction, which has ended, going on with a fork; `ConflictError` where it was cancelled."""
        if self.state not in {DirectionState.DONE, DirectionState.FAILED}:
            raise ConflictError(f"The direction is {self.state}, so nothing of it goes on.")
        return dataclasses.replace(self, state=DirectionState.RUNNING, hold=Hold.NONE, ended_at=None, error="")

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return not DIRECTION_MOVES[self.state]
