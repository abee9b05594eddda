"""Does a kept confirmation follow from the signed records: its seeds, its code, its scale, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fumehood.domain.confirmation import Reason, not_comparable
from fumehood.services import confirmation_report, confirming, numbers
from fumehood.services.confirmation_report import Plan
from fumehood.services.confirmation_rule import fresh_seeds
from fumehood.services.templates import template_hash

Records = Mapping[str, Mapping[str, Any]]
SHARED = ("direction", "secret", "evaluator", "template", "profile", "image")
"""What the records of a confirmation have in common with the baseline's, or nothing is compared."""


def problems(data: bytes, records: Records, failed: Collection[str]) -> list[str]:
    """Return what does not hold, one sentence each.

    Args:
        data: `confirmation.json`.
        records: What each run's signed record says, by its folder.
        failed: Folders of runs that were measured and gave no number.
    """
    try:
        plan, told = confirmation_report.read(data)
    except (ValueError, KeyError, TypeError) as error:
        return [f"it cannot be read ({type(error).__name__})"]
    if told is None:
        return ["it was never finished"]
    looks = [f"confirm_{look}" for look in (1, 2) if f"confirm_{look}" in records or f"confirm_{look}" in failed]
    wanted = ["run_0", plan.run, *(() if "confirm_0" in failed else ("confirm_0",))]
    if missing := [name for name in wanted if name not in records]:
        return [f"it rests on {missing[0]}, which has no signed record"]
    found = [*_of_plan(plan, records), *_of_looks(plan, records, looks)]
    return found or _of_result(plan, told, records, looks)


def _of_plan(plan: Plan, records: Records) -> list[str]:
    base, chosen = records["run_0"], records[plan.run]
    pool = confirmation_report.cells_of(base, plan, 0)
    frozen = confirming.freeze(plan.measure, {name: seeds[: plan.rule.screen_baseline] for name, seeds in pool.items()})
    found = []
    if template_hash(chosen["code"]) != plan.code:
        found.append(f"it names another code than {plan.run} was measured with")
    if dict(frozen.values) != dict(plan.scale):
        found.append("its scale is not the spread of the baseline's screening seeds")
    if plan.seeds != fresh_seeds(base["direction"], chosen["code"], plan.rule.looks[-1]):
        found.append("the run's seeds are not those that follow from its code")
    if plan.baseline_seeds != fresh_seeds(base["direction"], base["code"], plan.rule.confirm_baseline):
        found.append("the baseline's seeds are not those that follow from its code")
    return found


def _of_looks(plan: Plan, records: Records, looks: Collection[str]) -> list[str]:
    base, found = records["run_0"], []
    expected = {"confirm_0": (base["code"], plan.baseline_seeds)} | {
        name: (records[plan.run]["code"], plan.look_seeds(int(name[-1]))) for name in looks
    }
    for name, (code, seeds) in expected.items():
        if name not in records:
            continue
        record = records[name]
        if record["code"] != code:
            found.append(f"{name} was measured with another code")
        if tuple(record["seeds"]) != seeds:
            found.append(f"{name} was measured on other seeds")
        if record["run"].get("arm") != "confirm":
            found.append(f"{name} was not measured on sealed data")
        found += [
            f"{name} has another {part} than the baseline" for part in SHARED if record.get(part) != base.get(part)
        ]
    return found


def _of_result(plan: Plan, told: Mapping[str, Any], records: Records, looks: list[str]) -> list[str]:
    if "confirm_0" not in records:
        return (
            [] if told.get("label") == "not_comparable: missing_cells" else ["its baseline failed, and it has a label"]
        )
    shared = not_comparable(Reason.SHARED_DEVICE)
    if numbers.incomparable(plan.metric, records["confirm_0"], *(records.get(name) for name in looks)):
        return [] if told.get("label") == shared else ["its times were measured on a shared device, and it has a label"]
    base = confirmation_report.cells_of(records["confirm_0"], plan, len(plan.baseline_seeds))
    cells = [
        confirmation_report.cells_of(records.get(name), plan, len(plan.look_seeds(int(name[-1])))) for name in looks
    ]
    if not cells:
        return ["no look was measured"]
    early = [confirmation_report.decide(plan, base, cells[:count]) for count in range(1, len(cells))]
    if any(said.label is not None for said in early):
        return ["it went on after it was decided"]
    said = confirmation_report.decide(plan, base, cells)
    if said.label is None:
        return ["it has a label before it was decided"]
    again = json.loads(json.dumps(confirmation_report.result(plan, said)))
    return [f"its {name} does not follow from the records" for name in again if not _same(again[name], told.get(name))]


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values agree as printed: another machine's arithmetic may differ in the last digits."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, float) and isinstance(theirs, (int, float)):
        return numbers.rounded(ours, 8) == numbers.rounded(float(theirs), 8)
    return bool(ours == theirs)
