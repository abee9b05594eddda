"""The two small templates of the tests: their data, honest runs of them, and what their evaluators refuse."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.services import templates
from fumehood.services.query_driver import CHARACTERS, DRIVER

HERE = Path(__file__).parent
CHARACTER, ADDITION = HERE / "character_model", HERE / "modular_addition"
METRICS = {CHARACTER: ("tales", "nats_per_character"), ADDITION: ("addition", "error")}
pytestmark = pytest.mark.parametrize("template", [CHARACTER, ADDITION], ids=lambda path: path.name)


@dataclass
class Bench:
    """A template's programs, called as the platform calls them."""

    python: Path
    template: Path
    folder: Path

    @property
    def dataset(self) -> str:
        return METRICS[self.template][0]

    def program(self, path: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-B", str(path), *map(str, arguments)]
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=120)

    def prepare(self, part: str, arm: str = "screen", seeds: str = "1,2", key: bytes = bytes(32)) -> Path:
        out = self.folder / f"{part}_{arm}_{seeds}_{key[0]}"
        (self.folder / "key").write_bytes(key)
        asked = (f"--arm={arm}", f"--part={part}", "--key=key", f"--seeds={seeds}", f"--out_dir={out}")
        done = self.program(self.template / "prepare.py", *asked)
        assert done.returncode == 0, done.stderr
        return out

    def run(self, name: str = "run_0", seeds: str = "1,2") -> Path:
        told = {"FUMEHOOD_DATA": str(self.prepare("train", seeds=seeds)), "FUMEHOOD_SEEDS": seeds}
        done = self.program(self.template / "experiment.py", f"--out_dir={name}", **told)
        assert done.returncode == 0, done.stderr
        return self.folder / name

    def query(self, run: Path, seeds: str = "1,2") -> Path:
        of = (f"--datasets={self.dataset}", f"--seeds={seeds}", f"--code={self.template}", f"--outputs={run}")
        answers = self.folder / f"answers_{run.name}"
        if self.template is ADDITION:
            inputs = self.prepare("inputs", seeds=seeds)
            done = self.program(DRIVER, "--kind=predict", *of, f"--inputs={inputs}", f"--answers={answers}")
        else:
            shutil.copytree(self.prepare("answers", seeds=seeds), self.folder / "held_out")
            how = ("--block=64", "--streams=8", "--tolerance=0.001", f"--answers={answers}")
            done = self.program(CHARACTERS[0], *how, *of)
        assert done.returncode == 0, done.stdout + done.stderr
        return answers

    def evaluate(self, answers: Path, seeds: str = "1,2") -> subprocess.CompletedProcess[str]:
        folders = (
            f"--held_out={self.prepare('answers', seeds=seeds)}",
            f"--train={self.prepare('train', seeds=seeds)}",
        )
        asked = (f"--outputs={answers}", *folders, f"--out_dir={self.folder / 'results'}", f"--seeds={seeds}")
        return self.program(self.template / "evaluate.py", *asked)

    def values(self) -> list[float]:
        dataset, metric = METRICS[self.template]
        told = json.loads((self.folder / "results" / "metrics.json").read_text())
        assert told[dataset]["means"][metric] == pytest.approx(np.mean(told[dataset]["final_info_dict"][metric]))
        return list(told[dataset]["final_info_dict"][metric])


@pytest.fixture
def make_bench(warm_python: Path, tmp_path: Path) -> Callable[[Path], Bench]:
    return lambda template: Bench(warm_python, template, tmp_path)


def module(template: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{template.name}_{name}", template / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def test_it_keeps_the_contract(template: Path) -> None:
    artifacts = MemoryArtifacts()
    try:
        assert templates.check(templates.snapshot(template, artifacts), artifacts, template.name) == ()
    finally:
        artifacts.close()


def test_data_come_from_key_arm_and_seed_alone(template: Path, make_bench: Callable[[Path], Bench]) -> None:
    bench = make_bench(template)

    def drawn(part: str, **asked: object) -> bytes:
        folder = bench.prepare(part, **asked)  # type: ignore[arg-type]
        (path,) = folder.iterdir()
        return path.read_bytes()

    for part in ("train", "answers"):
        first = drawn(part)
        assert drawn(part) == first
        assert drawn(part, key=bytes([1]) * 32) != first
        assert drawn(part, arm="confirm") != first


def test_an_honest_run_is_measured_better_than_chance_and_the_same_again(
    template: Path, make_bench: Callable[[Path], Bench], lab_python: Path
) -> None:
    bench = make_bench(template)
    runs = [bench.run("run_0"), replace(bench, python=lab_python).run("run_1")]
    assert bench.evaluate(bench.query(runs[0])).returncode == 0
    values = bench.values()
    assert values[0] != values[1]
    chance = np.log(28) if template is CHARACTER else 22 / 23
    assert all(0 < value < 0.6 * chance for value in values)
    assert bench.evaluate(bench.query(runs[1])).returncode == 0
    assert bench.values() == values


@pytest.mark.parametrize("fault", ["missing", "nan", "shape", "pickle", "whole"])
def test_answers_that_cannot_be_judged_are_refused(
    template: Path, make_bench: Callable[[Path], Bench], fault: str
) -> None:
    bench = make_bench(template)
    shape, name = ((1536, 28), "logits_tales_1") if template is CHARACTER else ((529, 23), "predictions_addition_1")
    values: np.ndarray = np.zeros(shape, dtype=np.float32)
    if fault == "nan":
        values[7, 3] = np.nan
    if fault == "shape":
        values = values[:-1]
    if fault == "pickle":
        values = np.array([{"a": 1}], dtype=object)
    if fault == "whole":
        values = values.astype(np.int64)
    (bench.folder / "answers").mkdir()
    if fault != "missing":
        np.save(bench.folder / "answers" / f"{name}.npy", values, allow_pickle=True)
    done = bench.evaluate(bench.folder / "answers", seeds="1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}.npy ")
    assert done.stderr.count("\n") == 1
    assert not (bench.folder / "results").exists()


def test_answers_that_say_nothing_are_worth_nothing(template: Path, make_bench: Callable[[Path], Bench]) -> None:
    bench = make_bench(template)
    shape, name = ((1536, 28), "logits_tales_1") if template is CHARACTER else ((529, 23), "predictions_addition_1")
    (bench.folder / "answers").mkdir()
    # Any number added to all of a character's logits changes nothing.
    np.save(bench.folder / "answers" / f"{name}.npy", np.full(shape, 1e6, dtype=np.float32))
    assert bench.evaluate(bench.folder / "answers", seeds="1").returncode == 0
    assert bench.values() == [pytest.approx(np.log(28) if template is CHARACTER else 1.0)]


def test_a_closed_form_is_no_answer(template: Path) -> None:
    prepare = module(template, "prepare")
    rng = prepare.generator(bytes(32), "screen", *(("names", 1) if template is ADDITION else ("language",)))
    if template is ADDITION:
        pairs, sums = prepare.table(rng.permutation(23))
        assert (pairs.sum(axis=1) % 23 == sums).mean() < 0.3
        split = [prepare.split(bytes(32), "screen", seed) for seed in (1, 2)]
        assert [int(one.sum()) for one in split] == [264, 264]
        assert (split[0] != split[1]).mean() > 0.3
    else:
        other = prepare.Language(prepare.generator(bytes(32), "confirm", "language"))
        assert len(set(prepare.Language(rng).words) & set(other.words)) < 20
