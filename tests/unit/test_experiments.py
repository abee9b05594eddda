"""Carrying out one idea: attempts, what is fed back, when a run is given up and when the idea goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.domain.experiment import Experiment, ExperimentState, Run, RunResult
from fumehood.services import experiments, forks
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox

BROKEN = ({"experiment.py": b"raise RuntimeError\n"}, "RUN: Broken | it breaks")
BROKEN_EACH = {number: ({"experiment.py": b"raise RuntimeError(%d)\n" % number}, "") for number in range(1, 9)}
NO_EDIT: tuple[Mapping[str, bytes], str] = ({}, "I would rather not.")
COMPLETED: tuple[Mapping[str, bytes], str] = ({}, "ALL_COMPLETED")


def scaled(run: int) -> bytes:
    """Return what the scripted coder makes of the experiment in a run."""
    return TINY["experiment.py"].replace("SCALE = 1.0", f"SCALE = {run}.5").encode()


def failing_plots(*, always: bool = False) -> InstantSandbox:
    """Return a sandbox in which a changed `plot.py` fails, or every one."""

    def broken(spec: Spec) -> Did | None:
        given = {item.path: Path(item.source) for item in spec.inputs}
        if spec.kind is Kind.PLOT and (always or given["work/plot.py"].read_text() != TINY["plot.py"]):
            return Did(verdict=Verdict.FAILED, output="no plot")
        return act(spec)

    return InstantSandbox(broken)


class Carried:
    """An idea carried out by a scripted coder until it is plotted or has ended."""

    def __init__(self, lab: Laboratory, runs: int) -> None:
        self.lab = lab
        lab.submit(runs=runs)
        lab.go_on(until=lambda: bool(lab.steps("plotted")) or lab.direction().is_final)

    @property
    def experiment(self) -> Experiment:
        return self.lab.experiments()[0]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for run in self.lab.runs() if run.index)

    def results(self) -> list[RunResult]:
        return [run.result for run in self.runs]

    def attempts(self) -> list[list[str]]:
        return [[attempt.verdict for attempt in run.attempts] for run in self.runs]

    def prompts(self) -> list[str]:
        return [call.prompt for call in self.lab.coder.calls if call.claims.role == "coder"]


@pytest.fixture
def carried(make_lab: Callable[..., Laboratory]) -> Callable[..., Carried]:
    def make(script: Mapping[tuple[int, int], Any] | None = None, *, runs: int = 2, **parts: Any) -> Carried:
        return Carried(make_lab(coder=ScriptedCoder(script), **parts), runs)

    return make


class TestRuns:
    def test_all_runs_are_done_and_then_plotted(self, carried: Callable[..., Carried]) -> None:
        done = carried()
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]
        assert done.experiment.state is ExperimentState.PLOTTING
        assert "all runs are done" in done.lab.told()

    def test_a_run_is_named_by_its_edit(self, carried: Callable[..., Carried]) -> None:
        first, second = carried({(2, 1): ({"experiment.py": b"SCALE = 3\n"}, "no heading here")}).runs
        assert (first.title, first.description) == ("Scale 1", "the scale becomes 1.5")
        assert (second.title, second.description) == ("Variant 2", "")

    def test_the_notes_tell_of_the_baseline_and_of_each_run(self, carried: Callable[..., Carried]) -> None:
        notes = carried().experiment.notes
        assert '## Run 0: Baseline\nResults: {"circle": {"loss": 1.375, "error": 1.375}}' in notes
        assert "## Run 1: Scale 1" in notes
        assert '"error": 2.875' in notes
        assert notes.count("The run was measured.") == 2

    def test_each_edit_builds_on_the_last(self, carried: Callable[..., Carried]) -> None:
        given = carried().lab.coder.given
        assert given[1]["experiment.py"] == scaled(1)
        assert set(given[0]) == {"experiment.py", "plot.py"}

    def test_what_was_promised_was_written_down_before_the_first_run(self, carried: Callable[..., Carried]) -> None:
        done = carried()
        promised = done.lab.get(done.experiment.products["registration.json"])
        assert promised["hypothesis"] == "A smaller scale lowers the error."
        assert (promised["metric"], promised["expected"], promised["changes"]) == ("error", "lower", ["scale"])


class TestAttempts:
    def test_an_attempt_that_fails_is_tried_again_with_the_errors_tail(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, 1): BROKEN})
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]
        assert done.attempts() == [["failed"], []]
        (failed,) = done.runs[0].attempts
        assert failed.error_tail == "x" * (1500 - len("\nRuntimeError: boom")) + "\nRuntimeError: boom"
        first, second, third = done.prompts()
        assert "boom" not in first
        assert f"attempt 1 of 4 ended failed\n{failed.error_tail}" in second
        assert "boom" not in third

    def test_four_attempts_and_no_more(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, number): BROKEN_EACH[number] for number in range(1, 9)})
        assert done.attempts() == [["failed"] * 4]
        assert [call.claims.attempt for call in done.lab.coder.calls] == [1, 2, 3, 4]

    def test_an_idea_without_a_single_measured_run_fails(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, number): BROKEN_EACH[number] for number in range(1, 5)})
        assert done.results() == [RunResult.FAILED]
        assert done.experiment.state is ExperimentState.FAILED
        assert done.experiment.error.startswith("run_1 failed 4 times, last failed: ")
        assert done.experiment.error.endswith("RuntimeError: boom")
        assert done.lab.direction().state is DirectionState.FAILED

    def test_an_idea_goes_on_with_what_was_measured(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, number): BROKEN_EACH[number] for number in range(1, 5)}, runs=5)
        assert done.results() == [RunResult.MEASURED, RunResult.FAILED]
        assert done.experiment.state is ExperimentState.PLOTTING
        assert "run_2 used up its attempts" in done.lab.told()

    def test_the_code_goes_back_to_the_last_measured_run(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, number): BROKEN_EACH[number] for number in range(1, 5)}, runs=5)
        kept = done.experiment.files["experiment.py"]
        assert done.lab.artifacts.get(kept) == scaled(1)
        assert kept == done.runs[0].files["experiment.py"]

    def test_a_run_that_fails_does_not_end_the_other_ideas(self, carried: Callable[..., Carried]) -> None:
        lab = carried({(1, number): BROKEN_EACH[number] for number in range(1, 5)}).lab
        assert lab.direction().is_final
        assert lab.sandbox.specs == {}


CHEAT = (
    {"experiment.py": TINY["experiment.py"].encode() + b"import socket\nopen('/etc/passwd')\n"},
    "RUN: Out | it reaches out",
)
OWN_SEED = (
    {"experiment.py": TINY["experiment.py"].replace("SCALE = 1.0", "SCALE = 2.0").encode() + b"seeds = seeds[:1]\n"},
    "RUN: Fewer | only one seed",
)


class TestAudit:
    def test_what_is_refused_never_runs_and_is_told_and_mended(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, 1): CHEAT})
        assert done.attempts() == [["refused"], []]
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]
        given = [one.inputs["work/experiment.py"] for one in done.lab.executions() if one.kind is Kind.RUN]
        assert not any(b"socket" in done.lab.artifacts.get(sha) for sha in given)
        told = done.prompts()[1]
        assert "attempt 1 of 4 ended refused\nexperiment.py line 18 uses socket: a run has no network" in told
        assert "'/etc/passwd', which leads out of its folder" in told
        assert b"socket" not in done.lab.coder.given[1]["experiment.py"]
        assert "edit.refused: smaller_scale run_1: the edit was refused before it ran" in done.lab.told()
        (entry,) = done.lab.get(done.experiment.products["edit_findings.json"])
        assert (entry["subject"], entry["attempt"]) == ("run_1", 1)
        assert {one["severity"] for one in entry["findings"]} == {"refused"}
        assert done.experiment.limitations == ()

    def test_of_many_findings_some_are_told_and_kept(self, carried: Callable[..., Carried]) -> None:
        many = TINY["experiment.py"].encode() + b"torch.manual_seed(1)\n" + b"os.system('ls')\n" * 90
        done = carried({(1, 1): ({"experiment.py": many}, "")}, runs=1)
        assert done.runs[0].attempts[0].error_tail.endswith("\nAnd 42 more.")
        (entry,) = done.lab.get(done.experiment.products["edit_findings.json"])
        assert {one["severity"] for one in entry["findings"]} == {"refused"}

    def test_what_a_person_put_into_a_fork_is_no_fault_of_the_coders(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab()
        lab.submit(runs=2)
        lab.go_on()
        own = TINY["experiment.py"].replace("SCALE = 1.0", "SCALE = 1.0\nimport socket").replace("1.0", "9.0")
        forks.fork(
            lab.store, lab.artifacts, lab.clock, "key_1", lab.experiments()[0].id, "run_1",
            forks.Edits(files={"experiment.py": own}),
        )  # fmt: skip
        lab.go_on()
        forked = lab.experiments()[-1]
        assert forked.state is ExperimentState.DONE, forked.error
        assert b"import socket" in lab.artifacts.get(forked.files["experiment.py"])

    def test_refused_each_time_the_experiment_is_refused(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, number): CHEAT for number in range(1, 5)})
        assert done.attempts() == [["refused"] * 4]
        assert done.experiment.state is ExperimentState.REFUSED
        assert "every edit of run_1 was refused" in done.experiment.error
        assert len(done.lab.get(done.experiment.products["edit_findings.json"])) == 4

    def test_what_is_flagged_runs_and_stands_in_notes_findings_and_limitations(
        self, carried: Callable[..., Carried]
    ) -> None:
        done = carried({(1, 1): OWN_SEED})
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]
        flagged = "Flagged: experiment.py line 18 takes a part of the seeds: take every random number from the seeds"
        assert done.experiment.notes.count(flagged) == 2, "the second run's code still has it"
        assert flagged in done.prompts()[1]
        entries = done.lab.get(done.experiment.products["edit_findings.json"])
        assert [(one["subject"], one["findings"][0]["severity"]) for one in entries] == [
            ("run_1", "flagged"),
            ("run_2", "flagged"),
        ]
        done.lab.go_on(until=lambda: bool(done.lab.steps("write_section")))
        assert done.experiment.limitations == (
            "The audit of the code flagged seeds of its own, or not all of the given ones.",
        )

    def test_packages_that_the_image_has_not_are_refused(self, make_lab: Callable[..., Laboratory]) -> None:
        coder = ScriptedCoder({(1, 1): ({"experiment.py": TINY["experiment.py"].encode() + b"import wandb\n"}, "")})
        lab = make_lab(coder=coder)
        lab.write = dataclasses.replace(lab.write, packages=frozenset({"numpy"}))
        done = Carried(lab, 1)
        assert done.attempts() == [["refused"]]
        assert "imports wandb: the image has no such package" in done.runs[0].attempts[0].error_tail
        assert done.results() == [RunResult.MEASURED]

    def test_a_plot_that_is_refused_is_asked_for_again(self, carried: Callable[..., Carried]) -> None:
        reaching = ({"plot.py": TINY["plot.py"].encode() + b"import subprocess\n"}, "")
        done = carried({(0, 1): reaching})
        done.lab.go_on(until=lambda: bool(done.lab.steps("write_section")))
        assert done.experiment.state is ExperimentState.WRITING
        asked = [call for call in done.lab.coder.calls if call.claims.role == "plot"]
        assert ["plot.py line 7 uses subprocess" in call.prompt for call in asked] == [False, True]
        drawn = [one for one in done.lab.executions() if one.kind is Kind.PLOT]
        assert [b"subprocess" in done.lab.artifacts.get(one.inputs["work/plot.py"]) for one in drawn] == [False]
        (entry,) = done.lab.get(done.experiment.products["edit_findings.json"])
        assert entry["subject"] == "plot"


class TestNoEdit:
    def test_it_is_asked_for_again(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, 1): NO_EDIT})
        assert done.attempts() == [["no_edit"], []]
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]
        assert "attempt 1 of 4 ended no_edit\nno block was found" in done.prompts()[1]

    def test_four_times_ends_the_run(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, number): NO_EDIT for number in range(1, 5)})
        assert done.attempts() == [["no_edit"] * 4]
        assert done.experiment.state is ExperimentState.FAILED

    def test_four_times_after_a_measured_run_ends_the_coding(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, number): NO_EDIT for number in range(1, 5)}, runs=5)
        assert done.results() == [RunResult.MEASURED, RunResult.FAILED]
        assert done.experiment.state is ExperimentState.PLOTTING


class TestCompleted:
    def test_a_completed_plan_is_plotted_at_once(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, 1): COMPLETED}, runs=5)
        assert done.results() == [RunResult.MEASURED]
        assert done.experiment.state is ExperimentState.PLOTTING
        assert "the plan is completed" in done.lab.told()

    def test_nothing_is_completed_before_something_was_measured(self, carried: Callable[..., Carried]) -> None:
        done = carried({(1, 1): COMPLETED})
        assert done.attempts()[0] == ["no_edit"]
        assert done.results()[0] is RunResult.MEASURED

    def test_an_edit_beside_the_word_is_still_measured(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, 1): ({"experiment.py": b"SCALE = 9\n"}, "RUN: Last\nALL_COMPLETED")}, runs=2)
        assert done.results() == [RunResult.MEASURED, RunResult.MEASURED]


class TestPlots:
    def carried_on(self, done: Carried) -> Carried:
        done.lab.go_on(until=lambda: bool(done.lab.steps("write_section")) or done.lab.direction().is_final)
        return done

    def test_figures_are_kept_and_writing_begins(self, carried: Callable[..., Carried]) -> None:
        done = self.carried_on(carried())
        assert "scores.png" in done.experiment.products
        assert done.experiment.state is ExperimentState.WRITING

    def test_a_plot_that_fails_is_mended_and_at_last_the_templates_own_is_drawn(
        self, carried: Callable[..., Carried]
    ) -> None:
        script = {(0, number): ({"plot.py": b"raise %d\n" % number}, "") for number in range(1, 9)}
        done = carried(script, sandbox=failing_plots())
        self.carried_on(done)
        drawn = [one for one in done.lab.executions() if one.kind == "plot"]
        assert len(drawn) == 5
        own = done.lab.direction().template_files["plot.py"]
        assert [one.inputs["work/plot.py"] == own for one in drawn] == [False] * 4 + [True]
        assert "scores.png" in done.experiment.products
        asked = [call for call in done.lab.coder.calls if call.claims.role == "plot"]
        assert ["no plot" in call.prompt for call in asked] == [False, True, True, True]

    def test_without_any_figure_the_paper_is_written_and_says_so(self, carried: Callable[..., Carried]) -> None:
        done = carried(sandbox=failing_plots(always=True))
        self.carried_on(done)
        assert done.experiment.state is ExperimentState.WRITING
        assert done.experiment.limitations == ("No figure could be drawn: plot.py failed on every attempt.",)

    def test_the_plots_see_every_measured_run_and_the_baseline(self, carried: Callable[..., Carried]) -> None:
        done = carried({(2, number): BROKEN_EACH[number] for number in range(1, 5)}, runs=5)
        (drawn,) = [one for one in done.lab.executions() if one.kind == "plot"]
        folders = {path.split("/")[1] for path in drawn.inputs if path.endswith("final_info.json")}
        assert folders == {"run_0", "run_1"}


def test_results_are_one_line_of_json(lab: Laboratory) -> None:
    lab.submit()
    lab.go_on_to("propose")
    line = experiments.results_line(lab.write, lab.runs()[0])
    assert json.loads(line.removeprefix("Results: ")) == {"circle": {"loss": 1.375, "error": 1.375}}
