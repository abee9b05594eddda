"""What a paper says of the log: its size and its root when the paper was put together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fumehood.ports import Transaction
from fumehood.services import log

_LINE = re.compile(r" ?Log: (\d+) entr(?:y|ies), root \\texttt\{([0-9a-f]{32})\\allowbreak ([0-9a-f]{32})\}\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A tree that a paper names."""

    size: int
    root: str
    """SHA-256 in hex."""


def now(tx: Transaction) -> Printed:
    """Return what a paper that is put together now has to print."""
    size = tx.log.size()
    return Printed(size=size, root=log.root(tx, size))


def latex(printed: Printed) -> str:
    """Return the line as LaTeX; a root is too long for a line of its own."""
    entries = "entry" if printed.size == 1 else "entries"
    return f" Log: {printed.size} {entries}, root \\texttt{{{printed.root[:32]}\\allowbreak {printed.root[32:]}}}."


def read(source: str) -> Printed | None:
    """Return what a paper's LaTeX prints; None where it has no such line, or more than one."""
    found = _LINE.findall(source)
    if len(found) != 1:
        return None
    size, left, right = found[0]
    return Printed(size=int(size), root=left + right)


def without(source: str) -> str:
    """Return a paper's LaTeX without the line, which is another on every installation and at every time."""
    return _LINE.sub("", source)
