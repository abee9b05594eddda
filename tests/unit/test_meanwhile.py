"""What people do while a step is under way is not undone by it, and neither leaves anything behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.idea import Decision
from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Screening, Subject
from fumehood.domain.step import Step
from fumehood.errors import ArtifactsUnavailableError
from fumehood.services import approvals, forks, guidance, screening, steps
from fumehood.services.change import Change
from fumehood.services.forks import Edits
from fumehood.services.guidance import OwnIdea
from fumehood.services.world import WriteWorld
from tests.fakes.laboratory import Laboratory, script
from tests.fakes.model import ScriptedCoder

Make = Callable[..., Laboratory]
Act = Callable[[], object]
OWN = OwnIdea(title="Colder starts", experiment="Begin with a smaller scale and compare.")


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: Act, *, at: int = 1) -> None:
    """Have `act` done between what a step of this name decided and its commit, the `at`-th time only."""
    real, times = steps.WRITE_STEPS[name], [0]

    def step_and_act(world: WriteWorld, step: Step) -> Change:
        change = real(world, step)
        times[0] += 1
        if times[0] == at:
            act()
        return change

    monkeypatch.setitem(steps.WRITE_STEPS, name, step_and_act)  # type: ignore[arg-type]


def reject(lab: Laboratory, number: int = 0) -> None:
    guidance.decide(lab.store, lab.clock, "me", lab.ideas()[number].id, approve=False)


def test_an_idea_rejected_while_it_is_checked_is_not_carried_out(
    make_lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()
    lab.submit(ideas=1)
    meanwhile(monkeypatch, "check_novelty", lambda: reject(lab))
    lab.go_on()
    assert lab.ideas()[0].decision is Decision.REJECTED
    assert (lab.experiments(), lab.direction().state) == ((), DirectionState.DONE)


def test_an_admins_word_on_an_idea_that_is_checked_holds(make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule(
        name="stop",
        applies_to=frozenset({Subject.IDEA}),
        terms=("scale",),
        verdict=PolicyVerdict.NEEDS_A_PERSON,
        reason="",
    )
    lab = make_lab(policy=Policy(rules=(rule,), sha256="f" * 64))
    lab.submit(ideas=1)
    meanwhile(monkeypatch, "check_novelty", lambda: approvals.approve(lab.store, lab.clock, "admin", lab.ideas()[0].id))
    lab.go_on()
    assert lab.ideas()[0].screening.verdict is PolicyVerdict.ALLOWED
    assert (lab.direction().state, lab.direction().hold) == (DirectionState.DONE, Hold.NONE)


def test_an_idea_rejected_as_its_experiment_begins_keeps_no_other_from_it(
    make_lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()
    lab.submit(ideas=2, runs=1)
    meanwhile(monkeypatch, "next_experiment", lambda: reject(lab))
    lab.go_on()
    assert [one.state for one in lab.experiments()] == [ExperimentState.CANCELLED, ExperimentState.DONE]
    assert lab.direction().state is DirectionState.DONE


def test_an_idea_given_as_the_experiments_are_made_becomes_one(make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    made = lab.submit(ideas=1, runs=1)
    meanwhile(monkeypatch, "schedule", lambda: guidance.add_idea(lab.store, lab.clock, "me", made.id, OWN))
    lab.go_on()
    assert [one.state for one in lab.experiments()] == [ExperimentState.DONE] * 2


@pytest.mark.parametrize("what", ["fork", "idea"])
def test_what_is_asked_for_as_a_direction_ends_is_carried_out(
    make_lab: Make, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    lab = make_lab()
    made = lab.submit(ideas=1, runs=1)

    def act() -> None:
        if what == "fork":
            forks.fork(lab.store, lab.artifacts, lab.clock, "me", lab.experiments()[0].id, "writing", Edits())
        else:
            guidance.add_idea(lab.store, lab.clock, "me", made.id, OWN)

    meanwhile(monkeypatch, "next_experiment", act, at=2)
    lab.go_on()
    assert [one.state for one in lab.experiments()] == [ExperimentState.DONE] * 2
    assert lab.direction().state is DirectionState.DONE
    assert steps.nothing_left(lab.store, lab.direction())


def test_a_budget_set_while_a_step_is_under_way_is_kept(make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    made = lab.submit(ideas=1, runs=1)

    def act() -> None:
        given = {"usd": 3.0, "gpu_s": 4.0, "wall_s": 5000.0, "usd_per_experiment": 2.0, "usd_per_call": 1.0}
        guidance.set_budget(lab.store, lab.clock, "me", made.id, **given)

    meanwhile(monkeypatch, "begin", act)
    lab.go_on()
    now = lab.direction()
    assert (now.budget_usd, now.budget_gpu_s, now.budget_wall_s) == (3.0, 4.0, 5000.0)
    assert (now.budget_usd_per_experiment, now.budget_usd_per_call) == (2.0, 1.0)


class TestPauseBehindThePolicy:
    """A person pauses while a step finds that the policy wants an admin; the admin's yes is not the person's."""

    def policy(self, subject: Subject, term: str) -> Policy:
        rule = Rule(
            name="stop",
            applies_to=frozenset({subject}),
            terms=(term,),
            verdict=PolicyVerdict.NEEDS_A_PERSON,
            reason="",
        )
        return Policy(rules=(rule,), sha256="f" * 64)

    def test_of_an_experiment(self, make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        coder = ScriptedCoder({(1, 1): ({"experiment.py": b"SCALE = 0.5  # forbidden\n"}, "RUN: a | b")})
        lab = make_lab(policy=self.policy(Subject.DIFF, "forbidden"), coder=coder)
        lab.submit(ideas=1, runs=1)

        def pause() -> None:
            guidance.pause_experiment(lab.store, lab.clock, "me", lab.experiments()[0].id)

        meanwhile(monkeypatch, "code", pause)
        lab.go_on()
        (held,) = lab.experiments()
        assert held.hold is Hold.POLICY
        approvals.approve(lab.store, lab.clock, "admin", held.id)
        lab.go_on()
        assert lab.experiments()[0].hold is Hold.PAUSED
        guidance.resume_experiment(lab.store, lab.clock, "me", held.id)
        lab.go_on()
        assert lab.experiments()[0].state is ExperimentState.DONE

    def test_of_a_direction(self, make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        found = Screening(verdict=PolicyVerdict.NEEDS_A_PERSON, rule="judge", reason="odd")
        lab = make_lab()
        made = lab.submit(ideas=1, runs=1)
        monkeypatch.setattr(screening, "screen", lambda *_, **__: found)
        meanwhile(monkeypatch, "begin", lambda: guidance.pause_direction(lab.store, lab.clock, "me", made.id))
        lab.go_on()
        assert lab.direction().hold is Hold.POLICY
        monkeypatch.undo()
        approvals.approve(lab.store, lab.clock, "admin", made.id)
        assert lab.direction().hold is Hold.PAUSED
        guidance.resume_direction(lab.store, lab.clock, "me", made.id)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE


def test_nobody_waits_for_the_database_while_a_rule_searches(make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    made = lab.submit()
    free = []

    def others_write() -> None:
        with lab.store.begin():
            free.append(True)

    def search(*_: object) -> Screening:
        other = threading.Thread(target=others_write, daemon=True)
        other.start()
        other.join(5.0)
        return Screening()

    monkeypatch.setattr(screening, "by_rules", search)
    guidance.add_idea(lab.store, lab.clock, "me", made.id, OWN)
    assert free == [True]


def test_no_model_is_asked_again_whose_answer_cannot_be_kept(make_lab: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    away = ArtifactsUnavailableError("The artifact store takes nothing.")
    asked = script()["idea"]
    told = []

    def answer(call: object) -> object:
        told.append(call)
        if len(told) == 1:
            raise away
        return asked(call)

    lab = make_lab(model=script(idea=answer))
    lab.submit(ideas=1, runs=1)

    def full(*, writes: bool = False) -> None:
        assert writes
        raise away

    with monkeypatch.context() as patch:
        patch.setattr(lab.artifacts, "probe", full)
        for _ in range(10):
            lab.go_on()
            lab.clock.advance(steps.AWAY_WAIT_S)
        assert len(told) == 1
    lab.go_on()
    assert lab.direction().state is DirectionState.DONE
