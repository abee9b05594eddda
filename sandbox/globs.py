"""Which files of a workspace are declared: patterns that cannot mean anything outside it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from fumehood.errors import BadInputError


class Globs:
    """Patterns relative to the workspace: `**` crosses folders, `*`, `?` and `[...]` do not."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [_segments(pattern) for pattern in patterns]

    def matches(self, path: str) -> bool:
        """Tell whether a file's path is declared."""
        parts = path.split("/")
        return any(_match(pattern, parts) for pattern in self._patterns)

    def may_hold(self, folder: str) -> bool:
        """Tell whether anything declared can lie below a folder."""
        parts = folder.split("/")
        return any(_leads(pattern, parts) for pattern in self._patterns)


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse globs that could mean anything outside the workspace."""
    for pattern in patterns:
        _segments(pattern)


def _segments(pattern: str) -> tuple[str | re.Pattern[str], ...]:
    parts = pattern.removeprefix("./").split("/")
    if not pattern or pattern.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise BadInputError(f"A glob is relative to the workspace and stays in it; {pattern!r} does not.")
    return tuple("**" if part == "**" else re.compile(fnmatch.translate(part)) for part in parts)


def _match(pattern: Sequence[str | re.Pattern[str]], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    first = pattern[0]
    if isinstance(first, str):
        # A last `**` means every file below, and needs at least one.
        if len(pattern) == 1:
            return bool(parts)
        return any(_match(pattern[1:], parts[skip:]) for skip in range(len(parts) + 1))
    return bool(parts) and first.match(parts[0]) is not None and _match(pattern[1:], parts[1:])


def _leads(pattern: Sequence[str | re.Pattern[str]], parts: Sequence[str]) -> bool:
    """Tell whether a folder with these parts may hold a match, being shorter than it."""
    for position, part in enumerate(parts):
        if position >= len(pattern):
            return False
        segment = pattern[position]
        if isinstance(segment, str):
            return True
        if segment.match(part) is None:
            return False
    return len(pattern) > len(parts)
