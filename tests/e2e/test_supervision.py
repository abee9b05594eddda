"""The watcher, a supervisor, the worker or several of them are killed at seeded points: each execution still ends.

What runs is the real thing but for the write side: `fumehood run`'s own keeper of processes with a run worker and a
watcher, a database, and executions that differ in how they truly end. Each point has an installation of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fumehood.cli.children import Children, workers
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.execution import ExecutionState, Kind, Limits, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId, container_name
from fumehood.services import steps
from fumehood.services.change import Change
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from sandbox import installation, oversight, records
from tests import leaks
from worker import worlds

pytestmark = [pytest.mark.kill, pytest.mark.alone, pytest.mark.local]
AT_ONCE = 4
LATE_S = 30.0
"""So long after its deadline an execution must at the latest be reported; also after whatever was killed."""
NEVER_S = 150.0
STUBBORN = """
import os, signal, time
for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
if os.fork() == 0: os.setsid()
while True: time.sleep(1)
"""
PROGRAMS: dict[Verdict, tuple[tuple[str, ...], Limits]] = {
    Verdict.SUCCEEDED: (
        ("sh", "-c", "sleep 2; echo fine > result"),
        Limits(wall_s=20, memory_mib=64, storage_mib=16, processes=32, cpus=0.5),
    ),
    Verdict.TIMED_OUT: (
        ("python3", "-c", STUBBORN),
        Limits(wall_s=3, memory_mib=64, storage_mib=16, processes=32, cpus=0.5),
    ),
    Verdict.TOO_MUCH_OUTPUT: (
        ("sh", "-c", "sleep 1; yes"),
        Limits(wall_s=20, memory_mib=64, storage_mib=16, processes=32, cpus=0.5, output_bytes=20_000),
    ),
}
PHASES = ("launching", "running", "ending", "collecting")
VICTIMS = (("watch",), ("shim",), ("run",), ("shim", "watch"), ("shim", "watch", "run"))


@dataclass(frozen=True)
class Point:
    """Who is killed, and when: so long after the first sign of a phase."""

    adapter: str
    victims: tuple[str, ...]
    phase: str
    after_s: float


POINTS = {"local": range(10), "docker": range(10, 20)}
"""Of the twenty pairs of a phase and victims; each half has all phases and all victims."""


def points(adapter: str) -> list[Point]:
    """Return the seeded points of an adapter."""
    draw = random.Random(f"{adapter} 3")
    return [
        Point(adapter, VICTIMS[number % len(VICTIMS)], PHASES[number % len(PHASES)], draw.uniform(0.0, 0.6))
        for number in POINTS[adapter]
    ]


class RunSide(Children):
    """What `fumehood run` starts and keeps, without gateway and write worker."""

    def pid(self, side: str) -> int:
        """Return the process of a side, as long as it lives."""
        child = self._running[side]
        return child.pid if child.poll() is None else 0


@dataclass
class Site:
    """One installation with executions that are wanted, and what became of them."""

    settings: Settings
    adapter: str
    store: SqlStore
    direction: DirectionId
    wanted: dict[ExecutionId, Verdict] = field(default_factory=dict)
    collected_at: dict[ExecutionId, float] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, adapter: str) -> Site:
        settings = Settings(state_dir=folder / "state")
        worlds.prepare_state(settings)
        clock, store = SystemClock(), worlds.store_of(settings)
        direction = Direction(
            id=DirectionId(clock.new_id("dir")), tenant=TenantId("local"), template="none", text="", model="offline",
            review_model="offline", profile="tiny", ideas=1, runs=1, state=DirectionState.RUNNING,
        )  # fmt: skip
        site = cls(settings, adapter, store, direction.id)
        made = [site._execution(clock, verdict) for verdict in PROGRAMS]
        with store.begin() as tx:
            steps.save(tx, clock, Change(directions=(direction,), executions=tuple(made)))
        return site

    def _execution(self, clock: SystemClock, verdict: Verdict) -> Execution:
        command, limits = PROGRAMS[verdict]
        made = ExecutionId(clock.new_id("exec"))
        self.wanted[made] = verdict
        return Execution(
            id=made, direction_id=self.direction, kind=Kind.RUN, image="plain", command=command, collect=("*",),
            limits=limits, sandbox=self.adapter, created_at=clock.now(),
        )  # fmt: skip

    def keep(self) -> RunSide:
        return RunSide(self.settings, workers(self.adapter, self.direction)[1:])

    def rows(self) -> list[Execution]:
        with self.store.begin(write=False) as tx:
            return list(tx.executions.find(direction_id=self.direction))

    def is_over(self) -> bool:
        """Look once, remember when each was first seen collected, and tell whether all are removed."""
        rows = self.rows()
        for row in rows:
            if row.state in {ExecutionState.COLLECTED, ExecutionState.REMOVED}:
                self.collected_at.setdefault(row.id, time.time())
        return all(row.state is ExecutionState.REMOVED for row in rows)

    def has_begun(self, phase: str) -> bool:
        """Whether the first sign of a phase is there."""
        names = {verdict: self.name(verdict) for verdict in PROGRAMS}
        place = self.settings.state_dir / "executions"
        stubborn = place / names[Verdict.TIMED_OUT]
        if phase == "launching":
            return any((place / name / "spec.json").exists() for name in names.values())
        if phase == "running":
            return (stubborn / "started.json").exists()
        if phase == "ending":
            return any((place / name / "intent.json").exists() for name in names.values())
        return any((place / name / "exit.json").exists() for name in names.values())

    def name(self, verdict: Verdict) -> str:
        return container_name(next(one for one, truth in self.wanted.items() if truth is verdict))

    def supervisors(self) -> list[int]:
        home = installation.find(self.settings.state_dir, self.settings.run_dir)
        found = [records.find(home, container_name(one)) for one in self.wanted]
        return [pid for record in found for pid in oversight.supervisors(record)]

    def left(self) -> dict[str, list[str]]:
        found = {**leaks.left(self.settings.state_dir), **leaks.recorded(self.settings.state_dir)}
        # The worker and the watcher themselves live on.
        found["processes"] = [line for line in found.get("processes", []) if "shim.py" in line]
        return {kind: things for kind, things in found.items() if things}


def until(holds: Callable[[], bool], patience_s: float, what: str) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.02)


def strike(site: Site, kept: RunSide, point: Point, draw: random.Random) -> list[str]:
    """Kill whoever is to be killed and is there; who that was."""
    killed = []
    for victim in point.victims:
        alive = site.supervisors() if victim == "shim" else [pid for pid in [kept.pid(victim)] if pid]
        # One that was seen may have ended by itself since.
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(draw.choice(alive), signal.SIGKILL)
            killed.append(victim)
    return killed


def carry_out(point: Point, site: Site) -> tuple[list[str], str]:
    """Carry a point out; who was killed, and what did not hold, or nothing."""
    killed: list[str] = []
    draw = random.Random(repr(point))
    try:
        with site.keep() as kept:
            until(lambda: site.is_over() or site.has_begun(point.phase), NEVER_S, f"{point.phase} began")
            time.sleep(point.after_s)
            killed += strike(site, kept, point, draw)

            def is_over() -> bool:
                kept.check()
                return site.is_over()

            until(is_over, NEVER_S, "all ended")
            return killed, judge(site, killed)
    except AssertionError as error:
        return killed, f"{error}: {[(row.state, row.losses) for row in site.rows()]}"
    finally:
        site.store.close()
        leaks.remove_empty_run_folders(site.settings.state_dir)


def judge(site: Site, killed: list[str]) -> str:
    wrong = []
    for row in site.rows():
        truth, outcome = site.wanted[row.id], row.outcome
        if outcome is None or outcome.verdict != truth:
            wrong.append(f"{truth} was reported as {(outcome.verdict, outcome.detail) if outcome else None}")
        if row.losses > killed.count("shim") + killed.count("run"):
            wrong.append(f"{truth} was lost {row.losses} times")
        if row.launched_at is None:
            wrong.append(f"{truth} was never launched")
        elif (late_s := site.collected_at[row.id] - row.launched_at - row.limits.wall_s) > LATE_S:
            wrong.append(f"{truth} was reported {late_s:.1f} s after its deadline")
    if found := site.left():
        wrong.append(f"left: {found}")
    return "; ".join(wrong)


@pytest.mark.parametrize("adapter", [pytest.param("local"), pytest.param("docker", marks=pytest.mark.docker)])
def test_whoever_is_killed_each_execution_ends_in_time_with_its_verdict(adapter: str, tmp_path: Path) -> None:
    chosen = points(adapter)
    assert {point.phase for point in chosen} == set(PHASES)
    assert {victim for point in chosen for victim in point.victims} == {"watch", "shim", "run"}
    # The tables are made here: what makes them is not for several threads.
    sites = [Site.make(tmp_path / str(number), adapter) for number in range(len(chosen))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = dict(zip(map(repr, chosen), pool.map(carry_out, chosen, sites), strict=True))
    assert {point: wrong for point, (_, wrong) in told.items() if wrong} == {}
    asked = sum(len(point.victims) for point in chosen)
    # A supervisor that has just ended is the only one who may not be met.
    assert sum(len(killed) for killed, _ in told.values()) >= asked - 2, told
