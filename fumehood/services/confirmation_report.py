"""What a confirmation rests on and came to, as it is kept beside a paper: `confirmation.json`.

Its first half is written down before anything of the sealed arm is measured, its second follows from that and the
signed records alone, so that everybody can work it out again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from fumehood.domain.confirmation import ConfirmRule, Reason, not_comparable
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.domain.idea import IdeaKind
from fumehood.domain.template import Comparison
from fumehood.services import confirming, held_out, numbers
from fumehood.services.confirming import Cells, Measure
from fumehood.services.deciding import Decision, Pair
from fumehood.services.estimates import HeldOut, Interval
from fumehood.services.statistics import Scales

PRODUCT = "confirmation.json"
Measured = tuple[Mapping[str, Any], bytes]
"""What a signed record says, and `examples.npz` beside it."""
_MATCHED = (
    "The variant that was confirmed has {amount:,} {equal}, which the baseline of the screen has not; it was confirmed"
    " against a baseline that was given as many, and its contrast in the screen shows what both changes did together."
)
_RULE: TypeAdapter[ConfirmRule] = TypeAdapter(ConfirmRule)
_MEASURE: TypeAdapter[Measure] = TypeAdapter(Measure)


class Plan(BaseModel):
    """What is fixed before a confirmation is looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    """Folder of the screened run, whose code is measured again."""
    code: str
    """Hash over that code's files."""
    metric: str
    measure: Measure
    rule: ConfirmRule
    kind: IdeaKind
    expected: str = ""
    """Where the idea expects the metric to go; the wanted side when empty."""
    datasets: tuple[str, ...]
    held_out: Literal["drawn", "fixed"] = "drawn"
    """Whether all seeds were evaluated on the same data, whose own error then counts."""
    scale: Mapping[str, float]
    """The baseline's spread over its screening seeds, by data set, as the metric is compared."""
    left_out: Mapping[str, str]
    """Data sets that give no scale, each with the reason."""
    screened: int
    """How many runs there were to choose from."""
    screen_contrast: float
    """Of the chosen run: selected, so biased."""
    index: int
    """How many confirmations of the direction had ended before, within this epoch of the rule."""
    discoveries: int
    """How many of those claimed a difference."""
    baseline_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    """The run's, of both looks."""
    comparison: Comparison | None = None
    """What the run and the baseline had to share to be compared; None in plans of before it was written down."""
    arguments: tuple[str, ...] = ()
    """What the baseline is given besides the profile's, so that it has the run's budget; most need nothing."""
    each_alone: bool = False
    """Whether the seeds of a look that fails are run one by one before any counts as failed; else all of them did."""

    @property
    def alpha(self) -> float:
        """The idea's level; each look spends half of it."""
        return self.rule.alpha(self.discoveries)

    def look_seeds(self, look: int) -> tuple[int, ...]:
        """Return the seeds that a look adds."""
        looks = (0, *self.rule.looks)
        return self.seeds[looks[look - 1] : looks[look]]


def cells_of(record: Mapping[str, Any] | None, plan: Plan, seeds: int) -> dict[str, list[float | None]]:
    """Return what a run's record says of the metric, by data set; every seed failed where there is no record.

    What is not the evaluator's is missing, as is a data set that is not there or has another number of values than of
    seeds.
    """
    if record is None:
        return {name: [None] * seeds for name in plan.datasets}
    entry = record.get("metrics", {}).get(plan.metric, {})
    if entry.get("source") != "evaluator":
        return {}
    found = {name: list(one.get("seeds") or ()) for name, one in entry.get("datasets", {}).items()}
    return {name: [float(one) for one in values] for name, values in found.items() if numbers.is_whole(record, values)}


def joined(parts: Sequence[Cells], plan: Plan) -> dict[str, list[float | None]]:
    """Return the cells of a look whose seeds were run alone, in the order of its seeds."""
    return {name: [value for part in parts for value in part.get(name, ())] for name in plan.datasets}


def cells_of_look(
    name: str, seeds: Sequence[int], records: Mapping[str, Mapping[str, Any]], plan: Plan
) -> dict[str, list[float | None]]:
    """Return what a look, or the baseline's pool, came to.

    Args:
        name: Its folder.
        seeds: Its seeds; one that was run alone and has no record failed.
        records: What signed records say, by folder.
        plan: Fixed before.
    """
    if name in records or not plan.each_alone:
        return cells_of(records.get(name), plan, len(seeds))
    alone = [records.get(f"{name}_seed_{place}") for place in range(1, len(seeds) + 1)]
    return joined([cells_of(one, plan, 1) for one in alone], plan)


def parts_of(name: str, seeds: Sequence[int], records: Collection[str]) -> list[str]:
    """Return the folders that hold what a look gave: its own, or those of its seeds that were run alone."""
    if name in records:
        return [name]
    return [part for place in range(1, len(seeds) + 1) if (part := f"{name}_seed_{place}") in records]


def alone(plan: Plan, failed: Collection[str], looks: int) -> dict[str, list[int]]:
    """Return the looks that failed as a whole, each with those of its seeds that failed alone too.

    Args:
        plan: Fixed before.
        failed: Folders of runs that gave no number.
        looks: How many were made.
    """
    if not plan.each_alone:
        return {}
    seeds = {"confirm_0": plan.baseline_seeds} | {f"confirm_{at}": plan.look_seeds(at) for at in range(1, looks + 1)}
    return {
        name: [seed for place, seed in enumerate(some, start=1) if f"{name}_seed_{place}" in failed]
        for name, some in seeds.items()
        if name in failed
    }


def held_out_errors(plan: Plan, base: Sequence[Measured], looks: Sequence[Measured]) -> dict[str, HeldOut]:
    """Return the held-out data's own error, by data set; none where each seed drew its own.

    Args:
        plan: Fixed before.
        base: The baseline's pool: what its record says, and the examples of its evaluator; several where its seeds were
            run alone.
        looks: The same of the run's looks that gave numbers.

    Raises:
        BadInputError: The examples are not those of the metric.
    """
    if plan.held_out == "drawn" or not looks or not base:
        return {}

    def examples(of: Measured) -> dict[str, held_out.Values]:
        record, data = of
        return held_out.read(data, cells_of(record, plan, 0), record["seeds"])

    pool = held_out.joined([examples(one) for one in base])
    return held_out.errors(pool, [examples(look) for look in looks], plan.measure.transform)


def decide(plan: Plan, base: Cells, looks: Sequence[Cells], errors: Mapping[str, HeldOut] | None = None) -> Decision:
    """Return what the looks made so far say.

    Args:
        plan: Fixed before.
        base: The baseline's pool on the sealed arm.
        looks: What each look's fresh seeds gave; one or two.
        errors: The held-out data's own, by data set.
    """
    scale = Scales({name: plan.scale[name] for name in plan.datasets if name in plan.scale}, plan.left_out)
    run = {name: [value for look in looks for value in look.get(name, ())] for name in plan.datasets}
    return confirming.confirm(
        plan.rule,
        plan.measure,
        scale,
        base,
        run,
        look=len(looks),
        discoveries=plan.discoveries,
        held_out=errors,
    )


def result(plan: Plan, said: Decision, alone: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
    """Return a last decision in plain words and numbers; the unit of contrasts is the baseline's spread.

    `alone` names the looks that failed as a whole, each with those of its seeds that failed alone too.
    """
    outcome = confirming.outcome(said.label, plan.kind, plan.expected, plan.measure.direction)
    found = said.estimate
    return {
        "label": said.text,
        "outcome": outcome.value,
        "look": said.look,
        "p": said.p,
        "contrast": found.value if found else None,
        "contrast_se": found.se if found else None,
        "df": found.df if found else None,
        "interval": _interval(said.interval),
        "discovery_interval": _interval(said.discovery_interval),
        "failed": said.failed,
        "base_failed": said.base_failed,
        **({"alone": {name: list(seeds) for name, seeds in alone.items()}} if alone else {}),
        "contradicting": sorted(said.contradicting),
        "datasets": {name: _pair(plan, pair) for name, pair in sorted(said.pairs.items())},
        "baseline_untuned": plan.screened > 1,
        "error_is_assured": confirming.error_is_assured(plan.measure, len(plan.scale)),
    }


def unconfirmed(reason: Reason) -> dict[str, Any]:
    """Return the result of a confirmation that could not be carried out."""
    return {"label": not_comparable(reason), "outcome": ExperimentOutcome.INCONCLUSIVE.value}


def to_json(plan: Plan, ended: Mapping[str, Any] | None = None) -> bytes:
    """Return `confirmation.json`; without an end it says what will be done."""
    told = {"plan": {**plan.model_dump(mode="json"), "alpha": plan.alpha}, "result": ended}
    return json.dumps(told, indent=2, allow_nan=False).encode() + b"\n"


def limitations(data: bytes) -> tuple[str, ...]:
    """Return what a paper says of a confirmation whose baseline was given the run's budget; of others nothing."""
    plan, _ = read(data)
    if not plan.arguments or plan.comparison is None:
        return ()
    amount = int(plan.arguments[0].rpartition("=")[2])
    return (_MATCHED.format(equal=plan.comparison.equal, amount=amount),)


def rule_of(told: Mapping[str, Any]) -> ConfirmRule:
    """Return a rule as a folder tells it; `ValueError` for what is none."""
    return _RULE.validate_python(dict(told))


def read(data: bytes) -> tuple[Plan, dict[str, Any] | None]:
    """Return the plan and, once there is one, the result; `ValueError` for what is neither."""
    told = json.loads(data)
    fixed = {name: value for name, value in told["plan"].items() if name != "alpha"}
    return Plan.model_validate(fixed), told["result"]


def _interval(found: Interval | None) -> dict[str, float] | None:
    return {"low": found.low, "high": found.high} if found else None


def _pair(plan: Plan, pair: Pair) -> dict[str, Any]:
    return {
        "run": pair.run.mean,
        "base": pair.base.mean,
        "difference": pair.difference,
        "margin": plan.rule.margin * pair.scale,
        "n": pair.run.n,
        "base_n": pair.base.n,
        "spread_ratio": pair.spread_ratio,
        "p": pair.p,
        **({"held_out": pair.held_out.size, "tau": pair.held_out.tau} if pair.held_out else {}),
    }
