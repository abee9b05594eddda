"""What the database says, at one moment, of all that a model call's token names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fumehood.domain.direction import DIRECTION_MOVES, DirectionState
from fumehood.domain.experiment import EXPERIMENT_MOVES, ExperimentState
from fumehood.domain.ids import TenantId
from fumehood.domain.quota import Balance
from fumehood.domain.step import StepState


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Whether a token's holder may go on, and how much is taken of each cap that its next call counts in.

    What the token does not name, or the database does not know, is None, or zero.
    """

    tenant: TenantId
    direction: DirectionState
    budget_usd: float | None = None
    budget_usd_per_experiment: float | None = None
    budget_usd_per_call: float | None = None
    is_killed: bool = False
    """Whether an admin has stopped the tenant, or all."""
    is_revoked: bool = False
    experiment: ExperimentState | None = None
    step: StepState | None = None
    fence: int | None = None
    """Of the step."""
    quotas: Mapping[str, float] = field(default_factory=dict)
    token_usd: float = 0.0
    """This and what follows: spent or reserved."""
    experiment_usd: float = 0.0
    direction_usd: float = 0.0
    total: Balance
    """Of the tenant: dollars and tokens."""
    day: Balance
    """Of the tenant on the day that was asked for: dollars and tokens."""

    @property
    def direction_is_final(self) -> bool:
        """Whether nothing more will happen to the direction."""
        return not DIRECTION_MOVES[self.direction]

    @property
    def experiment_is_final(self) -> bool:
        """Whether nothing more will happen to the experiment, where one is named and known."""
        return self.experiment is not None and not EXPERIMENT_MOVES[self.experiment]
