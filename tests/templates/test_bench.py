"""What a profile of a shipped template costs, measured small: every figure is there and is a figure."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ("--num_train_steps=12", "--train_batch_size=16", "--hidden_size=16", "--embedding_dim=8")


def test_a_profile_is_measured_from_its_data_to_its_metrics(tmp_path: Path, lab_python: Path) -> None:
    command = [
        *(str(lab_python), "-B", str(ROOT / "bench" / "templates.py"), "--template=2d_diffusion", "--profile=tiny"),
        *("--seeds=1", "--copies", "2", f"--results={tmp_path}", "--prepare=--held_out_points=1200"),
        *(f"--argument={one}" for one in SMALL),
    ]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    (kept,) = tmp_path.glob("templates-tiny-*.json")
    (told,) = json.loads(kept.read_text())["profiles"]
    assert (told["models"], told["seeds"]) == (4, 1)
    assert [run["copies"] for run in told["run"]] == [2]
    figures = [told["bare_ms"], told["ratio"], *(run["samples_per_s"] for run in told["run"])]
    assert all(math.isfinite(one) and one > 0 for one in figures)
    assert all(run["peak_mib"] > 50 for run in told["run"])
    assert {row["dataset"] for row in told["metrics"]} == {"circle", "dino", "line", "moons"}
    assert "a model's step costs" in done.stdout


def test_a_program_that_fails_is_said(tmp_path: Path, lab_python: Path) -> None:
    command = [
        *(str(lab_python), "-B", str(ROOT / "bench" / "templates.py"), "--template=2d_diffusion", "--profile=tiny"),
        *("--argument=--num_train_steps=-1", f"--results={tmp_path}"),
    ]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "must be above zero" in done.stderr
    assert not list(tmp_path.iterdir())
