"""The gate before launches: in order, never too many, learning from what it sees, and free of those that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import gate
from sandbox.gate import Gate, Learnt

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from sandbox.gate import Gate
with Gate(Path(sys.argv[1]), cores=1).passed("x"):
    print("in", flush=True)
    time.sleep(60)
"""


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def holder(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    return process


def test_no_more_than_the_ceiling_are_in_at_once_and_all_get_in(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[tuple[int, int]] = []

    def go(number: int) -> None:
        one = Gate(tmp_path, cores=2)
        with one.passed("x"):
            inside.append(number)
            most.append((len(inside), one.ceiling()))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 24
    assert max(count for count, _ in most) <= gate.PER_CORE * 2
    assert {path.name for path in (tmp_path / "gate").iterdir()} == {"lock", "learnt.json"}


def test_who_came_first_goes_first(tmp_path: Path) -> None:
    order: list[int] = []
    one = Gate(tmp_path, cores=1)

    def go(number: int) -> None:
        with one.passed("x") as turn:
            order.append(number)
            # Nothing is learnt, so the ceiling of one never rises.
            turn.launched = False

    with one.passed("x") as turn:
        turn.launched = False
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            until(lambda number=number: len(one._numbers()) == number + 2)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3]


def test_a_holder_that_is_killed_frees_its_place(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        one = Gate(tmp_path, cores=1)
        entered = threading.Event()

        def go() -> None:
            with one.passed("x"):
                entered.set()

        thread = threading.Thread(target=go)
        thread.start()
        assert not entered.wait(0.3)
        process.kill()
        assert entered.wait(10)
        thread.join(10)
    with one.passed("x"):
        assert len(one._numbers()) == 1


def test_a_holder_that_is_stopped_keeps_nobody_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HUNG_S", 0.5)
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        with Gate(tmp_path, cores=1).passed("x"):
            assert time.monotonic() - begun < 10
        process.kill()


def test_who_fails_inside_frees_the_place(tmp_path: Path) -> None:
    one = Gate(tmp_path, cores=1)
    with pytest.raises(ZeroDivisionError), one.passed("x"):
        raise ZeroDivisionError
    with one.passed("x"):
        assert len(one._numbers()) == 1


def after(learnt: Learnt, times: list[float], *, ahead: int = 9, scarce: bool = False) -> Learnt:
    for took_s in times:
        learnt = learnt.after("x", took_s, ahead=ahead, scarce=scarce, cores=2)
    return learnt


class TestLearning:
    def test_launches_that_stay_fast_let_more_in_up_to_the_most(self) -> None:
        assert after(Learnt(2.0, {}), [0.1] * 100).ceiling == 8.0

    def test_where_nobody_waits_nothing_is_known_about_more(self) -> None:
        assert after(Learnt(2.0, {}), [0.1] * 100, ahead=0).ceiling == 2.0

    def test_slow_launches_let_fewer_in_but_one_for_each_processor(self) -> None:
        assert 4.0 < after(Learnt(8.0, {"x": 0.1}), [0.5] * 8).ceiling < 7.0
        assert after(Learnt(8.0, {"x": 0.01}), [9.0] * 300).ceiling == 2.0

    def test_it_settles_where_a_launch_takes_about_three_times_its_best(self) -> None:
        learnt = Learnt(1.0, {})
        for _ in range(400):
            learnt = after(learnt, [0.1 * max(1.0, learnt.ceiling / 2)], ahead=int(learnt.ceiling) - 1)
        assert 4 <= learnt.ceiling <= 7

    def test_each_kind_has_a_best_of_its_own(self) -> None:
        learnt = after(Learnt(4.0, {"docker": 0.4}), [0.1, 0.1])
        assert learnt.after("docker", 0.9, ahead=9, cores=2, scarce=False).ceiling > learnt.ceiling

    def test_a_time_alone_that_is_never_seen_again_is_forgotten(self) -> None:
        assert after(Learnt(4.0, {"x": 0.001}), [0.1] * 600, ahead=0).best["x"] == pytest.approx(0.1, rel=0.01)
        assert after(Learnt(4.0, {"x": 0.001}), [0.1] * 600).best["x"] == 0.001

    def test_a_single_fast_launch_does_not_make_all_others_slow(self) -> None:
        assert after(Learnt(4.0, {"x": 0.1}), [0.01]).best["x"] > 0.07

    def test_a_launch_that_launched_nothing_teaches_nothing(self, tmp_path: Path) -> None:
        with Gate(tmp_path).passed("x") as turn:
            turn.launched = False
        assert not (tmp_path / "gate" / "learnt.json").exists()

    def test_without_memory_one_at_a_time(self, tmp_path: Path) -> None:
        assert after(Learnt(8.0, {}), [0.1], scarce=True).ceiling == 1.0
        told = tmp_path / "meminfo"
        for free, is_scarce in ((400, True), (9000, False)):
            told.write_text(f"MemTotal: 10000 kB\nMemFree: 9 kB\nMemAvailable: {free} kB\n", encoding="ascii")
            assert gate.is_memory_scarce(told) is is_scarce


def test_what_was_learnt_and_cannot_be_read_is_learnt_again(tmp_path: Path) -> None:
    one = Gate(tmp_path, cores=3)
    with one.passed("x"):
        pass
    (tmp_path / "gate" / "learnt.json").write_text("{", encoding="utf-8")
    assert one.ceiling() == 3
