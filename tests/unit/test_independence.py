"""Whether seeds that one process trains are independent: what is compared, and what becomes of those that are not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.domain.execution import Kind, Spec
from fumehood.domain.fidelity import PointKind
from fumehood.services import facts, fidelity, independence
from fumehood.services.query_driver import TOGETHER
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox

PROGRAM = """
    import argparse
    import json
    import os
    import pathlib
    import numpy as np

    parser = argparse.ArgumentParser()
    parser.add_argument("--out_dir", type=pathlib.Path)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    asked.out_dir.mkdir(parents=True)
    seeds = [int(seed) for seed in os.environ["FUMEHOOD_SEEDS"].split(",")]
    values, curves = [], {"steps": np.arange(asked.steps)}
    for place, seed in enumerate(seeds):
        rng = np.random.default_rng(WHAT)
        weights = rng.standard_normal(50) + asked.steps
        np.savez(asked.out_dir / f"model_{seed}.npz", weights=weights, name=np.array("a name"))
        curves[f"loss_{seed}"] = weights[: asked.steps]
        values.append(float(weights[0]))
    np.savez(asked.out_dir / "curves.npz", **curves)
    (asked.out_dir / f"pids_{'_'.join(map(str, seeds))}.txt").write_text(str(os.getpid()))
    counts = {"updates": asked.steps, "parameters": 50 + seeds[0], "without_gradient": ["bias", f"of_{seeds[0]}"]}
    (asked.out_dir / "parameters.json").write_text(json.dumps(counts))
    info = {"circle": {"means": {"loss": sum(values) / len(values)}, "final_info_dict": {"loss": values}}}
    (asked.out_dir / "final_info.json").write_text(json.dumps(info))
    print("told", seeds)
"""
OWN, SHARED = "seed", "place"
TOLD = {"apart": True, "seed": 2, "largest": 0.2, "allowed": 1e-5, "file": "m_2.npz", "reason": "m_2.npz differs"}


def ran(folder: Path, what: str, seeds: str = "1,2,3", program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    (folder / "experiment.py").write_text(textwrap.dedent(program).replace("WHAT", what))
    command = [sys.executable, "-B", str(TOGETHER), "--out_dir=run_1", "--check=--steps=2", "--", "--steps=5"]
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_SEEDS": seeds}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def told_of(folder: Path) -> dict[str, Any]:
    told = independence.told((folder / "together.json").read_bytes())
    assert told is not None
    return told


def test_independent_seeds_are_run_as_without_us(tmp_path: Path) -> None:
    done = ran(tmp_path, OWN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told [1, 2, 3]\n", "")
    same = {"apart": False, "largest": 0.0, "file": "model_2.npz", "reason": ""}
    assert told_of(tmp_path) == {**TOLD, **same}
    assert [path.name for path in tmp_path.glob("run_1/pids*")] == ["pids_1_2_3.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"experiment.py", "run_1", "together.json"}


def test_seeds_that_depend_on_each_other_are_run_apart_and_put_together(tmp_path: Path) -> None:
    done = ran(tmp_path, SHARED)
    assert done.returncode == 0, done.stderr
    assert "Each seed is run by a process of its own, since model_2.npz came out otherwise" in done.stdout
    told = told_of(tmp_path)
    assert told["apart"]
    assert told["largest"] > 0.1
    pids = [path.read_text() for path in (tmp_path / "run_1").glob("pids_?.txt")]
    assert len(pids) == len(set(pids)) == 3
    with np.load(tmp_path / "run_1/curves.npz") as curves:
        assert set(curves.files) == {"steps", "loss_1", "loss_2", "loss_3"}
    alone = float(np.random.default_rng(0).standard_normal(50)[0] + 5)
    (entry,) = json.loads((tmp_path / "run_1/final_info.json").read_text()).values()
    assert entry["final_info_dict"]["loss"] == [alone] * 3  # as each is where it is the only one
    assert (entry["means"]["loss"], entry["stderrs"]["loss"]) == (pytest.approx(alone), 0.0)
    counts = json.loads((tmp_path / "run_1/parameters.json").read_text())
    assert counts == {"updates": 5, "parameters": 53, "without_gradient": ["bias"]}
    assert {path.name for path in tmp_path.iterdir()} == {"experiment.py", "run_1", "together.json"}


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (
            PROGRAM.replace("asked.out_dir.mkdir", "assert asked.steps > 2\n    asked.out_dir.mkdir"),
            "ended with an error",
        ),
        (PROGRAM.replace("model_{seed}.npz", "model_of.npz"), "no file is of seed 2 alone"),
    ],
)
def test_seeds_that_cannot_be_looked_at_are_run_apart(tmp_path: Path, program: str, why: str) -> None:
    done = ran(tmp_path, OWN, program=program)
    assert done.returncode == 0, done.stderr
    told = told_of(tmp_path)
    assert (told["apart"], told["largest"]) == (True, None)
    assert why in told["reason"]
    assert len(list((tmp_path / "run_1").glob("pids_?.txt"))) == 3


def test_a_program_that_fails_ends_at_its_first_seed_with_its_own_words(tmp_path: Path) -> None:
    done = ran(tmp_path, OWN, program="raise SystemExit('no such thing')\n")
    assert (done.returncode, done.stderr.count("no such thing")) == (1, 1)


def test_what_is_no_word_of_ours_is_none() -> None:
    assert independence.told(b"[]") is None
    assert independence.told(b'{"apart": false}') is None


class TestOnThePlatform:
    TOML = TINY["template.toml"].replace("[metrics", '[together]\ncheck = ["--steps=2"]\n[metrics', 1)

    def measured(self, make_lab: Callable[..., Laboratory], told: dict[str, Any]) -> Laboratory:
        def does(spec: Spec) -> Did:
            did = act(spec)
            if spec.command[1] != "/in/driver/together.py":
                return did
            return Did(files={**did.files, "together.json": json.dumps(told).encode()}, output="done")

        lab = make_lab(files={**TINY, "template.toml": self.TOML}, sandbox=InstantSandbox(does))
        lab.submit(runs=1)
        lab.go_on_to("plot")
        return lab

    def test_edited_code_alone_is_looked_at(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.measured(make_lab, TOLD)
        base, edited = lab.executions(kind=Kind.RUN)
        assert base.command == ("python", "experiment.py", "--out_dir=run_0")
        assert edited.command == ("python", "/in/driver/together.py", "--out_dir=run_1", "--check=--steps=2", "--")
        assert {path for path in edited.inputs if path not in base.inputs} == {"in/driver/together.py"}
        assert "together.json" in edited.collect

    def test_a_program_that_asks_a_model_is_not(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab(files={**TINY, "template.toml": f"{self.TOML}\n[llm]\nusd_per_run = 0.1\n"})
        lab.submit(runs=1)
        lab.go_on_to("plot")
        assert [run.command[1] for run in lab.executions(kind=Kind.RUN)] == ["experiment.py"] * 2

    def test_the_record_says_it_and_papers_do(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.measured(make_lab, TOLD)
        base, run = lab.runs()
        record = facts.predicate(lab.artifacts.get(run.record))
        assert record["together"] == TOLD
        assert "together" not in facts.predicate(lab.artifacts.get(base.record))
        points = fidelity.of_results(lab.artifacts, run, base, [run]).points
        assert [point.sentence for point in points if point.kind is PointKind.ENTANGLED] == [
            "run_1 had each seed run by a process of its own: m_2.npz differs."
        ]
        (experiment,) = lab.experiments()
        assert "Open: entangled (run_1)" in experiment.notes
        assert any("were not independent" in one for one in fidelity.limitations(lab.artifacts, experiment, [run]))

    def test_independent_seeds_leave_no_word(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.measured(make_lab, {**TOLD, "apart": False, "reason": ""})
        base, run = lab.runs()
        points = fidelity.of_results(lab.artifacts, run, base, [run]).points
        assert not [point for point in points if point.kind is PointKind.ENTANGLED]
