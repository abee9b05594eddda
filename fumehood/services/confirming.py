"""The confirmation of a screened run, from its values per seed and data set to a label, and from that to the outcome.

The same seeds must never serve twice: the baseline's seeds that give the scale, those that a run is confirmed against,
and the seeds that a run was screened with are three groups, and the confirmation's own seeds are a fourth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fumehood.domain.confirmation import DISCOVERIES, ConfirmRule, Label, Reason
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.domain.idea import IdeaKind
from fumehood.services import deciding, estimates, multiplicity, statistics
from fumehood.services.deciding import Decision, Pair
from fumehood.services.estimates import HeldOut, Transform, Way
from fumehood.services.multiplicity import Name
from fumehood.services.statistics import Scales

Seeds = Sequence[float | None]
"""One value a seed, in the order of the seeds; None, or one that is not finite, where the seed failed."""
Cells = Mapping[str, Seeds]
"""Data set to what its seeds measured. The seed at one place is the same in every data set."""


_AT_NO_WORSE = frozenset({Label.BETTER, Label.NO_DIFFERENCE})
"""What a run may not be called where seeds of either arm failed, and no cap says what a failure counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The one metric that gets a label, as it was declared before the first idea."""

    direction: Way
    transform: Transform = "none"
    """`log` for any positive quantity: a skewed metric with unequal spread is the one case that is not controlled."""
    resolution: float = 0.0
    """A floor under the baseline's spread, in the unit that is compared."""
    cap: float | None = None
    """What a failed seed counts as, such as the limit of a time to a target; the worst value seen when left out."""


def freeze(measure: Measure, pool: Cells) -> Scales:
    """Return each data set's scale from the baseline's screening seeds; to be done once, before the first idea."""
    filled = {name: _filled(seeds, _worst(measure, seeds)) for name, seeds in pool.items()}
    return statistics.scales(filled, resolution=measure.resolution, transform=measure.transform)


def screen(measure: Measure, pool: Cells, run: Cells) -> statistics.Contrast | None:
    """Return a run's contrast on the dev set against the baseline's screening seeds; `statistics.select` picks one."""
    worst = {name: _worst(measure, (*seeds, *run.get(name, ()))) for name, seeds in pool.items()}
    return statistics.contrast(
        {name: _filled(seeds, _worst(measure, seeds)) for name, seeds in pool.items()},
        {name: _filled(run[name], worst[name]) for name in pool if name in run},
        direction=measure.direction,
        resolution=measure.resolution,
        transform=measure.transform,
    )


def confirm(
    rule: ConfirmRule,
    measure: Measure,
    scale: Scales,
    base: Cells,
    run: Cells,
    *,
    look: int,
    discoveries: int,
    held_out: Mapping[str, HeldOut] | None = None,
) -> Decision:
    """Look at a confirmation, on the sealed set.

    Of the values only as many seeds are read as the rule gives to this look, so that nobody looks in between.

    Args:
        rule: The direction's.
        measure: The primary metric.
        scale: From `freeze`.
        base: The baseline's confirming seeds.
        run: The run's fresh seeds; at the second look those of the first come first.
        look: 1, or 2 when the first decided nothing.
        discoveries: How many `better` and `worse` the direction had closed when this confirmation started.
        held_out: The held-out data's own error, by data set; none where every seed draws its own.

    Raises:
        ValueError: `look` is neither, or `discoveries` does not fit the direction.
    """
    if look not in {1, 2}:
        raise ValueError(f"There is no look {look}.")
    alpha = rule.alpha(discoveries)
    seeds = rule.looks[look - 1]
    ours = {name: run.get(name, ())[:seeds] for name in scale.values}
    theirs = {name: base.get(name, ())[: rule.confirm_baseline] for name in scale.values}
    if not ours:
        return deciding.without(Reason.NO_SCALE, look=look, alpha=alpha)
    if any(len(ours[name]) < seeds or len(theirs[name]) < rule.confirm_baseline for name in ours):
        return deciding.without(Reason.MISSING_CELLS, look=look, alpha=alpha)
    failed, base_failed = failed_seeds(ours), failed_seeds(theirs)
    if failed > rule.failed_share * seeds:
        said = _by_failures((failed, seeds), (base_failed, rule.confirm_baseline), look=look, alpha=alpha)
    else:
        pairs = {
            name: _pair(measure, ours[name], theirs[name], scale.values[name], (held_out or {}).get(name))
            for name in ours
        }
        said = _by_values(rule, pairs, look=look, alpha=alpha)
        if (failed or base_failed) and measure.cap is None and said.label in _AT_NO_WORSE:
            # Nobody knows what these seeds would have come to: a program that breaks off where it does badly would win,
            # and so would any program beside a baseline whose failed seeds count as the worst that either arm saw.
            said = dataclasses.replace(said, label=Label.NOT_COMPARABLE, reason=Reason.FAILED_SEEDS)
    return dataclasses.replace(said, failed=failed, base_failed=base_failed)


def outcome(label: Label | None, kind: IdeaKind, expected: str, direction: Way) -> ExperimentOutcome:
    """Return what a label says of what the idea registered.

    Args:
        label: The confirmation's.
        kind: An improvement that is shown to make no difference is refuted; of other kinds only the opposite is.
        expected: Where the idea expects the metric to go, `lower` or `higher`; the wanted side when empty.
        direction: Where better lies.
    """
    if label in DISCOVERIES:
        holds = (label is Label.BETTER) == ((expected or direction) == direction)
        return ExperimentOutcome.CONFIRMED if holds else ExperimentOutcome.REFUTED
    if label is Label.NO_DIFFERENCE and kind is IdeaKind.IMPROVEMENT:
        return ExperimentOutcome.REFUTED
    return ExperimentOutcome.INCONCLUSIVE


def summary(rule: ConfirmRule, p_values: Mapping[Name, float | None]) -> frozenset[Name]:
    """Return what stands out when a direction's confirmations are looked at together; no label changes by it.

    Args:
        rule: The direction's; its `q` is the false discovery rate of Benjamini and Hochberg.
        p_values: Of each confirmation's last decision, by any name; None is passed over.
    """
    return multiplicity.benjamini_hochberg({name: p for name, p in p_values.items() if p is not None}, rule.q)


def error_is_assured(measure: Measure, datasets: int) -> bool:
    """Whether the rates of error nearly hold for a skewed metric too; where they do not, what is printed must say so.

    On a single data set nothing averages skewness out. In the worst case simulated, a skewed run that scatters three
    times as far as the baseline, 58 % of directions without effect had a false discovery, on four data sets 13 %; 10 %
    is aimed at. Where logarithms are compared, the rates of normal noise hold.
    """
    return datasets > 1 or measure.transform == "log"


def failed_seeds(cells: Cells) -> int:
    """Return how many seeds failed on any data set: what fails together is one failure."""
    return sum(any(_failed(value) for value in seed) for seed in zip(*cells.values(), strict=True))


def _by_values(rule: ConfirmRule, pairs: Mapping[str, Pair | None], *, look: int, alpha: float) -> Decision:
    whole = {name: pair for name, pair in pairs.items() if pair is not None}
    if len(whole) < len(pairs):
        return deciding.without(Reason.NO_SCALE, look=look, alpha=alpha)
    return deciding.check_datasets(rule, deciding.decide(rule, whole, look=look, alpha=alpha))


def _by_failures(ours: tuple[int, int], theirs: tuple[int, int], *, look: int, alpha: float) -> Decision:
    """Compare how many seeds failed, each of how many."""
    p = multiplicity.fisher_exact(*ours, *theirs)
    if p <= alpha / 2 and ours[0] / ours[1] > theirs[0] / theirs[1]:
        return Decision(label=Label.WORSE, look=look, alpha=alpha, p=p)
    return deciding.without(Reason.FAILED_SEEDS, look=look, alpha=alpha, p=p)


def _pair(measure: Measure, run: Seeds, base: Seeds, scale: float, held_out: HeldOut | None) -> Pair | None:
    """Return a data set as it is compared; None where the declared logarithm does not exist."""
    worst = _worst(measure, (*run, *base))
    ours, theirs = (estimates.transformed(_filled(seeds, worst), measure.transform) for seeds in (run, base))
    if ours is None or theirs is None:
        return None
    return Pair(
        run=estimates.sample(ours),
        base=estimates.sample(theirs),
        scale=scale,
        direction=measure.direction,
        held_out=held_out,
    )


def _worst(measure: Measure, seeds: Seeds) -> float | None:
    """Return what a failed seed counts as; None where there is no cap and nothing was measured."""
    if measure.cap is not None:
        return measure.cap
    seen = [value for value in seeds if value is not None and math.isfinite(value)]
    return (min if measure.direction == "higher" else max)(seen, default=None)


def _filled(seeds: Seeds, worst: float | None) -> list[float]:
    """Return the seeds' values, failed ones at the worst: without them a run that breaks would look good."""
    told = [worst if _failed(value) else value for value in seeds]
    return [value for value in told if value is not None]


def _failed(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
