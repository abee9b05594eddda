"""Forks of an experiment: what came before is shared by hash, the later steps are done again and paid for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from fumehood.domain.direction import Approve, DirectionState, Hold
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Experiment, ExperimentState, Run, RunResult
from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Subject
from fumehood.domain.tenant import Tenant
from fumehood.errors import BadInputError, ConflictError, OverBudgetError
from fumehood.services import approvals, directions, forks
from fumehood.services.forks import Edits
from tests.fakes.laboratory import Laboratory
from tests.fakes.model import ScriptedCoder

Make = Callable[..., Laboratory]


@pytest.fixture
def lab(make_lab: Make) -> Laboratory:
    """Return a laboratory whose one experiment is done."""
    made = make_lab()
    made.submit(runs=2)
    made.go_on()
    assert made.experiments()[0].state is ExperimentState.DONE
    return made


def fork(lab: Laboratory, stage: str, source: Experiment | None = None, **edits: object) -> Experiment:
    known = source or lab.experiments()[0]
    return forks.fork(
        lab.store, lab.artifacts, lab.clock, "me", known.id, stage, Edits(**edits)  # type: ignore[arg-type]
    )  # fmt: skip


def runs_of(lab: Laboratory, experiment: Experiment) -> list[Run]:
    return [run for run in lab.runs() if run.experiment_id == experiment.id]


def same(one: Run, other: Run) -> bool:
    """Whether two runs differ in whose they are alone."""
    return dataclasses.replace(one, id=other.id, experiment_id=other.experiment_id) == other


def ended(lab: Laboratory) -> Experiment:
    lab.go_on()
    return lab.experiments()[-1]


@pytest.mark.parametrize(
    ("stage", "shared", "again"),
    [
        ("run_1", 0, {Kind.RUN: 2, Kind.PLOT: 1, Kind.COMPILE: 1}),
        ("run_2", 1, {Kind.RUN: 1, Kind.PLOT: 1, Kind.COMPILE: 1}),
        ("plotting", 2, {Kind.PLOT: 1, Kind.COMPILE: 1}),
        ("writing", 2, {Kind.COMPILE: 1}),
        ("reviewing", 2, {}),
    ],
)
def test_what_came_before_is_shared_and_the_rest_is_done_again(
    lab: Laboratory, stage: str, shared: int, again: dict[Kind, int]
) -> None:
    source = lab.experiments()[0]
    made = fork(lab, stage)
    assert (made.forked_from, made.from_step, made.name) == (source.id, stage, f"{source.name}_2")
    assert lab.direction().state is DirectionState.RUNNING
    done = ended(lab)
    assert (done.id, done.state, done.error) == (made.id, ExperimentState.DONE, "")
    assert lab.direction().state is DirectionState.DONE
    pairs = list(zip(runs_of(lab, source), runs_of(lab, done), strict=True))
    assert [same(*pair) for pair in pairs] == [True] * shared + [False] * (2 - shared)
    assert done.baseline_id == source.baseline_id
    asked = {kind: len(lab.executions(kind=kind, experiment_id=done.id)) for kind in again}
    assert asked == again
    assert len(lab.executions(experiment_id=done.id)) == sum(again.values()) + again.get(Kind.RUN, 0)
    assert done.products.keys() == source.products.keys()
    assert done.products["registration.json"] == source.products["registration.json"]


def test_it_stands_in_the_finished_folder_and_all_of_it_holds(lab: Laboratory, tmp_path: Path) -> None:
    made = fork(lab, "writing", notes="The circle gained most.")
    done = ended(lab)
    out = lab.export(tmp_path / "out")
    assert (out / "experiments" / made.name / "notes.txt").read_text() == "The circle gained most."
    tex = lab.artifacts.get(done.products["latex/main.tex"]).decode()
    assert "shares the steps before writing with an earlier one" in tex
    assert "A person then changed notes." in tex


def test_edited_code_is_measured_as_it_is(lab: Laboratory) -> None:
    asked = len(lab.coder.calls)
    fork(lab, "run_2", files={"experiment.py": "SCALE = 0.25\n"})
    lab.go_on(until=lambda: lab.experiments()[-1].state is ExperimentState.PLOTTING)
    made = lab.experiments()[-1]
    first, second = runs_of(lab, made)
    assert lab.artifacts.get(second.files["experiment.py"]) == b"SCALE = 0.25\n"
    assert (second.result, second.title, second.seeds) == (RunResult.MEASURED, "Variant 2 by hand", first.seeds)
    assert [call.claims.role for call in lab.coder.calls[asked:]] == []
    assert made.notes.count("## Run 1:") == made.notes.count("## Run 2:") == 1
    assert made.edited == ("experiment.py",)


def test_edited_code_that_fails_is_mended_by_the_coder(lab: Laboratory) -> None:
    fork(lab, "run_1", files={"experiment.py": "raise RuntimeError\n"})
    done = ended(lab)
    assert done.state is ExperimentState.DONE
    assert [attempt.verdict for attempt in runs_of(lab, done)[0].attempts] == ["failed"]


def test_an_edited_plot_is_drawn_as_it_is(lab: Laboratory) -> None:
    asked = len(lab.coder.calls)
    fork(lab, "plotting", files={"plot.py": "print('mine')\n"})
    done = ended(lab)
    assert lab.artifacts.get(done.files["plot.py"]) == b"print('mine')\n"
    assert len(lab.coder.calls) == asked


def test_an_edited_plan_is_what_the_later_steps_read(lab: Laboratory, tmp_path: Path) -> None:
    made = fork(lab, "run_1", plan="Halve the scale and nothing else.")
    ended(lab)
    assert "Halve the scale and nothing else." in lab.coder.calls[-2].prompt
    told = (lab.export(tmp_path / "out") / "experiments" / made.name / "idea.json").read_text()
    assert "Halve the scale and nothing else." in told
    assert lab.ideas()[0].experiment != "Halve the scale and nothing else."


def test_a_fork_can_be_forked(lab: Laboratory) -> None:
    fork(lab, "reviewing")
    ended(lab)
    again = fork(lab, "reviewing", lab.experiments()[-1])
    done = ended(lab)
    assert (done.id, done.state) == (again.id, ExperimentState.DONE)
    assert done.name.endswith("_3")
    reviews = [lab.get(one.products["review.json"])["checks"] for one in lab.experiments()]
    assert reviews[0] == reviews[1] == reviews[2]


def test_an_experiment_that_failed_is_mended_by_hand(make_lab: Make) -> None:
    broken = {(1, number): ({"experiment.py": b"raise RuntimeError(%d)\n" % number}, "") for number in range(1, 5)}
    lab = make_lab(coder=ScriptedCoder(broken))
    lab.submit(runs=1)
    lab.go_on()
    assert lab.direction().state is DirectionState.FAILED
    with pytest.raises(BadInputError, match="can be forked from run_1, not from 'plotting'"):
        fork(lab, "plotting")
    fork(lab, "run_1", files={"experiment.py": "SCALE = 0.5\n"})
    assert ended(lab).state is ExperimentState.DONE
    assert (lab.direction().state, lab.direction().error) == (DirectionState.DONE, "")


def test_it_waits_for_those_under_way(make_lab: Make) -> None:
    lab = make_lab()
    lab.submit(runs=1, ideas=2, novelty=False)
    lab.go_on(until=lambda: any(one.state is ExperimentState.DONE for one in lab.experiments()))
    made = fork(lab, "reviewing")
    lab.go_on(until=lambda: lab.experiments()[1].state is ExperimentState.CODING)
    assert lab.experiments()[-1] == made
    assert ended(lab).state is ExperimentState.DONE
    assert all(one.state is ExperimentState.DONE for one in lab.experiments())


def test_where_each_step_is_approved_so_are_a_forks(make_lab: Make) -> None:
    lab = make_lab()
    lab.submit(runs=1)
    lab.go_on()
    lab.save(dataclasses.replace(lab.direction(), approve=Approve.EVERY_STEP))
    fork(lab, "writing")
    assert ended(lab).hold is Hold.APPROVAL


@pytest.mark.parametrize(
    ("stage", "edits", "said"),
    [
        ("coding", {}, "from run_1, run_2, plotting, writing, reviewing, not from 'coding'"),
        ("run_3", {}, "not from 'run_3'"),
        ("run_1", {"files": {"evaluate.py": ""}}, "experiment.py, plot.py can be edited, not 'evaluate.py'"),
        ("run_1", {"files": {"../x.py": ""}}, "can be edited, not"),
        ("run_1", {"files": {"experiment.py": "x" * (forks.MOST_FILE_BYTES + 1)}}, "longer than 512 KiB"),
        ("plotting", {"files": {"experiment.py": ""}}, "From plotting on, plot.py can be edited"),
        ("writing", {"files": {"plot.py": ""}}, "Writing changes no code"),
        ("reviewing", {"notes": "other"}, "no edit would change anything"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_changes_nothing(
    lab: Laboratory, stage: str, edits: dict[str, object], said: str
) -> None:
    before = lab.store.version()
    with pytest.raises(BadInputError, match=said):
        fork(lab, stage, **edits)
    assert lab.store.version() == before


def test_one_that_has_not_ended_or_never_began_is_refused(make_lab: Make) -> None:
    lab = make_lab()
    lab.submit(runs=1, ideas=2, novelty=False)
    lab.go_on(until=lambda: bool(lab.experiments()) and lab.experiments()[0].state is ExperimentState.RUNNING)
    with pytest.raises(ConflictError, match="is running; it can be forked when it has ended"):
        fork(lab, "run_1")
    directions.cancel(lab.store, lab.clock, lab.direction().id)
    with pytest.raises(ConflictError, match="direction is cancelled"):
        fork(lab, "run_1")
    with pytest.raises(ConflictError, match="before its first step"):
        fork(lab, "run_1", lab.experiments()[1])


def test_an_open_direction_counts_as_one_of_its_tenant(lab: Laboratory) -> None:
    tenant = lab.direction().tenant
    with lab.store.begin() as tx:
        tx.tenants.save(Tenant(id=tenant, name="local", quotas={"directions": 0.0}))
    with pytest.raises(OverBudgetError, match="0 directions at once"):
        fork(lab, "reviewing")
    assert lab.direction().state is DirectionState.DONE
    assert len(lab.experiments()) == 1


def rules(verdict: PolicyVerdict) -> Policy:
    one = Rule(
        name="stop", applies_to=frozenset({Subject.DIFF}), verdict=verdict, reason="Not here.", terms=("malware",)
    )
    return Policy(rules=(one,), sha256="f" * 64)


HANDS = pytest.mark.parametrize(
    ("stage", "edits"),
    [
        ("run_1", {"files": {"experiment.py": "SCALE = 0.5  # malware\n"}}),
        ("plotting", {"files": {"plot.py": "print('malware')\n"}}),
        ("writing", {"notes": "Write malware.\n"}),
        ("run_2", {"plan": "Write malware."}),
    ],
)


@HANDS
def test_what_the_policy_refuses_of_a_persons_edit_is_never_done(
    lab: Laboratory, stage: str, edits: dict[str, object]
) -> None:
    lab.write = dataclasses.replace(lab.write, policy=rules(PolicyVerdict.REFUSED))
    before = len(lab.executions())
    made = fork(lab, stage, **edits)
    done = ended(lab)
    assert (done.id, done.state) == (made.id, ExperimentState.REFUSED)
    assert "stop" in done.error
    assert len(lab.executions()) == before
    assert lab.direction().is_final


def test_a_persons_plan_is_an_idea_too(lab: Laboratory) -> None:
    policy = rules(PolicyVerdict.REFUSED)
    of_ideas = dataclasses.replace(policy.rules[0], applies_to=frozenset({Subject.IDEA}))
    lab.write = dataclasses.replace(lab.write, policy=dataclasses.replace(policy, rules=(of_ideas,)))
    fork(lab, "run_2", plan="Write malware.")
    assert ended(lab).state is ExperimentState.REFUSED


@HANDS
def test_what_needs_a_person_waits_for_an_admin(lab: Laboratory, stage: str, edits: dict[str, object]) -> None:
    lab.write = dataclasses.replace(lab.write, policy=rules(PolicyVerdict.NEEDS_A_PERSON))
    before = len(lab.executions())
    made = fork(lab, stage, **edits)
    held = ended(lab)
    assert (held.id, held.hold) == (made.id, Hold.POLICY)
    assert len(lab.executions()) == before
    (waiting,) = approvals.waiting(lab.store, lab.artifacts)
    assert (waiting.id, waiting.kind) == (made.id, "diff")
    approvals.approve(lab.store, lab.clock, "admin", made.id)
    assert ended(lab).state is ExperimentState.DONE


def test_a_fork_that_nobody_edited_was_screened_before(lab: Laboratory) -> None:
    lab.write = dataclasses.replace(lab.write, policy=rules(PolicyVerdict.REFUSED))
    fork(lab, "writing")
    assert ended(lab).state is ExperimentState.DONE
