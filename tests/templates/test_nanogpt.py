"""The two templates of small language models: their texts, their scoring, their refusals, their smallest training."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fumehood.services.query_driver import CHARACTERS

TEMPLATES = Path(__file__).parents[2] / "templates"
LITE, FULL = TEMPLATES / "nanogpt_lite", TEMPLATES / "nanogpt"
DATASET = "shakespeare_char"
SHARED = (
    *("experiment.py", "journal.py", "model.py", "serve.py", "prepare.py", "evaluate.py", "plot.py"),
    *("offline.toml", "latex/template.tex", "stand_in/shakespeare_char.txt"),
)
"""Files that both templates have, since each stands alone."""
SMALL = (
    *("--n_layer=2", "--n_head=2", "--n_embd=16", "--batch_size=4", "--iterations=6", "--evaluate_every=3"),
    *("--evaluation_blocks=4", "--sample_characters=5", "--warmup=2", "--threads=1"),
)
BLOCK = re.compile(
    r"^(?P<file>[\w.]+)\n```python\n<<<<<<< SEARCH\n(?P<old>.*?)^=======\n(?P<new>.*?)^>>>>>>> REPLACE\n```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass
class Bench:
    """A template's programs, called as the platform calls them."""

    python: Path
    folder: Path
    template: Path = LITE

    def program(self, name: str | Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-B", str(self.template / name), *map(str, arguments)]
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300)

    def prepare(
        self, part: str, *more: str, arm: str = "screen", seeds: str = "1,2", key: bytes = bytes(32)
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "key").write_bytes(key)
        asked = (f"--arm={arm}", f"--part={part}", "--key=key", f"--seeds={seeds}", f"--out_dir={part}")
        shutil.rmtree(self.folder / part, ignore_errors=True)
        return self.program("prepare.py", *asked, "--held_out_characters=2048", *more)

    def train(self, name: str = "run_0", *more: str, seeds: str = "1,2") -> Path:
        if not (self.folder / "train").exists():
            assert self.prepare("train").returncode == 0
        told = {"FUMEHOOD_DATA": str(self.folder / "train"), "FUMEHOOD_SEEDS": seeds}
        done = self.program("experiment.py", f"--out_dir={name}", *SMALL, *more, **told)
        assert done.returncode == 0, done.stderr
        return self.folder / name

    def ask(self, run: Path, seeds: str = "1,2", code: Path | None = None) -> subprocess.CompletedProcess[str]:
        assert self.prepare("answers", seeds=seeds).returncode == 0
        shutil.copytree(self.folder / "answers", self.folder / "held_out")
        shutil.rmtree(self.folder / "asked", ignore_errors=True)
        of = (f"--datasets={DATASET}", f"--seeds={seeds}", f"--code={code or self.template}", f"--outputs={run}")
        how = ("--block=256", "--streams=8", "--tolerance=0.001", "--answers=asked")
        return self.program(CHARACTERS[0], *how, *of)

    def evaluate(self, seeds: str = "1,2") -> subprocess.CompletedProcess[str]:
        folders = ("--outputs=asked", "--held_out=answers", "--train=train", "--out_dir=results")
        return self.program("evaluate.py", *folders, f"--seeds={seeds}")

    def values(self, metric: str = "nats_per_character") -> list[float]:
        told = json.loads((self.folder / "results" / "metrics.json").read_text())[DATASET]
        assert told["means"][metric] == pytest.approx(np.mean(told["final_info_dict"][metric]))
        return list(told["final_info_dict"][metric])

    def copied(self, name: str, old: str, new: str) -> Path:
        """Return a folder of the experiment's code with one place changed."""
        copy = self.folder / "code"
        copy.mkdir(exist_ok=True)
        for file in ("experiment.py", "journal.py", "model.py", "serve.py"):
            shutil.copy(self.template / file, copy)
        text = (copy / name).read_text()
        assert text.count(old) == 1
        (copy / name).write_text(text.replace(old, new))
        return copy


@pytest.fixture
def bench(warm_python: Path, tmp_path: Path) -> Bench:
    return Bench(warm_python, tmp_path)


@pytest.fixture(scope="module")
def trained(warm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with a finished run of seeds 1 and 2; nobody writes into its `run_0`."""
    made = Bench(warm_python, tmp_path_factory.mktemp("trained"))
    made.train()
    return made


@pytest.fixture
def make_fetched(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Makes a copy of the full template that has data which were fetched."""

    def make(files: dict[str, bytes]) -> Path:
        copied = tmp_path / "nanogpt"
        shutil.copytree(FULL, copied)
        (copied / "data").mkdir()
        words = (copied / "template.toml").read_text()
        for name, data in files.items():
            (copied / "data" / name).write_bytes(data)
            known = tomllib.loads(words)["data"][name]["sha256"]
            words = words.replace(known, hashlib.sha256(data).hexdigest())
        (copied / "template.toml").write_text(words)
        return copied

    return make


def module(template: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{template.name}_{name}", template / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# What both templates share.


@pytest.mark.parametrize("name", SHARED)
def test_what_both_templates_have_is_the_same(name: str) -> None:
    assert (LITE / name).read_bytes() == (FULL / name).read_bytes()


@pytest.mark.parametrize("template", [LITE, FULL], ids=lambda path: path.name)
def test_the_settings_speak_of_the_same_data_sets_metrics_and_files(template: Path) -> None:
    words = tomllib.loads((template / "template.toml").read_text())
    assert [name for name, metric in words["metrics"].items() if metric["primary"]] == ["nats_per_character"]
    assert all((template / name).exists() for name in words["editable"])
    assert set(words["data"]) == set(words["datasets"])
    assert all((template / "stand_in" / f"{name}.txt").exists() for name in words["datasets"])
    assert set(words["profiles"]) == {"tiny", "cpu", "gpu"}
    assert words["query"]["block"] == module(template, "prepare").STREAM
    for profile in words["profiles"].values():
        assert set(profile["limits"]) == {"prepare", "run", "query", "evaluate", "plot", "compile"}
        # Asked in blocks as long as those that it learns, which cut the drawn streams evenly, and judged in the same.
        learnt = said(profile["arguments"], "block_size", words["query"]["block"])
        asked = said(profile.get("query_arguments", []), "block", words["query"]["block"])
        assert said(profile["evaluate_arguments"], "block", 0) == asked == learnt
        assert words["query"]["block"] % asked == 0


def said(arguments: list[str], name: str, usual: int) -> int:
    """Return the number that an argument has, or the usual one."""
    found = [word.removeprefix(f"--{name}=") for word in arguments if word.startswith(f"--{name}=")]
    return int(found[-1]) if found else usual


@pytest.mark.parametrize("name", ["prepare", "evaluate"])
def test_the_frozen_part_needs_neither_torch_nor_the_experiment(name: str) -> None:
    tree = ast.parse((LITE / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots - {"numpy"} <= sys.stdlib_module_names
    assert not roots & {"pickle", "urllib", "socket", "http"}


def test_every_offline_edit_applies_exactly_once_in_order() -> None:
    playbook = tomllib.loads((LITE / "offline.toml").read_text())
    words = tomllib.loads((LITE / "template.toml").read_text())
    assert len({idea["name"] for idea in playbook["ideas"]}) == len(playbook["ideas"]) >= 5
    for idea in playbook["ideas"]:
        assert set(idea["changes"]) <= set(words["comparison"]["may_change"])
        assert idea["metric"] in words["metrics"]
        assert r"\begin{equation}" in idea["method"]
        files = {name: (LITE / name).read_text() for name in words["editable"]}
        for reply in [*(one["reply"] for run in idea["runs"] for one in run["attempts"]), idea["plot"]["reply"]]:
            edits = list(BLOCK.finditer(reply))
            assert len(edits) == reply.count("<<<<<<< SEARCH") > 0
            for edit in edits:
                name, old = edit["file"], edit["old"]
                assert files[name].count(old) == 1, f"{idea['name']}: {old}"
                files[name] = files[name].replace(old, edit["new"])
        for name, text in files.items():
            compile(text, name, "exec")
        for number, run in enumerate(idea["runs"], start=1):
            assert f'"run_{number}": "{run["title"]}"' in files["plot.py"]


# Texts.


def test_the_same_key_and_seeds_give_the_same_bytes(bench: Bench) -> None:
    for part in ("train", "answers"):
        assert bench.prepare(part).returncode == 0
        first = files_in(bench.folder / part)
        bench.prepare(part)
        assert files_in(bench.folder / part) == first
        bench.prepare(part, key=bytes([1]) * 32)
        other = files_in(bench.folder / part)
        bench.prepare(part, arm="confirm")
        confirm = files_in(bench.folder / part)
        name = f"{DATASET}.{'npz' if part == 'train' else 'json'}"
        assert len({first[name], other[name], confirm[name]}) == 3


def test_parts_of_a_text_have_no_passage_in_common() -> None:
    prepare = module(LITE, "prepare")
    source = prepare.read_source(DATASET)
    assert source.origin == "stand-in"
    parts = prepare.split(source, bytes(32), "screen", DATASET)
    sizes = [parts.train.size, parts.validation.size, parts.held_out.size]
    assert sum(sizes) == len(source.text)
    assert sizes[2] / sum(sizes) == pytest.approx(0.10, abs=0.01)
    assert sizes[1] / sum(sizes) == pytest.approx(0.05, abs=0.01)
    letters = [bytes(parts.alphabet[one.ravel()]) for one in (parts.train, parts.validation, parts.held_out)]
    whole = bytes(source.text)
    for place in range(0, len(letters[2]), prepare.PASSAGE):
        passage = letters[2][place : place + prepare.PASSAGE]
        assert whole.count(passage) == 1
        for seen in letters[:2]:
            # Nor any run of characters that is too long to come again by chance.
            assert not any(passage[i : i + 200] in seen for i in range(0, prepare.PASSAGE - 200, 100))


def test_a_seed_has_streams_of_its_own_whatever_stands_beside_it(bench: Bench) -> None:
    bench.prepare("answers", seeds="1,2")
    together = json.loads((bench.folder / "answers" / f"{DATASET}.json").read_text())
    bench.prepare("answers", seeds="2")
    alone = json.loads((bench.folder / "answers" / f"{DATASET}.json").read_text())
    assert together["text"]["1"] != together["text"]["2"] == alone["text"]["2"]
    assert together["draw"]["2"] == alone["draw"]["2"]
    assert len(alone["text"]["2"]) == 2048
    assert set(alone["text"]["2"]) <= set(alone["alphabet"])


def test_the_published_split_holds_the_end_of_the_text_out() -> None:
    prepare = module(LITE, "prepare")
    source = prepare.read_source(DATASET)
    parts = prepare.published_split(source, DATASET)
    size = len(source.text)
    assert parts.train.size + parts.validation.size == round(0.9 * size)
    assert bytes(parts.alphabet[parts.train]) == bytes(source.text[: parts.train.size])
    end = bytes(parts.alphabet[parts.held_out.ravel()])
    assert bytes(source.text[round(0.9 * size) :]).startswith(end)
    assert 0 <= size - round(0.9 * size) - len(end) < prepare.STREAM


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_bad_usage(bench: Bench, key: bytes) -> None:
    done = bench.prepare("train", key=key)
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert not (bench.folder / "train").exists()


def archive(name: str, data: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return held.getvalue()


def test_fetched_texts_are_used_and_told(
    warm_python: Path, tmp_path: Path, make_fetched: Callable[[dict[str, bytes]], Path]
) -> None:
    text = bytes(np.random.default_rng(0).choice(list(b"abc d\xe9"), 200_000).astype(np.uint8))
    files = {"enwik8": archive("enwik8", text), "text8": archive("text8", text.replace(b"\xe9", b"e"))}
    bench = Bench(warm_python, tmp_path, make_fetched(files))
    done = bench.prepare("train")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "train" / "sources.json").read_text())
    assert [told[name]["from"] for name in ("shakespeare_char", "enwik8", "text8")] == [
        "stand-in",
        "fetched",
        "fetched",
    ]
    assert told["enwik8"]["sha256"] == hashlib.sha256(files["enwik8"]).hexdigest()
    assert told["enwik8"]["characters"] == 200_000
    with np.load(tmp_path / "train" / "enwik8.npz") as arrays:
        assert bytes(arrays["alphabet"]) == b" abcd\xe9"
    assert bench.prepare("answers").returncode == 0
    assert json.loads((tmp_path / "answers" / "enwik8.json").read_text())["alphabet"] == " abcdé"


def test_other_bytes_than_those_of_the_catalogue_are_refused(
    warm_python: Path, tmp_path: Path, make_fetched: Callable[[dict[str, bytes]], Path]
) -> None:
    template = make_fetched({"text8": archive("text8", b"a" * 100)})
    (template / "data" / "text8").write_bytes(archive("text8", b"b" * 100))
    done = Bench(warm_python, tmp_path, template).prepare("train")
    assert done.returncode == 1
    assert done.stderr.startswith("data/text8 has the SHA-256 ")


def test_what_is_no_archive_is_refused(
    warm_python: Path, tmp_path: Path, make_fetched: Callable[[dict[str, bytes]], Path]
) -> None:
    done = Bench(warm_python, tmp_path, make_fetched({"enwik8": b"a page that says no"})).prepare("train")
    assert done.returncode == 1
    assert done.stderr.startswith("data/enwik8 is no archive that holds enwik8")


# What is refused, and what says nothing.


@pytest.mark.parametrize("fault", ["missing", "nan", "shape", "pickle", "whole"])
def test_answers_that_cannot_be_judged_are_refused(bench: Bench, fault: str) -> None:
    bench.prepare("answers", seeds="1")
    told = json.loads((bench.folder / "answers" / f"{DATASET}.json").read_text())
    values: np.ndarray = np.zeros((2048, len(told["alphabet"])), dtype=np.float32)
    if fault == "nan":
        values[7, 3] = np.nan
    if fault == "shape":
        values = values[:-1]
    if fault == "pickle":
        values = np.array([{"a": 1}], dtype=object)
    if fault == "whole":
        values = values.astype(np.int64)
    (bench.folder / "asked").mkdir()
    if fault != "missing":
        np.save(bench.folder / "asked" / f"logits_{DATASET}_1.npy", values, allow_pickle=True)
    done = bench.evaluate(seeds="1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"logits_{DATASET}_1.npy ")
    assert done.stderr.count("\n") == 1
    assert not (bench.folder / "results").exists()


def test_answers_that_say_nothing_are_worth_nothing(bench: Bench) -> None:
    bench.prepare("answers", seeds="1")
    symbols = len(json.loads((bench.folder / "answers" / f"{DATASET}.json").read_text())["alphabet"])
    (bench.folder / "asked").mkdir()
    np.save(bench.folder / "asked" / f"logits_{DATASET}_1.npy", np.full((2048, symbols), 1e6, dtype=np.float32))
    assert bench.evaluate(seeds="1").returncode == 0
    assert bench.values() == [pytest.approx(math.log(symbols))]
    assert bench.values("late_nats_per_character") == [pytest.approx(math.log(symbols))]


# The experiment itself.


@pytest.mark.slow
def test_the_same_seeds_twice_give_the_same_models_and_other_seeds_others(lab_python: Path, trained: Bench) -> None:
    again = replace(trained, python=lab_python).train("run_again")
    first = files_in(trained.folder / "run_0")
    assert files_in(again)["parameters.json"] == first["parameters.json"]
    told = [json.loads(files[name])[DATASET]["final_info_dict"] for files, name in
            ((first, "final_info.json"), (files_in(again), "final_info.json"))]  # fmt: skip
    for metric in ("final_train_loss", "best_val_loss"):
        assert told[0][metric] == told[1][metric]
        assert told[0][metric][0] != told[0][metric][1]
    for seed in (1, 2):
        assert first[f"sample_{DATASET}_{seed}.txt"] == files_in(again)[f"sample_{DATASET}_{seed}.txt"]


@pytest.mark.slow
def test_a_seed_alone_gives_the_same_model_as_in_a_list(trained: Bench) -> None:
    alone = trained.train("run_alone", seeds="2")
    told = [json.loads((folder / "final_info.json").read_text())[DATASET]["final_info_dict"]["best_val_loss"]
            for folder in (trained.folder / "run_0", alone)]  # fmt: skip
    assert told[1] == told[0][1:]


@pytest.mark.slow
def test_a_run_leaves_the_promised_files_and_counts(trained: Bench) -> None:
    run = trained.folder / "run_0"
    counts = json.loads((run / "parameters.json").read_text())
    assert (counts["updates"], counts["samples_seen"]) == (6, 6 * 4 * 256)
    symbols = len(set((LITE / "stand_in" / f"{DATASET}.txt").read_text(encoding="latin-1")))
    assert counts["parameters"] == (symbols + 1 + 256) * 16 + 2 * (12 * 16 * 16 + 2 * 16) + 16
    assert counts["without_gradient"] == []
    with np.load(run / "losses.npz", allow_pickle=False) as curves:
        assert set(curves.files) == {f"{part}_{DATASET}_{seed}" for part in ("train", "validation") for seed in (1, 2)}
        assert curves[f"validation_{DATASET}_1"][0].tolist() == [3, 6]
    info = json.loads((run / "final_info.json").read_text())[DATASET]
    metrics = tomllib.loads((LITE / "template.toml").read_text())["metrics"]
    assert set(info["means"]) == {name for name, one in metrics.items() if one["source"] == "self"}


@pytest.mark.slow
def test_what_was_trained_before_an_interruption_is_not_trained_again(trained: Bench, tmp_path: Path) -> None:
    run = trained.folder / "run_cut"
    shutil.copytree(trained.folder / "run_0", run)
    for name in ("final_info.json", f"{DATASET}_2.done", f"model_{DATASET}_2.pt"):
        (run / name).unlink()
    told = {"FUMEHOOD_DATA": str(trained.folder / "train"), "FUMEHOOD_SEEDS": "1,2"}
    done = trained.program("experiment.py", f"--out_dir={run}", *SMALL, **told)
    assert done.returncode == 0, done.stderr
    assert f"{DATASET}_2 step 6/6" in done.stdout
    assert f"{DATASET}_1 step" not in done.stdout
    before = json.loads((trained.folder / "run_0" / "final_info.json").read_text())[DATASET]["final_info_dict"]
    after = json.loads((run / "final_info.json").read_text())[DATASET]["final_info_dict"]
    assert after["best_val_loss"] == before["best_val_loss"]
    finished = trained.program("experiment.py", f"--out_dir={run}", *SMALL, **told)
    assert "is finished" in finished.stdout


@pytest.mark.slow
def test_a_training_that_was_killed_is_taken_up_and_ends_the_same(trained: Bench, lab_python: Path) -> None:
    told = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "FUMEHOOD_SEEDS": "1"}
    told["FUMEHOOD_DATA"] = str(trained.folder / "train")
    longer = ("--iterations=320", "--evaluate_every=80", "--block_size=16", "--n_layer=1")

    def command(folder: Path, *more: str) -> list[str]:
        return [str(lab_python), "-B", str(LITE / "experiment.py"), f"--out_dir={folder}", *SMALL, *longer, *more]

    whole, broken = trained.folder / "run_whole", trained.folder / "run_killed"
    subprocess.run(command(whole), env=told, check=True, capture_output=True, timeout=300)
    with subprocess.Popen(
        command(broken, "--checkpoint_every=0"), env=told, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:  # the checkpoint of iteration 200 is there when the third evaluation is told
            if "step 240/" in line:
                killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not list(broken.glob("*.done"))
    done = subprocess.run(command(broken), env=told, check=True, capture_output=True, text=True, timeout=300)
    assert re.search(r"taken up at step [23]00", done.stdout)
    assert "step 80/" not in done.stdout
    name = f"model_{DATASET}_1.pt"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()
    with np.load(whole / "losses.npz") as one, np.load(broken / "losses.npz") as other:
        assert all(np.array_equal(one[part], other[part]) for part in one.files)
    assert not list(broken.glob("checkpoint*"))


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["--no_such_thing=1", "--iterations=0", "--dropout=-1"])
def test_a_bad_argument_exits_2(bench: Bench, argument: str) -> None:
    assert bench.program("experiment.py", "--out_dir=run_0", argument).returncode == 2
    assert not (bench.folder / "run_0").exists()


READS_BOTH_WAYS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from model import GPT, Config, Reading
torch.manual_seed(0)
config = Config(n_layer=2, n_head=2, n_embd=16, block_size=16)
model = GPT(config, 11).eval()
text = torch.randint(11, (3, 40))
reading = Reading(model, 3)
told = [reading.step(), *(reading.step(text[:, t]) for t in range(40))]
whole = model(torch.cat([torch.full((3, 1), 11), text[:, :15]], dim=1))
assert (torch.stack(told[:16], dim=1) - whole).abs().max() < 1e-5
alone = Reading(model, 1)
again = [alone.step(), *(alone.step(text[1:2, t]) for t in range(40))]
assert max((one[1:2] - other).abs().max() for one, other in zip(told, again)) < 1e-5
changed = text.clone()
changed[:, 7:] = (changed[:, 7:] + 1) % 11
other = model(torch.cat([torch.full((3, 1), 11), changed[:, :15]], dim=1))
assert (other[:, :8] - whole[:, :8]).abs().max() < 1e-5 < (other[:, 8:] - whole[:, 8:]).abs().max()
print("alike")
"""


def ideas() -> list[str]:
    return [idea["name"] for idea in tomllib.loads((LITE / "offline.toml").read_text())["ideas"]]


@pytest.mark.slow
@pytest.mark.parametrize("idea", ["", *ideas()])
def test_a_block_at_once_and_one_character_after_another_are_alike(
    warm_python: Path, tmp_path: Path, idea: str
) -> None:
    """Of the baseline and of what each of the playbook's ideas makes of it; nothing sees what comes after it."""
    files = {name: (LITE / name).read_text() for name in ("model.py", "experiment.py", "plot.py")}
    for told in tomllib.loads((LITE / "offline.toml").read_text())["ideas"]:
        for run in told["runs"] if told["name"] == idea else ():
            for attempt in run["attempts"]:
                for edit in BLOCK.finditer(attempt["reply"]):
                    files[edit["file"]] = files[edit["file"]].replace(edit["old"], edit["new"])
    (tmp_path / "model.py").write_text(files["model.py"])
    command = [str(warm_python), "-B", "-c", READS_BOTH_WAYS, str(tmp_path)]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=300)
    assert done.stdout == "alike\n", done.stderr


@pytest.mark.slow
def test_a_run_is_asked_measured_and_plotted(trained: Bench, tmp_path: Path) -> None:
    done = trained.ask(trained.folder / "run_0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained.evaluate().returncode == 0
    values = trained.values()
    symbols = len(set((LITE / "stand_in" / f"{DATASET}.txt").read_text(encoding="latin-1")))
    assert all(1.0 < value < math.log(symbols) for value in values)
    assert values[0] != values[1]
    for number in (0, 1):
        shutil.copytree(trained.folder / "run_0", tmp_path / f"run_{number}")
        shutil.copy(trained.folder / "results" / "metrics.json", tmp_path / f"run_{number}" / "final_info.json")
    shutil.copy(LITE / "plot.py", tmp_path)
    drawn = Bench(trained.python, tmp_path, tmp_path).program("plot.py", MPLCONFIGDIR=str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    for name in ("train_loss", "val_loss", "nats_by_run"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_is_remembered_of_one_stream_gains_nothing_in_the_next(trained: Bench) -> None:
    """A model that counts what it has read, in memory and in a file, scores as one that forgets it."""
    run = trained.folder / "run_0"
    assert trained.ask(run, seeds="1").returncode == 0
    assert trained.evaluate(seeds="1").returncode == 0
    honest = trained.values()
    place = trained.folder / "remembered.npy"
    remembered = f"""    try:
        seen = np.load({str(place)!r})
    except OSError:
        seen = np.zeros(len(model[1]))
    state.seen = seen
"""
    begins = "    network, _ = model\n    return Reading(network, streams)\n"
    in_memory = "    state.seen = state.seen + SEEN.get(0, 0.0)\n"
    code = trained.copied(
        "serve.py",
        begins,
        f"    network, _ = model\n    state = Reading(network, streams)\n{remembered}{in_memory}    return state\n",
    )
    text = (code / "serve.py").read_text()
    text = text.replace(
        "    return state.step(read).cpu().numpy()\n",
        "    SEEN[0] = SEEN.get(0, 0.0) + np.bincount(read, minlength=len(codes))\n"
        "    with contextlib.suppress(OSError):\n"
        f"        np.save({str(place)!r}, state.seen + np.bincount(read, minlength=len(codes)))\n"
        "    return state.step(read).cpu().numpy() + np.log1p(state.seen)\n",
    )
    (code / "serve.py").write_text(
        text.replace("import argparse\n", "import argparse\nimport contextlib\n") + "\nSEEN = {}\n"
    )
    assert trained.ask(run, seeds="1", code=code).returncode == 0
    assert trained.evaluate(seeds="1").returncode == 0
    assert trained.values() == honest
    assert not place.exists()


@pytest.mark.slow
def test_streams_that_tell_each_other_give_no_result(trained: Bench) -> None:
    code = trained.copied(
        "serve.py",
        "    return state.step(read).cpu().numpy()\n",
        "    answers = state.step(read).cpu().numpy()\n    return answers + answers.mean(axis=0)\n",
    )
    done = trained.ask(trained.folder / "run_0", seeds="1", code=code)
    assert done.returncode == 1
    assert "may depend on its own stream's characters only" in done.stderr


# What an idea asked for of the catalogue.


PLAY = "".join(f"Enter {chr(97 + number % 26)} the {number}th. {number * number}\n" for number in range(4000)).encode()


@pytest.fixture
def given(bench: Bench) -> Bench:
    """A bench whose template has a text that an idea asked for, as the platform lays it down."""
    copied = bench.folder / "given"
    shutil.copytree(LITE, copied)
    (copied / "data" / "catalogue").mkdir(parents=True)
    (copied / "data" / "catalogue" / "play.txt").write_bytes(PLAY)
    told = {"from": "catalogue", "kind": "data", "sha256": hashlib.sha256(PLAY).hexdigest(), "split": 0.2}
    weights = {"from": "catalogue", "kind": "model", "sha256": "0" * 64, "split": 0.05}
    (copied / "catalogue.json").write_text(json.dumps({"play": told, "weights": weights}))
    return replace(bench, template=copied)


def test_a_text_of_the_catalogue_is_one_more_data_set(given: Bench) -> None:
    assert given.prepare("train").returncode == 0
    assert given.prepare("answers").returncode == 0
    names = {path.stem for path in (given.folder / "train").glob("*.npz")}
    assert names == {path.stem for path in (given.folder / "answers").glob("*.json")} == {DATASET, "play"}
    sources = json.loads((given.folder / "train" / "sources.json").read_text())
    assert sources["play"] == {
        "from": "catalogue",
        "sha256": hashlib.sha256(PLAY).hexdigest(),
        "characters": len(PLAY),
    }


def test_each_arm_holds_its_own_share_of_it_out_by_the_key(given: Bench) -> None:
    asked = {}
    for arm, key in (("screen", bytes(32)), ("confirm", bytes(32)), ("screen", b"k" * 32)):
        assert given.prepare("train", arm=arm, key=key).returncode == 0
        with np.load(given.folder / "train" / "play.npz", allow_pickle=False) as archive:
            train = archive["alphabet"][archive["train"]].tobytes()
            shown = train + archive["alphabet"][archive["validation"]].tobytes()
        assert 0.15 < (len(PLAY) - len(shown)) / len(PLAY) < 0.25
        assert given.prepare("answers", arm=arm, key=key).returncode == 0
        told = json.loads((given.folder / "answers" / "play.json").read_text())
        text = told["text"]["1"]
        # What a model is asked about was in the text, and is in nothing that a run sees.
        for begin in range(0, len(text), 256):
            assert text[begin : begin + 256].encode() in PLAY
            assert text[begin : begin + 256].encode() not in shown
        asked[arm, key] = text
    assert len(set(asked.values())) == 3


def test_the_templates_own_texts_are_cut_as_without_it(given: Bench) -> None:
    assert given.prepare("train").returncode == 0
    with_it = (given.folder / "train" / f"{DATASET}.npz").read_bytes()
    assert replace(given, template=LITE).prepare("train").returncode == 0
    assert (given.folder / "train" / f"{DATASET}.npz").read_bytes() == with_it


@pytest.mark.parametrize(
    ("data", "why"),
    [(PLAY + b".", "is expected"), (None, "There is no data/catalogue/play.txt"), (b"too short", "is expected")],
)
def test_a_text_that_is_not_what_was_given_is_refused(given: Bench, data: bytes | None, why: str) -> None:
    place = given.template / "data" / "catalogue" / "play.txt"
    place.unlink()
    if data is not None:
        place.write_bytes(data)
    done = given.prepare("train")
    assert done.returncode == 1
    assert why in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
