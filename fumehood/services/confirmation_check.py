"""Does a kept confirmation follow from the signed records: its seeds, its code, its scale, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

from fumehood.domain.confirmation import DISCOVERIES, Label, Reason
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.domain.idea import IdeaKind
from fumehood.services import confirmation_choice, confirmation_report, confirming, curves, numbers, protocol
from fumehood.services.confirmation_report import Plan
from fumehood.services.confirmation_rule import fresh_seeds, run_seeds
from fumehood.services.deciding import Decision
from fumehood.services.templates import template_hash

_ANY = IdeaKind.IMPROVEMENT
_CLAIMS = {*DISCOVERIES, Label.NO_DIFFERENCE, ExperimentOutcome.CONFIRMED, ExperimentOutcome.REFUTED}
Records = Mapping[str, Mapping[str, Any]]


def problems(
    data: bytes,
    records: Records,
    failed: Collection[str],
    outputs: Mapping[str, Mapping[str, str]],
    examples: Mapping[str, bytes],
    *,
    registration: Mapping[str, Any] | None = None,
    is_told: bool = True,
) -> list[str]:
    """Return what does not hold, one sentence each.

    An experiment that failed or was stopped amid its confirmation leaves the plan and what was measured by then.
    Nothing may be told of that; both must follow from the records all the same.

    Args:
        data: `confirmation.json`.
        records: What each run's signed record says, by its folder.
        failed: Folders of runs that were measured and gave no number.
        outputs: What each run left, as its record signs it: its folder to path to SHA-256.
        examples: What each held-out example gave, as the records sign it, by the run's folder.
        registration: What the idea promised before its first run.
        is_told: Whether anything was written of the experiment, which would rest on this.
    """
    try:
        plan, told = confirmation_report.read(data)
    except (ValueError, KeyError, TypeError) as error:
        return [f"it cannot be read ({type(error).__name__})"]
    if told is None and is_told:
        return ["it was never finished"]
    looks = [f"confirm_{look}" for look in (1, 2) if f"confirm_{look}" in records or f"confirm_{look}" in failed]
    wanted = ["run_0", plan.run, *(() if told is None or "confirm_0" in failed else ("confirm_0",))]
    if missing := [name for name in wanted if name not in records]:
        return [f"it rests on {missing[0]}, which has no signed record"]
    # What a paper prints of it; the rule itself is used below.
    found = (
        [] if json.loads(data)["plan"].get("alpha") == plan.alpha else ["its level is not the one that its rule gives"]
    )
    found += [*_of_plan(plan, records), *confirmation_choice.problems(plan, records, outputs)]
    found += _of_terms(plan, records["run_0"], registration or {}, is_fixed="run_0" in examples)
    found += _of_looks(plan, records, looks)
    if told is None:
        return found
    found += _of_alone(plan, records, failed, looks)
    return found or _of_result(plan, told, records, failed, looks, examples)


def _of_plan(plan: Plan, records: Records) -> list[str]:
    base, chosen = records["run_0"], records[plan.run]
    pool = confirmation_report.cells_of(base, plan, 0)
    frozen = confirming.freeze(plan.measure, {name: seeds[: plan.rule.screen_baseline] for name, seeds in pool.items()})
    found = []
    if template_hash(chosen["code"]) != plan.code:
        found.append(f"it names another code than {plan.run} was measured with")
    if dict(frozen.values) != dict(plan.scale) or dict(frozen.left_out) != dict(plan.left_out):
        found.append("its scale is not the spread of the baseline's screening seeds")
    if set(plan.datasets) != set(pool):
        found.append("its data sets are not those that the baseline was measured on")
    # Replications of before they had seeds of their own have those of any run.
    ways = (run_seeds(chosen["direction"], chosen["code"], kind, plan.rule.looks[-1]) for kind in (plan.kind, _ANY))
    if plan.seeds not in ways:
        found.append("the run's seeds are not those that follow from its code")
    if plan.baseline_seeds != fresh_seeds(chosen["direction"], base["code"], plan.rule.confirm_baseline):
        found.append("the baseline's seeds are not those that follow from its code")
    return found


def _of_terms(plan: Plan, base: Mapping[str, Any], registration: Mapping[str, Any], *, is_fixed: bool) -> Iterator[str]:
    """Yield where a plan compares by other terms than were declared: of the metric, in records; of the idea, before."""
    declared = base["metrics"].get(plan.metric, {})
    if not declared.get("primary"):
        yield f"{plan.metric} is not the primary metric of the records"
    terms = {"direction": None, "transform": "none", "resolution": 0.0, "cap": None}
    if any(getattr(plan.measure, name) != declared.get(name, default) for name, default in terms.items()):
        yield f"it compares {plan.metric} otherwise than the records declare it"
    if (plan.held_out == "fixed") != is_fixed:
        yield "whether its held-out data are the same for every seed does not follow from the records"
    expected = registration.get("expected", "") if registration.get("metric", "") in {"", plan.metric} else ""
    if registration and (plan.kind, plan.expected) != (registration.get("kind"), expected):
        yield "it tests another kind of claim than was registered"


def of_direction(
    rule: Mapping[str, Any] | None, told: Mapping[str, bytes], labels: Mapping[str, tuple[str, str]]
) -> dict[str, list[str]]:
    """Return what does not hold of a direction's confirmations together, by experiment, one sentence each.

    Args:
        rule: The direction's.
        told: Each experiment's `confirmation.json` by its name.
        labels: The label and the outcome that the direction's summary gives each experiment.
    """
    plans = {}
    for name, data in told.items():
        with suppress(ValueError, KeyError, TypeError):  # which is found in the experiment's own folder
            plans[name] = confirmation_report.read(data)
    ends = {name: ((end or {}).get("label"), (end or {}).get("outcome")) for name, (_, end) in plans.items()}
    found = {
        name: [f"the summary says {', '.join(filter(None, said))}, and no confirmation came to that"]
        for name, said in labels.items()
        if _CLAIMS.intersection(said) and ends.get(name) != said
    }
    fixed = confirmation_report.rule_of(rule) if rule else None
    most = _most_before({name: plan for name, (plan, _) in plans.items()}, ends)
    for name, (plan, _) in plans.items():
        wrong = ["its rule is not the direction's"] if plan.rule != fixed else []
        if plan.discoveries > most[name]:
            wrong.append(
                f"its level counts {plan.discoveries} discoveries before it, and there were {most[name]} at most"
            )
        if plan.index > (shown := len({other.seeds for one, (other, _) in plans.items() if one != name})):
            wrong.append(f"it began after {plan.index} confirmations, and {shown} others are here: one was left out")
        if wrong:
            found[name] = [*found.get(name, ()), *wrong]
    return found


def _most_before(plans: Mapping[str, Plan], ends: Mapping[str, tuple[str | None, str | None]]) -> dict[str, int]:
    """Return how many discoveries a confirmation may count as closed before it began, by experiment.

    What was measured on the same seeds was found once. Of two discoveries each cannot be the earlier: the one that
    counts the fewest before it has none before it, and so on.
    """
    claims = {name: plans[name].seeds for name, (label, _) in ends.items() if label in DISCOVERIES}
    most = {name: len({seeds for other, seeds in claims.items() if other != name}) for name in plans}
    earlier: set[tuple[int, ...]] = set()
    for name in sorted(claims, key=lambda one: plans[one].discoveries):
        most[name] = min(most[name], len(earlier))
        earlier.add(claims[name])
    return most


def _of_looks(plan: Plan, records: Records, looks: Collection[str]) -> list[str]:
    base, found = records["run_0"], []
    expected = {
        name: (base["code"] if name == "confirm_0" else records[plan.run]["code"], seeds)
        for name, seeds in _seeds(plan, looks).items()
    }
    expected |= {
        f"{name}_seed_{place}": (code, (seed,))
        for name, (code, seeds) in expected.items()
        for place, seed in enumerate(seeds, start=1)
    }
    for name, (code, seeds) in expected.items():
        if name not in records:
            continue
        record = records[name]
        if record["code"] != code:
            found.append(f"{name} was measured with another code")
        if tuple(record["seeds"]) != seeds:
            found.append(f"{name} was measured on other seeds")
        given = plan.arguments if name.startswith("confirm_0") else ()
        if record.get("arguments") != [*(base.get("arguments") or ()), *given]:
            found.append(f"{name} was started with other arguments")
        if record["run"].get("arm") != "confirm":
            found.append(f"{name} was not measured on sealed data")
        if record.get("direction") != records[plan.run].get("direction"):
            found.append(f"{name} was measured for another direction")
    return found


def _seeds(plan: Plan, looks: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the seeds of the baseline's pool and of each look, by folder."""
    return {"confirm_0": plan.baseline_seeds} | {name: plan.look_seeds(int(name[-1])) for name in looks}


def _of_alone(plan: Plan, records: Records, failed: Collection[str], looks: Collection[str]) -> list[str]:
    """Compare the seeds that were run alone with those of the looks that failed: all of these, and no others."""
    whole = _seeds(plan, looks)
    wanted = {
        f"{name}_seed_{place}"
        for name, seeds in whole.items()
        for place in range(1, len(seeds) + 1)
        if name in failed and plan.each_alone
    }
    there = {name for name in {*records, *failed} if "_seed_" in name}
    return [
        *(f"{name} is missing: a seed of a look that failed was not run alone" for name in sorted(wanted - there)),
        *(f"{name} was run alone, and its look did not fail" for name in sorted(there - wanted)),
        *(f"{name} has a record and failed" for name in sorted({*records} & {*failed})),
    ]


def _of_result(
    plan: Plan,
    told: Mapping[str, Any],
    records: Records,
    failed: Collection[str],
    looks: list[str],
    examples: Mapping[str, bytes],
) -> list[str]:
    if reason := _without_label(plan, records):
        wanted = confirmation_report.unconfirmed(reason)
        return [] if told == wanted else [f"what was measured is {wanted['label']}, and it says another thing"]
    whole = _seeds(plan, looks)
    base, *cells = [confirmation_report.cells_of_look(name, seeds, records, plan) for name, seeds in whole.items()]
    if not cells:
        return ["no look was measured"]

    def decided(count: int) -> Decision:
        baseline, *measured = [
            [(records[part], examples.get(part, b"")) for part in confirmation_report.parts_of(name, seeds, records)]
            for name, seeds in list(whole.items())[: count + 1]
        ]
        errors = confirmation_report.held_out_errors(plan, baseline, list(chain.from_iterable(measured)))
        return confirmation_report.decide(plan, base, cells[:count], errors)

    early = [decided(count) for count in range(1, len(cells))]
    if any(said.label is not None for said in early):
        return ["it went on after it was decided"]
    said = decided(len(cells))
    if said.label is None:
        return ["it has a label before it was decided"]
    alone = confirmation_report.alone(plan, failed, len(looks))
    again = json.loads(json.dumps(confirmation_report.result(plan, said, alone)))
    return [
        f"its {name} does not follow from the records"
        for name in dict.fromkeys([*again, *told])
        if not _same(again.get(name), told.get(name))
    ]


def _without_label(plan: Plan, records: Records) -> Reason | None:
    """Return why what was measured is compared with nothing; None where it is compared."""
    if not any(name.startswith("confirm_0") for name in records):
        return Reason.MISSING_CELLS
    if any(protocol.changed(of, records["run_0"]) for of in records.values()):
        return Reason.PROTOCOL_CHANGED
    if not confirmation_choice.is_matched(plan, records):
        return Reason.BUDGET_MISMATCH
    sealed = [of for name, of in records.items() if name.startswith("confirm_")]
    if why := numbers.incomparable(plan.metric, records["run_0"], *sealed):
        return Reason(why)
    return Reason.STEP_AXIS if any(curves.is_own_word(of, plan.metric) for of in sealed) else None


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values agree as printed: another machine's arithmetic may differ in the last digits."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, float) and isinstance(theirs, (int, float)):
        return numbers.rounded(ours, 8) == numbers.rounded(float(theirs), 8)
    return bool(ours == theirs)
