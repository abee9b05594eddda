"""How large runs are: what they say, what is counted of their models, and what of it may be compared."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.domain.execution import Kind, Spec
from fumehood.domain.fidelity import PointKind
from fumehood.domain.template import Comparison
from fumehood.services import counts, facts, fidelity
from fumehood.services.query_driver import DRIVER, counting
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox


def record(*, counted: dict[str, float] | None = None, **said: float) -> dict[str, Any]:
    return {"counts": said, "counted": counted or {}}


def rules(**comparison: Any) -> Comparison:
    return Comparison(**comparison)


def test_only_counts_are_taken() -> None:
    told = {"parameters": 12, "updates": True, "samples_seen": -1, "flops_per_update": float("nan")}
    found = counts.told(json.dumps(told).encode(), counts.SELF)
    assert found == {"parameters": 12, "updates": None, "samples_seen": None, "flops_per_update": None}
    assert counts.told(b"[1]", counts.PLATFORM) == {"parameters": None, "flops": None}
    assert counts.told(b"nothing", counts.PLATFORM) == {"parameters": None, "flops": None}


def test_what_was_counted_decides_before_what_is_said() -> None:
    base = record(parameters=100, counted={"parameters": 100})
    assert counts.budget(record(parameters=100, counted={"parameters": 150}), base, rules()) == [
        "It has 150 parameters where the baseline has 100."
    ]
    assert counts.budget(record(parameters=150, counted={"parameters": 100}), base, rules()) == []
    said = record(parameters=100)
    assert counts.budget(record(parameters=150), said, rules()) == ["It has 150 parameters where the baseline has 100."]
    assert counts.budget(record(parameters=150), said, rules(tolerance=0.5)) == []
    assert counts.budget(record(parameters=150), said, rules(may_change=("parameters",))) == []


@pytest.mark.parametrize(
    ("base", "run", "told"),
    [
        (
            record(counted={"parameters": 100}),
            record(parameters=100),
            "Its parameters are not known where the baseline has 100.",
        ),
        (record(updates=10), record(), "Its updates are not known where the baseline has 10."),
        (record(), record(updates=99, parameters=99), ""),
    ],
)
def test_what_a_run_leaves_unknown_is_beyond_the_baselines_budget(
    base: dict[str, Any], run: dict[str, Any], told: str
) -> None:
    assert counts.budget(run, base, rules()) == ([told] if told else [])
    assert bool(counts.unknown(run, base)) is bool(told)


def test_operations_and_seconds_count_where_they_are_to_be_equal() -> None:
    base = record(updates=10, flops_per_update=100) | {"seeds": [1, 2], "usage": {"run": {"wall_s": 8.0}}}
    run = record(updates=20, flops_per_update=60) | {"seeds": [1], "usage": {"run": {"wall_s": 5.0}}}
    assert counts.budget(run, base, rules(equal="flops")) == ["It took 1,200 operations where the baseline took 1,000."]
    assert counts.budget(run, base, rules(equal="flops", tolerance=0.2)) == []
    assert counts.budget(record(), base, rules(equal="flops")) == [
        "It took an unknown number of operations where the baseline took 1,000."
    ]


@pytest.mark.parametrize(
    ("seeds", "seconds", "is_equal"),
    [
        (10, 410.0, True),  # the clock is not exact
        (10, 430.0, False),
        (3, 3 * 39.0 + 10.0, True),  # the same code: ten seconds to start, and 39 for each seed
        (3, 3 * 46.0 + 10.0, False),
        (20, 20 * 39.0 + 10.0, True),
        (20, 20 * 43.0, False),
        (20, 20.0, True),
    ],
)
def test_seconds_are_equal_but_for_a_programs_start_and_the_clock(
    seeds: int, seconds: float, *, is_equal: bool
) -> None:
    base = record() | {"seeds": list(range(10)), "usage": {"run": {"wall_s": 400.0}}}
    run = record() | {"seeds": list(range(seeds)), "usage": {"run": {"wall_s": seconds}}}
    found = counts.budget(run, base, rules(equal="wall_s"))
    told = [f"It took {seconds / seeds:,.4g} seconds for a seed where the baseline took 40."]
    assert found == ([] if is_equal else told)
    assert counts.budget(run, base, rules(equal="wall_s", tolerance=0.5)) == []
    unknown = counts.budget(record(), base, rules(equal="wall_s"))
    assert unknown == ["It took an unknown number of seconds for a seed where the baseline took 40."]


def test_updates_and_samples_count_where_they_are_to_be_equal() -> None:
    base, run = record(updates=10, samples_seen=30), record(updates=20, samples_seen=90)
    assert counts.budget(run, base, rules()) == ["It has 20 updates where the baseline has 10."]
    assert counts.budget(run, base, rules(equal="samples")) == ["It has 90 samples seen where the baseline has 30."]


def test_operations_may_be_fewer_and_not_more() -> None:
    base = record(flops_per_update=300, counted={"flops": 100})
    run = record(flops_per_update=331, counted={"flops": 111})
    assert counts.budget(run, base, rules()) == []
    assert counts.budget(run, base, rules(flops_tolerance=0.1)) == [
        "It needs 111 operations for an answer where the baseline needs 100.",
        "It needs 331 operations for an update where the baseline needs 300.",
    ]
    fewer = record(flops_per_update=3, counted={"flops": 1})
    assert counts.budget(fewer, base, rules(flops_tolerance=0.0)) == []


def test_parameters_that_grow_otherwise_than_is_said_are_told() -> None:
    base = record(parameters=100, counted={"parameters": 400})
    assert counts.disagreement(record(parameters=200, counted={"parameters": 800}), base) == ""
    assert counts.disagreement(record(parameters=100, counted={"parameters": 800}), base)
    assert counts.disagreement(record(parameters=200, counted={"parameters": 400}), base)
    assert counts.disagreement(record(parameters=200), base) == ""


class Module:
    def __init__(self, **weights: Any) -> None:
        self.weights = weights

    def named_parameters(self) -> Any:
        return self.weights.items()


class Weight:
    def __init__(self, size: int) -> None:
        self.size = size

    def numel(self) -> int:
        return self.size


def test_parameters_are_found_inside_and_counted_once() -> None:
    shared = Weight(5)
    module = Module(a=shared, b=Weight(7))
    assert counting.parameters((module, np.zeros(100))) == 12
    assert counting.parameters({"ema": [module, module], "other": Module(a=shared, c=Weight(1))}) == 13
    array = np.zeros((2, 3))
    assert counting.parameters({"left": array, "again": array, "names": np.arange(9), "text": "x"}) == 6
    assert counting.parameters("nothing") is None


def test_what_fails_while_it_is_counted_costs_nothing() -> None:
    told = counting.told(object(), {"w": np.zeros(3)}, "predict", np.zeros((9, 2)), 1)
    assert (told["parameters"], told["flops"]) == (3, None)

    class Broken:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

    assert counting.told(object(), Broken(), "predict", np.zeros((9, 2)), 1)["error"] == "RuntimeError"


SERVE = """
import torch
def load(path, dataset, seed):
    torch.manual_seed(seed)
    return {"model": torch.nn.Linear(8, 4), "constants": torch.zeros(99)}
def predict(model, inputs):
    return model["model"](torch.as_tensor(inputs)).detach().numpy()
"""


def test_the_driver_counts_a_torch_model(tmp_path: Path, lab_python: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "inputs").mkdir()
    inputs = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    np.save(tmp_path / "inputs" / "sums.npy", inputs)
    np.save(tmp_path / "inputs" / "sums_2.npy", inputs[:3])
    command = [
        *(str(lab_python), "-B", str(DRIVER), "--kind=predict", "--datasets=sums", "--seeds=1,2"),
        *(f"--code={tmp_path}", f"--outputs={tmp_path}", f"--inputs={tmp_path / 'inputs'}", "--answers=answers"),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    told = json.loads((tmp_path / "answers" / "counted.json").read_text())
    assert told == {"parameters": 36, "flops": 2 * 8 * 4, "answers": 10, "of": "predict"}
    assert [len(np.load(tmp_path / "answers" / f"predictions_sums_{seed}.npy")) for seed in (1, 2)] == [10, 3]


@pytest.mark.parametrize(("size", "is_open"), [(10, False), (20, True)])
def test_a_record_holds_both_and_tells_where_they_part(tmp_path: Path, size: int, *, is_open: bool) -> None:
    def does(spec: Spec) -> Did:
        if spec.kind is Kind.QUERY:
            given = {item.path: Path(item.source) for item in spec.inputs}
            is_base = "SCALE = 1.0" in given["in/code/experiment.py"].read_text()
            told = {"parameters": 10 if is_base else size, "flops": 4.0}
            samples = given["in/outputs/samples.json"].read_bytes()
            return Did(files={"answers/counted.json": json.dumps(told).encode(), "answers/samples.json": samples})
        did = act(spec)
        if spec.kind is Kind.RUN:
            folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
            own = json.dumps({"parameters": 5, "flops_per_update": 8}).encode()
            forged = {f"{folder}/parameters.json": own, f"{folder}/counted.json": b'{"parameters": 1}'}
            return Did(files=dict(did.files) | forged, output="done")
        return did

    files = {
        **TINY,
        "serve.py": "def load(path, dataset, seed): ...\n",
        "template.toml": TINY["template.toml"] + '\n[query]\nkind = "sample"\n',
    }
    lab = Laboratory(tmp_path, files=files, sandbox=InstantSandbox(does))
    try:
        lab.submit(runs=1)
        lab.go_on_to("plot")
        base, run = lab.runs()
        told = facts.predicate(lab.artifacts.get(run.record))
        assert told["counted"] == {"parameters": size, "flops": 4.0}
        assert (told["counts"]["parameters"], told["counts"]["flops_per_update"]) == (5, 8)
        points = fidelity.of_results(lab.artifacts, run, base, [run]).points
        assert any(point.kind is PointKind.DISAGREES for point in points) is is_open
    finally:
        lab.artifacts.close()
