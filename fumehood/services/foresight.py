"""What a direction can find out, said as soon as its baseline is measured and before anything is spent on ideas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fumehood.domain.confirmation import ConfirmRule
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Execution, Run
from fumehood.domain.step import Event
from fumehood.domain.template import Template
from fumehood.ports import Clock
from fumehood.services import confirming, power
from fumehood.services.change import happened
from fumehood.services.confirmation_rule import measure_of
from fumehood.services.confirming import Cells
from fumehood.services.final_info import FinalInfo

POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look of a direction's first confirmation can tell apart."""

    seeds: int
    noise_floor: float
    """In baseline standard deviations of the mean over data sets, as is the next."""
    smallest_effect: float
    """Found in 80 % of cases, where it is the same on every data set."""


def looks(rule: ConfirmRule, datasets: int) -> tuple[Look, ...]:
    """Return what each look can tell apart, at the level of a direction's first confirmation."""
    told = []
    for seeds in rule.looks:
        found = power.sensitivity(
            seeds=seeds,
            baseline_seeds=rule.confirm_baseline,
            datasets=datasets,
            alpha=rule.alpha(0) / 2,
            power=POWER,
        )
        told.append(Look(seeds=seeds, noise_floor=found.noise_floor, smallest_effect=found.smallest_effect))
    return tuple(told)


def of_baseline(
    clock: Clock, direction: Direction, template: Template, run: Run, info: FinalInfo, jobs: Iterable[Execution]
) -> tuple[Event, ...]:
    """Return the same of a baseline's run, by its results and the executions that measured it."""
    primary = template.primary or ""
    pool = {name: metrics[primary].values for name, metrics in info.datasets.items() if primary in metrics}
    wall_s = sum(job.outcome.usage.wall_s for job in jobs if job.outcome)
    return events(clock, direction, template, pool, len(run.seeds), wall_s)


def events(
    clock: Clock, direction: Direction, template: Template, pool: Cells, seeds: int, wall_s: float
) -> tuple[Event, ...]:
    """Return what is told of a direction that confirms; nothing of another.

    Args:
        clock: For the events' ids.
        direction: Whose baseline was measured.
        template: Its words.
        pool: The primary metric of the baseline's screening seeds, by data set.
        seeds: How many seeds those were.
        wall_s: How long running, asking and evaluating them took.
    """
    rule, name = direction.rule, template.primary
    if rule is None or name is None:
        return ()
    scale = confirming.freeze(measure_of(template.metrics[name]), pool)
    if not scale.values:
        text = f"no result can be confirmed: {next(iter(scale.left_out.values()), 'nothing was measured')}"
        return (happened(clock, direction, "direction.blind", text),)
    return (
        _power(clock, direction, rule, name, scale.values),
        *_budget(clock, direction, rule, wall_s / max(1, seeds)),
    )


def _power(clock: Clock, direction: Direction, rule: ConfirmRule, name: str, scale: Mapping[str, float]) -> Event:
    last = looks(rule, len(scale))[-1]
    each = ", ".join(f"{dataset} {spread * last.smallest_effect:.3g}" for dataset, spread in sorted(scale.items()))
    text = (
        f"a confirmation finds an effect of {last.smallest_effect:.2g} baseline standard deviations in {POWER:.0%} of"
        f" cases, with {last.seeds} seeds; in {name}: {each}"
    )
    return happened(clock, direction, "direction.power", text)


def _budget(clock: Clock, direction: Direction, rule: ConfirmRule, seed_s: float) -> Sequence[Event]:
    """Say where the direction's seconds do not reach as far as its first label."""
    needed = (direction.runs * rule.screen_seeds + rule.confirm_baseline + rule.looks[0]) * seed_s
    most = min((one for one in (direction.budget_wall_s, direction.budget_gpu_s) if one is not None), default=None)
    if most is None or needed <= most:
        return ()
    text = (
        f"the budget of {most:g} s does not reach the first confirmation, which takes about {needed:,.0f} s more:"
        " results will end without a label"
    )
    return (happened(clock, direction, "direction.underfunded", text),)
