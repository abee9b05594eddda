"""The workers that `fumehood run` starts: they end with their parent, and an interruption leaves nothing running."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import container_name
from fumehood.domain.step import Side, Step, StepState
from fumehood.errors import MachineUnfitError
from fumehood.services import directions, executions, steps
from fumehood.settings import Settings
from tests.fakes.laboratory import Laboratory, act
from tests.fakes.sandbox import InstantSandbox
from worker import local, scratch, watcher, worlds

ROOT = Path(__file__).parents[2]


def start(state: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "worker.local", *words]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def test_a_worker_ends_when_its_standard_input_closes(tmp_path: Path) -> None:
    worlds.prepare_state(Settings(state_dir=tmp_path))
    with start(tmp_path, "--side", "write", "--gateway", "http://127.0.0.1:9") as process:
        assert process.stdin is not None
        process.stdin.write(b"x" * 10_000)
        process.stdin.flush()
        assert process.poll() is None
        _, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (0, b"")


def test_an_unknown_side_is_status_two(tmp_path: Path) -> None:
    with start(tmp_path, "--side", "left") as process:
        _, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert b"invalid choice" in complained


class TestHalt:
    @pytest.fixture
    def interrupted(self, make_lab: Callable[..., Laboratory]) -> Laboratory:
        lab = make_lab(sandbox=InstantSandbox(lambda _: None))
        lab.submit()
        lab.go_on()
        return lab

    def test_what_runs_is_removed_and_wanted_again(self, interrupted: Laboratory) -> None:
        assert {one.state for one in interrupted.executions()} == {ExecutionState.LAUNCHED}
        local.halt(interrupted.run, interrupted.direction().id)
        assert interrupted.sandbox.specs == {}
        assert [(one.state, one.fence) for one in interrupted.executions()] == [(ExecutionState.WANTED, 1)] * 2

    def test_the_work_goes_on_from_there(self, interrupted: Laboratory) -> None:
        local.halt(interrupted.run, interrupted.direction().id)
        interrupted.sandbox.act = act
        interrupted.go_on()
        assert interrupted.direction().state is DirectionState.DONE
        assert {one.losses for one in interrupted.executions()} == {0}

    def test_twice_or_when_the_container_is_gone_is_no_error(self, interrupted: Laboratory) -> None:
        interrupted.sandbox.remove(container_name(interrupted.executions()[0].id))
        local.halt(interrupted.run, interrupted.direction().id)
        local.halt(interrupted.run, interrupted.direction().id)
        assert {one.state for one in interrupted.executions()} == {ExecutionState.WANTED}

    def test_a_container_whose_launch_was_not_written_down_is_removed_too(self, lab: Laboratory) -> None:
        lab.sandbox.act = lambda _: None
        lab.submit()
        step = lab.go_on_to("launch")
        executions.launch(lab.run, step)
        assert ExecutionState.WANTED in {one.state for one in lab.executions()}
        assert lab.sandbox.specs != {}
        local.halt(lab.run, lab.direction().id)
        assert lab.sandbox.specs == {}

    def test_a_step_in_hand_is_due_again_at_once(self, lab: Laboratory) -> None:
        lab.submit()
        with lab.store.begin() as tx:
            assert tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=60) is not None
        assert lab.once() is False
        local.halt(lab.run, lab.direction().id)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE
        assert all(step.state is StepState.DONE for step in lab.steps())

    def test_another_direction_goes_on_undisturbed(self, interrupted: Laboratory) -> None:
        first = interrupted.direction().id
        interrupted.submit(seed=1)
        interrupted.go_on()
        local.halt(interrupted.run, first)
        assert len(interrupted.sandbox.specs) == 2


def test_what_a_row_speaks_of_is_not_reaped(lab: Laboratory) -> None:
    lab.sandbox.act = lambda _: None
    lab.submit()
    lab.go_on()
    names = set(lab.sandbox.specs)
    lab.sandbox.specs["fh-stray"] = next(iter(lab.sandbox.specs.values()))
    watcher.reap(lab.run)
    assert names <= set(lab.sandbox.specs)


class TestState:
    def test_the_folder_is_private_and_the_tables_are_there(self, tmp_path: Path) -> None:
        settings = Settings(state_dir=tmp_path / "state")
        worlds.prepare_state(settings)
        worlds.prepare_state(settings)
        assert settings.state_dir.stat().st_mode & 0o777 == 0o700
        store = worlds.store_of(settings)
        with store.begin(write=False) as tx:
            assert tx.directions.find() == ()
        store.close()

    def test_a_folder_that_cannot_be_is_told_with_the_remedy(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(MachineUnfitError, match=r"cannot be used: .* Set FUMEHOOD_STATE_DIR"):
            worlds.prepare_state(Settings(state_dir=tmp_path / "file" / "state"))

    def test_only_one_holds_a_lock(self, tmp_path: Path) -> None:
        with worlds.only_one(tmp_path / "deep" / "lock") as mine, worlds.only_one(tmp_path / "deep" / "lock") as other:
            assert (mine, other) == (True, False)
        with worlds.only_one(tmp_path / "deep" / "lock") as again:
            assert again is True


def test_a_cancelled_direction_is_cleared_away_after_a_halt(lab: Laboratory) -> None:
    lab.sandbox.act = lambda _: None
    lab.submit()
    lab.go_on()
    directions.cancel(lab.store, lab.clock, lab.direction().id)
    local.halt(lab.run, lab.direction().id)
    lab.go_on()
    assert {one.state for one in lab.executions()} == {ExecutionState.REMOVED}


class TestScratch:
    HOLDER = """
import sys, tempfile, time
from pathlib import Path
from worker.scratch import Scratch
Scratch(Path(sys.argv[1]))
with tempfile.TemporaryDirectory(prefix="fumehood-key-") as folder:
    (Path(folder) / "key").write_bytes(b"secret")
    print(folder, flush=True)
    time.sleep(60)
"""

    @pytest.fixture
    def holder(self, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        command = [sys.executable, "-c", self.HOLDER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
            process.kill()

    def test_a_key_does_not_outlive_a_worker_that_was_killed(
        self, holder: tuple[subprocess.Popen[str], Path], tmp_path: Path
    ) -> None:
        process, folder = holder
        assert folder.is_relative_to(tmp_path / "tmp")
        assert scratch.clear(tmp_path) == ()
        assert (folder / "key").exists()
        process.kill()
        process.wait()
        assert scratch.clear(tmp_path) == (folder.parent.name,)
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_a_worker_that_ends_takes_its_own_along(self, tmp_path: Path) -> None:
        worlds.prepare_state(Settings(state_dir=tmp_path))
        with start(tmp_path, "--side", "write", "--gateway", "http://127.0.0.1:9") as process:
            deadline = time.monotonic() + 20
            while not list(tmp_path.glob("tmp/worker-*")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.communicate(timeout=30)
        assert list((tmp_path / "tmp").iterdir()) == []


class TestAllDirections:
    def claimed(self, lab: Laboratory) -> Step:
        with lab.store.begin() as tx:
            step = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=60.0)
        assert step is not None
        return step

    def test_a_new_worker_goes_on_with_what_the_one_before_it_died_with(self, lab: Laboratory) -> None:
        direction = lab.submit()
        step = self.claimed(lab)
        assert steps.advance(lab.write) is False
        local.take_over(lab.run, None, frozenset())
        local.take_over(lab.write, None, frozenset({direction.id}))
        assert steps.advance(lab.write) is False
        local.take_over(lab.write, None, frozenset())
        assert steps.advance(lab.write) is True
        assert [one.fence for one in lab.steps(step.name)] == [step.fence + 1]

    def test_what_a_command_carries_out_is_left_to_it(self, lab: Laboratory, tmp_path: Path) -> None:
        settings = Settings(state_dir=tmp_path)
        assert worlds.of_commands(settings) == frozenset()
        mine, others = lab.submit(), lab.submit()
        with worlds.only_one(worlds.command_lock(settings, others.id)):
            pass
        assert worlds.of_commands(settings) == {others.id}
        while steps.advance(lab.write, None, worlds.of_commands(settings)):
            pass
        assert {step.direction_id for step in lab.steps() if step.state is not StepState.DUE} == {mine.id}

    def test_a_halt_of_all_stops_what_no_command_carries_out(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: None))
        settings = Settings(state_dir=lab.folder)
        mine, others = lab.submit(), lab.submit()
        lab.go_on()
        with worlds.only_one(worlds.command_lock(settings, others.id)):
            local.halt_all(lab.run, settings, None)
        states = {one.id: {run.state for run in lab.executions(direction_id=one.id)} for one in (mine, others)}
        assert states == {mine.id: {ExecutionState.WANTED}, others.id: {ExecutionState.LAUNCHED}}
        local.halt_all(lab.run, settings, others.id)
        assert {one.state for one in lab.executions()} == {ExecutionState.WANTED}
