"""Many short executions with every kind of end on each adapter, and what is left of them: nothing, or it says what.

    .venv/bin/python bench/soak.py --executions 1000

Exits 1 when anything leaked, when a verdict was not the planned one, or when the disk did not come back.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulid import ULID

from fumehood.domain.execution import MIB, Ended, Kind, Limits, Spec, Verdict
from fumehood.errors import FumehoodError
from fumehood.settings import Settings
from sandbox import installation, oversight, records
from sandbox.choose import choose
from sandbox.host import HostSandbox

AT_ONCE = 4
DISK_SLACK, MEMORY_SLACK, FILES_SLACK = 16 * MIB, 64 * MIB, 8
END_PATIENCE_S = 120.0
RESULTS = Path("bench/results")


@dataclass(frozen=True)
class End:
    """A way to end: the program, its limits, what is done to it, and the verdict that it must have."""

    command: tuple[str, ...]
    limits: Limits
    verdicts: tuple[Verdict, ...]
    meddle: str = ""


def limits(**changes: Any) -> Limits:
    return Limits(**{"wall_s": 60.0, "memory_mib": 64, "storage_mib": 16, "processes": 32, "cpus": 1.0, **changes})


GREEDY = "held = []\nwhile True: held.append(bytes(1000000))"
STUBBORN = "trap '' TERM; setsid sleep 60 & sleep 60"
ENDS = {
    "succeeded": End(("sh", "-c", "echo fine > result"), limits(), (Verdict.SUCCEEDED,)),
    "failed": End(("sh", "-c", "exit 3"), limits(), (Verdict.FAILED,)),
    "out_of_memory": End(("python3", "-c", GREEDY), limits(memory_mib=32), (Verdict.OUT_OF_MEMORY,)),
    "too_much_output": End(("yes",), limits(output_bytes=50_000), (Verdict.TOO_MUCH_OUTPUT,)),
    "out_of_storage": End(
        ("sh", "-c", "head -c 100M /dev/zero > big"), limits(storage_mib=8), (Verdict.OUT_OF_STORAGE,)
    ),
    "timed_out": End(
        ("sh", "-c", "trap '' TERM; setsid sleep 60 & sleep 60"), limits(wall_s=0.5), (Verdict.TIMED_OUT,)
    ),
    "cancelled": End(("sleep", "60"), limits(), (Verdict.CANCELLED,), "cancel"),
    # A container outlives its supervisor and gets another one; under bwrap the program dies with it.
    "supervisor_killed": End(("sleep", "1"), limits(), (Verdict.SUCCEEDED, Verdict.LOST), "kill"),
}
ROUND = ("succeeded", "succeeded", "succeeded", *ENDS)


class Soak:
    """One adapter, and the ends that its executions came to."""

    def __init__(self, name: str, state_dir: Path) -> None:
        self.name = name
        self.folder = state_dir
        settings = Settings(state_dir=state_dir)
        sandbox = choose(name, settings)
        assert isinstance(sandbox, HostSandbox)
        self.sandbox = sandbox
        self.wrong: list[str] = []
        self.verdicts: collections.Counter[str] = collections.Counter()
        self._done = 0
        self._lock = threading.Lock()

    def run(self, count: int) -> None:
        """Carry out so many executions, a few at a time."""
        plan = [ROUND[number % len(ROUND)] for number in range(count)]
        random.Random(count).shuffle(plan)  # noqa: S311 - an order, no secret
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._one, plan))

    def _one(self, name: str) -> None:
        end = ENDS[name]
        spec = Spec(
            name=f"fh-{ULID()}".lower(), kind=Kind.RUN, command=end.command, image="plain", limits=end.limits,
            collect=("result",),
        )  # fmt: skip
        try:
            told = self._carry_out(spec, end)
        except (FumehoodError, OSError, AssertionError) as error:
            told = f"{type(error).__name__}: {error}"
        with self._lock:
            self.verdicts[f"{name}: {told}"] += 1
            if told not in end.verdicts:
                self.wrong.append(f"{spec.name}: {name} came to {told}")
            self._done += 1
            if self._done % 50 == 0:
                print(f"{self.name}: {self._done}", file=sys.stderr, flush=True)

    def _carry_out(self, spec: Spec, end: End) -> str:
        try:
            self.sandbox.launch(spec)
            if end.meddle == "cancel":
                self.sandbox.stop(spec.name, Verdict.CANCELLED)
            elif end.meddle == "kill":
                record = records.find(installation.find(self.folder, Settings().run_dir), spec.name)
                for pid in oversight.supervisors(record):
                    os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + END_PATIENCE_S
            while not isinstance(self.sandbox.inspect(spec.name), Ended):
                assert time.monotonic() < deadline, "it did not end"
                time.sleep(0.02)
            with tempfile.TemporaryDirectory(prefix="fumehood-soak-") as folder:
                return str(self.sandbox.collect(spec.name, Path(folder)).verdict)
        finally:
            self.sandbox.remove(spec.name)


def gauges(folder: Path, *, docker: bool) -> dict[str, int]:
    """Return what must be the same before and after: disk used, and what this process itself holds."""
    gc.collect()
    os.sync()
    places = [folder, *([Path("/var/lib/docker")] if docker and Path("/var/lib/docker").is_dir() else [])]
    disks = {place.stat().st_dev: os.statvfs(place) for place in places}
    status = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return {
        "disk_bytes": sum((disk.f_blocks - disk.f_bfree) * disk.f_frsize for disk in disks.values()),
        "memory_bytes": int(status[1]) * os.sysconf("SC_PAGE_SIZE"),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


def soak(name: str, count: int, folder: Path) -> dict[str, Any]:
    """Soak one adapter; every figure, and what was wrong."""
    one = Soak(name, folder)
    # What is made once, images and caches, is there before the first look.
    one.run(len(ROUND))
    before, begun = gauges(folder, docker=name == "docker"), time.monotonic()
    one.verdicts.clear()
    one.run(count)
    took_s = time.monotonic() - begun
    left = until_nothing(one.sandbox)
    after = gauges(folder, docker=name == "docker")
    grown = {key: after[key] - before[key] for key in before}
    wrong = [*one.wrong, *(f"left: {found}: {', '.join(kinds)}" for found, kinds in left.items())]
    for key, slack in (("disk_bytes", DISK_SLACK), ("memory_bytes", MEMORY_SLACK), ("open_files", FILES_SLACK)):
        # Whatever else works on this machine moves the disk both ways; what is freed meanwhile is no fault.
        if grown[key] > slack:
            wrong.append(f"{key} grew by {grown[key]}")
    return {
        "adapter": name, "executions": count, "took_s": round(took_s, 1), "per_s": round(count / took_s, 2),
        "ends": dict(sorted(one.verdicts.items())), "leaks": len(left), "grown": grown, "wrong": wrong,
    }  # fmt: skip


def until_nothing(sandbox: HostSandbox, patience_s: float = 30.0) -> dict[str, tuple[str, ...]]:
    """Return what is left once the dying had time to die."""
    deadline = time.monotonic() + patience_s
    while (left := dict(sandbox.traces())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@contextmanager
def own_folder() -> Iterator[Path]:
    """Lend a state folder on a disk, and take away what is made beside it."""
    folder = Path(tempfile.mkdtemp(prefix="fumehood-soak-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        for place in folder.rglob("installation"):
            try:
                (Settings().run_dir / place.read_text(encoding="ascii").strip()).rmdir()
            except OSError:
                print(f"{place.parent} left something under {Settings().run_dir}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)


def main(say: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--executions", type=int, default=1000)
    parser.add_argument("--adapter", choices=["both", "local", "docker"], default="both")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    told = []
    for name in ("local", "docker") if asked.adapter == "both" else (asked.adapter,):
        with own_folder() as folder:
            try:
                told.append(soak(name, asked.executions, folder))
            except FumehoodError as error:
                told.append({"adapter": name, "executions": 0, "wrong": [str(error)]})
    place = asked.results / f"soak-{time.strftime('%Y-%m-%d')}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for one in told:
        say(json.dumps({key: one[key] for key in one if key != "ends"}, indent=2))
    say(f"written to {place}")
    return 1 if any(one["wrong"] for one in told) else 0


if __name__ == "__main__":
    sys.exit(main())
