"""Drafts of templates: which sort a program is, what a draft holds, what is refused, and what an approval means."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.cli import drafting as command
from fumehood.cli import repositories
from fumehood.cli.drafting import Answers
from fumehood.cli.output import Progress
from fumehood.cli.repositories import Taken
from fumehood.errors import BadInputError, FumehoodError
from fumehood.services import drafting, templates
from fumehood.services.drafting import Sort
from fumehood.settings import Settings

FUNCTIONS = "def fit(x, y, seed):\n    return y.mean()\n\n\ndef predict(model, x):\n    return [model] * len(x)\n"
CONTRACT = "import argparse\nargparse.ArgumentParser().add_argument('--out_dir')\nopen('run_0/final_info.json', 'w')\n"
PRINTS = "print('loss: 1.5')\n"
MANY = 200


def table(rows: int = MANY, *, classes: bool = False) -> str:
    kind = (lambda i: "even" if i % 2 == 0 else "odd") if classes else (lambda i: str(i * 0.5))
    return "a,y,b\n" + "".join(f"{i},{kind(i)},{i % 7}\n" for i in range(rows))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "contract.py").write_text(CONTRACT)
    (tmp_path / "prints.py").write_text(PRINTS)
    (tmp_path / "table.csv").write_text(table())
    return tmp_path


def drafted(work: Path, source: str, out: str = "made", **given: Any) -> Path:
    data = work / given.pop("data") if "data" in given else None
    where = str(work / source) if "." in source else source
    answers = Answers(source=where, data=data, task="Study it.", **given)
    command.check_place(work / out)
    command.draft(answers, work / out, lambda _: None)
    return work / out


def approved(folder: Path) -> Path:
    """Approve a draft without a baseline."""
    command.freeze(folder, command.hashes(folder))
    return folder


def problems(folder: Path) -> tuple[str, ...]:
    artifacts = MemoryArtifacts()
    try:
        return templates.check(templates.snapshot(folder, artifacts), artifacts, folder.name)
    finally:
        artifacts.close()


NUMBER = {"metric": "loss", "better": "lower"}
KINDS = [
    ("functions.py", {"data": "table.csv", "target": "y"}, Sort.FUNCTIONS),
    ("contract.py", NUMBER, Sort.CONTRACT),
    ("prints.py", {**NUMBER, "pattern": "loss: ([0-9.]+)"}, Sort.PRINTED),
    ("What decides y, " * 60 + "and why?", {"data": "table.csv", "target": "y"}, Sort.TOPIC),
]


@pytest.mark.parametrize(("source", "given", "sort"), KINDS, ids=[str(sort) for *_, sort in KINDS])
def test_an_approved_draft_keeps_the_contract_and_its_program_is_unchanged(
    work: Path, source: str, given: dict[str, Any], sort: Sort
) -> None:
    folder = drafted(work, source, **given)
    assert json.loads((folder / "draft.json").read_text())["sort"] == sort
    (refusal,) = problems(folder)
    assert "a draft that nobody approved" in refusal
    approved(folder)
    assert problems(folder) == ()
    if sort is not Sort.TOPIC:
        place = {Sort.FUNCTIONS: "model.py", Sort.CONTRACT: "experiment.py", Sort.PRINTED: "prints.py"}[sort]
        assert (folder / place).read_bytes() == (work / source).read_bytes()
    settings = tomllib.loads((folder / "template.toml").read_text())
    measured = sort in {Sort.FUNCTIONS, Sort.TOPIC}
    (primary,) = [name for name, metric in settings["metrics"].items() if metric.get("primary")]
    assert primary == ("rmse" if measured else "loss")
    assert settings["metrics"][primary]["source"] == ("evaluator" if measured else "self")
    assert settings["profiles"]["cpu"]["confirm"] is measured
    assert bool(settings["profiles"]["cpu"]["seeds"]) is measured  # none of these programs reads seeds
    frozen = json.loads((folder / "approval.json").read_text())["frozen"]
    assert "template.toml" in frozen
    assert not {"model.py", "plot.py"} & set(frozen)
    assert {"prepare.py", "evaluate.py", "data/table.csv"} <= set(frozen) or not measured


def test_a_frozen_file_that_was_changed_is_refused_and_an_editable_one_is_not(work: Path) -> None:
    folder = approved(drafted(work, "functions.py", data="table.csv", target="y"))
    (folder / "model.py").write_text(FUNCTIONS + "\n")
    assert problems(folder) == ()
    (folder / "evaluate.py").write_text("print(0)\n")
    (refusal,) = problems(folder)
    assert "evaluate.py is not what was approved" in refusal
    (folder / "approval.json").write_text("[]")
    (refusal,) = problems(folder)
    assert "does not say what was approved" in refusal


def test_what_was_changed_after_it_was_measured_is_not_approved(work: Path) -> None:
    folder = drafted(work, "functions.py", data="table.csv", target="y")
    measured = command.hashes(folder)
    (folder / "model.py").write_text(FUNCTIONS + "# another\n")
    with pytest.raises(Exception, match="were changed while its baseline was measured"):
        command.freeze(folder, measured)
    assert (folder / "draft.json").exists()
    assert not (folder / "approval.json").exists()


def test_nothing_is_overwritten_and_what_breaks_off_leaves_nothing(work: Path) -> None:
    for place in ("folder", "file", "link"):
        made = work / place
        if place == "folder":
            made.mkdir()
        elif place == "file":
            made.write_text("mine")
        else:
            made.symlink_to(work / "nowhere")
        with pytest.raises(BadInputError, match="never overwritten"):
            drafted(work, "prints.py", out=place, pattern="loss: ([0-9.]+)", **NUMBER)
    assert (work / "file").read_text() == "mine"
    before = sorted(work.iterdir())
    with pytest.raises(OSError, match="a"):
        command.place({"a": b"", "a/b": b""}, work / "made")
    (work / "late").mkdir()
    (work / "late" / "theirs").write_text("")
    with pytest.raises(OSError, match="late"):
        command.place({"a": b""}, work / "late")
    assert sorted(work.iterdir()) == sorted([*before, work / "late"])
    assert [path.name for path in (work / "late").iterdir()] == ["theirs"]


@pytest.mark.parametrize("out", ["-x", ".hidden", "a b", "nowhere/made", ".."])
def test_a_folder_that_cannot_be_is_refused(work: Path, out: str) -> None:
    with pytest.raises(BadInputError, match=r"--out|no folder"):
        drafted(work, "prints.py", out=out, pattern="loss: ([0-9.]+)", **NUMBER)


@pytest.mark.parametrize(
    ("source", "given", "why"),
    [
        ("prints.py", {**NUMBER}, "--pattern is missing, and nobody can be asked"),
        ("prints.py", {"better": "lower"}, "--metric is missing"),
        ("prints.py", {**NUMBER, "better": "sideways"}, "lower or higher"),
        ("prints.py", {**NUMBER, "metric": "x]\nrm"}, "must be lower-case letters"),
        ("prints.py", {**NUMBER, "pattern": "loss: [0-9.]+"}, "must have one group"),
        ("prints.py", {**NUMBER, "pattern": "loss: ("}, "no regular expression"),
        ("prints.py", {**NUMBER, "pattern": "(x)", "title": "two\nlines"}, "one line of printable text"),
        ("prints.py", {**NUMBER, "data": "table.csv"}, "no top-level functions fit"),
        ("functions.py", {"data": "table.csv", "target": "z"}, "no column 'z'; it has a, y, b"),
        ("functions.py", {"data": "nothing.csv"}, "must be a CSV file"),
        ("missing.py", NUMBER, "There is no file or folder"),
        ("What decides y", {}, "needs a table"),
        ("What decides y", {"data": "table.csv", "metric": "mae"}, "--metric says nothing about .* `topic`"),
        ("functions.py", {"data": "table.csv", "arguments": ("--lr=1",)}, "--argument says nothing about"),
        ("prints.py", {**NUMBER, "pattern": "(x)", "target": "y"}, "--target says nothing about"),
        ("prints.py", {**NUMBER, "pattern": "(x)", "entry": "prints.py"}, "--entry says nothing about"),
        ("contract.py", {**NUMBER, "pattern": "(x)"}, "--pattern says nothing about"),
    ],
)
def test_what_cannot_be_drafted_is_refused_in_a_sentence_and_leaves_nothing(
    work: Path, source: str, given: dict[str, Any], why: str
) -> None:
    before = sorted(work.iterdir())
    with pytest.raises(BadInputError, match=why):
        drafted(work, source, **given)
    assert sorted(work.iterdir()) == before


def test_a_program_that_is_no_python_is_refused() -> None:
    with pytest.raises(BadInputError, match="not valid Python"):
        drafting.sort_of(b"def fit(:\n", has_table=True)
    with pytest.raises(BadInputError, match="not valid Python"):
        drafting.sort_of(b"\x00", has_table=True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "no CSV"),
        (b"", "no CSV"),
        (b"a,y\n" + b"1,2\n" * 10, "10 rows"),
        (b"a,y\n" + b"1,2\n" * 99 + b"1\n", "as many in each row"),
        (b"a,y\n" + b"x,2\n" * 99, "'a' holds what is no number"),
        (b"a,y\n" + b"nan,2\n" * 99, "'a' holds what is no number"),
        (b"a,y\n" + "".join(f"1,w{i}\n" for i in range(150)).encode(), "150 classes"),
        (b"y\n" + b"1\n" * 99, "two columns"),
        (b"a,y\n" + b"1,2\n" * 70 + b"1,NA\n" * 20, "'y' holds numbers, but 'NA' in row 71"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        drafting.read_table(content, "table", "")


def test_the_target_comes_last_and_words_are_classes() -> None:
    told = drafting.read_table(table(classes=True).encode(), "My Table!", "y")
    assert (told.name, told.classes, told.rows) == ("my_table", ("even", "odd"), MANY)
    assert next(csv.reader(io.StringIO(told.content.decode()))) == ["a", "b", "y"]
    assert drafting.read_table(table().encode(), "1", "y").name == "table"


def test_a_folder_is_taken_without_links_and_hidden_files(work: Path) -> None:
    folder = work / "repo"
    (folder / ".git").mkdir(parents=True)
    (folder / "deep").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".env").write_text("secret")
    (folder / "link.py").symlink_to("/etc/passwd")
    (folder / "train.py").write_text(PRINTS)
    (folder / "deep" / "part.py").write_text("x = 1\n")
    made = drafted(work, str(folder), entry="train.py", pattern="loss: ([0-9.]+)", arguments=("--lr=1",), **NUMBER)
    own = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {"train.py", "deep/part.py"} <= own
    assert not {one for one in own if "git" in one or "env" in one or "link" in one}
    told = json.loads((made / "printed.json").read_text())
    assert (told["program"], told["arguments"]) == ("train.py", ["--lr=1"])
    with pytest.raises(BadInputError, match=r"no program '\.\./prints\.py'"):
        drafted(work, str(folder), out="other", entry="../prints.py", pattern="(1)", **NUMBER)


@pytest.mark.parametrize("name", ["prepare.py", "evaluate.py", "template.toml", "experiment.py"])
def test_a_folders_own_file_never_passes_for_what_measures(work: Path, name: str) -> None:
    folder = work / "repo"
    folder.mkdir()
    for path in ("train.py", name):
        (folder / path).write_text(PRINTS)
    with pytest.raises(BadInputError, match=f"has a {name}, a name that means another thing here: rename it"):
        drafted(work, f"{folder}/.", entry="train.py", pattern="loss: ([0-9.]+)", **NUMBER)


def test_a_folder_without_a_file_or_a_program_is_no_topic(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "read", lambda _: Taken(files={}, left_out=()))
    with pytest.raises(BadInputError, match="repository https://git/it has no file"):
        command.own_files("https://git/it", lambda _: None)
    folder = work / "bare"
    folder.mkdir()
    (folder / "link.py").symlink_to(work / "prints.py")
    with pytest.raises(BadInputError, match="no file that can be taken"):
        drafted(work, f"{folder}/.", data="table.csv")
    (folder / "notes.md").write_text("x")
    with pytest.raises(BadInputError, match="no Python program"):
        drafted(work, f"{folder}/.", data="table.csv")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_wrong_answer_on_the_terminal_is_asked_for_again(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [" ", "Mine", "", "Val Loss", "val_loss", "up", "lower", "loss: [0-9]", "loss: (", "loss: ([0-9.]+)"]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(answers) + "\n"))
    command.draft(Answers(source=str(work / "prints.py")), work / "made", lambda _: None)
    settings = tomllib.loads((work / "made" / "template.toml").read_text())
    assert (settings["title"], settings["summary"], list(settings["metrics"])) == ("Mine", "Mine", ["val_loss"])
    assert json.loads((work / "made" / "printed.json").read_text())["pattern"] == "loss: ([0-9.]+)"
    assert capsys.readouterr().err.count("Error: ") == 5


@pytest.mark.parametrize("name", ["json.py", "random.py", "experiment.py", "train"])
def test_a_program_whose_name_means_another_thing_is_called_program(work: Path, name: str) -> None:
    (work / "own").mkdir()
    (work / "own" / name).write_text("import json\nprint('loss: 1.5')\n")
    made = drafted(work, f"own/./{name}", pattern="loss: ([0-9.]+)", **NUMBER)
    done = in_folder(made, "run_1")
    assert done.returncode == 0, done.stderr
    assert json.loads((made / "printed.json").read_text())["program"] == "program.py"


def test_a_draft_that_breaks_the_contract_says_how_to_go_on(work: Path) -> None:
    folder = work / "repo"
    folder.mkdir()
    (folder / "main.py").write_text(PRINTS)
    (folder / "old.py").write_text('print "2"\n')
    (folder / "prompt.json").write_text("[1")
    made = drafted(work, f"{folder}/.", entry="main.py", pattern="loss: ([0-9.]+)", **NUMBER)
    with pytest.raises(FumehoodError) as refused:
        command._measured(Settings(), made, "tiny", "local", Progress(as_json=False))
    assert "old.py is not valid Python in line 1" in str(refused.value)
    assert "prompt.json must be JSON" in str(refused.value)
    assert str(refused.value).endswith(f"The draft stays: mend it, and `fumehood template new --resume --out {made}`.")


def test_a_link_among_the_data_is_not_taken(work: Path) -> None:
    (work / "data").mkdir()
    (work / "data" / "theirs.csv").symlink_to(work / "table.csv")
    with pytest.raises(BadInputError, match="a folder with exactly one"):
        drafted(work, "What decides y", data="data")
    (work / "data" / "mine.csv").write_text(table())
    assert (drafted(work, "What decides y", data="data", target="y") / "data" / "table.csv").is_file()


def test_what_is_too_large_is_refused_before_it_is_read(work: Path) -> None:
    folder = work / "large"
    folder.mkdir()
    (folder / "train.py").write_text(PRINTS)
    with (folder / "hole.bin").open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing
    with pytest.raises(BadInputError, match="no folder to draft a template from"):
        drafted(work, str(folder) + "/.", entry="train.py", pattern="(1)", **NUMBER)
    with (work / "hole.py").open("wb") as file:
        file.truncate(2**40)
    for given, why in (({}, "too large for a program"), ({"data": "hole.py"}, "larger than 32 MiB")):
        source = "functions.py" if given else "hole.py"
        with pytest.raises(BadInputError, match=why):
            drafted(work, source, **given)


def run_part(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-B", str(folder / name), *arguments]
    return subprocess.run(command_line, cwd=folder.parent, capture_output=True, text=True, timeout=60)


def prepared(folder: Path, part: str, arm: str = "screen", key: bytes = bytes(32), seeds: str = "1,2") -> Path:
    work = folder.parent
    (work / "key").write_bytes(key)
    out = work / f"{part}_{arm}_{key[0]}_{seeds}"
    asked = (f"--arm={arm}", f"--part={part}", "--key=key", f"--seeds={seeds}", f"--out_dir={out}")
    done = run_part(folder, "prepare.py", *asked)
    assert done.returncode == 0, done.stderr
    return out


def test_rows_are_split_by_the_key_and_no_confirmed_row_was_ever_screened(work: Path) -> None:
    folder = drafted(work, "functions.py", data="table.csv", target="y")
    seen = {}
    for arm in ("screen", "confirm"):
        train, asked, answers = (prepared(folder, part, arm) for part in ("train", "inputs", "answers"))
        with np.load(train / "table.npz") as ours, np.load(answers / "table.npz") as held:
            for seed in (1, 2):
                x, inputs = ours[f"x_{seed}"], np.load(asked / f"table_{seed}.npy")
                assert len(inputs) == len(held[f"y_{seed}"]) > 20
                assert not set(x[:, 0]) & set(inputs[:, 0])
                assert np.array_equal(held[f"y_{seed}"], inputs[:, 0] * 0.5)
                seen.setdefault(arm, set()).update(x[:, 0], inputs[:, 0])
            assert not np.array_equal(ours["x_1"], ours["x_2"])
    assert not seen["screen"] & seen["confirm"]
    assert len(seen["screen"] | seen["confirm"]) == MANY
    again = prepared(folder, "train", seeds="2")
    with np.load(again / "table.npz") as alone, np.load(prepared(folder, "train") / "table.npz") as both:
        assert np.array_equal(alone["x_2"], both["x_2"])
    other = prepared(folder, "train", key=bytes([7] * 32))
    assert (other / "table.npz").read_bytes() != (prepared(folder, "train") / "table.npz").read_bytes()


@pytest.mark.parametrize("fault", ["", "missing", "nan", "shape", "pickle"])
def test_answers_are_judged_or_refused(work: Path, fault: str) -> None:
    (work / "table.csv").write_text(table(classes=True))
    folder = drafted(work, "functions.py", data="table.csv", target="y")
    answers, outputs = prepared(folder, "answers"), work / "outputs"
    outputs.mkdir()
    with np.load(answers / "table.npz") as held:
        for seed in (1, 2):
            told = held[f"y_{seed}"].astype(np.float32)
            told[0] = 1 - told[0]  # one is wrong
            np.save(outputs / f"predictions_table_{seed}.npy", told)
    path = outputs / "predictions_table_2.npy"
    told = np.load(path)
    if fault == "nan":
        told[0] = np.nan
    if fault:
        path.unlink()
    if fault == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif fault in {"nan", "shape"}:
        np.save(path, told[1:] if fault == "shape" else told)
    asked = (f"--outputs={outputs}", f"--held_out={answers}", "--train=train", "--out_dir=out", "--seeds=1,2")
    done = run_part(folder, "evaluate.py", *asked)
    if fault:
        assert done.returncode == 1
        assert done.stderr.startswith(path.name)
        assert not (work / "out").exists()
    else:
        entry = json.loads((work / "out" / "metrics.json").read_text())["table"]
        assert entry["final_info_dict"]["error_rate"] == pytest.approx([1 / len(told)] * 2, abs=0.01)


def test_a_printed_number_is_the_last_one_and_none_is_no_result(work: Path) -> None:
    (work / "prints.py").write_text("import sys\nprint('loss: 9')\nprint('loss:', sys.argv[1])\n")
    given = {"pattern": r"loss: (\S+)", "arguments": ("{seed}",), **NUMBER}
    folder = drafted(work, "prints.py", **given)
    done = in_folder(folder, "run_1")
    assert done.returncode == 0, done.stderr
    entry = json.loads((folder / "run_1" / "final_info.json").read_text())["printed"]
    assert entry["final_info_dict"] == {"loss": [4.0, 6.0]}
    assert (entry["means"], entry["stderrs"]) == ({"loss": 5.0}, {"loss": pytest.approx(1.0)})
    faults = ("print('nothing')", "print('loss: nan')", "raise SystemExit(3)")
    for text, why in zip(faults, ("printed nothing", "no number that counts", "ended with status 3"), strict=True):
        (folder / "prints.py").write_text(text)
        done = in_folder(folder, "run_2")
        assert done.returncode == 1
        assert why in done.stderr
        assert not (folder / "run_2" / "final_info.json").exists()


def in_folder(folder: Path, run: str) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-B", "experiment.py", f"--out_dir={run}"]
    environment = {"FUMEHOOD_SEEDS": "4,6"}
    return subprocess.run(command_line, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
