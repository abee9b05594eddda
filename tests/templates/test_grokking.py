"""The grokking template: its tables, its judge, its refusals, and its smallest training, whole, alone and taken up."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TEMPLATE = Path(__file__).parents[2] / "templates" / "grokking"
DATASETS = ("x_div_y", "x_minus_y", "x_plus_y", "permutation")
PRIME, ORDERS = 11, 6
HELD_OUT = 61  # pairs of x_plus_y
SIZES = (f"--modulus={PRIME}", "--letters=3")
STEPS, EVERY = 40, 5
SMALL = (
    *(f"--num_train_steps={STEPS}", f"--evaluate_every={EVERY}", "--train_batch_size=8"),
    *("--width=16", "--heads=2", "--threads=1"),
)
BLOCK = re.compile(
    r"^(?P<file>[\w.]+)\n```python\n<<<<<<< SEARCH\n(?P<old>.*?)^=======\n(?P<new>.*?)^>>>>>>> REPLACE\n```$",
    re.DOTALL | re.MULTILINE,
)
ALONE = """
import argparse, importlib.util, json, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
import torch
from journal import Journal
from tables import Member, load_table
for path in map(Path, sys.argv[2:]):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    experiment = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = experiment
    spec.loader.exec_module(experiment)
    config = experiment.Config(
        num_train_steps=16, evaluate_every=8, train_batch_size=8, width=16, heads=2, threads=1, checkpoints=0
    )
    experiment.choose_device(config)
    members = [Member(dataset, seed) for dataset in ("x_div_y", "x_minus_y", "x_plus_y") for seed in (1, 2)]
    def trained(group):
        journal = Journal(folder / "out", [member.name for member in group], {}, frozenset())
        state, history, _ = experiment.train(config, group, [load_table(one, "cpu") for one in group], journal, 16)
        return [{name: value[i] for name, value in state.items()} for i in range(len(group))], history
    together, losses = trained(members)
    for i in (0, 3, 5):
        (alone,), own = trained(members[i : i + 1])
        assert torch.allclose(own[:, :, 0], losses[:, :, i], atol=1e-5), f"{path.stem}: losses of {members[i].name}"
        for name, value in alone.items():
            assert torch.allclose(value, together[i][name], atol=1e-5), f"{path.stem}: {name} of {members[i].name}"
    print(path.stem, losses[-1, 0].tolist())
"""


def program(python: Path, name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the template's programs with nothing in its environment but what is given."""
    command = [str(python), "-B", str(TEMPLATE / name), *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def module(name: str) -> ModuleType:
    """Import a frozen file of the template by its path."""
    spec = importlib.util.spec_from_file_location(f"grokking_{name}", TEMPLATE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def prepare(
    python: Path, key: Path, out_dir: Path, *extra: str, arm: str = "screen", part: str = "train", seeds: str = "1,2"
) -> subprocess.CompletedProcess[str]:
    asked = (f"--arm={arm}", f"--part={part}", f"--key={key}", f"--seeds={seeds}", f"--out_dir={out_dir}")
    return program(python, "prepare.py", *asked, *SIZES, *extra)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    """A folder with a key and small data of the screen arm: `train/`, `inputs/` and `answers/`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "key").write_bytes(bytes(range(32)))
    for part in ("train", "inputs", "answers"):
        done = prepare(warm_python, folder / "key", folder / part, part=part)
        assert done.returncode == 0, done.stderr
    return folder


def told(data: Path, seeds: str = "1,2") -> dict[str, str]:
    """The environment of a run."""
    folders = {"FUMEHOOD_DATA": str(data / "train"), "FUMEHOOD_INPUTS": str(data / "inputs")}
    return folders | {"FUMEHOOD_SEEDS": seeds}


def train(python: Path, data: Path, out_dir: Path, *extra: str, seeds: str = "1,2") -> None:
    done = program(python, "experiment.py", f"--out_dir={out_dir}", *SMALL, *extra, **told(data, seeds))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, warm_python: Path, data: Path) -> Path:
    """A finished run of seeds 1 and 2 with the answers of its last models."""
    folder = tmp_path_factory.mktemp("work") / "run_0"
    train(warm_python, data, folder)
    served = program(warm_python, "serve.py", f"--models={folder}", f"--inputs={data / 'inputs'}")
    assert served.returncode == 0, served.stderr
    return folder


def held_out(data: Path, dataset: str, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    with np.load(data / "answers" / f"{dataset}.npz") as archive:
        return archive[f"pairs_{seed}"], archive[f"answers_{seed}"], int(archive["symbols"])


def write_answers(
    data: Path, outputs: Path, wanted: dict[tuple[str, int], np.ndarray] | None = None, right_from: int = 1
) -> None:
    """Write answers that are right, or those wanted, from one of the curve's points on, and nonsense before."""
    outputs.mkdir(exist_ok=True)
    for dataset in DATASETS:
        for seed in (1, 2):
            _, answers, symbols = held_out(data, dataset, seed)
            taken = answers if wanted is None else wanted[dataset, seed]
            np.save(outputs / f"predictions_{dataset}_{seed}.npy", 20 * np.eye(symbols, dtype=np.float32)[taken])
            steps = np.arange(EVERY, STEPS + 1, EVERY)
            predictions = np.where(np.arange(1, len(steps) + 1)[:, None] >= right_from, taken, (answers + 1) % symbols)
            np.savez(outputs / f"curve_{dataset}_{seed}.npz", steps=steps, predictions=predictions)


def evaluate(python: Path, data: Path, outputs: Path, out_dir: Path) -> subprocess.CompletedProcess[str]:
    folders = (f"--outputs={outputs}", f"--held_out={data / 'answers'}", f"--train={data / 'train'}")
    sizes = (f"--last_step={STEPS}", f"--evaluate_every={EVERY}")
    return program(python, "evaluate.py", *folders, f"--out_dir={out_dir}", "--seeds=1,2", *sizes)


# Data.


def test_the_same_key_and_seeds_give_the_same_bytes(warm_python: Path, data: Path, tmp_path: Path) -> None:
    for part in ("train", "inputs", "answers"):
        prepare(warm_python, data / "key", tmp_path / part, part=part)
        names = {path.name for path in (data / part).iterdir()}
        assert {path.name for path in (tmp_path / part).iterdir()} == names
        for name in names:
            assert (tmp_path / part / name).read_bytes() == (data / part / name).read_bytes()


def test_another_key_and_another_arm_have_other_names_and_another_split(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    prepare(warm_python, tmp_path / "key", tmp_path / "key_of_zeros")
    prepare(warm_python, data / "key", tmp_path / "confirm", arm="confirm")
    for dataset in DATASETS:
        drawn = [np.load(folder / f"{dataset}.npz") for folder in (data / "train", tmp_path / "key_of_zeros")]
        drawn.append(np.load(tmp_path / "confirm" / f"{dataset}.npz"))
        entries = [dict(zip(map(tuple, each["pairs_1"]), each["answers_1"], strict=True)) for each in drawn]
        for other in entries[1:]:
            assert set(other) != set(entries[0])
            shared = set(other) & set(entries[0])
            same = sum(other[pair] == entries[0][pair] for pair in shared)
            assert same < 0.6 * len(shared), "results of one table answer for the other"


def test_both_halves_together_are_the_table_and_share_nothing(data: Path) -> None:
    for dataset, symbols, count in zip(DATASETS, (PRIME,) * 3 + (ORDERS,), (110, 121, 121, 36), strict=True):
        for seed in (1, 2):
            pairs, answers, told_symbols = held_out(data, dataset, seed)
            with np.load(data / "train" / f"{dataset}.npz") as archive:
                known, results = archive[f"pairs_{seed}"], archive[f"answers_{seed}"]
            assert told_symbols == symbols
            assert len(known) == round(count / 2)
            everything = np.concatenate([known, pairs])
            assert len(np.unique(everything, axis=0)) == len(everything) == count
            assert set(np.concatenate([results, answers])) == set(range(symbols))


def test_a_seed_has_the_same_table_alone_as_in_a_list_and_none_like_another(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    prepare(warm_python, data / "key", tmp_path, seeds="2")
    for dataset in DATASETS:
        with np.load(tmp_path / f"{dataset}.npz") as alone, np.load(data / "train" / f"{dataset}.npz") as listed:
            assert np.array_equal(alone["pairs_2"], listed["pairs_2"])
            assert np.array_equal(alone["answers_2"], listed["answers_2"])
            assert not np.array_equal(listed["pairs_1"], listed["pairs_2"])


def test_inputs_are_the_held_out_pairs_in_order_and_no_results(data: Path) -> None:
    names = {f"{dataset}_{seed}.npy" for dataset in DATASETS for seed in (1, 2)}
    assert {path.name for path in (data / "inputs").iterdir()} == names
    for dataset in DATASETS:
        for seed in (1, 2):
            assert np.array_equal(np.load(data / "inputs" / f"{dataset}_{seed}.npy"), held_out(data, dataset, seed)[0])


def test_fewer_pairs_can_be_judged(warm_python: Path, data: Path, tmp_path: Path) -> None:
    for part in ("inputs", "answers"):
        prepare(warm_python, data / "key", tmp_path / part, "--judged=20", part=part)
    for dataset in DATASETS:
        pairs, answers, _ = held_out(tmp_path, dataset, 2)
        asked = min(20, len(held_out(data, dataset, 2)[1]))
        assert len(pairs) == len(answers) == asked
        assert np.array_equal(pairs, held_out(data, dataset, 2)[0][:asked])
        assert np.array_equal(pairs, np.load(tmp_path / "inputs" / f"{dataset}_2.npy"))


def test_the_tables_are_the_operations_they_are_named_for() -> None:
    drawn = module("prepare")
    for dataset, undone in (("x_plus_y", "x_minus_y"), ("x_minus_y", "x_plus_y")):
        table, other = drawn.arithmetic(dataset, 13), drawn.arithmetic(undone, 13)
        assert all(other[table[x, y], y] == x for x in range(13) for y in range(13))
    quotients = drawn.arithmetic("x_div_y", 13)
    assert (quotients[:, 0] == -1).all()
    assert all(quotients[x, y] * y % 13 == x for x in range(13) for y in range(1, 13))
    composed = drawn.compositions(4)
    assert composed.shape == (24, 24)
    assert np.array_equal(composed[0], np.arange(24))  # the first order is the one that leaves all as it is
    for rows in (composed, composed.T):
        assert all(sorted(row) == list(range(24)) for row in rows)
    rng = np.random.default_rng(0)
    for x, y, z in rng.integers(24, size=(50, 3)):
        assert composed[composed[x, y], z] == composed[x, composed[y, z]]
    assert not np.array_equal(composed, composed.T)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_bad_usage(warm_python: Path, tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    done = prepare(warm_python, tmp_path / "key", tmp_path / "out")
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["--modulus=12", "--modulus=1", "--modulus=221", "--letters=9", "--judged=0"])
def test_a_size_that_there_is_no_table_of_is_bad_usage(
    warm_python: Path, data: Path, tmp_path: Path, size: str
) -> None:
    done = prepare(warm_python, data / "key", tmp_path / "out", size)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


# The judge.


def test_right_answers_are_measured_for_every_seed(warm_python: Path, data: Path, tmp_path: Path) -> None:
    write_answers(data, tmp_path / "outputs", right_from=4)
    done = evaluate(warm_python, data, tmp_path / "outputs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "examples.npz").exists()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == set(DATASETS)
    for entry in metrics.values():
        assert entry["final_info_dict"]["steps_to_99"] == [4 * EVERY] * 2
        assert entry["final_info_dict"]["steps_to_50"] == [4 * EVERY] * 2
        assert entry["final_info_dict"]["val_accuracy"] == [1.0, 1.0]
        assert 0 < entry["means"]["val_loss"] < 1e-6
        assert entry["stderrs"]["val_accuracy"] == 0


def closed_forms(data: Path) -> dict[tuple[str, int], np.ndarray]:
    """What the public operations say of the held-out pairs' names."""
    drawn = module("prepare")
    wanted = {}
    for dataset in DATASETS:
        for seed in (1, 2):
            pairs, _, _ = held_out(data, dataset, seed)
            table = drawn.results(dataset, drawn.Sizes(PRIME, 3))
            wanted[dataset, seed] = np.maximum(table[pairs[:, 0], pairs[:, 1]], 0)
    return wanted


def test_an_operation_computed_in_closed_form_is_no_better_than_chance(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    write_answers(data, tmp_path / "outputs", closed_forms(data))
    assert evaluate(warm_python, data, tmp_path / "outputs", tmp_path).returncode == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for dataset, symbols in zip(DATASETS, (PRIME,) * 3 + (ORDERS,), strict=True):
        values = metrics[dataset]["final_info_dict"]
        assert values["steps_to_99"] == values["steps_to_50"] == [STEPS, STEPS]
        assert all(value < 4 / symbols for value in values["val_accuracy"])
        assert all(value > math.log(symbols) for value in values["val_loss"])


def test_one_seeds_training_pairs_do_not_answer_for_another(data: Path) -> None:
    for dataset, symbols in zip(DATASETS, (PRIME,) * 3 + (ORDERS,), strict=True):
        with np.load(data / "train" / f"{dataset}.npz") as archive:
            known = dict(zip(map(tuple, archive["pairs_1"]), archive["answers_1"], strict=True))
        pairs, answers, _ = held_out(data, dataset, 2)
        hits = [known[pair] == answer for pair, answer in zip(map(tuple, pairs), answers, strict=True) if pair in known]
        assert len(hits) > 5
        assert np.mean(hits) < 4 / symbols


def test_answers_that_do_not_tell_symbols_apart_are_wrong_and_cost_what_chance_costs(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    write_answers(data, outputs)
    for seed in (1, 2):
        shape = np.load(outputs / f"predictions_x_plus_y_{seed}.npy").shape
        np.save(outputs / f"predictions_x_plus_y_{seed}.npy", np.full(shape, 1e30, np.float32))
    assert evaluate(warm_python, data, outputs, tmp_path).returncode == 0
    values = json.loads((tmp_path / "metrics.json").read_text())["x_plus_y"]["final_info_dict"]
    assert values["val_accuracy"] == [0.0, 0.0]
    assert values["val_loss"] == pytest.approx([math.log(PRIME)] * 2)


def test_the_first_point_above_the_share_counts_and_never_is_the_last_step() -> None:
    first = module("evaluate").steps_until
    steps = np.array([10, 20, 30, 40])
    assert first(steps, np.array([0.1, 0.99, 0.995, 0.2]), 0.99) == 30
    assert first(steps, np.array([1.0, 0, 0, 0]), 0.99) == 10
    assert first(steps, np.array([0.1, 0.2, 0.3, 0.99]), 0.99) == 40


def bad_answers() -> dict[str, np.ndarray]:
    good = np.random.default_rng(5).normal(size=(HELD_OUT, PRIME)).astype(np.float32)
    nan, infinite = good.copy(), good.copy()
    nan[17, 1], infinite[0, 0] = np.nan, np.inf
    return {
        "nan": nan,
        "infinite": infinite,
        "too few": good[:-1],
        "too many symbols": np.zeros((HELD_OUT, PRIME + 2), np.float32),
        "classes": np.zeros(HELD_OUT, np.int64),
        "whole numbers": np.zeros((HELD_OUT, PRIME), np.int64),
        "pickled": np.array([[{"a": 1}] * PRIME] * HELD_OUT, dtype=object),
    }


@pytest.mark.parametrize("fault", [*bad_answers(), "missing", "no array"])
def test_answers_that_cannot_be_judged_are_refused(data: Path, tmp_path: Path, fault: str) -> None:
    outputs = tmp_path / "outputs"
    write_answers(data, outputs)
    path = outputs / "predictions_x_plus_y_2.npy"
    assert np.load(path).shape == (HELD_OUT, PRIME)
    path.unlink()
    if fault == "no array":
        path.write_bytes(b"\x93NUMPY\x01\x00\x05\x00((((\n")
    elif fault != "missing":
        np.save(path, bad_answers()[fault], allow_pickle=True)
    assert_refused(data, outputs, path.name)


def bad_curves() -> dict[str, dict[str, np.ndarray]]:
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    taken = np.zeros((len(steps), HELD_OUT), np.int16)
    doubled = steps.copy()
    doubled[1] = doubled[0]
    return {
        "no steps": {"predictions": taken},
        "falling": {"steps": steps[::-1], "predictions": taken},
        "twice": {"steps": doubled, "predictions": taken},
        "ends early": {"steps": steps[:-1], "predictions": taken[:-1]},
        "finer": {"steps": np.arange(1, STEPS + 1), "predictions": np.zeros((STEPS, HELD_OUT), np.int16)},
        "fractions": {"steps": steps.astype(np.float64), "predictions": taken},
        "fewer pairs": {"steps": steps, "predictions": taken[:, 1:]},
        "logits": {"steps": steps, "predictions": taken.astype(np.float32)},
        "pickled": {"steps": steps, "predictions": np.array([[None] * HELD_OUT] * len(steps), dtype=object)},
    }


@pytest.mark.parametrize("fault", [*bad_curves(), "missing", "no archive"])
def test_curves_that_cannot_be_judged_are_refused(data: Path, tmp_path: Path, fault: str) -> None:
    outputs = tmp_path / "outputs"
    write_answers(data, outputs)
    path = outputs / "curve_x_plus_y_2.npz"
    path.unlink()
    if fault == "no archive":
        path.write_bytes(b"PK\x03\x04 an archive")
    elif fault != "missing":
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in bad_curves()[fault].items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=True)
                archive.writestr(f"{name}.npy", buffer.getvalue())
    assert_refused(data, outputs, path.name)


def assert_refused(data: Path, outputs: Path, name: str) -> None:
    """One sentence that names the file."""
    judge = module("evaluate")
    folders = {"outputs": outputs, "held_out": data / "answers", "train": data / "train"}
    with pytest.raises(judge.RefusedError) as refusal:
        judge.evaluate(argparse.Namespace(**folders, seeds=[1, 2], last_step=STEPS, evaluate_every=EVERY))
    said = str(refusal.value)
    assert said.startswith(f"{name} ")
    assert said.endswith(".")
    assert "\n" not in said


def test_a_refusal_is_status_1_and_one_sentence(warm_python: Path, data: Path, tmp_path: Path) -> None:
    write_answers(data, tmp_path / "outputs")
    (tmp_path / "outputs" / "curve_x_plus_y_2.npz").unlink()
    done = evaluate(warm_python, data, tmp_path / "outputs", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "curve_x_plus_y_2.npz is missing.\n"
    assert not (tmp_path / "metrics.json").exists()


# Frozen and editable parts.


@pytest.mark.parametrize("name", ["prepare", "evaluate"])
def test_the_frozen_part_needs_neither_torch_nor_the_experiment(name: str) -> None:
    tree = ast.parse((TEMPLATE / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots - {"numpy"} <= sys.stdlib_module_names


def arguments(words: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_the_settings_speak_of_the_same_data_sets_metrics_and_steps() -> None:
    settings = tomllib.loads((TEMPLATE / "template.toml").read_text())
    assert tuple(settings["datasets"]) == DATASETS == module("prepare").DATASETS
    assert [name for name, metric in settings["metrics"].items() if metric["primary"]] == ["steps_to_99"]
    assert all((TEMPLATE / name).exists() for name in settings["editable"])
    assert set(settings["profiles"]) == {"tiny", "cpu", "gpu"}
    cap = settings["metrics"]["steps_to_99"]["cap"]
    for profile in settings["profiles"].values():
        asked, judged = arguments(profile["arguments"]), arguments(profile["evaluate_arguments"])
        steps, every = int(asked["num_train_steps"]), int(asked["evaluate_every"])
        assert judged == {"last_step": str(steps), "evaluate_every": str(every)}
        assert steps % every == 0
        assert steps <= cap
        assert steps // every <= settings["curve"]["evaluations"]
        assert {"prepare", "run", "query", "evaluate", "plot", "compile"} <= set(profile["limits"])
    assert settings["curve"]["metrics"] == ["steps_to_99", "steps_to_50"]
    assert int(arguments(settings["profiles"]["gpu"]["arguments"])["num_train_steps"]) == cap == 7500


def edits_of(reply: str) -> list[re.Match[str]]:
    edits = list(BLOCK.finditer(reply))
    assert len(edits) == reply.count("<<<<<<< SEARCH") > 0
    return edits


def edited_runs() -> dict[str, dict[str, str]]:
    """The editable files of every run in the playbook, as its last attempt leaves them; each edit applies once."""
    playbook = tomllib.loads((TEMPLATE / "offline.toml").read_text())
    editable = tomllib.loads((TEMPLATE / "template.toml").read_text())["editable"]
    left = {}
    for idea in playbook["ideas"]:
        files = {name: (TEMPLATE / name).read_text() for name in editable}
        for number, run in enumerate(idea["runs"], start=1):
            for one in run["attempts"]:
                for reply in filter(None, (one["reply"], one.get("mended"))):
                    apply(files, reply)
            left[f"{idea['name']}_{number}"] = dict(files)
        apply(files, idea["plot"]["reply"])
        for number, run in enumerate(idea["runs"], start=1):
            assert f'"run_{number}": "{run["title"]}"' in files["plot.py"]
        for name, text in files.items():
            compile(text, name, "exec")
    return left


def apply(files: dict[str, str], reply: str) -> None:
    for edit in edits_of(reply):
        name, old = edit["file"], edit["old"]
        assert files[name].count(old) == 1, old
        files[name] = files[name].replace(old, edit["new"])


def test_every_offline_edit_applies_exactly_once_in_order() -> None:
    playbook = tomllib.loads((TEMPLATE / "offline.toml").read_text())
    allowed = set(tomllib.loads((TEMPLATE / "template.toml").read_text())["comparison"]["may_change"])
    assert len({idea["name"] for idea in playbook["ideas"]}) == len(playbook["ideas"]) >= 5
    assert {idea["kind"] for idea in playbook["ideas"]} == {"improvement", "analysis"}
    for idea in playbook["ideas"]:
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,39}", idea["name"])
        assert set(idea["changes"]) <= allowed
        assert r"\begin{equation}" in idea["method"]
    left = edited_runs()
    assert len({files["experiment.py"] for files in left.values()}) == len(left)


# The experiment itself.


def same_curve(one: Path, other: Path, after: int = 0, until: int = STEPS) -> bool:
    """Whether a curve holds what another one holds of the steps in (after, until]."""
    with np.load(one, allow_pickle=False) as own, np.load(other, allow_pickle=False) as whole:
        rows = (whole["steps"] > after) & (whole["steps"] <= until)
        kept = np.array_equal(own["steps"], whole["steps"][rows])
        return kept and np.array_equal(own["predictions"], whole["predictions"][rows])


def values_of(run: Path, metric: str) -> dict[str, list[float]]:
    info = json.loads((run / "final_info.json").read_text())
    return {dataset: info[dataset]["final_info_dict"][metric] for dataset in DATASETS}


@pytest.mark.slow
def test_the_same_seeds_twice_give_the_same_numbers_and_answers(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    train(lab_python, data, tmp_path / "run_0")
    assert values_of(tmp_path / "run_0", "train_loss") == values_of(run, "train_loss")
    for dataset, losses in values_of(run, "train_loss").items():
        assert len(set(losses)) == 2
        for seed in (1, 2):
            name = f"curve_{dataset}_{seed}.npz"
            assert same_curve(tmp_path / "run_0" / name, run / name)
        assert not same_curve(run / f"curve_{dataset}_1.npz", run / f"curve_{dataset}_2.npz")


@pytest.mark.slow
def test_a_stack_of_one_gives_what_a_stack_of_all_gives_up_to_rounding(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    train(warm_python, data, tmp_path / "run_0", "--stack=1")
    together, alone = values_of(run, "train_loss"), values_of(tmp_path / "run_0", "train_loss")
    for dataset in DATASETS:
        assert alone[dataset] == pytest.approx(together[dataset], rel=1e-3)


def test_random_numbers_begin_anew_without_a_stack_trace(warm_python: Path) -> None:
    """`torch.manual_seed` takes one for each kind of device that is absent: a tenth of a small step, in each step."""
    code = f"""
import sys, traceback
sys.path.insert(0, {str(TEMPLATE)!r})
import torch, experiment
taken, usual = [], traceback.format_stack
traceback.format_stack = lambda *given, **named: taken.append(1) or usual(*given, **named)
torch.manual_seed(7)
expected = torch.rand(3)
assert taken, "torch takes none by itself any more: seed_device can go"
taken.clear()
experiment.seed_device(torch.device("cpu"), 7)
assert torch.equal(torch.rand(3), expected)
assert not taken
"""
    done = subprocess.run([str(warm_python), "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--stack=1",)])
def test_a_stretch_done_again_gives_the_same_answers(
    warm_python: Path, data: Path, run: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    whole = run
    if extra:
        whole = tmp_path / "whole"
        train(warm_python, data, whole, *extra)
    for dataset, after in (("x_minus_y", 10), ("permutation", 20), ("x_div_y", 0)):
        again, seed = tmp_path / dataset, 2
        checkpoint = whole / f"checkpoint_{dataset}_{seed}_{after}.pt" if after else ""
        how = (f"--only_dataset={dataset}", f"--resume_from={checkpoint}", "--stop_at=30")
        train(warm_python, data, again, *how, *extra, seeds=str(seed))
        name = f"curve_{dataset}_{seed}.npz"
        assert same_curve(again / name, whole / name, after, 30)
        assert (again / "final_info.json").exists()
        assert not list(again.glob("curve_*_1.npz"))


@pytest.mark.slow
def test_a_run_that_was_broken_off_is_taken_up_and_ends_the_same(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "run_0"
    shutil.copytree(run, broken)
    for path in broken.iterdir():  # as if it had ended amid the last but one stretch of one of the stacks
        late = path.name.startswith("checkpoint_x") and path.stem.endswith("_30")
        if path.name.startswith(("model_", "final_info", "train_curves", "parameters")) or late:
            path.unlink()
    done = program(warm_python, "experiment.py", f"--out_dir={broken}", *SMALL, **told(data))
    assert done.returncode == 0, done.stderr
    assert "step 20/40 of 6 models" not in done.stdout
    assert "step 24/40 of 6 models" in done.stdout
    assert "step 28/40 of 2 models" not in done.stdout
    for metric in ("train_loss", "train_steps_to_99"):
        assert values_of(broken, metric) == values_of(run, metric)
    for curve in run.glob("curve_*.npz"):
        assert same_curve(broken / curve.name, curve)
    other = program(warm_python, "experiment.py", f"--out_dir={tmp_path / 'other'}", *SMALL, "--learning_rate=0.1",
                    f"--resume_from={run / 'checkpoint_x_plus_y_1_10.pt'}", "--only_dataset=x_plus_y",
                    **told(data, "1"))  # fmt: skip
    assert other.returncode != 0
    assert "was written with other arguments" in other.stderr


@pytest.mark.slow
def test_a_member_alone_is_what_it_is_in_the_stack_with_every_offline_edit(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("journal.py", "tables.py"):
        shutil.copy(TEMPLATE / name, tmp_path)
    programs = {"baseline": (TEMPLATE / "experiment.py").read_text()}
    programs |= {name: files["experiment.py"] for name, files in edited_runs().items()}
    paths = []
    for name, text in programs.items():
        paths.append(tmp_path / f"{name}.py")
        paths[-1].write_text(text)
    (tmp_path / "alone.py").write_text(ALONE)
    command = [str(warm_python), "-B", str(tmp_path / "alone.py"), str(tmp_path), *map(str, paths)]
    environment = {"PATH": "/usr/bin:/bin", **told(data)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    done_with = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith("step ")]
    assert done_with == list(programs)


@pytest.mark.slow
def test_checkpoints_answer_what_the_curve_says_and_hold_no_answers(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(
        "import sys, torch, numpy as np\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import serve\n"
        "inputs, run = np.load(sys.argv[2]), sys.argv[3]\n"
        "curve = np.load(f'{run}/curve_x_plus_y_2.npz')\n"
        "saved = torch.load(f'{run}/checkpoint_x_plus_y_2_20.pt', weights_only=True)\n"
        "assert set(saved) == {'config', 'symbols', 'state', 'step', 'moments', 'history'}, set(saved)\n"
        "for step in (10, 20, 30):\n"
        "    model = serve.load_checkpoint(f'{run}/checkpoint_x_plus_y_2_{step}.pt', 'x_plus_y', 2)\n"
        "    taken = serve.predict(model, inputs).argmax(axis=-1)\n"
        "    assert (taken == curve['predictions'][list(curve['steps']).index(step)]).all(), step\n"
        "last = serve.predict(serve.load(run, 'x_plus_y', 2), inputs)\n"
        "assert last.dtype == np.float32 and last.shape == (len(inputs), 11)\n"
        "assert (last.argmax(axis=-1) == curve['predictions'][-1]).all()\n"
    )
    command = [str(warm_python), "-B", str(tmp_path / "ask.py"), str(TEMPLATE)]
    command += [str(data / "inputs" / "x_plus_y_2.npy"), str(run)]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in run.glob("checkpoint_permutation_1_*")) == [
        f"checkpoint_permutation_1_{step}.pt" for step in (10, 20, 30)
    ]


@pytest.mark.slow
def test_a_run_leaves_the_promised_files_and_counts(run: Path) -> None:
    counts = json.loads((run / "parameters.json").read_text())
    block = 4 * 16 * 16 + 3 * 16 + (16 * 64 + 64) + (64 * 16 + 16) + 2 * 32
    assert counts["parameters"] == 13 * 16 + 4 * 16 + 2 * block + 32 + (16 * 13 + 13)
    assert (counts["updates"], counts["samples_seen"]) == (STEPS, STEPS * 8)
    assert counts["without_gradient"] == []
    with np.load(run / "train_curves.npz", allow_pickle=False) as curves:
        assert set(curves.files) == {"steps", *(f"{dataset}_{seed}" for dataset in DATASETS for seed in (1, 2))}
        assert all(curves[name].shape == (STEPS, 2) for name in curves.files if name != "steps")
    assert {path.suffix for path in run.iterdir()} == {".pt", ".npz", ".npy", ".json"}


@pytest.mark.slow
def test_the_original_sizes_have_the_original_number_of_parameters(warm_python: Path) -> None:
    count = (
        "import experiment; print(sum(p.numel() for p in experiment.Transformer(experiment.Config(), 97).parameters()))"
    )
    command = [str(warm_python), "-B", "-c", f"import sys; sys.path.insert(0, {str(TEMPLATE)!r}); {count}"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120)
    assert int(done.stdout) == 422_499, done.stderr  # 0.42 M


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(warm_python: Path, data: Path, run: Path) -> None:
    before = (run / "final_info.json").stat().st_mtime_ns
    done = program(warm_python, "experiment.py", f"--out_dir={run}", *SMALL, **told(data))
    assert done.returncode == 0
    assert "is finished" in done.stdout
    assert (run / "final_info.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["--no_such_thing=1", "--num_train_steps=0", "--evaluate_every=7"])
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
    assert done.stdout == ""
    for name in ("train_accuracy", "train_loss", "steps_by_run"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
