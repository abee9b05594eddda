"""Comparing the files before and after an edit for what the edit brings and nothing reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fumehood.domain.fidelity import Point, PointKind
from fumehood.services.edit_effects import branches, definitions, module

MOST = 20
"""Points of one edit; who brings more unused code is told enough by these."""


def unreached(
    before: Mapping[str, bytes], after: Mapping[str, bytes], arguments: Sequence[str] = ()
) -> tuple[Point, ...]:
    """Return what an edit brings without effect, in the order of files and lines. Never raises, whatever the text.

    Args:
        before: Path to bytes of the code that the edit began from.
        after: The same after it. Files that stayed as they were are read for what they use, and never told of.
        arguments: What the run's `experiment.py` is called with.
    """
    changed = frozenset(path for path, data in after.items() if before.get(path) != data)
    old, new = module.read(before), module.read(after)
    try:
        found = [
            *definitions.unused(old, new, changed),
            *definitions.unused_parameters(old, new, changed),
            *branches.not_taken(old, new, changed, arguments),
            *branches.after_end(old, new, changed),
        ]
    except (RecursionError, MemoryError):
        return ()  # nested too deeply to be written out again
    unique = dict.fromkeys(sorted(found))
    return tuple(
        Point(kind=PointKind.WITHOUT_EFFECT, path=path, sentence=f"Line {line}: {what}.")
        for path, line, what in list(unique)[:MOST]
    )
