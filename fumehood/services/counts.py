"""How large a run is: what it says of itself, what the platform counted, and whether that is the baseline's budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fumehood.domain.template import Comparison

PARAMETERS = "parameters.json"
COUNTED = "counted.json"
"""Beside a run's outputs: what the program that asks its model counted."""
MAX_COUNT = 10**18
SELF = ("parameters", "updates", "samples_seen", "flops_per_update")
"""Of `parameters.json`; the last is what the run's program measured over a few updates of one model."""
PLATFORM = ("parameters", "flops")
"""Of `counted.json`; the last is of one answer."""
WORDS = {"parameters": "parameters", "updates": "updates", "samples": "samples_seen"}
"""What a template's comparison calls them."""
START_S, CLOCK = 15.0, 0.05
"""Seconds that a program may take to start, and the share by which the same code's seconds differ from run to run."""
CHANGE = 0.01
"""What a run says of its size and what is counted may grow apart by this share, since the baseline."""


def told(data: bytes, names: tuple[str, ...]) -> dict[str, float | None]:
    """Return the counts that a JSON object holds under these names; None for each that is missing or no count."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = {}
    held = found if isinstance(found, dict) else {}
    return {name: held[name] if _is_count(held.get(name)) else None for name in names}


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= MAX_COUNT and math.isfinite(value)


def budget(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> list[str]:
    """Return in what a run is beyond the baseline's budget and the declared tolerance, one sentence each.

    A number that was counted of the baseline decides before what both say of themselves. What is known of the baseline
    and not of the run is beyond it, too: a run that says nothing of its updates may have made any number of them.
    """
    return list(mismatches(record, base, rules).values())


def mismatches(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> dict[str, str]:
    """Return the same by what it is in, in the comparison's words."""
    found = {}
    for word, name in WORDS.items():
        if word in rules.may_change or word not in {"parameters", rules.equal}:
            continue
        words, (ours, theirs) = name.replace("_", " "), _both(record, base, name)
        if theirs and ours is None:
            found[word] = f"Its {words} are not known where the baseline has {theirs:,.0f}."
        elif theirs and ours is not None and abs(ours - theirs) > rules.tolerance * theirs:
            found[word] = f"It has {ours:,.0f} {words} where the baseline has {theirs:,.0f}."
    return found | _spent(record, base, rules) | _operations(record, base, rules)


def _spent(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> dict[str, str]:
    """Return whether more was spent where operations or seconds are to be equal; less is nobody's loss."""
    if rules.equal not in {"flops", "wall_s"}:
        return {}
    is_time = rules.equal == "wall_s"
    spent, unit = (_seconds_of, "seconds for a seed") if is_time else (_operations_of, "operations")
    ours, theirs = spent(record), spent(base)
    allowed = _seconds_for(record, base, rules) if is_time else (1 + rules.tolerance) * (theirs or 0.0)
    if not theirs or (ours is not None and ours <= allowed):
        return {}
    told = "an unknown number of" if ours is None else f"{ours:,.4g}"
    return {rules.equal: f"It took {told} {unit} where the baseline took {theirs:,.4g}."}


def _seconds_for(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> float:
    """Return how long a run may take for each of its seeds: a start weighs more where there are fewer of them."""
    ours, theirs = (len(seeds) if isinstance(seeds := one.get("seeds"), list) else 0 for one in (record, base))
    each = _seconds_of(base) or 0.0
    start = min(START_S, each * theirs) * max(0.0, 1 / ours - 1 / theirs) if ours and theirs else 0.0
    return (1 + max(rules.tolerance, CLOCK)) * (each + start)


def _operations_of(record: Mapping[str, Any]) -> float | None:
    """Return the operations of all updates of one model, as the run itself says."""
    each, updates = ((record.get("counts") or {}).get(name) for name in ("flops_per_update", "updates"))
    return None if each is None or updates is None else float(each) * float(updates)


def _seconds_of(record: Mapping[str, Any]) -> float | None:
    """Return how long a run's program took for each of its seeds, as the platform measured."""
    seeds, seconds = record.get("seeds"), ((record.get("usage") or {}).get("run") or {}).get("wall_s")
    return float(seconds) / len(seeds) if seconds and isinstance(seeds, list) and seeds else None


def _operations(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> dict[str, str]:
    """Return whether more operations are needed than the template allows; fewer are nobody's loss."""
    if rules.flops_tolerance is None:
        return {}
    found = {}
    for of, block, name in (("an answer", "counted", "flops"), ("an update", "counts", "flops_per_update")):
        ours, theirs = ((one.get(block) or {}).get(name) for one in (record, base))
        if theirs and (ours is None or ours > (1 + rules.flops_tolerance) * theirs):
            told = "an unknown number of" if ours is None else f"{ours:,.0f}"
            found[name] = f"It needs {told} operations for {of} where the baseline needs {theirs:,.0f}."
    return found


def _both(record: Mapping[str, Any], base: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    for block in ("counted", "counts"):
        ours, theirs = ((one.get(block) or {}).get(name) for one in (record, base))
        if theirs is not None:
            return ours, theirs
    return None, None


def unknown(record: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Return what is known of the baseline's size and not of a run's, in words."""
    both = {name: _both(record, base, name) for name in WORDS.values()}
    return [name.replace("_", " ") for name, (ours, theirs) in both.items() if theirs and ours is None]


def disagreement(record: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return in words that a run's parameters grew otherwise, since the baseline, than it says; empty where not."""
    says, said, counted, before = (
        (one.get(block) or {}).get("parameters") for block in ("counts", "counted") for one in (record, base)
    )
    if not (says and said and counted and before):
        return ""
    if abs(counted / before - says / said) <= CHANGE * counted / before:
        return ""
    return "reports another change of its parameters than was counted"
