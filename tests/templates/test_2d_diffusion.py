"""The 2D diffusion template: its data, its estimators, its refusals, and its smallest training."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

TEMPLATE = Path(__file__).parents[2] / "templates" / "2d_diffusion"
DATASETS = ("circle", "dino", "line", "moons")
SMALL = ("--num_train_steps=12", "--train_batch_size=16", "--hidden_size=16", "--embedding_dim=8", "--threads=1")
BLOCK = re.compile(
    r"^(?P<file>[\w.]+)\n```python\n<<<<<<< SEARCH\n(?P<old>.*?)^=======\n(?P<new>.*?)^>>>>>>> REPLACE\n```$",
    re.DOTALL | re.MULTILINE,
)


def program(python: Path, name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the template's programs with nothing in its environment but what is given."""
    command = [str(python), "-B", str(TEMPLATE / name), *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def module(name: str) -> ModuleType:
    """Import a frozen file of the template by its path."""
    spec = importlib.util.spec_from_file_location(f"two_d_diffusion_{name}", TEMPLATE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    """A folder with a key and small data of the screen arm: `train/` and `answers/`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "key").write_bytes(bytes(range(32)))
    for part in ("train", "answers"):
        done = prepare(warm_python, folder / "key", folder / part, part=part)
        assert done.returncode == 0, done.stderr
    return folder


def prepare(
    python: Path, key: Path, out_dir: Path, *extra: str, arm: str = "screen", part: str = "train", seeds: str = "1,2"
) -> subprocess.CompletedProcess[str]:
    sizes = ("--train_points=3000", "--held_out_points=400")
    asked = (f"--arm={arm}", f"--part={part}", f"--key={key}", f"--seeds={seeds}", f"--out_dir={out_dir}")
    return program(python, "prepare.py", *asked, *sizes, *extra)


def train(python: Path, data: Path, out_dir: Path, *more: str, seeds: str = "1,2", steps: int = 12) -> dict[str, dict]:
    environment = {"FUMEHOOD_DATA": str(data / "train"), "FUMEHOOD_SEEDS": seeds}
    sizes = (*SMALL, f"--num_train_steps={steps}", *more)
    done = program(python, "experiment.py", f"--out_dir={out_dir}", *sizes, **environment)
    assert done.returncode == 0, done.stderr
    served = program(python, "serve.py", f"--models={out_dir}", "--count=300")
    assert served.returncode == 0, served.stderr
    return json.loads((out_dir / "final_info.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, warm_python: Path, data: Path) -> Path:
    """A finished run of seeds 1 and 2 with its samples."""
    folder = tmp_path_factory.mktemp("work") / "run_0"
    train(warm_python, data, folder)
    return folder


@pytest.fixture
def outputs(tmp_path: Path, data: Path) -> Path:
    """Samples as good as can be: new draws of the shapes themselves, turned as the data are."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    rng, drawn, key = np.random.default_rng(0), module("prepare"), (data / "key").read_bytes()
    for dataset in DATASETS:
        turn = drawn.transform(key, "screen", dataset)
        for seed in (1, 2):
            np.save(folder / f"samples_{dataset}_{seed}.npy", drawn.turned(drawn.draw(dataset, 300, rng), turn))
    return folder


def evaluate(python: Path, data: Path, outputs: Path, out_dir: Path) -> subprocess.CompletedProcess[str]:
    folders = (f"--outputs={outputs}", f"--held_out={data / 'answers'}", f"--train={data / 'train'}")
    return program(python, "evaluate.py", *folders, f"--out_dir={out_dir}", "--seeds=1,2", "--samples=300")


# Data.


def test_the_same_key_and_seeds_give_the_same_bytes(warm_python: Path, data: Path, tmp_path: Path) -> None:
    for part in ("train", "answers"):
        prepare(warm_python, data / "key", tmp_path / part, part=part)
        for dataset in DATASETS:
            name = f"{dataset}.npz"
            assert (tmp_path / part / name).read_bytes() == (data / part / name).read_bytes()


def test_another_key_gives_other_data(warm_python: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    prepare(warm_python, tmp_path / "key", tmp_path / "train")
    for dataset in DATASETS:
        other = np.load(tmp_path / "train" / f"{dataset}.npz")["points"]
        assert not np.isin(other, np.load(data / "train" / f"{dataset}.npz")["points"]).all(axis=1).any()


def test_arms_share_no_point_and_have_turns_of_their_own(warm_python: Path, data: Path, tmp_path: Path) -> None:
    prepare(warm_python, data / "key", tmp_path, arm="confirm")
    drawn = module("prepare")
    key = (data / "key").read_bytes()
    for dataset in DATASETS:
        screen = np.load(data / "train" / f"{dataset}.npz")["points"]
        confirm = np.load(tmp_path / f"{dataset}.npz")["points"]
        assert not np.isin(confirm, screen).all(axis=1).any()
        turns = [drawn.transform(key, arm, dataset) for arm in ("screen", "confirm")]
        assert not np.allclose(*turns, atol=1e-3)


def test_answers_share_no_point_with_the_training_data_or_between_seeds(data: Path) -> None:
    for dataset in DATASETS:
        train_points = np.load(data / "train" / f"{dataset}.npz")["points"]
        held_out = np.load(data / "answers" / f"{dataset}.npz")["held_out"]
        assert held_out.shape == (2, 400, 2)
        assert held_out.dtype == train_points.dtype == np.float32
        assert train_points.shape == (3000, 2)
        everything = np.concatenate([train_points, *held_out])
        assert len(np.unique(everything, axis=0)) == len(everything)


def test_a_seed_has_the_same_answers_alone_as_in_a_list(warm_python: Path, data: Path, tmp_path: Path) -> None:
    prepare(warm_python, data / "key", tmp_path, part="answers", seeds="2")
    for dataset in DATASETS:
        alone = np.load(tmp_path / f"{dataset}.npz")["held_out"][0]
        assert np.array_equal(alone, np.load(data / "answers" / f"{dataset}.npz")["held_out"][1])


def test_inputs_hold_no_point(warm_python: Path, data: Path, tmp_path: Path) -> None:
    prepare(warm_python, data / "key", tmp_path, part="inputs")
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.json"]
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"datasets": list(DATASETS), "inputs": {}}


def test_the_transform_only_turns_and_mirrors(warm_python: Path, data: Path, tmp_path: Path) -> None:
    drawn = module("prepare")
    prepare(warm_python, data / "key", tmp_path, "--transform=off")
    mirrors = set()
    for dataset in DATASETS:
        turn = drawn.transform((data / "key").read_bytes(), "screen", dataset)
        mirrors.add(round(float(np.linalg.det(turn))))
        assert np.allclose(turn @ turn.T, np.eye(2), atol=1e-12)
        plain = np.load(tmp_path / f"{dataset}.npz")["points"]
        turned = np.load(data / "train" / f"{dataset}.npz")["points"]
        assert np.allclose(plain.astype(np.float64) @ turn.T, turned, atol=1e-5)
        assert np.abs(plain - turned).max() > 0.1
    assert mirrors <= {-1, 1}


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_bad_usage(warm_python: Path, tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    done = prepare(warm_python, tmp_path / "key", tmp_path / "out")
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert not (tmp_path / "out").exists()


# The estimators.


def judged(function: str, *points: object) -> Any:
    """Call one of the judge's functions, which take points (n, 2) as trees of them."""
    given = [cKDTree(one) if isinstance(one, np.ndarray) else one for one in points]
    return getattr(module("evaluate"), function)(*given)


def test_kl_is_about_zero_for_two_draws_of_one_distribution() -> None:
    rng = np.random.default_rng(1)
    estimate = judged("kl_divergence", rng.normal(size=(4000, 2)), rng.normal(size=(4000, 2)), 5)
    assert abs(estimate) < 0.05


def test_kl_is_close_to_the_closed_form_of_two_gaussians() -> None:
    rng = np.random.default_rng(2)
    spread, shift = np.array([1.5, 0.8]), np.array([0.5, -0.4])
    held_out, samples = rng.normal(size=(8000, 2)), rng.normal(size=(8000, 2)) * spread + shift
    exact = float(np.sum(np.log(spread) + (1 + shift**2) / (2 * spread**2) - 0.5))
    assert exact > 0.2
    assert judged("kl_divergence", held_out, samples, 5) == pytest.approx(exact, abs=0.06)


def test_repeating_held_out_points_does_not_give_an_infinite_gain() -> None:
    points = np.random.default_rng(3).normal(size=(500, 2))
    repeated = np.repeat(points, 5, axis=0)
    estimate = judged("kl_divergence", points, repeated, 5)
    assert math.isfinite(estimate)


def test_each_direction_of_kl_shows_its_own_fault() -> None:
    rng = np.random.default_rng(4)
    divergence = partial(judged, "kl_divergence")
    one = rng.normal(size=(1000, 2)) - 8.0
    both = rng.normal(size=(1000, 2)) + np.where(rng.random(1000) < 0.5, -8.0, 8.0)[:, None]
    # A shape that the samples lack, and one that the data lack.
    assert divergence(both, one, 5) > 2
    assert abs(divergence(one, both, 5) - math.log(2)) < 0.2
    assert divergence(both, both[::-1] + 0.01 * rng.normal(size=(1000, 2)), 5) < 0.1


def test_copying_counts_what_repeats_training_points() -> None:
    rng = np.random.default_rng(6)
    copying = partial(judged, "copying")
    train, held_out, new = (rng.normal(size=(size, 2)) for size in (20000, 2000, 1000))
    assert abs(copying(train, held_out, new)) < 0.1
    some = new.copy()
    some[:20] = train[:20]
    assert 0.1 < copying(train, held_out, some) - copying(train, held_out, new) < 0.4
    assert copying(train, held_out, new * 3) < -0.5


def test_good_samples_are_measured_for_every_seed(warm_python: Path, data: Path, outputs: Path, tmp_path: Path) -> None:
    done = evaluate(warm_python, data, outputs, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "examples.npz").exists()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert tuple(metrics) == DATASETS
    for entry in metrics.values():
        assert set(entry) == {"means", "stderrs", "final_info_dict"}
        for metric, values in entry["final_info_dict"].items():
            assert len(values) == 2
            assert entry["means"][metric] == pytest.approx(np.mean(values))
            assert entry["stderrs"][metric] == pytest.approx(np.std(values, ddof=1) / math.sqrt(2))
        assert abs(entry["means"]["copying"]) < 0.2
        assert entry["means"]["kl_divergence"] < 1


def test_few_copies_of_training_points_are_reported(
    warm_python: Path, data: Path, outputs: Path, tmp_path: Path
) -> None:
    path = outputs / "samples_moons_1.npy"
    evaluate(warm_python, data, outputs, tmp_path)
    before = json.loads((tmp_path / "metrics.json").read_text())["moons"]["final_info_dict"]["copying"]
    samples = np.load(path)
    samples[:4] = np.load(data / "train" / "moons.npz")["points"][:4]
    np.save(path, samples)
    evaluate(warm_python, data, outputs, tmp_path)
    after = json.loads((tmp_path / "metrics.json").read_text())["moons"]["final_info_dict"]["copying"]
    assert 0.05 < after[0] - before[0] < 0.25
    assert after[1] == before[1]


def test_what_is_repeated_is_told_from_what_is_sharp() -> None:
    rng = np.random.default_rng(9)
    repeated = partial(judged, "repeated")
    train, held_out, new = (rng.normal(size=(size, 2)) for size in (20000, 2000, 1000))
    tenth, half = new.copy(), new.copy()
    tenth[::10] = train[:100]
    half[::2] = train[:500] + 0.002 * new[:500]
    for honest in (new, 0.1 * new, 3 * new, 0.01 * new + 0.5, np.tile(new[:1], (1000, 1))):
        share, limit = repeated(train, held_out, honest)
        assert abs(share) < limit
    for copied, least in ((train[:1000], 0.99), (tenth, 0.09), (train[:1000] + 0.002 * new, 0.7)):
        share, limit = repeated(train, held_out, copied)
        assert share > max(limit, least)
    share, limit = repeated(train, held_out, half)
    assert limit < share < 0.6
    # With more samples and as many held-out points, chance brings less.
    many = rng.normal(size=(5000, 2))
    assert repeated(train, rng.normal(size=(20000, 2)), many)[1] == 0.25


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_training_points_as_samples_are_refused(
    warm_python: Path, data: Path, outputs: Path, tmp_path: Path, noise: float
) -> None:
    points = np.load(data / "train" / "line.npz")["points"][:300]
    moved = points + np.random.default_rng(8).normal(0, noise, points.shape).astype(np.float32)
    np.save(outputs / "samples_line_2.npy", moved)
    done = evaluate(warm_python, data, outputs, tmp_path)
    assert_refused(done, tmp_path)
    assert "repeats training points" in done.stderr


def bad_samples() -> dict[str, np.ndarray]:
    good = np.random.default_rng(5).normal(size=(300, 2)).astype(np.float32)
    nan, infinite = good.copy(), good.copy()
    nan[17, 1], infinite[0, 0] = np.nan, np.inf
    return {
        "nan": nan,
        "infinite": infinite,
        "three columns": np.zeros((300, 3), np.float32),
        "flat": good.ravel(),
        "whole numbers": np.arange(600).reshape(300, 2),
        "too few": good[:299],
        "none": good[:0],
        "all alike": np.ones((300, 2), np.float32),
        "pickled": np.array([[{"a": 1}, None]] * 300, dtype=object),
    }


@pytest.mark.parametrize("fault", list(bad_samples()))
def test_samples_that_cannot_be_judged_are_refused(
    warm_python: Path, data: Path, outputs: Path, tmp_path: Path, fault: str
) -> None:
    np.save(outputs / "samples_line_2.npy", bad_samples()[fault], allow_pickle=True)
    done = evaluate(warm_python, data, outputs, tmp_path)
    assert_refused(done, tmp_path)


def array_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not an array",
        b"PK\x03\x04 an archive",
        array_header(b""),
        array_header(b'{\'descr\': """'),
        array_header(b"(" * 5000),
        array_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999, 2)}"),
        array_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (300, 2)}"),
    ],
)
def test_files_that_are_no_arrays_are_refused(
    warm_python: Path, data: Path, outputs: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = outputs / "samples_line_2.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    done = evaluate(warm_python, data, outputs, tmp_path)
    assert_refused(done, tmp_path)


def assert_refused(done: subprocess.CompletedProcess[str], out_dir: Path) -> None:
    """Status 1, one sentence that names the file, and no metrics."""
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("samples_line_2.npy ")
    assert done.stderr.endswith(".\n")
    assert not (out_dir / "metrics.json").exists()


# Frozen and editable parts.


@pytest.mark.parametrize("name", ["prepare", "evaluate"])
def test_the_frozen_part_needs_neither_torch_nor_the_experiment(name: str) -> None:
    tree = ast.parse((TEMPLATE / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert not roots & {"torch", "experiment", "serve", "pickle"}
    assert roots - {"numpy", "scipy"} <= sys.stdlib_module_names


def test_the_settings_speak_of_the_same_data_sets_metrics_and_files() -> None:
    settings = tomllib.loads((TEMPLATE / "template.toml").read_text())
    assert tuple(settings["datasets"]) == DATASETS
    assert [name for name, metric in settings["metrics"].items() if metric["primary"]] == ["kl_divergence"]
    assert all((TEMPLATE / name).exists() for name in settings["editable"])
    assert set(settings["profiles"]) == {"tiny", "cpu", "gpu"}
    for profile in settings["profiles"].values():
        assert set(profile["limits"]) == {"prepare", "run", "query", "evaluate", "plot", "compile"}
        assert f"--samples={profile['query_count']}" in profile["evaluate_arguments"]


def edits_of(reply: str) -> list[re.Match[str]]:
    edits = list(BLOCK.finditer(reply))
    assert len(edits) == reply.count("<<<<<<< SEARCH") > 0
    return edits


def test_a_checkpoint_has_room_for_the_weights_and_not_for_the_training_points_beside_them() -> None:
    for profile in tomllib.loads((TEMPLATE / "template.toml").read_text())["profiles"].values():
        told = dict(one.removeprefix("--").split("=") for one in profile["arguments"])
        hidden, embedding = int(told.get("hidden_size", 256)), int(told.get("embedding_dim", 128))
        weights = 4 * ((3 * embedding + 1) * hidden + 3 * (hidden + 1) * hidden + 2 * (hidden + 1))
        points = 8 * int(dict(one.split("=") for one in profile["prepare_arguments"])["--train_points"])
        assert 1.1 * weights < profile["checkpoint_mib"] * 2**20 < weights + points


def test_every_offline_edit_applies_exactly_once_in_order() -> None:
    playbook = tomllib.loads((TEMPLATE / "offline.toml").read_text())
    editable = tomllib.loads((TEMPLATE / "template.toml").read_text())["editable"]
    allowed = set(tomllib.loads((TEMPLATE / "template.toml").read_text())["comparison"]["may_change"])
    assert len({idea["name"] for idea in playbook["ideas"]}) == len(playbook["ideas"]) >= 5
    for idea in playbook["ideas"]:
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,39}", idea["name"])
        assert set(idea["changes"]) <= allowed
        assert r"\begin{equation}" in idea["method"]
        files = {name: (TEMPLATE / name).read_text() for name in editable}
        attempts = [attempt for run in idea["runs"] for attempt in run["attempts"]]
        replies = [each for one in attempts for each in (one["reply"], one.get("mended")) if each]
        for reply in [*replies, idea["plot"]["reply"]]:
            for edit in edits_of(reply):
                name, old = edit["file"], edit["old"]
                assert files[name].count(old) == 1, f"{idea['name']}: {old}"
                files[name] = files[name].replace(old, edit["new"])
        for name, text in files.items():
            compile(text, name, "exec")
        for number, run in enumerate(idea["runs"], start=1):
            assert f'"run_{number}": "{run["title"]}"' in files["plot.py"]


# The experiment itself.


@pytest.mark.parametrize("arm", ["screen", "confirm"])
@pytest.mark.parametrize(("dataset", "reached"), [("circle", 0.36), ("dino", 1.1), ("line", 0.17), ("moons", 0.095)])
def test_a_published_generator_is_worse_than_what_the_paper_reached_on_each_data_set(
    arm: str, dataset: str, reached: float
) -> None:
    # On each: a run could take the generator for one of them only, and train the others.
    drawn, rng = module("prepare"), np.random.default_rng(3)
    turn = drawn.transform(bytes(range(32)), arm, dataset)
    held_out = drawn.turned(drawn.draw(dataset, 3000, rng), turn)
    public, right = drawn.draw(dataset, 3000, rng), drawn.turned(drawn.draw(dataset, 3000, rng), turn)
    assert judged("kl_divergence", held_out, public, 5) > reached
    assert judged("kl_divergence", held_out, right, 5) < reached


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["screen", "confirm"])
def test_the_published_generators_are_no_better_than_a_short_training(
    warm_python: Path, data: Path, tmp_path: Path, arm: str
) -> None:
    held = tmp_path / "held"
    for part in ("train", "answers"):
        assert prepare(warm_python, data / "key", held / part, arm=arm, part=part).returncode == 0
    trained, drawn, rng = tmp_path / "run_0", tmp_path / "drawn", np.random.default_rng(0)
    larger = ("--train_batch_size=128", "--hidden_size=64", "--embedding_dim=32", "--num_timesteps=40")
    train(warm_python, held, trained, *larger, "--learning_rate=3e-3", "--ema_update_every=1", steps=200)
    drawn.mkdir()
    for dataset in DATASETS:
        for seed in (1, 2):
            np.save(drawn / f"samples_{dataset}_{seed}.npy", module("prepare").draw(dataset, 300, rng))
    means = []
    for samples in (trained, drawn):
        assert evaluate(warm_python, held, samples, tmp_path / f"of_{samples.name}").returncode == 0
        told = json.loads((tmp_path / f"of_{samples.name}" / "metrics.json").read_text())
        means.append(sum(entry["means"]["kl_divergence"] for entry in told.values()) / len(told))
    assert means[1] > means[0], means


@pytest.mark.slow
def test_the_same_seeds_twice_give_the_same_numbers_and_samples(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    again = train(lab_python, data, tmp_path / "run_0")
    first = json.loads((run / "final_info.json").read_text())
    assert tuple(first) == DATASETS
    for dataset in DATASETS:
        values = first[dataset]["final_info_dict"]["train_loss"]
        assert again[dataset]["final_info_dict"]["train_loss"] == values
        assert len(values) == 2
        assert values[0] != values[1]
        for seed in (1, 2):
            name = f"samples_{dataset}_{seed}.npy"
            assert np.array_equal(np.load(run / name), np.load(tmp_path / "run_0" / name))


@pytest.mark.slow
def test_only_what_differs_between_seeds_has_a_standard_error(run: Path) -> None:
    for entry in json.loads((run / "final_info.json").read_text()).values():
        assert len(entry["final_info_dict"]["training_time"]) == 1
        assert set(entry["means"]) == {"train_loss", "eval_loss", "training_time"}
        assert set(entry["stderrs"]) == {"train_loss", "eval_loss"}
        assert entry["stderrs"]["train_loss"] > 0


@pytest.mark.slow
def test_a_seed_alone_gives_the_same_model_as_in_a_list(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    alone = train(warm_python, data, tmp_path / "run_0", seeds="2")
    together = json.loads((run / "final_info.json").read_text())
    for dataset in DATASETS:
        losses = together[dataset]["final_info_dict"]["train_loss"]
        assert alone[dataset]["final_info_dict"]["train_loss"] == losses[1:]
        name = f"samples_{dataset}_2.npy"
        assert np.array_equal(np.load(run / name), np.load(tmp_path / "run_0" / name))


@pytest.mark.slow
def test_a_run_leaves_the_promised_files_and_counts(run: Path) -> None:
    counts = json.loads((run / "parameters.json").read_text())
    assert counts["updates"] == 12
    assert counts["samples_seen"] == 12 * 16
    assert counts["parameters"] == (24 * 16 + 16) + 3 * (16 * 16 + 16) + (16 * 2 + 2)
    assert counts["without_gradient"] == []
    # Forth and back, each weight is multiplied and added about three times two for each point; the first layer less.
    assert 4 < counts["flops_per_update"] / (counts["samples_seen"] / counts["updates"] * counts["parameters"]) < 6
    with np.load(run / "train_loss.npz", allow_pickle=False) as curves:
        assert set(curves.files) == {"steps", *(f"{dataset}_{seed}" for dataset in DATASETS for seed in (1, 2))}
        assert all(len(curves[name]) == 12 for name in curves.files)
    assert {path.suffix for path in run.iterdir()} == {".pt", ".npz", ".npy", ".json"}


@pytest.mark.slow
def test_a_parameter_that_nothing_depends_on_is_named(warm_python: Path, data: Path, tmp_path: Path) -> None:
    last = "        self.last = nn.Linear(config.hidden_size, 2)\n"
    used = "return self.last(F.relu(hidden))"
    text = (TEMPLATE / "experiment.py").read_text()
    assert text.count(last) == text.count(used) == 1
    text = text.replace(last, f"{last}        self.gate = nn.Parameter(torch.ones(2))\n")
    (tmp_path / "experiment.py").write_text(text.replace(used, f"{used} + 0 * self.gate"))
    for name in ("journal.py", "points.py"):
        shutil.copy(TEMPLATE / name, tmp_path)
    command = [str(warm_python), "-B", str(tmp_path / "experiment.py"), f"--out_dir={tmp_path / 'run_1'}", *SMALL]
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_DATA": str(data / "train"), "FUMEHOOD_SEEDS": "1,2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run_1/parameters.json").read_text())["without_gradient"] == ["gate"]


@pytest.mark.slow
def test_a_run_that_was_killed_is_taken_up_and_ends_the_same(lab_python: Path, data: Path, tmp_path: Path) -> None:
    own = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "FUMEHOOD_DATA": str(data / "train"),
        "FUMEHOOD_SEEDS": "1,2",
    }
    sizes = (*SMALL, "--num_train_steps=400", "--eval_points=500")

    def command(folder: Path, *more: str) -> list[str]:
        return [str(lab_python), "-B", str(TEMPLATE / "experiment.py"), f"--out_dir={folder}", *sizes, *more]

    whole, broken = tmp_path / "run_0", tmp_path / "run_1"
    subprocess.run(command(whole), env=own, check=True, capture_output=True, timeout=300)
    with subprocess.Popen(
        command(broken, "--checkpoint_every=0"), env=own, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:  # the checkpoint of step 200 is there when the next tenth is told
            if line.startswith("step 240/"):
                killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert (broken / "checkpoint.pt").exists()
    assert not (broken / "final_info.json").exists()
    other = subprocess.run(command(broken, "--learning_rate=0.1"), env=own, capture_output=True, text=True, timeout=300)
    assert other.returncode == 1
    assert "was written with other arguments" in other.stderr
    done = subprocess.run(command(broken), env=own, check=True, capture_output=True, text=True, timeout=300)
    assert re.search(r"taken up at step [23]00", done.stdout)
    assert "step 80/400" not in done.stdout
    infos = [json.loads((run / "final_info.json").read_text()) for run in (whole, broken)]
    for dataset in DATASETS:
        for metric in ("train_loss", "eval_loss"):
            values = [info[dataset]["final_info_dict"][metric] for info in infos]
            assert values[0] == values[1]
    same = [json.loads((run / "parameters.json").read_text()) for run in (whole, broken)]
    assert same[0] == same[1]
    for name in ("model_dino_2.pt", "model_circle_1.pt"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert not (broken / "checkpoint.pt").exists()


@pytest.mark.slow
def test_the_loss_of_the_last_weights_is_about_that_of_the_last_batches(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    info = train(warm_python, data, tmp_path / "run_0", steps=300)
    for entry in info.values():
        assert entry["means"]["eval_loss"] == pytest.approx(entry["means"]["train_loss"], rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("has", "device"), [("cuda", "cuda"), ("backends.mps", "mps"), ("", "cpu")])
@pytest.mark.parametrize("template", ["2d_diffusion", "grokking", "nanogpt"])
def test_the_device_is_what_there_is(warm_python: Path, tmp_path: Path, template: str, has: str, device: str) -> None:
    (tmp_path / "ask.py").write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(TEMPLATE.with_name(template))!r})\n"
        "import experiment\n"
        "torch.cuda.is_available = torch.backends.mps.is_available = lambda: False\n"
        + (f"torch.{has}.is_available = lambda: True\n" if has else "")
        + "print(experiment.choose_device(experiment.Config()))\n"
    )
    words, own = [str(warm_python), "-B", str(tmp_path / "ask.py")], {"PATH": "/usr/bin:/bin"}
    asked = subprocess.run(words, env=own, capture_output=True, text=True, timeout=120)
    assert (asked.stdout, asked.returncode) == (f"{device}\n", 0), asked.stderr


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(warm_python: Path, data: Path, run: Path) -> None:
    before = (run / "final_info.json").stat().st_mtime_ns
    environment = {"FUMEHOOD_DATA": str(data / "train"), "FUMEHOOD_SEEDS": "1,2"}
    done = program(warm_python, "experiment.py", f"--out_dir={run}", *SMALL, **environment)
    assert done.returncode == 0
    assert "is finished" in done.stdout
    assert (run / "final_info.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["--no_such_thing=1", "--num_train_steps=0", "--beta_schedule=flat"])
def test_a_bad_argument_exits_2(warm_python: Path, tmp_path: Path, argument: str) -> None:
    done = program(warm_python, "experiment.py", f"--out_dir={tmp_path / 'run_0'}", argument)
    assert done.returncode == 2
    assert not (tmp_path / "run_0").exists()


@pytest.mark.slow
def test_a_run_is_evaluated_and_plotted(warm_python: Path, data: Path, run: Path, tmp_path: Path) -> None:
    assert evaluate(warm_python, data, run, tmp_path).returncode == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for number in (0, 1):
        copy = tmp_path / f"run_{number}"
        shutil.copytree(run, copy)
        (copy / "final_info.json").write_text(json.dumps(metrics))
    shutil.copy(TEMPLATE / "plot.py", tmp_path)
    environment = {"PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [str(warm_python), "-B", "plot.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for name in ("train_loss", "generated_samples", "kl_by_run"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
