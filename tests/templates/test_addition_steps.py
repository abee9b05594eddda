"""The small template that is judged by a step: its run, a stretch of it once more, and what its evaluator refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.services import templates
from fumehood.services.query_driver import DRIVER

TEMPLATE = Path(__file__).parent / "addition_steps"


def program(python: Path, folder: Path, path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "FUMEHOOD_DATA": str(folder / "train"),
        "FUMEHOOD_INPUTS": str(folder / "inputs"),
        "FUMEHOOD_SEEDS": "2",
    }
    command = [str(python), "-B", str(path), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def ran(warm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of seed 2, a run of it, and what its model and its checkpoints answer."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "key").write_bytes(bytes(32))
    for part in ("train", "inputs", "answers"):
        asked = ("--arm=screen", f"--part={part}", "--key=key", "--seeds=2", f"--out_dir={part}")
        assert program(warm_python, folder, TEMPLATE / "prepare.py", *asked).returncode == 0
    done = program(warm_python, folder, TEMPLATE / "experiment.py", "--out_dir=run_0")
    assert done.returncode == 0, done.stderr
    for path in (folder / "run_0").glob("checkpoint_*"):
        kept = folder / "checkpoints" / "addition" / "2" / f"{path.stem.rpartition('_')[2]}.npz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(path.read_bytes())
    of = ("--datasets=addition", "--seeds=2", f"--code={TEMPLATE}", "--outputs=run_0", "--inputs=inputs")
    recall = ("--recall=classes", "--checkpoints=checkpoints", "--answers=asked")
    done = program(warm_python, folder, DRIVER, "--kind=predict", *of, *recall)
    assert done.returncode == 0, done.stderr
    return folder


def curve(path: Path) -> tuple[list[int], np.ndarray]:
    with np.load(path) as archive:
        return archive["steps"].tolist(), archive["predictions"]


def evaluate(python: Path, ran: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    asked = (f"--outputs={folder}", "--held_out=answers", "--train=train", f"--out_dir={folder / 'out'}", "--seeds=2")
    return program(python, ran, TEMPLATE / "evaluate.py", *asked)


def test_it_keeps_the_contract() -> None:
    artifacts = MemoryArtifacts()
    try:
        assert templates.check(templates.snapshot(TEMPLATE, artifacts), artifacts, "addition_steps") == ()
    finally:
        artifacts.close()


def test_checkpoints_answer_what_the_curve_says_of_their_step(ran: Path) -> None:
    steps, answers = curve(ran / "run_0" / "curve_addition_2.npz")
    recalled = sorted(path.name for path in (ran / "asked").glob("recalled_*"))
    assert recalled == ["recalled_addition_2_200.npy", "recalled_addition_2_400.npy"]
    for step in (200, 400):
        told = np.load(ran / "asked" / f"recalled_addition_2_{step}.npy")
        assert np.array_equal(told, answers[steps.index(step)])


@pytest.mark.parametrize("start", [0, 200])
def test_a_stretch_once_more_is_the_same(ran: Path, warm_python: Path, tmp_path: Path, start: int) -> None:
    steps, answers = curve(ran / "run_0" / "curve_addition_2.npz")
    resumed = (f"--resume_from=run_0/checkpoint_addition_2_{start}.npz",) if start else ()
    asked = (f"--out_dir={tmp_path}", *resumed, f"--stop_at={start + 160}", "--only_dataset=addition")
    done = program(warm_python, ran, TEMPLATE / "experiment.py", *asked)
    assert done.returncode == 0, done.stderr
    again_steps, again = curve(tmp_path / "curve_addition_2.npz")
    assert again_steps == list(range(start + 20, start + 161, 20))
    assert np.array_equal(again, answers[[steps.index(step) for step in again_steps]])


def test_the_step_is_read_off_the_curve(ran: Path, warm_python: Path, tmp_path: Path) -> None:
    steps, answers = curve(ran / "run_0" / "curve_addition_2.npz")
    (tmp_path / "predictions_addition_2.npy").write_bytes((ran / "asked" / "predictions_addition_2.npy").read_bytes())
    found = []
    for told in (answers, np.zeros_like(answers)):
        np.savez(tmp_path / "curve_addition_2.npz", steps=steps, predictions=told)
        assert evaluate(warm_python, ran, tmp_path).returncode == 0
        entry = json.loads((tmp_path / "out" / "metrics.json").read_text())["addition"]
        found += entry["final_info_dict"]["steps_to_95"]
    assert 20 < found[0] < 600
    assert found[0] in steps
    # One that never gets there counts as the last step.
    assert found[1] == 600


@pytest.mark.parametrize("fault", ["missing", "shape", "floats", "steps", "late", "many", "pickle"])
def test_a_curve_that_cannot_be_read_is_refused(ran: Path, warm_python: Path, tmp_path: Path, fault: str) -> None:
    steps, answers = curve(ran / "run_0" / "curve_addition_2.npz")
    (tmp_path / "predictions_addition_2.npy").write_bytes((ran / "asked" / "predictions_addition_2.npy").read_bytes())
    told: dict[str, object] = {"steps": np.array(steps), "predictions": answers}
    if fault == "shape":
        told["predictions"] = answers[:, :-1]
    if fault == "floats":
        told["predictions"] = answers.astype(float)
    if fault == "steps":
        told["steps"] = np.array(steps[::-1])
    if fault == "late":
        told["steps"] = np.array(steps) + 1
    if fault == "many":
        told = {"steps": np.arange(1, 62), "predictions": np.repeat(answers[:1], 61, axis=0)}
    if fault == "pickle":
        told["steps"] = np.array([{}], dtype=object)
    if fault != "missing":
        np.savez(tmp_path / "curve_addition_2.npz", **told)  # type: ignore[arg-type]
    done = evaluate(warm_python, ran, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("curve_addition_2.npz ")
    assert done.stderr.count("\n") == 1
