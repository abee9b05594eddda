"""Two outside actors hold each deadline and cancel, nothing that is left escapes the reaper, many at once fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ulid import ULID

from fumehood.domain.execution import Verdict
from fumehood.errors import NotFoundError, SandboxUnavailableError
from sandbox import cgroups, oversight, uids
from sandbox.execute import execute

if TYPE_CHECKING:
    from sandbox.records import Record
    from tests.contract.conftest import Bench

pytestmark = [
    pytest.mark.kill,
    pytest.mark.parametrize(
        "bench",
        [pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)],
        indirect=True,
    ),
]
STUBBORN = """
import os, signal, time
os.fork() and os._exit(0) if os.environ.get("X") else None
for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
if os.fork() == 0: os.setsid()
print("on", flush=True)
while True: time.sleep(1)
"""


def record(bench: Bench, name: str) -> Record:
    found: Record = bench.sandbox._record(name)  # type: ignore[attr-defined]
    return found


def stop_supervisor(bench: Bench, name: str) -> None:
    for pid in oversight.supervisors(record(bench, name)):
        os.kill(pid, signal.SIGSTOP)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oversight, "OVERDUE_S", 0.5)
    monkeypatch.setattr(oversight, "HUNG_S", 2.0)


def stubborn(bench: Bench, **asked: Any) -> str:
    name = bench.launch("python3", "program.py", files={"work/program.py": STUBBORN}, **asked)
    bench.says(name, b"on\n")
    return name


@pytest.mark.usefixtures("impatient")
def test_whoever_looks_holds_the_deadline_of_a_hung_supervisor(bench: Bench) -> None:
    name = stubborn(bench, wall_s=1.5)
    stop_supervisor(bench, name)
    ended = bench.wait(name, 20)
    assert ended.verdict == Verdict.TIMED_OUT
    assert record(bench, name).read("intent.json")["reason"] == "timed_out"  # type: ignore[index]


@pytest.mark.usefixtures("impatient")
def test_whoever_looks_holds_a_cancel_too(bench: Bench) -> None:
    name = stubborn(bench, wall_s=600.0)
    stop_supervisor(bench, name)
    bench.sandbox.stop(name, "cancelled")
    assert bench.wait(name, 20).verdict == Verdict.CANCELLED


def test_a_cancel_whose_sender_died_before_the_signal_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oversight, "UNHEEDED_S", 0.2)
    name = stubborn(bench, wall_s=600.0)
    record(bench, name).intend(Verdict.CANCELLED)
    assert bench.wait(name, 20).verdict == Verdict.CANCELLED


def test_a_stopped_supervisor_that_was_killed_after_a_cancel_does_not_make_it_a_loss(bench: Bench) -> None:
    name = stubborn(bench, wall_s=600.0)
    stop_supervisor(bench, name)
    bench.sandbox.stop(name, "cancelled")
    oversight.end_supervisor(record(bench, name))
    assert bench.wait(name, 20).verdict == Verdict.CANCELLED


def test_a_supervisor_that_never_begins_is_ended_and_the_launch_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversight, "UNBEGUN_S", 1.0)
    spec = bench.spec("sleep", "30")
    sandbox: Any = bench.sandbox
    tell, told = sandbox._go, []

    def stop_and_tell(*asked: Any) -> None:
        # It leaves its parent when it starts; whichever of the two is there in the end stands still.
        for _ in range(10):
            stop_supervisor(bench, spec.name)
            time.sleep(0.02)
        tell(*asked)

    def launch() -> None:
        try:
            sandbox.launch(spec)
        except SandboxUnavailableError as error:
            told.append(error)

    monkeypatch.setattr(sandbox, "_go", stop_and_tell)
    thread = threading.Thread(target=launch)
    thread.start()
    bench.until(lambda: record(bench, spec.name).was_started)
    while thread.is_alive():
        with suppress(NotFoundError):
            sandbox.inspect(spec.name)
        time.sleep(0.05)
    assert ["supervisor ended before" in str(error) for error in told] == [True]


def test_the_reaper_finds_whatever_is_left_and_nothing_else(bench: Bench) -> None:
    sandbox: Any = bench.sandbox
    home = sandbox._installation
    strays = {kind: f"fh-{ULID()}".lower() for kind in ("user id", "folder", "volume", "control group", "process")}
    bench.names += strays.values()
    uids.claim(home.run_dir, f"{home.id}/{strays['user id']}")
    home.make_run_folder(home.folder / strays["folder"])
    home.make_folder(home.volumes, mode=0o700)
    (home.volumes / f"{strays['volume']}.img").write_bytes(b"x")
    groups = cgroups.find()
    assert groups is not None
    cgroups.make(groups, home.id, strays["control group"], bench.spec("true").limits)
    lost = bench.launch("sleep", "30", network="allow:arxiv")
    stop_supervisor(bench, lost)
    record(bench, lost).erase()
    found = sandbox.traces()
    assert {kind: found[name] for kind, name in strays.items() if kind != "process"} == {
        kind: (kind,) for kind in strays if kind != "process"
    }
    assert {"process", "mount", "volume", "user id", "control group"} <= set(found[lost])
    assert sandbox.reap(older_than_s=60.0) == (strays["user id"],)
    assert set(sandbox.reap()) == {*strays.values(), lost} - {strays["user id"], strays["process"]}
    bench.until(lambda: not sandbox.traces())
    bench.until(lambda: not bench.left(bench.state_dir))


def test_what_is_being_launched_is_not_reaped(bench: Bench) -> None:
    name = f"fh-{ULID()}".lower()
    with record(bench, name).locked(make=True):
        assert bench.sandbox.reap() == ()
    assert bench.sandbox.reap() == (name,)


def test_sixteen_at_once_in_threads_neither_fail_nor_leak(bench: Bench) -> None:
    specs = [bench.spec("sh", "-c", f"echo {number} > o", collect=("o",), wall_s=120.0) for number in range(16)]
    came: dict[int, Any] = {}

    def go(number: int) -> None:
        try:
            came[number] = execute(bench.sandbox, specs[number], bench.folder / f"out{number}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            came[number] = error

    threads = [threading.Thread(target=go, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert {number: getattr(one, "verdict", one) for number, one in came.items()} == dict.fromkeys(
        range(16), "succeeded"
    )
    assert [(bench.folder / f"out{n}" / "o").read_text(encoding="utf-8") for n in range(16)] == [
        f"{n}\n" for n in range(16)
    ]
    bench.until(lambda: not bench.left(bench.state_dir))


def test_sixteen_at_once_from_processes_neither_fail_nor_leak(bench: Bench) -> None:
    program = f"""
import sys
from pathlib import Path
from fumehood.domain.execution import *
from sandbox.execute import execute
from tests.contract.conftest import build
state = Path({str(bench.state_dir)!r})
sandbox = build({bench.adapter!r}, state)
limits = Limits(wall_s=120.0, memory_mib=64, storage_mib=16, processes=32)
for name in sys.argv[1:]:
    spec = Spec(name=name, kind=Kind.RUN, command=("true",), image="plain", limits=limits)
    print(execute(sandbox, spec, Path({str(bench.folder)!r})).verdict, flush=True)
"""
    names = [f"fh-{ULID()}".lower() for _ in range(16)]
    bench.names += names
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *names[at : at + 2]],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for at in range(0, 16, 2)
    ]
    told = [process.communicate(timeout=300) for process in started]
    assert [said for said, _ in told] == ["succeeded\n" * 2] * 8, told
    bench.until(lambda: not bench.left(bench.state_dir))
