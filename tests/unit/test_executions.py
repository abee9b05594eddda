"""What a run worker does with an execution: launched once, collected by hash, tried again when lost, left nowhere."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import (
    EXECUTION_MOVES,
    Ended,
    ExecutionState,
    Kind,
    Limits,
    Outcome,
    Running,
    Spec,
    Verdict,
)
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import ExecutionId, container_name
from fumehood.domain.step import StepState
from fumehood.errors import BadInputError, NotFoundError, SandboxUnavailableError
from fumehood.services import directions, executions, steps
from fumehood.services.change import Change
from tests.fakes.laboratory import Laboratory
from tests.fakes.sandbox import Did, InstantSandbox


class Refusing(InstantSandbox):
    """Refuses to launch for a while."""

    def __init__(self, error: Exception, times: int = 10**6) -> None:
        super().__init__(lambda _: Did(output="did it"))
        self.error = error
        self.times = times

    def launch(self, spec: Spec) -> None:
        if self.times > 0:
            self.times -= 1
            raise self.error
        super().launch(spec)


class LeavesARecord(Refusing):
    """Fails to launch, and keeps what it was asked, as a sandbox whose engine went away in the middle."""

    def launch(self, spec: Spec) -> None:
        if self.times > 0:
            InstantSandbox.launch(self, spec)
        super().launch(spec)


class One:
    """One execution, wanted."""

    def __init__(self, lab: Laboratory, **changes: Any) -> None:
        self.lab = lab
        direction = lab.submit()
        given = Execution(
            id=ExecutionId(lab.clock.new_id("exec")),
            direction_id=direction.id,
            kind=Kind.RUN,
            image="lab",
            command=("true",),
            collect=("**",),
        )
        with lab.store.begin() as tx:
            for step in tx.steps.find():
                tx.steps.finish(dataclasses.replace(step, state=StepState.DONE))
        self.id = given.id
        lab.apply(Change(executions=(dataclasses.replace(given, **changes),)))

    @property
    def now(self) -> Execution:
        (found,) = self.lab.executions(id=self.id)
        return found

    @property
    def outcome(self) -> Outcome:
        outcome = self.now.outcome
        assert outcome is not None
        return outcome


@pytest.fixture
def wanted(make_lab: Callable[..., Laboratory]) -> Callable[..., One]:
    def make(act: Callable[[Spec], Did | None] | None = None, sandbox: Any = None, **changes: Any) -> One:
        return One(make_lab(sandbox=sandbox or InstantSandbox(act or (lambda _: Did(output="did it")))), **changes)

    return make


def test_it_is_launched_collected_and_removed(wanted: Callable[..., One]) -> None:
    one = wanted(lambda _: Did(files={"a/result.txt": b"42"}, output="did it"))
    one.lab.go_on()
    assert one.now.state is ExecutionState.REMOVED
    assert (one.outcome.verdict, one.outcome.output_tail) == (Verdict.SUCCEEDED, "did it")
    assert one.lab.artifacts.get(one.now.artifacts["a/result.txt"].sha256) == b"42"
    assert one.lab.sandbox.specs == {}


def test_a_launch_that_was_not_written_down_is_adopted(wanted: Callable[..., One]) -> None:
    one = wanted(key_context="x:screen")
    with one.lab.store.begin() as tx:
        step = tx.steps.find(name="launch")[0]
    first, again = executions.launch(one.lab.run, step), executions.launch(one.lab.run, step)
    assert first.executions[0].state is again.executions[0].state is ExecutionState.LAUNCHED
    assert len(one.lab.sandbox.launched) == 1


def test_each_step_done_again_after_its_commit_changes_nothing(wanted: Callable[..., One]) -> None:
    one = wanted()
    one.lab.go_on()
    for name in ("launch", "collect"):
        assert steps.RUN_STEPS[name](one.lab.run, one.lab.steps(name)[0]) == Change()
    assert executions.remove(one.lab.run, one.lab.steps("remove")[0]) == Change()


class TestKey:
    def test_it_is_derived_from_its_context_and_is_no_artifact(self, wanted: Callable[..., One]) -> None:
        one = wanted(key_context="template:screen", kind=Kind.PREPARE)
        one.lab.go_on()
        (key,) = one.lab.sandbox.keys.values()
        assert key == hmac.digest(b"s" * 32, b"template:screen", "sha256")
        with pytest.raises(NotFoundError):
            one.lab.artifacts.get(hashlib.sha256(key).hexdigest())

    def test_its_file_is_gone_when_the_launch_is_over(self, wanted: Callable[..., One]) -> None:
        one = wanted(key_context="template:screen", kind=Kind.PREPARE)
        one.lab.go_on()
        (spec,) = one.lab.sandbox.launched
        (source,) = [Path(item.source) for item in spec.inputs if item.path == "in/key"]
        assert not source.exists()

    def test_without_a_context_there_is_none(self, wanted: Callable[..., One]) -> None:
        one = wanted()
        one.lab.go_on()
        assert one.lab.sandbox.launched[0].inputs == ()


@pytest.mark.parametrize(("storage_mib", "most"), [(512, 1024), (4096, 4096)])
def test_what_its_storage_holds_may_come_out(wanted: Callable[..., One], storage_mib: int, most: int) -> None:
    one = wanted(limits=Limits(storage_mib=storage_mib))
    one.lab.go_on()
    assert one.lab.sandbox.launched[0].max_artifact_bytes == most * 1024 * 1024


class Stalling(InstantSandbox):
    """Collects and removes only after it was asked so often."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__(lambda _: Did(output="did it"))
        self._errors = {name: [error] * times for name in ("collect", "remove")}

    def collect(self, name: str, into: Path) -> Outcome:
        self._stall("collect")
        return super().collect(name, into)

    def remove(self, name: str) -> None:
        self._stall("remove")
        super().remove(name)

    def _stall(self, name: str) -> None:
        if self._errors[name]:
            raise self._errors[name].pop()


class TestEngineAway:
    def test_what_ended_meanwhile_is_collected_and_removed_when_it_is_back(self, wanted: Callable[..., One]) -> None:
        away, times = SandboxUnavailableError("The engine does not answer.", reason="no_docker"), 3 * steps.TRIES
        one = wanted(sandbox=Stalling(away, times))
        for _ in range(2 * times + 1):
            one.lab.go_on()
            one.lab.clock.advance(steps.AWAY_WAIT_S)
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.SUCCEEDED)
        assert one.now.losses == 0
        assert one.lab.sandbox.specs == {}

    def test_what_it_refuses_once_it_is_asked_again(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Stalling(SandboxUnavailableError("Busy.", reason="engine_refused"), steps.TRIES - 1))
        for _ in range(2 * steps.TRIES):
            one.lab.go_on()
            one.lab.clock.advance(60)
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.SUCCEEDED)

    def test_what_it_refuses_always_is_told(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Stalling(SandboxUnavailableError("Busy.", reason="engine_refused"), 1000))
        for _ in range(3 * steps.TRIES):
            one.lab.go_on()
            one.lab.clock.advance(60)
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.COLLECTED, Verdict.LOST)
        assert "cleanup.failed: Busy." in one.lab.told()


class TestLost:
    def test_it_is_tried_three_times_and_then_told(self, wanted: Callable[..., One]) -> None:
        one = wanted(lambda _: Did(verdict=Verdict.LOST))
        one.lab.go_on()
        assert len(one.lab.sandbox.launched) == executions.LOSSES == 3
        assert [spec.fence for spec in one.lab.sandbox.launched] == [0, 1, 2]
        assert one.outcome.verdict is Verdict.LOST
        assert one.now.state is ExecutionState.REMOVED
        assert one.lab.sandbox.specs == {}

    def test_what_works_the_second_time_has_worked(self, wanted: Callable[..., One]) -> None:
        tries = iter([Verdict.LOST, Verdict.SUCCEEDED])
        one = wanted(lambda _: Did(verdict=next(tries)))
        one.lab.go_on()
        assert (one.outcome.verdict, one.now.losses) == (Verdict.SUCCEEDED, 1)

    def test_a_container_that_vanished_is_lost_and_tried_again(self, wanted: Callable[..., One]) -> None:
        one = wanted(lambda _: None)
        one.lab.go_on(until=lambda: one.now.state is ExecutionState.LAUNCHED)
        one.lab.sandbox.remove(container_name(one.id))
        one.lab.sandbox.act = lambda _: Did()
        one.lab.go_on()
        assert (one.outcome.verdict, one.now.losses) == (Verdict.SUCCEEDED, 1)

    def test_what_the_machine_cannot_apply_is_lost_at_once_with_the_reason(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("No cgroups here.", remedy="Use another machine.")))
        one.lab.go_on()
        assert (one.outcome.verdict, one.outcome.detail) == (Verdict.LOST, "No cgroups here. Use another machine.")

    def test_what_no_machine_can_mean_is_lost_at_once_with_the_reason(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(BadInputError("A glob may not leave the workspace.")))
        one.lab.go_on()
        assert (one.outcome.verdict, one.outcome.detail) == (Verdict.LOST, "A glob may not leave the workspace.")
        assert "execution.lost" in one.lab.told()


class TestNoRoom:
    def test_it_waits_until_there_is_room(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("Full.", reason="no_space"), times=3))
        for _ in range(3):
            one.lab.go_on()
            assert one.now.state is ExecutionState.WANTED
            one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        one.lab.go_on()
        assert one.outcome.verdict is Verdict.SUCCEEDED

    def test_it_does_not_wait_for_ever(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("Full.", reason="disk_full")))
        for _ in range(executions.NO_ROOM_TRIES + 1):
            one.lab.go_on()
            one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        assert (one.outcome.verdict, one.outcome.detail) == (Verdict.LOST, "Full.")

    @pytest.mark.parametrize("reason", ["setup_failed", "engine_refused", "engine_failed", "no_docker"])
    def test_a_launch_that_the_machine_failed_is_tried_again(self, wanted: Callable[..., One], reason: str) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("Its supervisor was killed.", reason=reason), times=1))
        one.lab.go_on()
        assert one.now.state is ExecutionState.WANTED
        one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        one.lab.go_on()
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.SUCCEEDED)

    def test_what_a_failed_launch_left_is_no_hindrance(self, wanted: Callable[..., One]) -> None:
        away = SandboxUnavailableError("The engine does not answer.", reason="no_docker")
        one = wanted(sandbox=LeavesARecord(away, times=2))
        for _ in range(3):
            one.lab.go_on()
            one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.SUCCEEDED)
        assert one.lab.sandbox.specs == {}

    def test_whoever_comes_too_late_ends_nothing_that_a_later_launch_began(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("Away.", reason="no_docker"), times=1))
        one.lab.go_on()
        one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        sandbox = one.lab.sandbox

        def overtaken(spec: Spec) -> None:
            with one.lab.store.begin() as tx:
                tx.executions.save(dataclasses.replace(tx.executions.get(one.id), fence=spec.fence + 1))
            InstantSandbox.launch(sandbox, dataclasses.replace(spec, fence=spec.fence + 1))
            InstantSandbox.launch(sandbox, spec)

        sandbox.launch = overtaken
        one.lab.go_on(until=lambda: bool(sandbox.specs))
        assert [spec.fence for spec in sandbox.specs.values()] == [2]
        assert len(sandbox.launched) == 1

    def test_one_that_never_can_be_set_up_is_lost_soon(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("No.", reason="setup_failed")))
        for _ in range(executions.LOSSES):
            one.lab.go_on()
            one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        assert (one.outcome.verdict, one.outcome.detail) == (Verdict.LOST, "No.")

    def test_as_long_as_other_executions_hold_the_room_it_does(self, wanted: Callable[..., One]) -> None:
        tries = executions.NO_ROOM_TRIES + 5
        one = wanted(sandbox=Refusing(SandboxUnavailableError("Full.", reason="no_space"), times=tries))
        for _ in range(tries):
            one.lab.go_on()
            assert one.now.state is ExecutionState.WANTED
            one.lab.clock.advance(executions.NO_ROOM_WAIT_S)
        one.lab.go_on()
        assert one.outcome.verdict is Verdict.SUCCEEDED
        assert one.lab.told().count("execution.waits") == 1

    def test_what_can_never_fit_is_lost_at_once(self, wanted: Callable[..., One]) -> None:
        one = wanted(sandbox=Refusing(SandboxUnavailableError("It can never fit.", reason="too_large")))
        one.lab.go_on()
        assert (one.outcome.verdict, one.outcome.detail) == (Verdict.LOST, "It can never fit.")


class TestEnds:
    def test_what_runs_for_a_cancelled_direction_is_stopped_and_removed(self, wanted: Callable[..., One]) -> None:
        one = wanted(lambda _: None)
        one.lab.go_on()
        assert one.now.state is ExecutionState.LAUNCHED
        directions.cancel(one.lab.store, one.lab.clock, one.now.direction_id)
        assert executions.watch_once(one.lab.store, one.lab.sandbox, one.lab.clock) == 1
        one.lab.go_on()
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.CANCELLED)

    @pytest.mark.parametrize("state", [DirectionState.CANCELLED, DirectionState.FAILED])
    def test_nothing_is_launched_for_a_direction_that_has_ended(
        self, wanted: Callable[..., One], state: DirectionState
    ) -> None:
        one = wanted()
        one.lab.save(one.lab.direction().to(state))
        one.lab.go_on()
        assert one.lab.sandbox.launched == []
        assert (one.now.state, one.outcome.verdict) == (ExecutionState.REMOVED, Verdict.CANCELLED)

    def test_what_runs_for_a_failed_direction_is_stopped_too(self, wanted: Callable[..., One]) -> None:
        one = wanted(lambda _: None)
        one.lab.go_on()
        one.lab.save(one.lab.direction().to(DirectionState.FAILED))
        executions.watch_once(one.lab.store, one.lab.sandbox, one.lab.clock)
        assert isinstance(one.lab.sandbox.inspect(container_name(one.id)), Ended)

    def test_an_engine_that_is_away_keeps_nobody_from_looking_at_the_others(
        self, wanted: Callable[..., One], caplog: pytest.LogCaptureFixture
    ) -> None:
        class HalfAway(InstantSandbox):
            away: frozenset[str] = frozenset()

            def inspect(self, name: str) -> Running | Ended:
                if name in self.away:
                    raise SandboxUnavailableError("The engine does not answer.", reason="no_docker")
                return super().inspect(name)

        one = wanted(sandbox=HalfAway(lambda _: Did()))
        other = dataclasses.replace(one.now, id=ExecutionId(one.lab.clock.new_id("exec")))
        one.lab.apply(Change(executions=(other,)))
        for _ in range(2):
            steps.advance(one.lab.run)
        one.lab.sandbox.away = frozenset({container_name(one.id)})
        unknown: set[str] = set()
        for _ in range(3):
            assert executions.watch_once(one.lab.store, one.lab.sandbox, one.lab.clock, unknown) == 1
        assert [step.payload["execution"] for step in one.lab.steps("collect")] == [other.id]
        assert "The engine does not answer." in caplog.text
        assert one.lab.told().count("nothing is known of run now") == 1
        one.lab.sandbox.away = frozenset()
        executions.watch_once(one.lab.store, one.lab.sandbox, one.lab.clock, unknown)
        assert unknown == set()

    def test_a_watcher_that_looks_often_asks_for_one_collect(self, wanted: Callable[..., One]) -> None:
        one = wanted()
        steps.advance(one.lab.run)
        for _ in range(5):
            executions.watch_once(one.lab.store, one.lab.sandbox, one.lab.clock)
        assert len(one.lab.steps("collect")) == 1

    def test_what_was_not_let_out_is_told(self, wanted: Callable[..., One]) -> None:
        one = wanted(lambda _: Did(files={"a.txt": b"1", "bad\nname": b"2"}))
        one.lab.go_on()
        assert "1 files were not let out" in one.lab.told()

    @pytest.mark.parametrize("state", [ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED])
    def test_the_platform_may_give_up_from_any_open_state(
        self, wanted: Callable[..., One], state: ExecutionState
    ) -> None:
        assert ExecutionState.COLLECTED in EXECUTION_MOVES[state]
        one = wanted()
        change = executions.gave_up(one.lab.clock, dataclasses.replace(one.now, state=state), "a fault")
        assert change.executions[0].state is ExecutionState.COLLECTED
        assert [step.name for step in change.steps] == ["remove"]
