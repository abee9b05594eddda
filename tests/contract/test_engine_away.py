"""An engine that stalls or goes away, seen through a door that the test holds: nothing hangs, and no verdict is lost.

The engine itself goes on, so this may run beside anything; tests/e2e/test_engine.py kills a real one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from fumehood.domain.execution import Ended, Running, Verdict
from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, docker_engine, oversight, records
from sandbox.docker import DockerSandbox
from sandbox.lab import find
from tests import leaks
from tests.fakes.engine import Door, Mood

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

pytestmark = pytest.mark.parametrize("bench", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
SOON_S = 8.0
STUBBORN = ("python3", "-c", "import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: signal.pause()")


@pytest.fixture
def door(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    made = Door(bench.folder / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{made.place}")
    yield made
    made.mood = Mood.WELL
    for name in bench.names:
        bench.sandbox.remove(name)
    made.close()


@pytest.fixture
def sandbox(bench: Bench, door: Door) -> DockerSandbox:
    """The same installation, through the door."""
    return DockerSandbox(docker_engine.connect(), bench.state_dir, leaks.RUN_DIR, {**find(bench.state_dir)})


def launched(bench: Bench, sandbox: DockerSandbox, *command: str, wall_s: float) -> str:
    spec = bench.spec(*command, wall_s=wall_s)
    sandbox.launch(spec)
    return spec.name


def runs(bench: Bench, name: str) -> bool:
    """Whether anything of an execution runs, by the kernel alone."""
    groups = cgroups.find()
    assert groups is not None
    identity = leaks.identity(bench.state_dir)
    places = [root / cgroups.TOP / identity / name for root in groups.roots]
    return any(place.read_text(encoding="ascii") for top in places for place in top.rglob("cgroup.procs"))


def look(sandbox: DockerSandbox, name: str) -> Running | Ended | None:
    """Look once, which must never take long; None where the engine would have had to answer."""
    asked = time.monotonic()
    try:
        return sandbox.inspect(name)
    except SandboxUnavailableError:
        return None
    finally:
        assert time.monotonic() - asked < SOON_S


def test_a_stalled_engine_keeps_no_supervisor_from_its_deadline(
    bench: Bench, door: Door, sandbox: DockerSandbox
) -> None:
    name = launched(bench, sandbox, *STUBBORN, wall_s=2.0)
    door.mood = Mood.STALLED
    began = time.monotonic()
    bench.until(lambda: not runs(bench, name), 6.0)
    assert time.monotonic() - began > 1.0
    assert not isinstance(look(sandbox, name), Ended)
    door.mood = Mood.WELL
    bench.until(lambda: isinstance(look(sandbox, name), Ended), 60.0)
    ended = look(sandbox, name)
    assert isinstance(ended, Ended)
    assert ended.verdict == Verdict.TIMED_OUT


@pytest.mark.parametrize("mood", [Mood.STALLED, Mood.GONE])
def test_without_supervisor_and_engine_whoever_looks_holds_the_deadline(
    bench: Bench, door: Door, sandbox: DockerSandbox, mood: Mood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversight, "OVERDUE_S", 0.5)
    name = launched(bench, sandbox, *STUBBORN, wall_s=2.0)
    record = records.find(sandbox._installation, name)
    door.mood = mood
    for pid in oversight.supervisors(record):
        os.kill(pid, signal.SIGKILL)
    bench.until(lambda: not record.is_supervised())

    def is_over() -> bool:
        look(sandbox, name)
        return not runs(bench, name)

    bench.until(is_over, 20.0)
    door.mood = Mood.WELL
    bench.until(lambda: isinstance(look(sandbox, name), Ended), 60.0)
    ended = look(sandbox, name)
    assert isinstance(ended, Ended)
    assert ended.verdict == Verdict.TIMED_OUT


@pytest.mark.parametrize("mood", [Mood.STALLED, Mood.GONE])
def test_an_engine_that_was_away_for_a_while_costs_no_word(
    bench: Bench, door: Door, sandbox: DockerSandbox, mood: Mood
) -> None:
    code = "for n in 1 2 3 4 5 6; do echo $n; sleep 0.5; done"
    name = launched(bench, sandbox, "sh", "-c", code, wall_s=60.0)
    bench.until(lambda: b"2\n" in sandbox.follow(name))
    door.mood = mood
    time.sleep(4.0)
    door.mood = Mood.WELL
    bench.until(lambda: isinstance(look(sandbox, name), Ended), 60.0)
    ended = look(sandbox, name)
    assert isinstance(ended, Ended)
    assert ended.verdict == Verdict.SUCCEEDED
    assert sandbox.follow(name) == b"1\n2\n3\n4\n5\n6\n"


def test_a_launch_while_it_is_gone_is_refused_and_leaves_nothing(
    bench: Bench, door: Door, sandbox: DockerSandbox
) -> None:
    sandbox.image_id("plain")
    door.mood = Mood.GONE
    spec = bench.spec("true")
    with pytest.raises(SandboxUnavailableError) as caught:
        sandbox.launch(spec)
    assert caught.value.reason == "no_docker"
    door.mood = Mood.WELL
    with suppress(SandboxUnavailableError):
        sandbox.reap()
    bench.until(lambda: not bench.left(bench.state_dir))
