"""Several tests at once, and the exact one for failures: Holm, Benjamini and Hochberg, Fisher."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float], level: float) -> frozenset[Name]:
    """Return what is significant with the chance of any false one held at `level` (Holm, 1979)."""
    found = set()
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > level / (len(p_values) - place):
            break
        found.add(name)
    return frozenset(found)


def benjamini_hochberg(p_values: Mapping[Name, float], q: float) -> frozenset[Name]:
    """Return what is significant with the share of false ones held at `q` (Benjamini and Hochberg, 1995)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    count = max((i for i, name in enumerate(ordered, 1) if p_values[name] <= q * i / len(ordered)), default=0)
    return frozenset(ordered[:count])


def fisher_exact(failed: int, total: int, base_failed: int, base_total: int) -> float:
    """Return the two-sided p-value of equal chances of failing: the sum over all tables that are no likelier.

    Args:
        failed: Of the run's seeds, how many failed.
        total: How many seeds the run had.
        base_failed: The same of the baseline.
        base_total: The same of the baseline.
    """
    all_failed = failed + base_failed

    def ways(count: int) -> int:
        return math.comb(total, count) * math.comb(base_total, all_failed - count)

    seen = ways(failed)
    possible = range(max(0, all_failed - base_total), min(total, all_failed) + 1)
    # Whole numbers, so that tables as likely as the one seen are found equal to it.
    extreme = sum(count for count in map(ways, possible) if count <= seen)
    return extreme / math.comb(total + base_total, all_failed)
