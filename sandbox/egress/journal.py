"""Every request of an execution as one JSON line, and how many of them went up."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fumehood.domain.execution import Egress
from sandbox.egress import process
from sandbox.egress.request import Wanted

MAX_REFUSED = 1000
"""Lines about requests that never went up; a flood of those must not fill the disk."""
_MAX_PATH = 300


class Journal:
    """Opened before a gateway gives up its rights; a gateway that is started again goes on where the last one was."""

    def __init__(self, file: Path, spent: Path) -> None:
        self._lines, self._spent = process.create(str(file)), process.create(str(spent))
        with file.open("rb") as written:
            self._refused = max(0, sum(1 for _ in written) - self.spent)

    @property
    def spent(self) -> int:
        """How many requests went up."""
        return os.fstat(self._spent).st_size

    def spend(self) -> None:
        """Count a request before it goes up, so that no crash makes it free."""
        os.write(self._spent, b".")

    def note(self, wanted: Wanted, status: int, size: int, *, cached: bool) -> None:
        """Write down a request that went up, or was found."""
        self.note_sent(
            method="GET", capability=wanted.capability.name, path=wanted.path, status=status, size=size, cached=cached
        )

    def note_sent(
        self, *, method: str, capability: str, path: str, status: int, size: int, cached: bool = False
    ) -> None:
        """Write down a request of any method that went up, or was found; `size` is the bytes of what came back."""
        self._write(method=method, capability=capability, path=path, status=status, bytes=size, cached=cached)

    def note_refused(self, *, method: str, capability: str, path: str, status: int) -> None:
        """Write down a request that never went up; past a number of them, nothing more."""
        self._refused += 1
        if self._refused <= MAX_REFUSED:
            # What is no method or path at all is cut short, and whatever bytes it had are escaped by JSON.
            self._write(
                method=method[:16], capability=capability, path=path[:_MAX_PATH], status=status, bytes=0, cached=False
            )

    def _write(self, **told: str | int | bool) -> None:
        os.write(self._lines, json.dumps(told).encode() + b"\n")


def told(file: Path) -> tuple[Egress, ...]:
    """Return what stands in a journal; a line that a killed gateway did not finish is left out."""
    found = []
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    for line in lines:
        try:
            found.append(Egress(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return tuple(found)
