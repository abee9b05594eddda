"""How many executions start at once on this machine: as many as were measured to help; the others wait in order.

All installations that share a run folder share the gate. A launch draws a ticket, a file that it keeps locked: the
kernel frees the ticket of one that dies. How many may be on their way at once is learnt from how long launches take,
as networks learn how many packets a path can carry: one more for each round that went well, a cut when they get slow.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PER_CORE = 4
"""The most at once, for each processor; more only made every launch slower wherever it was measured. The fewest is one
for each, or processors would idle.
"""
SLOW = 3.0
"""So many times longer than alone a launch may take before fewer are let in at once."""
CUT, FASTER, SLOWER = 0.7, 0.3, 0.02
"""What slow launches leave of the ceiling, and how much of a time is taken into what one takes alone."""
SCARCE = 0.05
"""The share of memory that must be free, or only one is let in at a time."""
POLL_S = 0.01
TOUCH_S, SILENT_S, HUNG_S = 2.0, 10.0, 150.0
"""A waiting ticket is touched every so often; a silent or a hung holder no longer keeps the others waiting."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was measured: how many may be on their way, and how long a launch of each kind takes at its best."""

    ceiling: float
    best: dict[str, float]

    def after(self, kind: str, took_s: float, *, ahead: int, cores: int, scarce: bool) -> Learnt:
        """Return what one more launch teaches, that began when so many others were on their way."""
        best, ceiling = self.best.get(kind, took_s), self.ceiling
        if took_s < best:
            best += FASTER * (took_s - best)
        elif not ahead:
            # How long one takes alone is learnt from those that began alone, and from any that was faster still.
            best += SLOWER * (took_s - best)
        if scarce:
            return Learnt(1.0, {**self.best, kind: best})
        if took_s > SLOW * best:
            # Each launch of a round says so, and together they shall not cut more than once.
            ceiling -= ceiling * (1 - CUT) / max(1.0, ceiling)
        elif ahead + 1 >= int(ceiling):
            ceiling += 1.0 / ceiling
        return Learnt(min(float(PER_CORE * cores), max(float(cores), ceiling)), {**self.best, kind: best})


@dataclass(slots=True)
class Turn:
    """A launch that was let in."""

    launched: bool = True
    """To be denied where nothing was launched after all, so that nothing is learnt from it."""


class Gate:
    """The gate of a run folder."""

    def __init__(self, run_dir: Path, cores: int = 0) -> None:
        self._folder = run_dir / "gate"
        self._cores = cores or os.cpu_count() or 1

    @contextmanager
    def passed(self, kind: str) -> Iterator[Turn]:
        """Wait for one's turn, and learn from how long the block takes; `kind` names launches of equal cost."""
        number, ticket = self._draw()
        try:
            ahead = self._wait(number, ticket)
            turn, begun = Turn(), time.monotonic()
            yield turn
            if turn.launched:
                self._learn(kind, time.monotonic() - begun, ahead)
        finally:
            (self._folder / _name(number)).unlink(missing_ok=True)
            os.close(ticket)

    def ceiling(self) -> int:
        """Return how many may be on their way at once."""
        return int(self._learnt().ceiling)

    def _draw(self) -> tuple[int, int]:
        with self._locked():
            numbers = [number for number in self._numbers() if self._is_alive(number) or self._clear(number)]
            number = max(numbers, default=0) + 1
            ticket = os.open(self._folder / _name(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(ticket, fcntl.LOCK_EX)
        return number, ticket

    def _wait(self, number: int, ticket: int) -> int:
        """Wait until fewer than the ceiling are ahead; how many are."""
        touched = time.monotonic()
        while True:
            ceiling = self.ceiling()
            ahead = sum(self._counts(other) for other in self._numbers() if other < number)
            if ahead < ceiling:
                # What is not empty was let in.
                os.write(ticket, b"in")
                return ahead
            # Who stands far back has long to wait, and looks less often.
            time.sleep(min(20, 1 + ahead - ceiling) * POLL_S)
            if time.monotonic() - touched > TOUCH_S:
                os.utime(ticket)
                touched = time.monotonic()

    def _counts(self, number: int) -> bool:
        """Whether a ticket keeps others waiting: its holder lives, and is neither stopped nor hung."""
        try:
            found = (self._folder / _name(number)).stat()
        except FileNotFoundError:
            return False
        patience_s = HUNG_S if found.st_size else SILENT_S
        return time.time() - found.st_mtime < patience_s and self._is_alive(number)

    def _is_alive(self, number: int) -> bool:
        try:
            descriptor = os.open(self._folder / _name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _clear(self, number: int) -> bool:
        (self._folder / _name(number)).unlink(missing_ok=True)
        return False

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def _learn(self, kind: str, took_s: float, ahead: int) -> None:
        with self._locked():
            learnt = self._learnt().after(kind, took_s, ahead=ahead, cores=self._cores, scarce=is_memory_scarce())
            temporary = self._folder / "learnt.new"
            temporary.write_text(json.dumps({"ceiling": learnt.ceiling, "best": learnt.best}), encoding="utf-8")
            temporary.replace(self._folder / "learnt.json")

    def _learnt(self) -> Learnt:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            told = json.loads((self._folder / "learnt.json").read_text(encoding="utf-8"))
            return Learnt(float(told["ceiling"]), {str(kind): float(best) for kind, best in told["best"].items()})
        return Learnt(float(self._cores), {})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def is_memory_scarce(meminfo: Path = Path("/proc/meminfo")) -> bool:
    """Tell whether so little memory is left that each further launch could be the one that is too much."""
    told = {}
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        told[name] = int(value.split()[0])
    return told["MemAvailable"] < SCARCE * told["MemTotal"]


def _name(number: int) -> str:
    return f"{number:012}"
