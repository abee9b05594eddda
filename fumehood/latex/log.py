"""What a compiler's log says."""

from __future__ import annotations

import re

_ERROR = re.compile(r"^(?:!\s+(?P<plain>.+)|(?P<file>[./\w-]+\.tex):(?P<line>\d+):\s+(?P<message>.+))$")
_LINE = re.compile(r"^l\.(\d+)", re.MULTILINE)
_UNDEFINED = re.compile(r"(Reference|Citation) [`']([^']+)' (?:on page \S+ )?undefined")
_PAGES = re.compile(r"Output written on \S+ \((\d+) pages?,")


def unwrapped(log: str) -> str:
    """Return a log whose lines were broken at 79 characters in one piece each."""
    lines: list[str] = []
    wrapped = False
    for line in log.splitlines():
        if wrapped:
            lines[-1] += line
        else:
            lines.append(line)
        wrapped = len(line) == 79
    return "\n".join(lines)


def check(log: str) -> tuple[str, ...]:
    """Return errors and undefined references and citations, one sentence each; empty when there is nothing."""
    text = unwrapped(log)
    problems: list[str] = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        found = _ERROR.match(line)
        if not found:
            continue
        where = found["line"] or next(iter(_LINE.findall("\n".join(lines[at : at + 12]))), "")
        said = (found["plain"] or found["message"]).strip().rstrip(".")
        problems.append(f"Line {where}: {said}." if where else f"{said}.")
    problems += [f"The {kind.lower()} {name} is undefined." for kind, name in _UNDEFINED.findall(text)]
    if pages(log) == 0:
        problems.append("No page was written.")
    return tuple(dict.fromkeys(problems))


def pages(log: str) -> int:
    """Return how many pages were written; 0 when none."""
    found = _PAGES.findall(unwrapped(log))
    return int(found[-1]) if found else 0
