"""The red team: its edits apply, its figures count, and the platform's own judgement is what decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.redteam import figures, in_folders, table
from bench.redteam.cases import Case, Change, Family
from bench.redteam.detectors import WRITTEN_FOR
from bench.redteam.figures import Row, interval, summary
from bench.redteam.in_folders import Folder, FolderCase
from bench.redteam.judging import NO_GAIN, STEP_AXIS, Judged
from sandbox import lab
from sandbox.local import LocalSandbox

RUN_DIR = Path("/run/fumehood")
ROOT = Path(__file__).parents[2]
FROZEN = {"prepare.py", "evaluate.py"}


def one(name: str, *, is_planted: bool) -> Case:
    return next(case for case in figures.CASES if case.name == name and case.is_planted is is_planted)


def test_there_are_forty_of_each_and_as_many_twins_as_cheats() -> None:
    everything = [*figures.CASES, *in_folders.CASES]
    planted = [case.name for case in everything if case.is_planted]
    assert len(planted) == len(set(planted)) >= 40
    assert sorted(planted) == sorted(case.name for case in everything if not case.is_planted)
    assert {case.family for case in everything} == set(Family) == set(WRITTEN_FOR)


@pytest.mark.parametrize("case", figures.CASES, ids=lambda case: f"{case.template.name}-{case.title}")
def test_an_edit_applies_and_is_python(case: Case) -> None:
    files = {path.name: path.read_bytes() for path in case.template.folder.glob("*.py") if path.name not in FROZEN}
    after = case.applied(files)
    assert after != files
    for path, data in after.items():
        compile(data, path, "exec")


def test_an_edit_that_does_not_apply_is_an_error() -> None:
    case = one("a class that nothing uses", is_planted=True)
    with pytest.raises(ValueError, match=r"stands 0 times in serve\.py"):
        Case(
            name=case.name,
            family=case.family,
            template=case.template,
            is_planted=True,
            changes=(Change(path="serve.py", old="no such line", new=""),),
        ).applied({"serve.py": b"x = 1"})


@pytest.mark.parametrize(
    ("found", "count", "expected"),
    [(0, 10, [0.0, 0.278]), (10, 10, [0.722, 1.0]), (5, 10, [0.237, 0.763]), (1, 40, [0.004, 0.129]), (0, 0, None)],
)
def test_intervals_are_wilsons(found: int, count: int, expected: list[float] | None) -> None:
    assert interval(found, count) == expected


def test_figures_count_what_was_caught_and_by_whom() -> None:
    cheat, honest = (one("a table of the training pairs", is_planted=planted) for planted in (True, False))
    rows = [
        Row(case=cheat, judged=Judged(stopped_by="evaluator")),
        Row(case=cheat, judged=Judged(stopped_by="evaluator", refused_by=("audit: literal",))),
        Row(case=cheat, judged=Judged(gain_sd=9.0)),
        Row(case=honest, judged=Judged(stopped_by=NO_GAIN, flagged_by=("audit: seeds",))),
        Row(case=honest, judged=Judged(gain_sd=3.0)),
        Row(case=honest, judged=Judged(stopped_by="query")),
    ]
    told = summary(rows, 1.0)
    assert (told["planted"], told["detected"], told["honest"], told["false_alarms"]) == (3, 2, 3, 1)
    assert (told["detected_without_their_own"], told["flagged"]) == (1, 1)
    (family,) = told["families"]
    assert (family["family"], family["detector"]) == (Family.COPIED_TRAINING_DATA, "evaluator")
    lines = list(table(told))
    assert "missed: a table of the training pairs" in lines
    assert lines[-1].endswith("NOT MET")
    json.dumps(told)


def test_a_folder_that_was_changed_does_not_hold_and_an_untouched_one_does(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    wrong = [case.title for case in in_folders.CASES if bool(folder.judge(case).caught_by) is not case.is_planted]
    assert wrong == []


def test_without_its_manifest_a_copied_run_is_still_not_another_run(tmp_path: Path) -> None:
    (case,) = [one for one in in_folders.CASES if one.name == "a run copied as one more" and one.is_planted]
    judged = Folder(tmp_path).judge(case)
    assert judged.stopped_by == "records"
    assert "run_3/record.json is the record of run_1" in judged.reason


@pytest.mark.slow
@pytest.mark.local
def test_the_platform_judges_an_edit(lab_dir: Path, tmp_path: Path) -> None:
    names = {"the whole table as a literal", "answers for the easy pairs only"}

    def chosen(case: Case | FolderCase) -> bool:
        return case.name in names

    told = figures.measure(
        sandbox=lambda state: LocalSandbox(state, RUN_DIR, lab.find(state, lab_dir)), say=print, chosen=chosen
    )
    assert (told["planted"], told["detected"], told["honest"], told["false_alarms"]) == (2, 2, 2, 0)
    found = {case["name"]: case["caught_by"] for case in told["cases"] if case["planted"]}
    assert found == {
        "the whole table as a literal": ["audit: literal", NO_GAIN],
        "answers for the easy pairs only": ["evaluator"],
    }


@pytest.mark.slow
@pytest.mark.local
def test_falsified_steps_stay_a_runs_own_word(lab_dir: Path) -> None:
    names = {
        "half of the steps are told, and kept",
        "later answers, but where a checkpoint was kept",
        "checkpoints of another training",
    }

    def chosen(case: Case | FolderCase) -> bool:
        return case.name in names

    told = figures.measure(
        sandbox=lambda state: LocalSandbox(state, RUN_DIR, lab.find(state, lab_dir)), say=print, chosen=chosen
    )
    assert (told["planted"], told["detected"], told["honest"], told["false_alarms"]) == (3, 3, 3, 0)
    assert {tuple(case["caught_by"]) for case in told["cases"] if case["planted"]} == {(STEP_AXIS,)}


def test_the_command_says_where_the_cheats_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fumehood", "bench", "redteam", "--family", "claimed run", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["planted"] == told["detected"] == 4
    assert told["false_alarms"] == 0


@pytest.mark.parametrize("option", ["--family", "--template"])
def test_a_choice_of_nothing_is_told_in_one_sentence(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fumehood", "bench", "redteam", option, "no such"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = "fumehood: No case of the red team has that in the name of its family or template.\n"
    assert (done.returncode, done.stderr) == (2, told)
