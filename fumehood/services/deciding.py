"""What one look at a confirmation says, from the moments of both arms on each data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fumehood.domain import confirmation
from fumehood.domain.confirmation import DISCOVERIES, ConfirmRule, Label, Reason
from fumehood.services import estimates
from fumehood.services.estimates import Estimate, HeldOut, Interval, Part, Sample, Way
from fumehood.services.multiplicity import holm


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Run and baseline on one data set, in the unit that is compared: the metric's own, or its logarithm."""

    run: Sample
    base: Sample
    scale: float
    """The baseline's spread from its other seeds, fixed before the first idea."""
    direction: Way
    held_out: HeldOut | None = None
    """None where each seed draws held-out data of its own, so that the seeds' spread holds its error already."""

    @property
    def part(self) -> Part:
        """The difference in units of the scale, with its errors."""
        return estimates.standardised(self.run, self.base, self.scale, self.direction, self.held_out)

    @property
    def difference(self) -> float:
        """Run less baseline, in the unit that is compared; the margin in that unit is the rule's times the scale."""
        return self.run.mean - self.base.mean

    @property
    def spread_ratio(self) -> float | None:
        """The run's spread over the baseline's; None where the baseline has none."""
        return math.sqrt(self.run.variance / self.base.variance) if self.base.variance > 0 else None

    @property
    def p(self) -> float:
        """Welch's test on this data set alone, its degrees of freedom as they come."""
        part = self.part
        # No cap here: it would only make it harder to see that data sets disagree, and no discovery rests on this test.
        found = estimates.estimate([part], float("inf"))
        if found is None:
            return 1.0 if part.difference == 0 else 0.0
        return found.p


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look at a confirmation says, and everything that it rests on."""

    label: Label | None
    """None: go on to the next look."""
    reason: Reason | None = None
    """Why nothing can be said; given with `not_comparable` only."""
    look: int = 0
    """1 or 2; 0 where nothing was looked at."""
    alpha: float = 0.0
    """The idea's whole significance level, of which each look spends half."""
    estimate: Estimate | None = None
    """C, in baseline standard deviations, positive on the wanted side."""
    p: float | None = None
    """Two-sided: of C, or of equal chances of failing where so many seeds failed that nothing else was compared."""
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    """What counted, by data set."""
    contradicting: frozenset[str] = frozenset()
    """Data sets that contradict what all together say."""
    failed: int = 0
    """Of the run's seeds, how many failed on any data set; they count as the worst."""
    base_failed: int = 0
    """The same of the baseline's."""

    @property
    def is_discovery(self) -> bool:
        """Whether it counts among the direction's discoveries, and so raises the level of later ideas."""
        return self.label in DISCOVERIES

    @property
    def text(self) -> str:
        """The label as it is stored and printed; empty while it is open."""
        if self.reason is not None:
            return confirmation.not_comparable(self.reason)
        return self.label or ""

    @property
    def interval(self) -> Interval | None:
        """C's 95 % confidence interval."""
        return self.estimate.interval(0.95) if self.estimate else None

    @property
    def discovery_interval(self) -> Interval | None:
        """C's interval at the level that a discovery needs at this look: one that holds zero is none."""
        return self.estimate.interval(1 - self.alpha / 2) if self.estimate else None


def without(reason: Reason, **told: object) -> Decision:
    """Return the decision that nothing can be said."""
    return Decision(label=Label.NOT_COMPARABLE, reason=reason, **told)  # type: ignore[arg-type]


def decide(rule: ConfirmRule, pairs: Mapping[str, Pair], *, look: int, alpha: float) -> Decision:
    """Decide by the contrast over all data sets: better or worse, else no difference, else go on or give up.

    Args:
        rule: The direction's.
        pairs: By data set; at least one, and both arms with two seeds or more.
        look: 1 or 2.
        alpha: The idea's whole level; this look spends half of it.
    """
    cap = min(pair.run.n for pair in pairs.values()) - 1
    found = estimates.estimate([pair.part for pair in pairs.values()], cap)
    if found is None:
        return without(Reason.NO_SCALE, look=look, alpha=alpha, pairs=pairs)
    said = Decision(label=None, look=look, alpha=alpha, estimate=found, p=found.p, pairs=pairs)
    if found.p <= alpha / 2:
        return dataclasses.replace(said, label=Label.BETTER if found.value > 0 else Label.WORSE)
    if found.p > rule.level and _within(found.interval(1 - rule.level), rule.margin):
        return dataclasses.replace(said, label=Label.NO_DIFFERENCE)
    if look < len(rule.looks):
        return said
    return dataclasses.replace(said, label=Label.NOT_COMPARABLE, reason=Reason.UNDECIDED)


def check_datasets(rule: ConfirmRule, said: Decision) -> Decision:
    """Take a label back that one data set contradicts, by a difference that is not to be or is on the other side."""
    if said.label is None or said.label is Label.NOT_COMPARABLE:
        return said
    expected = {Label.BETTER: 1.0, Label.WORSE: -1.0}.get(said.label, 0.0)
    found = holm({name: pair.p for name, pair in said.pairs.items()}, rule.dataset_level)
    against = frozenset(name for name in found if said.pairs[name].part.difference * expected <= 0)
    if not against:
        return said
    return dataclasses.replace(said, label=Label.NOT_COMPARABLE, reason=Reason.DATASET_DEPENDENT, contradicting=against)


def _within(interval: Interval, margin: float) -> bool:
    return -margin < interval.low and interval.high < margin
