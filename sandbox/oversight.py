"""The second of the two that end an execution: whoever looks at it, where its supervisor should have and did not.

A supervisor may be stopped, hang, or wait for an engine that does not answer. What it supervises is then ended from
here at the deadline, and a supervisor that does not even write the end down is ended too: the next look finds out
what came of it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from sandbox.records import Record

OVERDUE_S = 5.0
"""So long after the deadline an execution is ended whose supervisor did not."""
UNHEEDED_S = 2.0
"""So long after a reason to end it was stored, the same: whoever stored it may have died before the signal."""
HUNG_S = 12.0
"""So long after an execution was to end, its supervisor must have written down how it did."""
UNBEGUN_S = 100.0
"""So long after it was told to, a supervisor must have begun, or given up by itself."""


def is_overdue(record: Record) -> bool:
    """Tell whether an execution runs longer than it may, or than somebody wanted."""
    now = time.time()
    if intent := record.read("intent.json"):
        return now > float(intent["at"]) + UNHEEDED_S
    started, plan = record.read("started.json"), record.read("plan.json")
    return started is not None and plan is not None and now > started["at"] + plan["wall_s"] + OVERDUE_S


def is_hung(record: Record) -> bool:
    """Tell whether a supervisor no longer does its work; one that is slow, or new, is given time."""
    begun = max(_written(record, "shim.json"), _written(record, "shim.log"))
    now = time.time()
    if intent := record.read("intent.json"):
        return now > max(begun, float(intent["at"])) + HUNG_S
    return not record.read("started.json") and bool(begun) and now > begun + UNBEGUN_S


def end_supervisor(record: Record, patience_s: float = 2.0) -> None:
    """Kill whatever supervises an execution; what came of it is left to the next one who looks."""
    deadline = time.monotonic() + patience_s
    _kill(supervisors(record))
    while record.is_supervised() and time.monotonic() < deadline:
        time.sleep(0.005)


def end_strays(record: Record) -> None:
    """Kill every process of ours that was started for an execution of which no record is left."""
    _kill(_started_for(record, b".py"))


def supervisors(record: Record) -> list[int]:
    """Return the processes that were started to supervise an execution."""
    return _started_for(record, b"shim.py")


def _started_for(record: Record, ending: bytes) -> list[int]:
    found, programs = [], os.fsencode(Path(__file__).parent)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                ours = any(word.startswith(programs) and word.endswith(ending) for word in words)
                if ours and os.fsencode(record.folder) in words:
                    found.append(int(entry.name))
    return found


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _written(record: Record, name: str) -> float:
    try:
        return (record.folder / name).stat().st_mtime
    except FileNotFoundError:
        return 0.0
