"""The numbers of the confirmation's rule, fixed before a direction starts, and the words that it may end with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Label(StrEnum):
    """What a confirmation may call a run, beside the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no_difference"
    """Shown to lie within the margin; never merely "not significant"."""
    NOT_COMPARABLE = "not_comparable"


DISCOVERIES = frozenset({Label.BETTER, Label.WORSE})
"""The labels that claim a difference, and so raise the level of a direction's later ideas."""


class Reason(StrEnum):
    """Why nothing can be said."""

    UNDECIDED = "undecided"
    """The last look showed neither a difference nor that there is none."""
    SCREEN_ONLY = "screen_only"
    """The run was not confirmed."""
    DATASET_DEPENDENT = "dataset_dependent"
    """One data set contradicts what all together say."""
    FAILED_SEEDS = "failed_seeds"
    """Too many seeds failed to compare what the others measured, and not so many that this is itself a finding."""
    MISSING_CELLS = "missing_cells"
    """A data set or a seed has no entry at all."""
    STEP_AXIS = "step_axis"
    """A metric that is a step, on an axis that the platform could not confirm."""
    BUDGET_MISMATCH = "budget_mismatch"
    """Steps, data, parameters or compute are outside what was declared equal."""
    PROTOCOL_CHANGED = "protocol_changed"
    """Metric, evaluation, data or split are not those of the baseline."""
    SHARED_DEVICE = "shared_device"
    """It is a time, and something else ran on the device meanwhile, or whether it did is not known."""
    NO_SCALE = "no_scale"
    """The baseline does not vary, or the metric is saturated."""


def not_comparable(reason: Reason) -> str:
    """Return the label as it is stored and printed, such as `not_comparable: undecided`."""
    return f"{Label.NOT_COMPARABLE}: {reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRule:
    """Everything that must be fixed before a direction's first idea; effects are in baseline standard deviations.

    Error rates and power of these values were simulated; `fumehood bench statistics` repeats that. The levels are those
    of LOND with a known horizon (Javanmard and Montanari, 2018), with equal weights.
    """

    ideas: int = 50
    """T: how many ideas the direction registers at most; a longer one goes on in epochs of as many."""
    q: float = 0.10
    """The false discovery rate that is aimed at: the share of a direction's discoveries that are false."""
    screen_seeds: int = 3
    looks: tuple[int, int] = (9, 18)
    """Fresh seeds of the run, per data set, at the first look and, all together, at the second."""
    screen_baseline: int = 10
    """Seeds of the baseline that give the scale, and that runs are screened against."""
    confirm_baseline: int = 20
    """Other seeds of the baseline, that runs are confirmed against."""
    margin: float = 1.0
    """D: a difference within it, on either side, counts as none."""
    level: float = 0.05
    """No difference needs a p-value above it, and the interval of that level within the margin."""
    dataset_level: float = 0.01
    """At which one data set contradicts the label, by Holm over all."""
    failed_share: float = 1 / 3
    """Of a run's seeds; when more fail, only the failures are compared."""
    gate: float | None = None
    """Confirm only what the screen shows by more than so many standard errors; 0.5 spares seeds of idle runs."""

    def __post_init__(self) -> None:
        """Refuse what the rule has no meaning for."""
        first, second = self.looks
        seeds = (self.screen_seeds, first, self.screen_baseline, self.confirm_baseline)
        levels = (self.q, self.level, self.dataset_level, self.failed_share)
        if self.ideas < 1 or self.margin <= 0 or not all(0 < level < 1 for level in levels):
            raise ValueError("A rule needs an idea, a margin above zero, and levels between zero and one.")
        if min(seeds) < 2 or second <= first:
            raise ValueError("A rule needs two seeds wherever a spread is taken, and a second look with more of them.")

    def alpha(self, discoveries: int) -> float:
        """Return an idea's significance level, `q (R + 1) / T`.

        Args:
            discoveries: R, how many `better` and `worse` the direction had closed when this confirmation started.

        Raises:
            ValueError: `discoveries` is negative or leaves no room for this idea.
        """
        if not 0 <= discoveries < self.ideas:
            raise ValueError(f"{discoveries} discoveries before an idea do not fit a direction of {self.ideas}.")
        return self.q * (discoveries + 1) / self.ideas


ONE_DATASET = ConfirmRule(screen_seeds=6, looks=(12, 24), confirm_baseline=40)
"""For a contrast over a single data set, which averages nothing out."""


def rule_for(datasets: int) -> ConfirmRule:
    """Return the rule for a contrast over that many data sets."""
    return ONE_DATASET if datasets == 1 else ConfirmRule()
