"""A direction that starts from a confirmed experiment: its code is the baseline, its questions stand in the prompt."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Experiment, ExperimentOutcome
from fumehood.domain.ids import TenantId
from fumehood.errors import BadInputError, ConflictError, NotFoundError
from tests.fakes.laboratory import Laboratory
from tests.fakes.model import ScriptedCoder


@pytest.fixture
def parent(lab: Laboratory) -> Experiment:
    """Return a finished experiment that a rule has confirmed."""
    edit = {"experiment.py": b"SCALE = 1.5\n", "json_of_mine.py": b"X = 1\n"}
    lab.coder.script[1, 1] = (edit, "RUN: Mine | a module of its own")
    lab.submit(runs=1)
    lab.go_on()
    found = dataclasses.replace(
        lab.experiments()[0], outcome=ExperimentOutcome.CONFIRMED, limitations=("Only circles were tried.",)
    )
    lab.save(found)
    assert isinstance(lab.coder, ScriptedCoder)
    return found


def submit(lab: Laboratory, parent: Experiment, **changes: Any) -> Direction:
    return lab.submit(parent=parent.id, **{"runs": 1} | changes)


def test_its_code_is_the_baseline_and_what_experiments_start_from(lab: Laboratory, parent: Experiment) -> None:
    lab.coder.script.clear()
    made = submit(lab, parent)
    assert (made.parent, set(made.parent_files)) == (parent.id, {"experiment.py", "json_of_mine.py"})
    lab.go_on()
    assert lab.direction().state is DirectionState.DONE
    [baseline] = [run for run in lab.runs() if run.direction_id == made.id and run.index == 0]
    assert lab.artifacts.get(baseline.files["experiment.py"]) == b"SCALE = 1.5\n"
    means = lab.get(baseline.final_info)["circle"]["means"]
    assert means["error"] == pytest.approx(1.5 + 0.375)
    assert baseline.record, "it was measured, and not taken from the cache of the template's own"
    asked = lab.coder.calls[-2]
    assert "json_of_mine.py" in asked.prompt


def test_its_code_never_lies_beside_the_evaluator(lab: Laboratory, parent: Experiment) -> None:
    made = submit(lab, parent)
    lab.go_on()
    for kind in (Kind.EVALUATE, Kind.PREPARE):
        for execution in lab.executions(kind=kind, direction_id=made.id):
            assert not any("json_of_mine" in path for path in execution.inputs)


def test_its_questions_stand_in_the_prompt_for_ideas(lab: Laboratory, parent: Experiment) -> None:
    first = lab.model.asked("idea")[-1].prompt
    submit(lab, parent)
    lab.go_on(until=lambda: len(lab.model.asked("idea")) > 1)
    prompt = lab.model.asked("idea")[-1].prompt
    told = "Title: A Smaller Scale for Circles"
    assert told in prompt
    assert "Outcome: confirmed\nOpen: Only circles were tried." in prompt
    assert told not in first


@pytest.mark.parametrize("outcome", [None, ExperimentOutcome.REFUTED, ExperimentOutcome.INCONCLUSIVE])
def test_what_was_not_confirmed_is_no_parent(
    lab: Laboratory, parent: Experiment, outcome: ExperimentOutcome | None
) -> None:
    lab.save(dataclasses.replace(parent, outcome=outcome))
    with pytest.raises(ConflictError, match="A parent's outcome must be confirmed; that of smaller_scale is"):
        submit(lab, parent)


def test_anothers_experiment_and_another_template_are_refused(lab: Laboratory, parent: Experiment) -> None:
    with pytest.raises(NotFoundError, match="no experiment"):
        submit(lab, parent, tenant=TenantId("ten_other"))
    with pytest.raises(BadInputError, match="parent's template is tiny, so 'other' cannot be"):
        submit(lab, parent, template="other")
