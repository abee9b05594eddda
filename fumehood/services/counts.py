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

    A number that was counted of both arms decides before what they say of themselves.
    """
    return list(mismatches(record, base, rules).values())


def mismatches(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> dict[str, str]:
    """Return the same by what it is in, in the comparison's words."""
    found = {}
    for word, name in WORDS.items():
        ours, theirs = _both(record, base, name)
        if ours is None or not theirs or word in rules.may_change:
            continue
        if word in {"updates", "samples"} and word != rules.equal:
            continue
        if abs(ours - theirs) > rules.tolerance * abs(theirs):
            found[word] = f"It has {ours:,.0f} {name.replace('_', ' ')} where the baseline has {theirs:,.0f}."
    return found | _operations(record, base, rules)


def _operations(record: Mapping[str, Any], base: Mapping[str, Any], rules: Comparison) -> dict[str, str]:
    """Return whether more operations are needed than the template allows; fewer are nobody's loss."""
    if rules.flops_tolerance is None:
        return {}
    found = {}
    for of, block, name in (("an answer", "counted", "flops"), ("an update", "counts", "flops_per_update")):
        ours, theirs = ((one.get(block) or {}).get(name) for one in (record, base))
        if ours is not None and theirs and ours > (1 + rules.flops_tolerance) * theirs:
            found[name] = f"It needs {ours:,.0f} operations for {of} where the baseline needs {theirs:,.0f}."
    return found


def _both(record: Mapping[str, Any], base: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    for block in ("counted", "counts"):
        ours, theirs = ((one.get(block) or {}).get(name) for one in (record, base))
        if ours is not None and theirs is not None:
            return ours, theirs
    return None, None


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
