"""Whether two records were made alike, so that their numbers may be set beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
SHARED = ("secret", "evaluator", "template", "profile", "image")
"""What a record has in common with the baseline's, or nothing is compared: a lab may be renewed amid a direction.

Not the direction: a baseline of the screen may have been measured for an earlier one of the same tenant.
"""
MACHINE = ("processor", "gpu")
"""What times have in common besides; other numbers differ by less than a seed does."""


def changed(record: Record, base: Record) -> tuple[str, ...]:
    """Return in what a record was not made as another was."""
    return tuple(part for part in SHARED if _of(record, part) != _of(base, part))


def differs(record: Record, base: Record) -> tuple[str, ...]:
    """Return the same of a time, for which the machine counts too; records of before it was written down do not say."""
    return (
        *changed(record, base),
        *(part for part in MACHINE if {part} <= record.keys() & base.keys() and record[part] != base[part]),
    )


def _of(record: Record, part: str) -> object:
    """Return a part by what it holds: a template's copy under another name is the same template."""
    found = record.get(part)
    return found.get("hash") if isinstance(found, Mapping) else found
