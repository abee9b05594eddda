"""What a sandbox costs: each adapter beside bare `docker run` of the same image, turn by turn in one run."""

from __future__ import annotations

import math
import os
import platform
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulid import ULID

from fumehood.domain.execution import Ended, Kind, Limits, Spec, Verdict
from fumehood.errors import MachineUnfitError
from sandbox.execute import execute

if TYPE_CHECKING:
    from sandbox.docker import DockerSandbox
    from sandbox.host import HostSandbox

BARE = "docker run --rm"
HARDENED = "docker run --rm, hardened, --network none"
_FLAGS = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "65534:65534", "--memory", "256m", "--memory-swap", "256m", "--pids-limit", "64", "--cpus", "1"),
)
_PROGRAM = "/usr/bin/true"
_LIMITS = Limits(wall_s=60.0, memory_mib=256, storage_mib=32, processes=64, cpus=1.0, output_bytes=64 * 1024)
_WALL_S = 0.5
_POLL_S = 0.002
TARGETS = {
    "overhead_p50_ms": 60.0,
    "overhead_p95_ms": 150.0,
    "visible_p95_ms": 250.0,
    "overshoot_p95_ms": 1000.0,
}
"""What is asked for: the whole execution against the bare one, an end until it is seen, a deadline until the end."""


@dataclass
class Row:
    """One way to run the program, and how long each time took."""

    name: str
    took_ms: list[float] = field(default_factory=list)

    def told(self, bare: Row | None) -> dict[str, Any]:
        """Return the figures, with the ratio to the bare way."""
        shown = {"name": self.name, "p50_ms": self.at(50), "p95_ms": self.at(95), "n": len(self.took_ms)}
        return shown | {"ratio": round(self.at(50) / bare.at(50), 2) if bare and bare.took_ms else None}

    def at(self, percent: int) -> float:
        """Return a percentile, in milliseconds."""
        return percentile(self.took_ms, percent)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that is not below so many percent of them."""
    if not values:
        raise MachineUnfitError("Nothing was measured.")
    return round(sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)], 1)


def measure(
    local: HostSandbox | None, docker: DockerSandbox | None, n: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the program so many times in each way, turn by turn, and return every figure and target."""
    if local is None and docker is None:
        raise MachineUnfitError("Neither Docker nor the local sandbox can be used here.")
    ways = dict(_ways(local, docker))
    rows = {name: Row(name) for name in ways}
    for turn in range(n + 1):
        order = list(ways)
        random.shuffle(order)
        for name in order:
            for row, took_ms in ways[name]().items():
                # The first turn warms what the others find warm.
                if turn:
                    rows.setdefault(row, Row(row)).took_ms.append(took_ms)
        say(f"turn {turn} of {n}")
    return _told({name: row for name, row in rows.items() if row.took_ms}, n)


def _ways(
    local: HostSandbox | None, docker: DockerSandbox | None
) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    if docker is not None:
        image = docker.image_id("plain")
        yield BARE, lambda: {BARE: _docker_run(image, ())}
        yield HARDENED, lambda: {HARDENED: _docker_run(image, _FLAGS)}
        yield "docker", lambda: _both("docker", docker)
    if local is not None:
        yield "local", lambda: _both("local", local)


def _docker_run(image: str, flags: Sequence[str]) -> float:
    begun = time.monotonic()
    try:
        done = subprocess.run(["docker", "run", "--rm", *flags, image, _PROGRAM], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MachineUnfitError(
            "There is no docker command to measure against.",
            remedy="Install it with: apt-get install docker.io; or give --adapter local.",
        ) from error
    took_ms = (time.monotonic() - begun) * 1000
    if done.returncode:
        raise MachineUnfitError(f"Bare `docker run` failed: {done.stderr.strip()}")
    return took_ms


def _both(name: str, sandbox: HostSandbox) -> dict[str, float]:
    """Run the program once for its times, and a sleeper once for what its deadline is worth."""
    watched = _Watched(sandbox)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as folder:
        outcome = execute(watched, _spec(_PROGRAM), Path(folder))
    whole_ms = (time.monotonic() - begun) * 1000
    if outcome.verdict is not Verdict.SUCCEEDED:
        raise MachineUnfitError(f"The {name} sandbox could not run the program: {outcome.verdict} {outcome.detail}")
    return {
        f"{name}: whole execution": whole_ms,
        f"{name}: launch until the program runs": watched.launch_ms,
        f"{name}: collect and remove": watched.after_ms,
        **_ending(name, sandbox),
    }


class _Watched:
    """A sandbox whose verbs are timed."""

    def __init__(self, sandbox: HostSandbox) -> None:
        self._sandbox = sandbox
        self.launch_ms = self.after_ms = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    def launch(self, spec: Spec) -> None:
        begun = time.monotonic()
        self._sandbox.launch(spec)
        self.launch_ms = (time.monotonic() - begun) * 1000

    def collect(self, name: str, into: Path) -> Any:
        begun = time.monotonic()
        found = self._sandbox.collect(name, into)
        self.after_ms += (time.monotonic() - begun) * 1000
        return found

    def remove(self, name: str) -> None:
        begun = time.monotonic()
        self._sandbox.remove(name)
        self.after_ms += (time.monotonic() - begun) * 1000


def _ending(name: str, sandbox: HostSandbox) -> dict[str, float]:
    """Time how long after its end, and how long after its deadline, a sleeper is seen to have ended."""
    spec = _spec("/usr/bin/sleep", "30", wall_s=_WALL_S)
    sandbox.launch(spec)
    try:
        while not isinstance(ended := sandbox.inspect(spec.name), Ended):
            time.sleep(_POLL_S)
        seen_at = time.time()
    finally:
        sandbox.remove(spec.name)
    if ended.verdict is not Verdict.TIMED_OUT or ended.started_at is None:
        raise MachineUnfitError(f"The {name} sandbox did not hold a deadline: {ended.verdict} {ended.detail}")
    return {
        f"{name}: end until it is seen": (seen_at - ended.ended_at) * 1000,
        f"{name}: deadline until the end": (ended.ended_at - ended.started_at - _WALL_S) * 1000,
    }


def _spec(*command: str, wall_s: float = _LIMITS.wall_s) -> Spec:
    limits = replace(_LIMITS, wall_s=wall_s)
    return Spec(name=f"fh-{ULID()}".lower(), kind=Kind.RUN, command=command, image="plain", limits=limits)


def _told(rows: dict[str, Row], n: int) -> dict[str, Any]:
    bare = rows.get(BARE)
    targets = []
    for name in ("docker", "local"):
        if (whole := rows.get(f"{name}: whole execution")) is None:
            continue
        if bare:
            targets.append(_target(name, "overhead_p50_ms", whole.at(50) - bare.at(50)))
            targets.append(_target(name, "overhead_p95_ms", whole.at(95) - bare.at(95)))
        targets.append(_target(name, "visible_p95_ms", rows[f"{name}: end until it is seen"].at(95)))
        targets.append(_target(name, "overshoot_p95_ms", rows[f"{name}: deadline until the end"].at(95)))
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "n": n,
        "rows": [row.told(bare) for row in rows.values()],
        "targets": targets,
    }


def _target(adapter: str, name: str, measured: float) -> dict[str, Any]:
    shown = round(measured, 1)
    return {"adapter": adapter, "name": name, "most": TARGETS[name], "measured": shown, "met": shown <= TARGETS[name]}
