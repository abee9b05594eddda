"""Which of an idea's screened runs is confirmed: the best of those that were measured as the baseline was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fumehood.domain.confirmation import ConfirmRule, Reason
from fumehood.domain.experiment import Run
from fumehood.domain.ids import DirectionId, RunId
from fumehood.domain.template import Comparison
from fumehood.services import confirming, counts, curves, numbers, protocol, statistics
from fumehood.services.confirmation_report import Plan
from fumehood.services.confirming import Measure
from fumehood.services.edit_effects import Measured, compared

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The run to confirm, or why there is none."""

    run: str = ""
    """Its folder; empty where none is confirmed."""
    contrast: float = 0.0
    matched: int = 0
    """How much of what is to be equal the run had, where the baseline had another; 0 where they had the same."""
    reason: Reason = Reason.SCREEN_ONLY


def choose(
    runs: Sequence[tuple[Run, Record]],
    baseline: tuple[Run, Record],
    *,
    metric: str,
    measure: Measure,
    rule: ConfirmRule,
    comparison: Comparison,
) -> Choice:
    """Return the run with the largest contrast, among those that kept the budget and did something.

    Where none kept the budget, it is one that had more or less of what is to be equal alone, if a baseline can have as
    much: by how much it differs from the baseline of the screen then tells little, and only serves to choose.

    Args:
        runs: Every screened run that gave numbers, with what its record says, in order.
        baseline: The same of the baseline.
        metric: The primary one.
        measure: How it is compared.
        rule: The direction's.
        comparison: What a run and the baseline must share.
    """
    base = baseline[1]
    runs = [one for one in runs if not protocol.changed(one[1], base)]
    if not runs:
        return Choice(reason=Reason.PROTOCOL_CHANGED)
    equal = [one for one in runs if not counts.mismatches(one[1], base, comparison)]
    equal = equal or [one for one in runs if _to_match(one[1], base, comparison)]
    if not equal:
        return Choice(reason=Reason.BUDGET_MISMATCH)
    apart = [numbers.incomparable(metric, of, base) for _, of in equal]
    equal = [one for one, why in zip(equal, apart, strict=True) if not why]
    if not equal:
        return Choice(reason=Reason(apart[0]))
    equal = [one for one in equal if not curves.is_own_word(one[1], metric)]
    if not equal or curves.is_own_word(base, metric):
        return Choice(reason=Reason.STEP_AXIS)
    idle = Measured(run=baseline[0], metrics=base["metrics"])
    equal = [(run, of) for run, of in equal if not compared(Measured(run=run, metrics=of["metrics"]), [idle])]
    pool = cells(base, metric)
    contrasts = [confirming.screen(measure, pool, cells(of, metric)) for _, of in equal]
    place = statistics.select(contrasts, rule.gate)
    if place is None:
        return Choice()
    found = contrasts[place]
    chosen, of = equal[place]
    matched = _to_match(of, base, comparison)
    return Choice(run=chosen.folder, contrast=found.value if found else 0.0, matched=matched)


def _to_match(record: Record, base: Record, comparison: Comparison) -> int:
    """Return how much of what is to be equal a baseline needs to be compared with a run; 0 where that cannot be."""
    if not comparison.argument or [*counts.mismatches(record, base, comparison)] != [comparison.equal]:
        return 0
    count = float(record["counts"][counts.WORDS[comparison.equal]] or 0)
    return int(count) if count >= 1 and count.is_integer() else 0


def arguments_for(matched: int, comparison: Comparison) -> tuple[str, ...]:
    """Return what a baseline is given besides the profile's arguments to have as much as a run had."""
    return (f"{comparison.argument}={matched}",) if matched else ()


def is_matched(plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether what was measured on sealed data had one budget: the baseline's pool and the looks, as far as they went.

    A baseline that was given the run's budget must have had as much as the run in the screen, too.
    """
    if plan.comparison is None:
        return True
    pool = [of for name, of in records.items() if name.startswith("confirm_0")]
    runs = [of for name, of in records.items() if name.startswith(("confirm_1", "confirm_2"))]
    runs += [records[plan.run]] if plan.arguments else []
    return not any(counts.mismatches(run, base, plan.comparison) for run in runs for base in pool)


def problems(plan: Plan, records: Mapping[str, Record], outputs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return why a plan's run is not the one that its records would have chosen; nothing for a plan of long ago.

    `outputs` are what each run left, as its record signs it: its folder to path to SHA-256.
    """
    if plan.comparison is None:
        return []
    screened = sorted((int(of["run"]["index"]), name) for name, of in records.items() if name.startswith("run_"))
    baseline, *runs = [(_run(index, records[name], outputs.get(name, {})), records[name]) for index, name in screened]
    if len(runs) != plan.screened:
        return [f"it was chosen among {plan.screened} runs, and there are records of {len(runs)}"]
    found = choose(runs, baseline, metric=plan.metric, measure=plan.measure, rule=plan.rule, comparison=plan.comparison)
    if found.run != plan.run:
        return [f"it confirms {plan.run}, and the screen's best run is {found.run or 'none'}"]
    if arguments_for(found.matched, plan.comparison) != plan.arguments:
        return [f"its baseline was not given the budget of {plan.run}"]
    if numbers.rounded(found.contrast, _DIGITS) != numbers.rounded(plan.screen_contrast, _DIGITS):
        return [f"its contrast of {plan.run} in the screen does not follow from the records"]
    return []


_DIGITS = 8
"""Another machine's arithmetic may differ in the last ones."""


def cells(record: Record, metric: str) -> dict[str, Sequence[float]]:
    """Return what a record says of a metric: data set to one number a seed; without data sets of another count."""
    datasets = record["metrics"].get(metric, {}).get("datasets", {})
    found = {name: [float(one) for one in entry["seeds"]] for name, entry in datasets.items()}
    return {name: values for name, values in found.items() if numbers.is_whole(record, values)}


def _run(index: int, record: Record, outputs: Mapping[str, str]) -> Run:
    """Return a run as far as a folder tells of it, for what its results are compared by."""
    seeds = record["seeds"]
    return Run(
        id=RunId(f"run_{index}"),
        direction_id=DirectionId(record["direction"]),
        experiment_id=None,
        index=index,
        seeds=tuple(seeds) if isinstance(seeds, list) else (),
        outputs=outputs,
    )
