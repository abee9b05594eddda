"""Simulated directions: ideas with known effects, screened and confirmed by the project's own rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fumehood.domain.confirmation import DISCOVERIES, ConfirmRule, Label, Reason
from fumehood.services import confirming, deciding, statistics
from fumehood.services.confirming import Measure
from fumehood.services.deciding import Decision, Pair
from fumehood.services.estimates import Sample

RUNS = 5
"""Runs an idea has; one of them has the idea's effect, the others none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated: normal noise of the same spread on every seed, and no failures."""

    name: str
    rule: ConfirmRule
    datasets: int


@dataclass(frozen=True, slots=True)
class Ended:
    """One idea, confirmed."""

    effect: float
    """What the idea's good run truly does, in standard deviations of the noise; zero for an idea without effect."""
    chosen: float
    """What the run that the screen chose truly does."""
    said: Decision
    seeds: int
    """Of the run, per data set, spent on confirming it."""

    @property
    def is_false(self) -> bool:
        """Whether it is a discovery of what is not so."""
        return self.said.is_discovery and (self.chosen == 0 or (self.said.label is Label.BETTER) != (self.chosen > 0))

    @property
    def is_found(self) -> bool:
        """Whether a good idea is called better, and rightly so."""
        return self.said.label is Label.BETTER and self.chosen > 0

    @property
    def is_undecided(self) -> bool:
        """Whether the second look, too, decided nothing."""
        return self.said.reason is Reason.UNDECIDED


@dataclass(frozen=True, slots=True)
class Moments:
    """Many arms at once: mean and variance over seeds of each, and how many seeds."""

    mean: Floats  # (arms, k)
    variance: Floats  # (arms, k)
    n: int

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return the moments over the last axis, the seeds."""
        return cls(values.mean(axis=-1), values.var(axis=-1, ddof=1), values.shape[-1])

    def samples(self, arm: int) -> list[Sample]:
        """Return one arm's, by data set."""
        pairs = zip(self.mean[arm].tolist(), self.variance[arm].tolist(), strict=True)
        return [Sample(mean, variance, self.n) for mean, variance in pairs]


def direction(case: Case, effects: Sequence[float], noise: np.random.Generator) -> list[Ended]:
    """Carry a direction out: one baseline, and after each idea the level that its discoveries so far give to the next.

    Args:
        case: Rule and data sets.
        effects: Of each idea's good run, in order.
        noise: What all draws come from.
    """
    rule, k, ideas = case.rule, case.datasets, len(effects)
    pool = noise.standard_normal((k, rule.screen_baseline))
    scale = pool.std(axis=-1, ddof=1)  # (k,)
    base = Moments.of(noise.standard_normal((1, k, rule.confirm_baseline)))
    true = np.zeros((ideas, RUNS))
    true[:, 0] = effects
    screened = noise.standard_normal((ideas, RUNS, k, rule.screen_seeds)) + true[:, :, None, None]
    chosen = true[np.arange(ideas), best(screened, pool, scale)]  # (ideas,)
    fresh = noise.standard_normal((ideas, k, rule.looks[1])) + chosen[:, None, None]
    looks = [Moments.of(fresh[:, :, :seeds]) for seeds in rule.looks]
    return list(_confirmed(rule, effects, chosen.tolist(), scale.tolist(), base.samples(0), looks))


def whole_direction(case: Case, effects: Sequence[float], noise: np.random.Generator) -> list[Label | None]:
    """Carry a direction out from values per seed as an experiment would, data set check included; return its labels.

    Slower than `direction`, which this must agree with where one data set cannot contradict the others.
    """
    names = [str(place) for place in range(case.datasets)]

    def cells(seeds: int, effect: float = 0.0) -> dict[str, list[float]]:
        drawn = noise.standard_normal((len(names), seeds)) + effect
        return dict(zip(names, drawn.tolist(), strict=True))

    rule, measure, labels = case.rule, Measure(direction="higher"), list[Label | None]()
    pool, base = cells(rule.screen_baseline), cells(rule.confirm_baseline)
    scale = confirming.freeze(measure, pool)
    for effect in effects:
        runs = [effect, *[0.0] * (RUNS - 1)]
        chosen = statistics.select(
            [confirming.screen(measure, pool, cells(rule.screen_seeds, one)) for one in runs], rule.gate
        )
        fresh, discoveries = cells(rule.looks[1], runs[chosen or 0]), sum(label in DISCOVERIES for label in labels)
        said = confirming.confirm(rule, measure, scale, base, fresh, look=1, discoveries=discoveries)
        if said.label is None:
            said = confirming.confirm(rule, measure, scale, base, fresh, look=2, discoveries=discoveries)
        labels.append(said.label)
    return labels


def first_look(case: Case, effects: Sequence[float], noise: np.random.Generator) -> tuple[Label | None, Label | None]:
    """Look once at a run whose effect differs between data sets; return the labels without and with their check.

    Args:
        case: Rule and data sets.
        effects: Of the run, one a data set.
        noise: What all draws come from.
    """
    rule, k = case.rule, case.datasets
    scale = noise.standard_normal((k, rule.screen_baseline)).std(axis=-1, ddof=1)
    base = Moments.of(noise.standard_normal((1, k, rule.confirm_baseline))).samples(0)
    run = Moments.of(noise.standard_normal((1, k, rule.looks[0])) + np.array(effects)[:, None]).samples(0)
    said = deciding.decide(rule, paired(run, base, scale.tolist()), look=1, alpha=rule.alpha(0))
    return said.label, deciding.check_datasets(rule, said).label


def best(screened: Floats, pool: Floats, scale: Floats) -> NDArray[np.int64]:
    """Return which run of each idea the screen chooses: `statistics.select` on many ideas at once.

    Args:
        screened: Values (ideas, runs, k, seeds).
        pool: The baseline's screening seeds (k, seeds).
        scale: Their standard deviations (k,).
    """
    contrasts = ((screened.mean(axis=-1) - pool.mean(axis=-1)) / scale).mean(axis=-1)  # (ideas, runs)
    places: NDArray[np.int64] = np.argmax(contrasts, axis=-1)
    return places


def _confirmed(
    rule: ConfirmRule,
    effects: Sequence[float],
    chosen: Sequence[float],
    scale: Sequence[float],
    base: Sequence[Sample],
    looks: Sequence[Moments],
) -> Iterator[Ended]:
    discoveries = 0
    for idea, effect in enumerate(effects):
        alpha = rule.alpha(discoveries)
        said, seeds = Decision(label=None), 0
        for look, moments in enumerate(looks, 1):
            pairs = paired(moments.samples(idea), base, scale)
            said, seeds = deciding.decide(rule, pairs, look=look, alpha=alpha), moments.n
            if said.label is not None:
                break
        discoveries += said.is_discovery
        yield Ended(effect, chosen[idea], said, seeds)


def paired(run: Sequence[Sample], base: Sequence[Sample], scale: Sequence[float]) -> dict[str, Pair]:
    """Return a run beside the baseline, by data set."""
    arms = zip(run, base, scale, strict=True)
    return {
        str(place): Pair(run=ours, base=theirs, scale=spread, direction="higher")
        for place, (ours, theirs, spread) in enumerate(arms)
    }
