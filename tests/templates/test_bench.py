"""What a profile of a shipped template costs, measured small: every figure is there and is a figure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent.name for path in ROOT.glob("templates/*/template.toml"))
SEEDS = 3
PROCESSOR_S = 90.0
"""Several times what the dearest takes alone: another size would show, a busy machine does not."""
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_tiny_is_carried_out_whole(tmp_path: Path, lab_python: Path, name: str) -> None:
    command = [lab_python, "-B", ROOT / "bench" / "templates.py", f"--template={name}", "--profile=tiny", "--no_bare"]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"--results={tmp_path}"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (kept,) = tmp_path.glob("templates-tiny-*.json")
    (told,) = json.loads(kept.read_text())["profiles"]
    settings = tomllib.loads((ROOT / "templates" / name / "template.toml").read_text(encoding="utf-8"))
    assert (told["seeds"], told["models"]) == (SEEDS, SEEDS * len(settings["datasets"]))
    judged = {metric for metric, about in settings["metrics"].items() if about.get("source") == "evaluator"}
    found = {(row["dataset"], row["metric"]): row["mean"] for row in told["metrics"]}
    assert {(dataset, metric) for dataset in settings["datasets"] for metric in judged} <= set(found)
    assert all(math.isfinite(value) for value in found.values())
    assert sum(run["processor_s"] for run in told["run"]) + told["query_processor_s"] < PROCESSOR_S


def test_the_command_line_measures_with_the_labs_packages(tmp_path: Path, lab_dir: Path) -> None:
    done = fumehood(lab_dir, "--template=self", "--seeds=1", f"--results={tmp_path}", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (kept,) = tmp_path.glob("templates-tiny-*.json")
    assert json.loads(kept.read_text()) == told
    (profile,) = told["profiles"]
    assert (profile["template"], profile["models"]) == ("self", 3)
    assert {row["metric"] for row in profile["metrics"]} >= {"log_loss", "auc"}
    assert "self tiny: 3 models of 1 seeds" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--template=none",), "No template is called 'none'"),
        (("--template=self", "--profile=huge"), "self has no profile 'huge'"),
    ],
)
def test_what_is_not_there_is_bad_usage(lab_dir: Path, words: tuple[str, ...], sentence: str) -> None:
    done = fumehood(lab_dir, *words)
    assert (done.returncode, sentence in done.stderr, done.stderr.count("\n")) == (2, True, 1)


def fumehood(lab_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fumehood", "bench", "templates", *words]
    own = {"PATH": "/usr/bin:/bin", "FUMEHOOD_LAB_DIR": str(lab_dir)}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)


def test_a_program_that_fails_is_said(tmp_path: Path, lab_python: Path) -> None:
    command = [
        *(str(lab_python), "-B", str(ROOT / "bench" / "templates.py"), "--template=2d_diffusion", "--profile=tiny"),
        *("--argument=--num_train_steps=-1", f"--results={tmp_path}"),
    ]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "must be above zero" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_language_model_is_asked_one_character_after_another(tmp_path: Path, lab_python: Path) -> None:
    small = ("--n_layer=1", "--n_head=1", "--n_embd=16", "--batch_size=2", "--iterations=4", "--evaluate_every=2")
    command = [
        *(str(lab_python), "-B", str(ROOT / "bench" / "templates.py"), "--template=nanogpt_lite", "--profile=tiny"),
        *("--seeds=1", f"--results={tmp_path}", "--prepare=--held_out_characters=512"),
        *(f"--argument={one}" for one in (*small, "--sample_characters=5")),
    ]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    (kept,) = tmp_path.glob("templates-tiny-*.json")
    (told,) = json.loads(kept.read_text())["profiles"]
    assert told["bare_ms"] > 0
    (run,) = told["run"]
    assert run["samples_per_s"] > 0
    nats = {row["metric"]: row["mean"] for row in told["metrics"]}
    assert {"nats_per_character", "late_nats_per_character", "best_val_loss"} <= set(nats)
    assert all(0 < nats[name] < 6 for name in ("nats_per_character", "best_val_loss"))


def test_a_plain_model_beside_the_templates_learns_the_same(lab_python: Path) -> None:
    words = (
        *(str(lab_python), "-B", str(ROOT / "bench" / "plain_gpt.py")),
        *("--profile=tiny", "--iterations=6", "--seeds", "1"),
    )
    done = subprocess.run(
        words, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout[done.stdout.index("{\n") :])
    # Six small steps leave both where all characters are nearly alike.
    assert abs(told["template_loss"][0] - told["plain_loss"][0]) < 0.3
    assert 2 < told["plain_loss"][0] < 5
