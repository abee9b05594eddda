"""Metrics that are a step: which stretches are done again, what is compared, and what a run may do with its axis."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.domain.confirmation import Reason, not_comparable
from fumehood.domain.execution import Artifact, Kind, Spec, Verdict
from fumehood.domain.experiment import Arm, RunResult
from fumehood.domain.template import Curve, LimitTable, Profile, Template
from fumehood.errors import BadInputError
from fumehood.services import curves, facts, fidelity, final_info, templates
from fumehood.services.curves import Axis, Stretch
from fumehood.services.query_driver import COMPARE, RESUME
from tests.fakes.laboratory import CONFIRMING, Laboratory, act, results, write_template
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox

TEMPLATE = Template(title="Steps", datasets=("sums", "s_5"), curve=Curve(metrics=("steps",), reruns=1))
FILES = {
    f"checkpoint_{dataset}_{seed}_{step}.pt": f"sha-{dataset}-{seed}-{step}"
    for dataset in TEMPLATE.datasets
    for seed in (1, 2)
    for step in (100, 200, 300)
} | {"curve_sums_1.npz": "c1", "curve_s_5_2.npz": "c2", "model_sums_1.pt": "m", "parameters.json": "p"}


def judged(*steps: float) -> final_info.FinalInfo:
    entry = {"means": {"steps": 1.0}, "final_info_dict": {"steps": list(steps)}}
    return final_info.read(json.dumps(dict.fromkeys(TEMPLATE.datasets, entry)).encode(), "evaluator")


def test_a_runs_outputs_are_told_apart() -> None:
    assert curves.of_evaluator(FILES) == {"curve_sums_1.npz": "c1", "curve_s_5_2.npz": "c2"}
    assert curves.of_model(FILES) == {"model_sums_1.pt": "m", "parameters.json": "p"}
    assert curves.asked(FILES)["s_5/2/300.pt"] == "sha-s_5-2-300"
    assert curves.checkpoints(FILES)["s_5", 1] == {
        100: "checkpoint_s_5_1_100.pt", 200: "checkpoint_s_5_1_200.pt", 300: "checkpoint_s_5_1_300.pt",
    }  # fmt: skip
    assert not curves.checkpoints({"checkpoint_sums_1_0.pt": "", "checkpoint_1_1.pt": "", "x/checkpoint_a_1_1.pt": ""})


def test_what_is_read_off_is_done_again_and_a_stretch_before_it() -> None:
    seen = set()
    for draw in map(str, range(40)):
        first, before = curves.stretches(TEMPLATE, (1, 2), FILES, judged(240, 240), draw)
        assert (first.start, first.stop) == (200, 240)
        assert first.checkpoint == f"checkpoint_{first.dataset}_{first.seed}_200.pt"
        assert (before.dataset, before.seed) == (first.dataset, first.seed)
        assert (before.start, before.stop) in {(0, 100), (100, 200)}
        assert bool(before.checkpoint) is bool(before.start)
        seen.add((first.dataset, first.seed, before.start))
    assert len(seen) == 8
    assert curves.stretches(TEMPLATE, (1, 2), FILES, judged(240, 240), "1") == curves.stretches(
        TEMPLATE, (1, 2), FILES, judged(240, 240), "1"
    )


def test_a_step_before_the_first_checkpoint_is_done_from_the_beginning() -> None:
    (only,) = curves.stretches(TEMPLATE, (1, 2), FILES, judged(60, 60), "a")
    assert (only.start, only.stop, only.checkpoint) == (0, 60, "")


@pytest.mark.parametrize("steps", [(240,), (0, 0), (1e15, 1e15)])
def test_what_is_no_step_of_each_seed_cannot_be_done_again(steps: tuple[float, ...]) -> None:
    with pytest.raises(BadInputError):
        curves.stretches(TEMPLATE, (1, 2), FILES, judged(*steps), "a")


def test_without_a_checkpoint_of_each_seed_nothing_is_done_again() -> None:
    with pytest.raises(BadInputError, match="no checkpoint of sums seed 3 was kept"):
        curves.stretches(TEMPLATE, (1, 2, 3), FILES, judged(9, 9, 9), "a")


def test_more_than_a_template_allows_is_said() -> None:
    def left(size: int = 10, count: int = 4) -> dict[str, Artifact]:
        sizes = {"curve_sums_1.npz": size} | {f"checkpoint_sums_1_{step + 1}.pt": 10**9 for step in range(count)}
        return {path: Artifact(path=path, bytes=one, sha256="") for path, one in sizes.items()}

    assert curves.too_much(TEMPLATE.curve or Curve(metrics=("steps",)), left()) == ""
    curve = Curve(metrics=("steps",))
    assert "17.0 MiB, and a curve may have 16" in curves.too_much(curve, left(size=17 * 2**20))
    assert curves.too_much(curve, left(count=5)).startswith("5 checkpoints of sums seed 1 were kept, and at most 4")


def test_its_limits_are_those_of_a_run_and_of_the_evaluator() -> None:
    own = {Kind.RUN: LimitTable(wall_s=7), Kind.EVALUATE: LimitTable(wall_s=8)}
    assert Profile(limits=own).limits_of(Kind.RESUME).wall_s == 7
    assert Profile(limits=own).limits_of(Kind.COMPARE).wall_s == 8
    assert Profile(limits={**own, Kind.RESUME: LimitTable(wall_s=9)}).limits_of(Kind.RESUME).wall_s == 9
    assert Profile().limits_of(Kind.RESUME) == Profile().limits_of(Kind.RUN)


# What the comparing program says.


def recorded(folder: Path, name: str, steps: list[int], answers: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, steps=np.array(steps), predictions=answers)


STEPS = [10, 20, 30, 40, 50]
ANSWERS = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4]]).repeat(10, axis=1)


def compare(
    folder: Path,
    *,
    curve: np.ndarray = ANSWERS,
    recalled: np.ndarray = ANSWERS[1],
    again: np.ndarray = ANSWERS[2:4],
    again_steps: list[int] | None = None,
    answers: str = "classes",
) -> dict[str, Any]:
    recorded(folder / "curves", "curve_sums_1.npz", STEPS[: len(curve)], curve)
    recorded(folder / "stretches", "sums_1_20_40.npz", again_steps or [30, 40], again)
    (folder / "recalled").mkdir(exist_ok=True)
    np.save(folder / "recalled" / "recalled_sums_1_20.npy", recalled)
    plan = {
        "answers": answers,
        "evaluations": 5,
        "tolerance": 0.05,
        "checkpoints": [{"dataset": "sums", "seed": 1, "step": 20}],
        "stretches": [{"dataset": "sums", "seed": 1, "start": 20, "stop": 40, "checkpoint": "x.npz"}],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    places = [f"--{name}={folder / name}" for name in ("curves", "recalled", "stretches")]
    command = [sys.executable, str(COMPARE), f"--plan={folder / 'plan.json'}", *places, f"--out={folder / 'out.json'}"]
    subprocess.run(command, check=True, timeout=60)
    told: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return told


def test_the_same_answers_hold(tmp_path: Path) -> None:
    told = compare(tmp_path)
    assert told["problems"] == []
    assert [(one["apart"], one["holds"]) for one in (*told["checkpoints"], *told["stretches"])] == [(0.0, True)] * 2
    assert told["stretches"][0]["moved"] == 0.5
    assert told["stretches"][0]["evaluations"] == 2
    again = [Stretch(dataset="sums", seed=1, start=20, stop=40)]
    check = curves.checked(json.dumps(told).encode(), again, 2.5)
    assert (check.axis, check.reason, check.resumed_steps, check.resumed_s) == (Axis.PLATFORM, "", 20, 2.5)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"recalled": ANSWERS[2]}, "the checkpoint of step 20 answers otherwise than was written down, 0.25 apart"),
        ({"again": ANSWERS[1:3]}, "the steps from 20 to 40, done again, answer otherwise"),
        ({"again": np.stack([ANSWERS[2], ANSWERS[2]])}, "the steps from 20 to 40, done again, answer otherwise"),
        ({"again_steps": [25, 40]}, "or at other steps"),
        ({"again": ANSWERS[2:3], "again_steps": [40]}, "and 1 times when it was done again"),
        ({"curve": ANSWERS[:1]}, "is of step 20, which its curve has not"),
        ({"curve": ANSWERS.astype(float)}, "curve_sums_1.npz has steps int64 (5,) and predictions float64"),
        ({"again": ANSWERS[2:4, :3]}, "done again, answer otherwise than was written down, 1e+300 apart"),
        ({"again_steps": [40, 30]}, "steps that do not grow from 1 on"),
    ],
)
def test_other_answers_or_steps_do_not_hold(tmp_path: Path, fault: dict[str, Any], said: str) -> None:
    told = compare(tmp_path, **fault)
    assert any(said in problem for problem in told["problems"]), told["problems"]
    again = [Stretch(dataset="sums", seed=1, start=20, stop=40)]
    assert curves.checked(json.dumps(told).encode(), again, 1.0).axis is Axis.SELF


@pytest.mark.parametrize(("made", "holds"), [(20, True), (40, False), (10, False), (0, True), (None, True)])
def test_updates_that_are_counted_are_the_steps(tmp_path: Path, made: int | None, *, holds: bool) -> None:
    if made is not None:
        (tmp_path / "stretches").mkdir()
        (tmp_path / "stretches" / "updates.json").write_text(json.dumps({"sums_1_20_40": made}))
    told = compare(tmp_path)
    assert told["stretches"][0]["updates"] == (made or 0)
    assert told["stretches"][0]["holds"] is holds
    said = [f"sums seed 1: {made} updates were counted from step 20 to 40, done again."]
    assert told["problems"] == ([] if holds else said)


def test_one_answer_may_be_a_tie_that_another_size_of_a_batch_turns_round(tmp_path: Path) -> None:
    turned = ANSWERS[2:4].copy()
    turned[0, 0] = 9
    assert compare(tmp_path, again=turned, recalled=ANSWERS[1])["problems"] == []
    turned[0, 1] = 9
    assert len(compare(tmp_path, again=turned, recalled=ANSWERS[1])["problems"]) == 1


def test_values_may_be_apart_by_a_share_of_what_they_move(tmp_path: Path) -> None:
    values = ANSWERS.astype(np.float32)
    near, far = (values[2:4] + shift for shift in (0.01, 0.2))
    told = {"curve": values, "recalled": values[1], "answers": "values"}
    assert compare(tmp_path, **told, again=near)["problems"] == []
    assert len(compare(tmp_path, **told, again=far)["problems"]) == 1
    assert len(compare(tmp_path, **told, again=np.full_like(near, np.nan))["problems"]) == 1


def test_what_is_no_comparison_leaves_the_axis_the_runs_own() -> None:
    again = [Stretch(dataset="sums", seed=1, start=20, stop=40)]
    nothing = {"checkpoints": [], "stretches": [], "problems": []}
    for data in (b"", b"[]", json.dumps(nothing).encode()):
        assert curves.checked(data, again, 1.0).axis is Axis.SELF
    assert curves.read(None).axis is Axis.SELF


# What has stretches done again.

PROGRAM = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", type=pathlib.Path)
for name in ("--resume_from", "--stop_at", "--only_dataset", "--size"):
    parser.add_argument(name, default="")
asked = parser.parse_args()
if asked.stop_at == "666":
    sys.exit(7)
asked.out_dir.mkdir()
start = pathlib.Path(asked.resume_from).read_text() if asked.resume_from else "nothing"
seen = sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file())
told = [start, asked.stop_at, asked.only_dataset, os.environ["FUMEHOOD_SEEDS"], asked.size, *seen]
name = f"curve_{asked.only_dataset}_{os.environ['FUMEHOOD_SEEDS']}.npz"
if asked.stop_at != "555":
    (asked.out_dir / name).write_text("|".join(told))
"""


def resume(folder: Path, *stops: int) -> subprocess.CompletedProcess[str]:
    (folder / "experiment.py").write_text(PROGRAM)
    (folder / "starts").mkdir()
    told = []
    for place, stop in enumerate(stops):
        (folder / "starts" / f"{place}.pt").write_text(f"state {place}")
        told.append({"dataset": "sums", "seed": 3, "start": stop - 20, "stop": stop, "checkpoint": f"{place}.pt"})
    told.append({"dataset": "sums", "seed": 3, "start": 0, "stop": 20, "checkpoint": ""})
    (folder / "stretches.json").write_text(json.dumps(told))
    command = [sys.executable, "-B", str(RESUME[0]), "--stretches=stretches.json", "--", "--size=9"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_each_stretch_sees_its_own_beginning_only(tmp_path: Path) -> None:
    done = resume(tmp_path, 60, 40)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_text().split("|") for path in (tmp_path / "stretches").glob("*.npz")}
    assert json.loads((tmp_path / "stretches" / "updates.json").read_text()) == {
        "sums_3_0_20": 0,
        "sums_3_20_40": 0,
        "sums_3_40_60": 0,
    }
    assert set(found) == {"sums_3_40_60.npz", "sums_3_20_40.npz", "sums_3_0_20.npz"}
    mine = ["experiment.py", "stretches.json"]
    assert found["sums_3_40_60.npz"] == ["state 0", "60", "sums", "3", "9", *sorted([*mine, "start_0.pt"])]
    assert found["sums_3_20_40.npz"] == ["state 1", "40", "sums", "3", "9", *sorted([*mine, "start_1.pt"])]
    assert found["sums_3_0_20.npz"] == ["nothing", "20", "sums", "3", "9", *mine]


@pytest.mark.parametrize(("stop", "said"), [(666, "ended with status 7"), (555, "left no curve")])
def test_a_stretch_that_cannot_be_done_is_said_in_a_sentence(tmp_path: Path, stop: int, said: str) -> None:
    done = resume(tmp_path, stop)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "stretches").exists()


TRAINS = """
import argparse, os, pathlib, torch
parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", type=pathlib.Path)
for name in ("--resume_from", "--only_dataset"):
    parser.add_argument(name, default="")
parser.add_argument("--stop_at", type=int)
asked = parser.parse_args()
weight = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.SGD([weight], lr=0.1)
for step in range(asked.stop_at):
    for _ in range(2 if os.path.exists("twice") else 1):
        (weight.sum() ** 2).backward()
        optimiser.step()
asked.out_dir.mkdir()
(asked.out_dir / "curve_sums_3.npz").write_text("a curve")
"""


@pytest.mark.parametrize("each", [1, 2])
def test_updates_of_torchs_optimisers_are_counted(tmp_path: Path, lab_python: Path, each: int) -> None:
    (tmp_path / "experiment.py").write_text(TRAINS)
    if each == 2:
        (tmp_path / "twice").touch()
    told = [{"dataset": "sums", "seed": 3, "start": 0, "stop": 20, "checkpoint": ""}]
    (tmp_path / "stretches.json").write_text(json.dumps(told))
    command = [str(lab_python), "-B", str(RESUME[0]), "--stretches=stretches.json", "--"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "stretches" / "updates.json").read_text()) == {"sums_3_0_20": 20 * each}


# A whole direction.

CURVED = {
    **CONFIRMING,
    "serve.py": "def load(path, dataset, seed): ...\ndef predict(model, inputs): ...\n"
    "def load_checkpoint(file, dataset, seed): ...\n",
    "template.toml": CONFIRMING["template.toml"]
    .replace('["*.json"]', '["*.json", "*.npz"]')
    .replace("[profiles.tiny]", '[query]\nkind = "predict"\n\n[curve]\nmetrics = ["error"]\n\n[profiles.tiny]', 1),
}
SHORT: dict[str, Any] = {
    "screen_seeds": 3, "looks": (4, 8), "screen_baseline": 5, "confirm_baseline": 6, "q": 0.5, "ideas": 5,
}  # fmt: skip
HELD = {"dataset": "circle", "seed": 1, "apart": 0.0, "moved": 0.5, "allowed": 0.1, "holds": True}


def does(spec: Spec, problem: str = "", *, kept: bool = True) -> Did:
    """Do what the programs of a template with a curve do; the run's own curve is not looked into here."""
    given = {item.path: Path(item.source) for item in spec.inputs}
    if spec.kind is Kind.RUN:
        did = act(spec)
        folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
        files = dict(did.files)
        for seed in spec.environment["FUMEHOOD_SEEDS"].split(","):
            files[f"{folder}/curve_circle_{seed}.npz"] = b"curve"
            if kept:
                files[f"{folder}/checkpoint_circle_{seed}_2.json"] = b"state"
        files[f"{folder}/curve_check.json"] = b'{"axis": "platform"}'
        files[f"{folder}/final_info.json"] = results("error", [0.5])
        return Did(files=files, output="done")
    if spec.kind is Kind.QUERY:
        assert not [path for path in given if "curve_" in path or path.startswith("in/data")]
        assert "in/outputs/samples.json" in given
        assert any(path.startswith("in/checkpoints/circle/") for path in given) is kept
        return Did(files={"answers/samples.json": given["in/outputs/samples.json"].read_bytes()})
    if spec.kind is Kind.EVALUATE:
        assert any(path.startswith("in/outputs/curve_circle_") for path in given)
        values = [10 + value for value in json.loads(given["in/outputs/samples.json"].read_bytes())]
        return Did(files={"metrics.json": results("error", values)})
    if spec.kind is Kind.RESUME:
        assert not [path for path in given if "curve_" in path]
        assert any(path.startswith("work/starts/") for path in given)
        if problem == "fails":
            return Did(verdict=Verdict.FAILED, output="experiment.py ended with status 7")
        return Did(files={"stretches/circle_1_2_11.npz": b"curve"})
    if spec.kind is Kind.COMPARE:
        assert not [path for path in given if path.startswith("work/")]
        again = json.loads(given["in/driver/plan.json"].read_bytes())["stretches"]
        found = [{**HELD, **{name: one[name] for name in ("seed", "start", "stop")}} for one in again]
        told = {"checkpoints": [{**HELD, "step": 2}], "stretches": found, "problems": [problem] if problem else []}
        return Did(files={"compared.json": json.dumps(told).encode()})
    return act(spec)


def scaled(scale: float) -> tuple[dict[str, bytes], str]:
    code = CURVED["experiment.py"].replace("SCALE = 1.0", f"SCALE = {scale}")
    return {"experiment.py": code.encode()}, f"RUN: Scale {scale} | the scale becomes {scale}"


OPENED: list[Laboratory] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().artifacts.close()


def laboratory(folder: Path, program: Callable[[Spec], Did]) -> Laboratory:
    coder = ScriptedCoder({(1, 1): scaled(-4.0)})
    lab = Laboratory(folder, files=CURVED, coder=coder, sandbox=InstantSandbox(program))
    lab.write = dataclasses.replace(lab.write, confirm=SHORT)
    OPENED.append(lab)
    return lab


def record(lab: Laboratory, folder: str) -> dict[str, Any]:
    run = next(one for one in lab.runs() if one.folder == folder)
    return facts.predicate(lab.artifacts.get(run.record))


def test_an_axis_that_holds_is_the_platforms_and_can_be_confirmed(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, does)
    lab.submit(profile="confirming", runs=1)
    lab.go_on()
    assert lab.experiments()[0].label == "better", lab.told()
    told = record(lab, "run_1")
    assert (told["metrics"]["error"]["source"], told["metrics"]["error"]["axis"]) == ("evaluator", "platform")
    assert told["curve"]["axis"] == "platform"
    assert told["curve"]["stretches"][0]["holds"]
    assert {"resume", "compare"} <= set(told["verdicts"])
    assert told["usage"]["resume"]["wall_s"] == 1.0


def falsified(spec: Spec) -> Did:
    """Do as the others, but what the idea's run wrote down is not what its training gives."""
    is_ideas = any(
        b"SCALE = -4.0" in Path(one.source).read_bytes() for one in spec.inputs if "experiment.py" in one.path
    )
    return does(spec, "fails" if is_ideas and spec.kind is Kind.RESUME else "")


def differs(spec: Spec) -> Did:
    """Do as the others; where the idea's stretches are compared, they differ."""
    return does(spec, "sums seed 1: done again, answers otherwise, 0.4 apart where 0.02 are allowed.")


def without_checkpoints(spec: Spec) -> Did:
    """Do as the others, but keep no checkpoint."""
    return does(spec, kept=False)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (falsified, "its program did not do a stretch again (failed: experiment.py ended with status 7)"),
        (differs, "answers otherwise, 0.4 apart where 0.02 are allowed"),
        (without_checkpoints, "no checkpoint of circle seed"),
    ],
)
def test_steps_that_stay_a_runs_own_word_are_never_confirmed(
    tmp_path: Path, program: Callable[[Spec], Did], reason: str
) -> None:
    lab = laboratory(tmp_path, program)
    lab.submit(profile="confirming", runs=1)
    lab.go_on()
    (experiment,) = lab.experiments()
    assert experiment.label == not_comparable(Reason.STEP_AXIS), lab.told()
    assert not [run for run in lab.runs() if run.arm is Arm.CONFIRM]
    told = record(lab, "run_1")
    assert (told["metrics"]["error"]["source"], told["metrics"]["error"]["axis"]) == ("self", "self")
    assert reason in told["metrics"]["error"]["axis_reason"]
    run = next(one for one in lab.runs() if one.folder == "run_1")
    assert run.result is RunResult.MEASURED
    kinds = {point.kind for point in fidelity.open_points(lab.artifacts, experiment, run)}
    assert {fidelity.PointKind.UNPROVEN, fidelity.PointKind.DISAGREES} <= kinds
    assert any(one.startswith("A number rests on the run's own word") for one in experiment.limitations)
    assert not [one for one in experiment.limitations if "0.4" in one]


def test_a_number_that_is_told_otherwise_is_a_finding_and_both_are_kept(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, does)
    lab.submit(profile="tiny", runs=1)
    lab.go_on()
    told = record(lab, "run_1")
    (one,) = told["disagreements"]
    assert (one["metric"], one["dataset"], one["self"]) == ("error", "circle", 0.5)
    run = next(one for one in lab.runs() if one.folder == "run_1")
    assert lab.get(run.self_reported)["circle"]["means"]["error"] == 0.5
    assert lab.get(run.final_info)["circle"]["means"]["error"] == one["evaluator"] != 0.5
    assert "disagrees (run_1): run_1 reports another error of circle" in lab.experiments()[0].notes


def test_a_run_that_keeps_too_much_is_asked_again(tmp_path: Path) -> None:
    def keeps(spec: Spec) -> Did:
        did = does(spec)
        if spec.kind is Kind.RUN and "run_1" in str(spec.command):
            files = dict(did.files) | {f"run_1/checkpoint_circle_1_{step}.json": b"" for step in range(1, 9)}
            return Did(files=files, output="done")
        return did

    lab = laboratory(tmp_path, keeps)
    lab.submit(profile="tiny", runs=1)
    lab.go_on()
    run = next(one for one in lab.runs() if one.folder == "run_1")
    assert run.result is RunResult.FAILED
    assert "8 checkpoints of circle seed 1 were kept, and at most 4 may be" in run.attempts[0].error_tail


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "predict"', 'kind = "sample"', "a query of kind predict"),
        ('metrics = ["error"]', 'metrics = ["loss"]', "names loss, which is no metric of the evaluator"),
        ('datasets = ["circle"]', "datasets = []", "needs data sets"),
    ],
)
def test_a_curve_that_nothing_can_be_read_off_is_no_template(tmp_path: Path, old: str, new: str, said: str) -> None:
    lab = laboratory(tmp_path, does)
    folder = write_template(tmp_path / "t", {**CURVED, "template.toml": CURVED["template.toml"].replace(old, new)})
    problems = templates.check(templates.snapshot(folder, lab.artifacts), lab.artifacts, "t")
    assert any(said in problem for problem in problems), problems
