"""The table of steps: a step is done once whatever dies, and what goes wrong has one end that a person can read."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.step import Side, Step, StepState
from fumehood.errors import (
    ArtifactsUnavailableError,
    BadInputError,
    ModelUnavailableError,
    OverBudgetError,
    StoreUnavailableError,
)
from fumehood.ports import Call
from fumehood.services import directions, steps
from fumehood.services.change import Change
from fumehood.store.memory import MemoryTransaction
from tests.fakes.laboratory import Laboratory, script
from tests.fakes.model import ScriptedCoder
from tests.fakes.store import KilledError, Moment, MortalStore

DOWN = ModelUnavailableError("The provider is overloaded.", retryable=True)


def refusing(error: Exception, times: int, then: Any) -> Callable[[Call], Any]:
    """Return an answer that is an error for some calls, and something else afterwards."""
    told: Iterator[Any] = iter([error] * times)
    return lambda call: next(told, None) or (then(call) if callable(then) else then)


def live(lab: Laboratory) -> list[Step]:
    return [step for step in lab.steps() if step.state in {StepState.DUE, StepState.CLAIMED}]


def survive(lab: Laboratory) -> int:
    """Work to the end through every kill, as processes that are started again would; return the number of kills."""
    kills = 0
    for _ in range(2000):
        try:
            if not lab.once() and not live(lab):
                return kills
            if not [step for step in live(lab) if step.state is StepState.DUE]:
                lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
        except KilledError:
            kills += 1
    raise AssertionError("it does not end")


class TestKilled:
    @pytest.mark.parametrize("moment", Moment)
    def test_a_step_killed_at_its_commit_is_done_once(
        self, make_lab: Callable[..., Laboratory], moment: Moment
    ) -> None:
        store = MortalStore()
        lab = make_lab(store=store)
        direction = lab.submit()
        at = store.commits + 2  # the claim, then the commit of what was done
        store.fate = lambda _: moment if store.commits == at else None
        with pytest.raises(KilledError):
            steps.advance(lab.write)
        lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
        lab.go_on_to("prepare" if moment is Moment.BEFORE else "launch")
        assert lab.direction().state is DirectionState.IDEATING
        (begin,) = lab.steps("begin")
        assert (begin.state, begin.tries) == (StepState.DONE, 2 if moment is Moment.BEFORE else 1)
        assert len([event for event in lab.events() if event.direction_id == direction.id]) == 1

    def test_before_the_lease_is_over_nobody_else_does_it(self, make_lab: Callable[..., Laboratory]) -> None:
        store = MortalStore()
        lab = make_lab(store=store)
        lab.submit()
        at = store.commits + 2
        store.fate = lambda _: Moment.BEFORE if store.commits == at else None
        with pytest.raises(KilledError):
            steps.advance(lab.write)
        lab.clock.advance(steps.LEASE_S[Side.WRITE] - 1)
        assert steps.advance(lab.write) is False

    @pytest.mark.parametrize("seed", [1, 2])
    def test_killed_at_seeded_moments_a_direction_reaches_its_runs(
        self, make_lab: Callable[..., Laboratory], seed: int
    ) -> None:
        rng = random.Random(seed)
        store = MortalStore()
        lab = make_lab(store=store, coder=ScriptedCoder({(1, 1): ({}, "nothing")}))
        lab.submit()
        store.fate = lambda _: rng.choice([None, None, Moment.BEFORE, Moment.AFTER])
        assert survive(lab) > 10
        assert lab.direction().state is DirectionState.DONE
        assert [run.result for run in lab.runs()] == ["measured"] * 3
        assert [len(run.attempts) for run in lab.runs()] == [0, 1, 0]
        assert all(one.state == "removed" for one in lab.executions())


class TestSuperseded:
    def test_a_worker_that_lost_its_claim_commits_nothing(self, lab: Laboratory) -> None:
        direction = lab.submit()
        with lab.store.begin() as tx:
            first = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=1)
        lab.clock.advance(2)
        with lab.store.begin() as tx:
            second = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=1)
        assert first is not None
        assert second is not None
        change = directions.begin(lab.write, first)
        with pytest.raises(steps._SupersededError):
            steps.commit(lab.store, lab.clock, first, change, StepState.DONE)
        assert lab.direction() == direction
        steps.commit(lab.store, lab.clock, second, change, StepState.DONE)
        assert lab.direction().state is DirectionState.IDEATING

    def test_to_the_worker_it_is_no_error(self, make_lab: Callable[..., Laboratory]) -> None:
        def stolen(_: Call) -> dict[str, Any]:
            lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
            with lab.store.begin() as tx:
                assert tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=1) is not None
            return {"exhausted": True}

        lab = make_lab(model=script(idea=stolen))
        lab.submit()
        lab.go_on_to("propose")
        assert steps.advance(lab.write) is True
        assert lab.steps("schedule") == ()
        assert lab.steps("propose")[0].state is StepState.CLAIMED


class TestModelDown:
    def test_it_is_asked_again_later_each_time(self, make_lab: Callable[..., Laboratory]) -> None:
        usual = script()["idea"]
        lab = make_lab(model=script(idea=refusing(DOWN, 3, usual)))
        lab.submit()
        lab.go_on_to("propose")
        waits = []
        for _ in range(3):
            steps.advance(lab.write)
            (step,) = lab.steps("propose")
            assert (step.state, step.error) == (StepState.DUE, "The provider is overloaded.")
            waits.append(step.due_at - lab.clock.now())
            assert steps.advance(lab.write) is False
            lab.clock.advance(waits[-1])
        assert waits == [10, 20, 30]
        steps.advance(lab.write)
        assert len(lab.ideas()) == 1

    @pytest.mark.parametrize("role", ["idea", "notes"])
    def test_after_the_last_try_the_work_is_held_and_goes_on_when_the_hold_is_lifted(
        self, make_lab: Callable[..., Laboratory], role: str
    ) -> None:
        lab = make_lab(model=script(**{role: refusing(DOWN, steps.TRIES, script()[role])}))
        lab.submit(runs=1)
        for _ in range(steps.TRIES + 1):
            lab.go_on()
            lab.clock.advance(100)
        assert len(lab.model.asked(role)) == steps.TRIES
        assert Hold.NO_MODEL in {lab.direction().hold, *(one.hold for one in lab.experiments())}
        assert "no_model: held: The provider is overloaded." in lab.told()
        assert steps.nothing_left(lab.store, lab.direction())
        assert not lab.direction().is_final
        lab.save(dataclasses.replace(lab.direction(), hold=Hold.NONE))
        lab.save(*(dataclasses.replace(one, hold=Hold.NONE) for one in lab.experiments()))
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE

    def test_how_often_it_is_asked_can_be_set(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=DOWN))
        lab.write = dataclasses.replace(lab.write, model_tries=1)
        lab.submit()
        lab.go_on()
        assert (len(lab.model.asked("idea")), lab.direction().hold) == (1, Hold.NO_MODEL)

    def test_what_a_person_can_mend_is_held_at_once(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=ModelUnavailableError("The key is refused.", mendable=True)))
        lab.submit()
        lab.go_on()
        assert (len(lab.model.asked("idea")), lab.direction().hold) == (1, Hold.NO_MODEL)
        assert lab.steps("propose")[0].tries == 0

    def test_what_waiting_cannot_help_fails_at_once(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=ModelUnavailableError("The key is wrong.")))
        lab.submit()
        lab.go_on()
        assert len(lab.model.asked("idea")) == 1
        assert lab.direction().error == "The key is wrong."

    def test_within_an_experiment_only_that_experiment_fails(self, make_lab: Callable[..., Laboratory]) -> None:
        def section(call: Call) -> Any:
            return ModelUnavailableError("no") if call.claims.idea == "smaller_scale" else script()["section"](call)

        lab = make_lab(model=script(section=section))
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        assert [one.state for one in lab.experiments()] == [ExperimentState.FAILED, ExperimentState.DONE]
        assert lab.experiments()[0].error == "no"
        assert lab.direction().state is DirectionState.DONE


class TestArtifactsAway:
    def test_what_waits_for_its_store_loses_no_try(self, make_lab: Callable[..., Laboratory]) -> None:
        away = ArtifactsUnavailableError("The artifact store does not answer.")
        lab = make_lab(model=script(idea=refusing(away, 2 * steps.TRIES, script()["idea"])))
        lab.submit(ideas=1, runs=1)
        for _ in range(2 * steps.TRIES + 1):
            lab.go_on()
            lab.clock.advance(steps.AWAY_WAIT_S)
        assert len(lab.model.asked("idea")) > 2 * steps.TRIES
        assert (lab.direction().state, lab.direction().hold) == (DirectionState.DONE, Hold.NONE)


class TestFaults:
    def test_a_fault_of_ours_is_tried_again_and_then_named_as_one(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=ZeroDivisionError("oops")))
        lab.submit()
        for _ in range(steps.TRIES + 1):
            lab.go_on()
            lab.clock.advance(100)
        assert len(lab.model.asked("idea")) == steps.BUG_TRIES
        assert lab.direction().error == "a fault in Fumehood: ZeroDivisionError: oops"

    def test_one_that_goes_away_is_forgotten(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=refusing(ZeroDivisionError(), steps.BUG_TRIES - 1, script()["idea"])))
        lab.submit()
        for _ in range(3):
            lab.go_on(until=lambda: bool(lab.ideas()))
            lab.clock.advance(100)
        (step,) = lab.steps("propose")
        assert (step.state, step.error) == (StepState.DONE, "")

    def test_a_change_that_cannot_be_stored_fails_its_step_and_not_the_worker(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        def broken(tx: MemoryTransaction) -> None:
            if tx.ideas.find():
                raise RuntimeError("no such column")

        store = MortalStore()
        store.fate = broken
        lab = make_lab(store=store)
        lab.submit()
        for _ in range(steps.BUG_TRIES + 1):
            lab.go_on()
            lab.clock.advance(100)
        assert lab.direction().error == "a fault in Fumehood: RuntimeError: no such column"
        assert lab.ideas() == ()

    def test_bad_input_fails_at_once(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(model=script(idea=BadInputError("no")))
        lab.submit()
        lab.go_on()
        assert (len(lab.model.asked("idea")), lab.direction().error) == (1, "no")

    def test_a_step_of_an_experiment_that_has_ended_fails_nothing_else(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        lab = make_lab(coder=ScriptedCoder({(1, 1): BadInputError("no")}))
        lab.submit()
        lab.go_on_to("code")
        (experiment,) = lab.experiments()
        lab.save(experiment.to(ExperimentState.FAILED))
        lab.go_on()
        assert lab.steps("code")[0].state is StepState.FAILED
        assert lab.direction().state is DirectionState.RUNNING


class TestOverBudget:
    def held(self, make_lab: Callable[..., Laboratory], role: str) -> Laboratory:
        error = OverBudgetError("The budget of 1.00 USD is used up.")
        lab = make_lab(model=script(**{role: refusing(error, 1, script()[role])}))
        lab.submit(runs=1)
        lab.go_on()
        return lab

    @pytest.mark.parametrize("role", ["idea", "notes"])
    def test_the_work_is_held_and_not_asked_again(self, make_lab: Callable[..., Laboratory], role: str) -> None:
        lab = self.held(make_lab, role)
        lab.clock.advance(10_000)
        lab.go_on()
        assert len(lab.model.asked(role)) == 1
        holds = {lab.direction().hold, *(one.hold for one in lab.experiments())}
        assert Hold.OVER_BUDGET in holds
        assert "over_budget: held: The budget of 1.00 USD is used up." in lab.told()
        assert steps.nothing_left(lab.store, lab.direction())
        assert not lab.direction().is_final

    @pytest.mark.parametrize("role", ["idea", "notes"])
    def test_when_the_hold_is_lifted_it_goes_on_at_once(self, make_lab: Callable[..., Laboratory], role: str) -> None:
        lab = self.held(make_lab, role)
        lab.save(dataclasses.replace(lab.direction(), hold=Hold.NONE))
        lab.save(*(dataclasses.replace(one, hold=Hold.NONE) for one in lab.experiments()))
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE

    def test_a_refusal_is_no_failed_try(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.held(make_lab, "idea")
        assert lab.steps("propose")[0].tries == 0


class TestDeaths:
    def test_a_step_that_kills_its_workers_is_given_up_in_the_end(self, lab: Laboratory) -> None:
        lab.submit()
        for _ in range(lab.write.model_tries + steps.DEATHS):
            with lab.store.begin() as tx:
                assert tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=1) is not None
            lab.clock.advance(2)
        assert lab.direction().state is DirectionState.QUEUED
        assert steps.advance(lab.write)
        assert lab.direction().state is DirectionState.FAILED
        assert lab.direction().error == "begin was begun 25 times, and its worker ended each time before it was done"

    def test_what_cannot_be_cleared_away_fails_nothing_else(self, lab: Laboratory) -> None:
        lab.submit()
        step = lab.go_on_to("remove")
        with lab.store.begin() as tx:
            tx.steps.finish(dataclasses.replace(step, tries=steps.TRIES + steps.DEATHS))
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE
        assert "cleanup.failed: remove was begun 25 times" in lab.told()


class TestSave:
    @pytest.mark.parametrize("state", [DirectionState.DONE, DirectionState.FAILED, DirectionState.CANCELLED])
    def test_a_final_direction_is_never_overwritten(self, lab: Laboratory, state: DirectionState) -> None:
        direction = dataclasses.replace(lab.submit(), state=state)
        lab.save(direction)
        lab.apply(Change(directions=(dataclasses.replace(direction, state=DirectionState.RUNNING),)))
        assert lab.direction() == direction

    def test_an_experiment_that_was_cancelled_meanwhile_stays_cancelled(self, lab: Laboratory) -> None:
        lab.submit()
        step = lab.go_on_to("code")
        change = steps.WRITE_STEPS["code"](lab.write, step)
        directions.cancel(lab.store, lab.clock, lab.direction().id)
        lab.apply(change)
        assert lab.experiments()[0].state is ExperimentState.CANCELLED

    def test_a_hold_that_was_set_meanwhile_is_kept(self, lab: Laboratory) -> None:
        lab.submit()
        step = lab.go_on_to("code")
        change = steps.WRITE_STEPS["code"](lab.write, step)
        lab.save(dataclasses.replace(lab.experiments()[0], hold=Hold.PAUSED))
        lab.apply(change)
        assert (lab.experiments()[0].hold, lab.experiments()[0].state) == (Hold.PAUSED, ExperimentState.RUNNING)

    @pytest.mark.parametrize("wanted", [Hold.OVER_BUDGET, Hold.NO_MODEL])
    def test_what_a_person_paused_only_a_person_lets_go_on(self, lab: Laboratory, wanted: Hold) -> None:
        direction = lab.submit()
        lab.go_on_to("code")
        (experiment,) = lab.experiments()
        lab.save(dataclasses.replace(experiment, hold=Hold.PAUSED))
        lab.save(dataclasses.replace(lab.direction(), hold=Hold.PAUSED))
        held = dataclasses.replace(lab.direction(), hold=wanted)
        lab.apply(Change(directions=(held,), experiments=(dataclasses.replace(experiment, hold=wanted),)))
        assert {lab.direction().hold, lab.experiments()[0].hold} == {Hold.PAUSED}
        assert lab.direction().id == direction.id

    def test_a_step_that_saw_a_pause_does_not_bring_it_back(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("code")
        seen = dataclasses.replace(lab.experiments()[0], hold=Hold.PAUSED)
        lab.apply(Change(experiments=(seen,)))
        assert lab.experiments()[0].hold is Hold.NONE

    def test_a_wanted_execution_gets_one_launch(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("launch")
        lab.apply(Change(executions=lab.executions()))
        assert len(lab.steps("launch")) == len(lab.executions()) == 2


class TestNothingLeft:
    def test_there_is_work_until_the_direction_and_its_containers_are_gone(self, lab: Laboratory) -> None:
        lab.submit(runs=1)
        seen = []
        while lab.once():
            seen.append(steps.nothing_left(lab.store, lab.direction()))
        assert seen.count(True) <= 2
        assert steps.nothing_left(lab.store, lab.direction())

    def test_a_container_of_a_cancelled_direction_is_waited_for(self, lab: Laboratory) -> None:
        lab.submit()
        lab.sandbox.act = lambda _: None
        lab.go_on()
        directions.cancel(lab.store, lab.clock, lab.direction().id)
        assert not steps.nothing_left(lab.store, lab.direction())
        lab.go_on()
        assert steps.nothing_left(lab.store, lab.direction())

    def test_a_direction_that_is_held_waits_for_a_person(self, lab: Laboratory) -> None:
        lab.save(dataclasses.replace(lab.submit(), hold=Hold.PAUSED))
        assert steps.nothing_left(lab.store, lab.direction())


class TestTold:
    def lines(self, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
        told = [one for one in caplog.records if hasattr(one, "outcome")]
        return [(one.levelname, one.name_of_step, one.outcome) for one in told]  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (DOWN, "again"),
            (ArtifactsUnavailableError("away"), "again"),
            (OverBudgetError("too dear"), "held"),
            (ModelUnavailableError("refused", mendable=True), "held"),
            (BadInputError("no"), "failed"),
        ],
    )
    def test_a_claim_is_one_line_whatever_comes_of_it(
        self, make_lab: Callable[..., Laboratory], caplog: pytest.LogCaptureFixture, error: Exception, outcome: str
    ) -> None:
        lab = make_lab(model=script(idea=error))
        lab.submit()
        lab.go_on_to("propose")
        with caplog.at_level("INFO", "fumehood.steps"):
            caplog.clear()
            steps.advance(lab.write)
        assert self.lines(caplog) == [("WARNING", "propose", outcome)]
        assert caplog.records[-1].getMessage().endswith(f" s: {error}")

    def test_what_was_done_is_no_warning(self, lab: Laboratory, caplog: pytest.LogCaptureFixture) -> None:
        lab.submit()
        with caplog.at_level("INFO", "fumehood.steps"):
            steps.advance(lab.write)
        assert self.lines(caplog) == [("INFO", "begin", "done")]

    def test_a_claim_that_somebody_else_has_now(
        self, make_lab: Callable[..., Laboratory], caplog: pytest.LogCaptureFixture
    ) -> None:
        def stolen(_: Call) -> dict[str, Any]:
            lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
            with lab.store.begin() as tx:
                assert tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=1) is not None
            return {"exhausted": True}

        lab = make_lab(model=script(idea=stolen))
        lab.submit()
        lab.go_on_to("propose")
        steps.advance(lab.write)
        assert self.lines(caplog)[-1] == ("WARNING", "propose", "superseded")

    def test_a_database_that_goes_away_lets_the_step_go(
        self, make_lab: Callable[..., Laboratory], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MortalStore()
        lab = make_lab(store=store)
        lab.submit()
        at = store.commits + 2

        def fate(_: MemoryTransaction) -> None:
            if store.commits == at:
                raise StoreUnavailableError("away")

        store.fate = fate
        with pytest.raises(StoreUnavailableError):
            steps.advance(lab.write)
        assert self.lines(caplog) == [("WARNING", "begin", "let_go")]
        assert steps.advance(lab.write) is True


def test_every_step_that_is_asked_for_has_a_worker() -> None:
    assert not set(steps.WRITE_STEPS) & set(steps.RUN_STEPS)
    assert {"begin", "verify", "write_section", "review"} <= set(steps.WRITE_STEPS)


class TestLease:
    @pytest.fixture
    def beating(self, make_lab: Callable[..., Laboratory], monkeypatch: pytest.MonkeyPatch) -> Laboratory:
        monkeypatch.setattr(steps, "LEASE_S", dict.fromkeys(Side, 0.04))
        lab = make_lab(store=MortalStore())
        lab.submit()
        return lab

    def claimed(self, lab: Laboratory) -> Step:
        with lab.store.begin() as tx:
            found = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=0.04)
        assert found is not None
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_a_renewal_that_fails_is_said_and_tried_again(
        self, beating: Laboratory, caplog: pytest.LogCaptureFixture
    ) -> None:
        step = self.claimed(beating)
        fails = iter([True, True])

        def fate(_: MemoryTransaction) -> None:
            if next(fails, False):
                raise OSError("the disk is full")

        beating.store.fate = fate  # type: ignore[attr-defined]
        with steps._heartbeat(beating.store, beating.clock, step):
            beating.clock.advance(1)
            self.until(lambda: beating.steps()[0].lease_until > beating.clock.now())
        assert caplog.text.count("could not be renewed: the disk is full") == 2

    def test_a_worker_whose_step_was_taken_is_told(self, beating: Laboratory, caplog: pytest.LogCaptureFixture) -> None:
        first = self.claimed(beating)
        beating.clock.advance(1)
        self.claimed(beating)
        with steps._heartbeat(beating.store, beating.clock, first):
            self.until(lambda: "another worker has begin" in caplog.text)

    def test_what_a_machine_does_is_done_again_sooner_than_what_a_model_is_asked(self) -> None:
        assert steps.LEASE_S[Side.RUN] <= 10 < steps.LEASE_S[Side.WRITE]
