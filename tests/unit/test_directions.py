"""A direction from what is asked to its end: what is refused, what is scheduled, how it closes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.experiment import Experiment, ExperimentState
from fumehood.domain.idea import Idea, Novelty, Score
from fumehood.domain.ids import ExperimentId, IdeaId
from fumehood.domain.step import StepState
from fumehood.errors import BadInputError
from fumehood.services import directions, submissions
from fumehood.services.submissions import Checked
from tests.fakes.laboratory import TINY, Laboratory, moved, step_of


def idea(lab: Laboratory, index: int, **changes: Any) -> Idea:
    score = Score(value=5, reason="")
    given = Idea(
        id=IdeaId(lab.clock.new_id("idea")),
        direction_id=lab.direction().id,
        index=index,
        name=f"idea_{index}",
        title="T",
        experiment="E",
        interestingness=score,
        feasibility=score,
        novelty_score=score,
        scored_by="model",
        novelty=Novelty.NOVEL,
    )
    return dataclasses.replace(given, **changes)


def experiment(lab: Laboratory, index: int, state: ExperimentState, **changes: Any) -> Experiment:
    return Experiment(
        id=ExperimentId(lab.clock.new_id("exp")),
        direction_id=lab.direction().id,
        idea_id=IdeaId("idea_1"),
        name=f"idea_{index}",
        index=index,
        state=state,
        **changes,
    )


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"template": "nope"}, "There is no template 'nope'"),
            ({"template": ""}, "name or folder is needed"),
            ({"text": ""}, "text is empty"),
            ({"text": " \n\t"}, "text is empty"),
            ({"text": "x" * 20_001}, "longer than 20000 characters"),
            ({"ideas": 0}, "number of ideas must be from 1 to 500, not 0"),
            ({"ideas": -3}, "number of ideas must be from 1 to 500, not -3"),
            ({"ideas": 501}, "number of ideas must be from 1 to 500, not 501"),
            ({"runs": 0}, "number of runs must be from 1 to 20, not 0"),
            ({"runs": 21}, "number of runs must be from 1 to 20, not 21"),
            ({"budget_usd": -0.01}, "budget must be a number"),
            ({"budget_usd": math.nan}, "budget must be a number"),
            ({"budget_usd": math.inf}, "budget must be a number"),
            ({"budget_gpu_s": -1.0}, "budget must be a number of GPU-seconds"),
            ({"budget_wall_s": math.inf}, "budget must be a number of seconds"),
            ({"priority": 6}, "priority must be from -5 to 5, not 6"),
            ({"strategy": "tree"}, "no strategy 'tree' yet; there is list"),
            ({"seed": -1}, "seed must be from 0"),
            ({"seed": 10**30}, "seed must be from 0"),
            ({"model": " "}, "model's name is needed"),
            ({"review_model": ""}, "model's name is needed"),
            ({"profile": "huge"}, "no profile 'huge'"),
        ],
    )
    def test_bad_input_is_one_clear_sentence_and_leaves_nothing(
        self, lab: Laboratory, changes: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(BadInputError, match=words) as refused:
            lab.submit(**changes)
        assert str(refused.value).endswith(".")
        assert lab.steps() == ()

    def test_a_syntax_error_in_the_template_is_told_with_its_line(self, lab: Laboratory) -> None:
        (lab.template / "experiment.py").write_text("x = 1\ny = (\n")
        with pytest.raises(BadInputError, match=r"tiny does not keep the contract: experiment\.py .* in line 2"):
            lab.submit()

    @pytest.mark.parametrize("name", ["..", ".", "/etc", "tiny/../tiny", ""])
    def test_a_caller_on_the_network_names_shipped_templates_only(self, lab: Laboratory, name: str) -> None:
        asked, shipped = lab.asked(template=name), lab.folder / "shipped"
        with pytest.raises(BadInputError, match="There is no template"):
            submissions.check(lab.store, lab.artifacts, lab.clock, asked, shipped, shipped_only=True)


class TestSubmit:
    def test_of_those_that_come_at_once_a_broken_one_breaks_alone(self, lab: Laboratory) -> None:
        def check(**changes: Any) -> Callable[[], Checked]:
            asked, shipped = lab.asked(**changes), lab.folder / "shipped"
            return lambda: submissions.check(lab.store, lab.artifacts, lab.clock, asked, shipped)

        def broken() -> Checked:
            raise ZeroDivisionError

        asked = [check(seed=1), broken, check(seed=-1), check(seed=2)]
        first, second, third, fourth = submissions.check_and_accept(lab.store, lab.clock, asked)
        assert isinstance(first, Direction)
        assert isinstance(second, ZeroDivisionError)
        assert isinstance(third, BadInputError)
        assert isinstance(fourth, Direction)
        assert {step.direction_id for step in lab.steps("begin")} == {first.id, fourth.id}

    def test_it_keeps_the_template_as_it_was_and_makes_one_step_due(self, lab: Laboratory) -> None:
        direction = lab.submit(text="  Look at scales. ", seed=3)
        (lab.template / "experiment.py").write_text("changed = True\n")
        assert lab.artifacts.get(direction.template_files["experiment.py"]).decode() == TINY["experiment.py"]
        assert (direction.text, direction.review_model, direction.seed) == ("Look at scales.", "offline", 3)
        (step,) = lab.steps()
        assert (step.name, step.state) == ("begin", StepState.DUE)

    def test_without_a_text_the_templates_own_task_is_taken(self, lab: Laboratory) -> None:
        assert lab.submit().text == "Make the scale small."

    def test_a_baseline_alone_asks_for_no_idea(self, lab: Laboratory) -> None:
        shipped = lab.folder / "shipped"
        submissions.submit(lab.store, lab.artifacts, lab.clock, lab.asked(), shipped, baseline_only=True)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE
        assert [run.index for run in lab.runs()] == [0]
        assert lab.model.calls == []


class TestSchedule:
    def test_ideas_that_go_on_become_experiments_in_their_order(self, lab: Laboratory) -> None:
        direction = moved(lab.submit(), DirectionState.IDEATING)
        lab.save(direction)
        novelties = (Novelty.NOVEL, Novelty.NEAR_DUPLICATE, Novelty.UNKNOWN, Novelty.NOT_NOVEL, Novelty.UNCHECKED)
        lab.save(*(idea(lab, index, novelty=novelty) for index, novelty in enumerate(novelties)))
        change = directions.schedule(lab.write, step_of(direction, "schedule"))
        assert [(one.index, one.name) for one in change.experiments] == [(0, "idea_0"), (1, "idea_2"), (2, "idea_4")]
        assert {path for one in change.experiments for path in one.files} == {"experiment.py", "plot.py"}
        assert change.directions[0].state is DirectionState.RUNNING
        assert [step.name for step in change.steps] == ["next_experiment"]

    @pytest.mark.parametrize("novelty", [None, Novelty.NOT_NOVEL])
    def test_without_an_idea_that_goes_on_the_direction_is_done(self, lab: Laboratory, novelty: Novelty | None) -> None:
        direction = moved(lab.submit(), DirectionState.IDEATING)
        lab.save(direction)
        if novelty is not None:
            lab.save(idea(lab, 0, novelty=novelty))
        change = directions.schedule(lab.write, step_of(direction, "schedule"))
        assert change.directions[0].state is DirectionState.DONE
        assert (change.experiments, change.steps) == ((), ())


class TestNextExperiment:
    def given(self, lab: Laboratory, *states: ExperimentState) -> Any:
        direction = moved(lab.submit(), DirectionState.IDEATING, DirectionState.RUNNING)
        lab.save(direction)
        lab.save(*(experiment(lab, index, state, error="boom") for index, state in enumerate(states)))
        return directions.next_experiment(lab.write, step_of(direction, "next_experiment"))

    def test_the_first_that_has_not_begun_is_started(self, lab: Laboratory) -> None:
        change = self.given(lab, ExperimentState.DONE, ExperimentState.QUEUED, ExperimentState.QUEUED)
        assert [(one.name, one.state) for one in change.experiments] == [("idea_1", ExperimentState.BASELINE)]
        assert [step.name for step in change.steps] == ["begin_experiment"]

    def test_nothing_is_started_twice(self, lab: Laboratory) -> None:
        change = self.given(lab, ExperimentState.CODING)
        assert (change.experiments, change.directions, change.steps) == ((), (), ())

    def test_one_that_is_done_makes_the_direction_done(self, lab: Laboratory) -> None:
        change = self.given(lab, ExperimentState.FAILED, ExperimentState.DONE)
        assert (change.directions[0].state, change.directions[0].error) == (DirectionState.DONE, "")

    def test_all_failed_makes_the_direction_fail_and_say_why(self, lab: Laboratory) -> None:
        change = self.given(lab, ExperimentState.FAILED, ExperimentState.FAILED)
        assert change.directions[0].state is DirectionState.FAILED
        assert "idea_0: boom; idea_1: boom" in change.directions[0].error

    def test_a_cancelled_direction_starts_nothing(self, lab: Laboratory) -> None:
        direction = lab.submit()
        directions.cancel(lab.store, lab.clock, direction.id)
        change = directions.next_experiment(lab.write, step_of(direction, "next_experiment"))
        assert change.experiments == ()


class TestCancel:
    def test_twice_is_the_same_as_once(self, lab: Laboratory) -> None:
        direction = lab.submit()
        first = directions.cancel(lab.store, lab.clock, direction.id)
        lab.clock.advance(5)
        assert directions.cancel(lab.store, lab.clock, direction.id) == first
        assert first.state is DirectionState.CANCELLED
        assert lab.told().count("cancelled on request") == 1

    def test_open_experiments_end_with_it_and_finished_ones_stay(self, lab: Laboratory) -> None:
        direction = lab.submit()
        lab.save(experiment(lab, 0, ExperimentState.DONE), experiment(lab, 1, ExperimentState.WRITING))
        directions.cancel(lab.store, lab.clock, direction.id)
        assert [one.state for one in lab.experiments()] == [ExperimentState.DONE, ExperimentState.CANCELLED]

    @pytest.mark.parametrize("moment", ["prepare", "launch", "ran", "code", "write_section"])
    def test_at_any_moment_it_ends_the_work_and_leaves_nothing(self, lab: Laboratory, moment: str) -> None:
        direction = lab.submit()
        lab.go_on_to(moment)
        directions.cancel(lab.store, lab.clock, direction.id)
        asked = len(lab.model.calls)
        lab.go_on()
        assert lab.sandbox.specs == {}
        assert len(lab.model.calls) == asked
        assert all(one.state in {"removed", "collected"} for one in lab.executions())
        assert lab.direction().state is DirectionState.CANCELLED
