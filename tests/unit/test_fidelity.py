"""Edits read beside their plans, and results beside the baseline's: what is open goes back, is kept and is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fumehood.domain.experiment import RunResult
from fumehood.domain.fidelity import Finder, Point, PointKind
from fumehood.services import fidelity, paper
from tests.fakes.laboratory import TINY, Laboratory, step_of
from tests.fakes.model import ScriptedCoder

CODE = TINY["experiment.py"]
IDLE = ({"experiment.py": f"{CODE}# a new loss\n".encode()}, "RUN: New loss | the loss becomes robust")
"""An edit after which the program does what it did."""


def carried(
    make_lab: Callable[..., Laboratory], script: dict[tuple[int, int], Any], runs: int = 1, **parts: Any
) -> Any:
    """Carry an idea out until its paper is written."""
    lab = make_lab(coder=ScriptedCoder(script), **parts)
    lab.submit(runs=runs)
    lab.go_on()
    assert lab.direction().state == "done", lab.told()
    return lab


def entries(lab: Laboratory, *stages: str) -> list[dict[str, Any]]:
    found = lab.get(lab.experiments()[0].products["fidelity.json"])
    return [one for one in found if not stages or one["stage"] in stages]


class TestResults:
    def test_a_run_that_leaves_what_the_baseline_left_is_told_everywhere_and_is_no_gain(
        self, make_lab: Callable[..., Laboratory], tmp_path: Path
    ) -> None:
        lab = carried(make_lab, {(1, 1): IDLE}, runs=2)
        (entry,) = entries(lab, "results")
        assert (entry["subject"], entry["points"][0]["kind"]) == ("run_1", "without_effect")
        told = "run_1 left the same bytes in every file as the baseline at the same seeds."
        assert entry["points"][0]["sentence"] == told
        assert f"Open: without effect (run_1): {told}" in lab.experiments()[0].notes
        second = next(call for call in lab.coder.calls if call.claims.run == 2)
        assert told in second.prompt
        (said,) = lab.experiments()[0].limitations
        assert said == (
            "A part of the change has no effect (New loss): left the same bytes in every file as the baseline at the"
            " same seeds."
        )
        out = lab.export(tmp_path / "out")
        source = (out / "experiments/smaller_scale/latex/main.tex").read_text()
        assert source.count(said) == 1
        assert json.loads((out / "experiments/smaller_scale/fidelity.json").read_bytes()) == entries(lab)
        subject = paper.read(lab.write, step_of(lab.direction(), "typeset", lab.experiments()[0]))
        labels = {run["title"]: run["label"] for run in subject.facts["runs"]}
        assert labels["New loss"] == "not shown"

    def test_a_run_with_another_runs_numbers_is_told(self, make_lab: Callable[..., Laboratory]) -> None:
        again = (
            {"experiment.py": CODE.replace("SCALE = 1.0", "SCALE = 1.5 # once more").encode()},
            "RUN: Again | again",
        )
        lab = carried(make_lab, {(2, 1): again}, runs=2)
        (entry,) = entries(lab, "results")
        assert entry["points"][0]["sentence"] == "run_2 left the same bytes in every file as run_1 at the same seeds."
        assert lab.experiments()[0].limitations == (
            "A part of the change has no effect (Again): left the same bytes in every file as another variant at the"
            " same seeds.",
        )

    def test_runs_that_differ_say_nothing(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = carried(make_lab, {}, runs=2)
        assert [run.result for run in lab.runs()] == [RunResult.MEASURED] * 3
        assert lab.experiments()[0].limitations == ()


def test_what_a_paper_quotes_holds_no_number_no_mark_and_no_praise() -> None:
    for text in ("it is 0.5 lower", "12 % less", "see [[num: x]]", r"\input{x}", "{x}", "it outperforms all"):
        assert fidelity.quotable(text) == "", text
    assert fidelity.quotable("the default\nstays linear. ") == "the default stays linear"


def test_many_open_points_are_cut_for_the_coder() -> None:
    point = Point(kind=PointKind.MISSING, path="a.py", sentence="No.", found_by=Finder.CALL)
    assert fidelity.sentences([point] * 10).splitlines() == ["missing (a.py): No."] * 8 + ["And 2 more."]
