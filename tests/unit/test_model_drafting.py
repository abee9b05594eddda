"""What a model is shown for a draft, what of its answer is taken, and what is wrong with it as a text."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.cli import drafting as command
from fumehood.domain.template import Template
from fumehood.errors import BadInputError
from fumehood.services import draft_answers, draft_data, drafting, templates
from fumehood.services.draft_answers import DraftAnswer, Given
from fumehood.services.draft_data import Data
from fumehood.services.drafting import Sort
from tests.fakes import drafter

LAB = frozenset({"numpy"})
CSV = ("a,b,y\n" + "".join(f"{i},{i % 7},{i * 0.5}\n" for i in range(200))).encode()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def given(files: Mapping[str, bytes] | None = None, data: Mapping[str, bytes] | None = None, **more: Any) -> Given:
    held = Data(files=data) if data else None
    return Given(words="Study it.", files=files or {}, data=held, wishes=more.pop("wishes", {}), **more)


def drafted(answer: dict[str, Any], of: Given) -> tuple[Sort, dict[str, bytes]]:
    return draft_answers.files_of(DraftAnswer.model_validate(answer), of, b"skeleton")


# Data


def test_of_a_folder_what_can_be_read_is_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "deep" / "b.npy").write_bytes(npy(np.arange(6.0).reshape(2, 3)))
    np.savez(tmp_path / "c.npz", x=np.zeros((4, 2)), words=np.array(["one", "two"]))
    (tmp_path / "d.txt").write_text("Once upon a time.\n" * 100)
    left = {
        "e.npy": (np.array([{}], dtype=object), "Python objects"),
        "f.csv": (b"alone\n", "no header and rows"),
        "g.npz": (b"no archive", "cannot be read"),
        "h.txt": (b"\xff\xfe", "cannot be read"),
        "i.png": (b"\x89PNG", "none of CSV, npz, npy and text"),
        "j k.csv": (CSV, "has a name of other characters"),
        ".git/l.csv": (CSV, "is hidden"),
    }
    for name, (content, _) in left.items():
        raw = content if isinstance(content, bytes) else b""
        (tmp_path / name).write_bytes(raw)
        if not raw:
            np.save(tmp_path / name, content, allow_pickle=True)
    (tmp_path / "m.csv").symlink_to(tmp_path / "a.csv")
    data = draft_data.read(tmp_path)
    assert list(data.files) == ["a.csv", "c.npz", "d.txt", "deep/b.npy"]
    for name, (_, why) in (left | {"m.csv": (b"", "is a link")}).items():
        (line,) = [one for one in data.left_out if f"'{name}'" in one]
        assert why in line
    told = {one["file"]: one for one in draft_data.told(data)}
    assert (told["data/a.csv"]["rows"], told["data/a.csv"]["columns_in_all"]) == (200, 3)
    assert told["data/a.csv"]["columns"][1] == {
        "name": "b",
        "type": "number",
        "distinct": 7,
        "empty": 0,
        "least": 0.0,
        "most": 6.0,
    }
    assert told["data/a.csv"]["first_rows"] == [["0", "0", "0.0"], ["1", "1", "0.5"], ["2", "2", "1.0"]]
    assert told["data/deep/b.npy"]["shape"] == [2, 3]
    assert told["data/deep/b.npy"]["first_values"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert told["data/c.npz"]["arrays"]["words"]["first_values"] == ["one", "two"]
    assert len(told["data/d.txt"]["beginning"]) == draft_data.BEGINNING
    json.loads(draft_data.as_facts(told=list(told.values())))


def test_an_array_is_described_by_its_head_however_large_it_says_that_it_is(tmp_path: Path) -> None:
    whole = npy(np.arange(4.0))
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(4,)", b"(4000000000000,)"[:16], 1))
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    said = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000, 9000), }"
    (tmp_path / "huge.npy").write_bytes(head + said.ljust(117) + b"\n" + bytes(16))
    (told,) = draft_data.told(draft_data.read(tmp_path / "huge.npy"))
    assert (told["shape"], told["first_values"]) == ([9000000000, 9000], [0.0, 0.0])


def test_a_file_that_is_broken_is_left_out_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(500.0))
    whole = buffer.getvalue()
    (tmp_path / "b.npz").write_bytes(whole[:60] + bytes(30) + whole[90:])
    (tmp_path / "c.npz").write_bytes(
        whole[:6] + b"\x01" + whole[7:].replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    )
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b'((((((("""'.ljust(16))
    data = draft_data.read(tmp_path)
    assert list(data.files) == ["a.csv"]
    assert [line.split("'")[1] for line in data.left_out] == ["b.npz", "c.npz", "d.npy"]


def test_too_much_or_no_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="no file or folder"):
        draft_data.read(tmp_path / "nowhere")
    (tmp_path / "i.png").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"has no CSV, npz, npy or text\. 'i\.png' is none of"):
        draft_data.read(tmp_path)
    (tmp_path / "a.csv").write_bytes(CSV)
    monkeypatch.setattr(draft_data, "MOST_BYTES", 100)
    with pytest.raises(BadInputError, match="more than 50 files or 0 MiB"):
        draft_data.read(tmp_path)


# What a model is shown


def test_a_program_is_shown_the_most_telling_first_and_cut_to_what_fits() -> None:
    files = {
        "weights.bin": b"\xff\x00",
        "z.md": b"later",
        "net.py": b"x = 1\n" * 10_000,
        "train.py": b"print('me')\n",
        "README.md": b"Read me.",
        **{f"part_{number}.py": b"y = 2\n" * 2_000 for number in range(9)},
    }
    text, told = draft_answers.shown(files, "train.py")
    assert text.startswith("# file: train.py\nprint('me')\n\n# file: README.md\nRead me.\n\n# file: net.py\n")
    assert len(text) < draft_answers.MOST_SHOWN + 100 * len(files)
    shown = {one["file"]: one["shown"] for one in told}
    assert shown["net.py"] == draft_answers.MOST_OF_A_FILE
    assert shown["weights.bin"] == "not text"
    assert sum(one for one in shown.values() if isinstance(one, int)) == draft_answers.MOST_SHOWN
    assert shown["z.md"] == 0


def test_a_model_is_told_what_it_may_choose_and_what_was_wrong_before() -> None:
    own = given({"own.py": drafter.MODEL.encode()}, {"a.csv": CSV}, program="own.py", wishes={"target": "y"})
    fields = draft_answers.fields_of(own, {"serve.py": b"before = 1\n", "data/x.npy": b"no program"}, "It broke.")
    facts = json.loads(fields["facts"])
    assert facts["functions_is_possible"]
    assert facts["program_has_fit_and_predict"]
    assert facts["wishes"] == {"target": "y"}
    assert fields["draft"] == "# file: serve.py\nbefore = 1\n"
    assert fields["failure"] == "It broke."
    assert "def rows_of(" in fields["examples"]
    none = json.loads(draft_answers.fields_of(given({"own.py": b"def ("}, program="own.py"), {}, "")["facts"])
    assert not none["functions_is_possible"]
    assert not none["program_has_fit_and_predict"]


# What is taken of an answer


def test_functions_have_our_frozen_pair_and_a_persons_own_model_where_there_is_one() -> None:
    sort, files = drafted(drafter.functions("data/a.csv", "y"), given(data={"a.csv": CSV}))
    assert sort is Sort.FUNCTIONS
    assert files["evaluate.py"] == (drafting.PARTS / "table_evaluate.py").read_bytes()
    assert files["prepare.py"] == (drafting.PARTS / "table_prepare.py").read_bytes()
    assert files["model.py"].decode() == drafter.MODEL
    own = (drafter.MODEL + "# mine\n").encode()
    mine = given({"own.py": own}, {"a.csv": CSV}, program="own.py", wishes={"target": "a"}, title="Mine")
    _, files = drafted(drafter.functions("a.csv", "y", ""), mine)
    assert files["model.py"] == own
    assert files["data/table.csv"].startswith(b"b,y,a\n")  # as the person said, whatever the model says
    assert tomllib.loads(files["template.toml"].decode())["title"] == "Mine"
    assert json.loads(files["prompt.json"])["task_description"].startswith("Predict the height")


def test_a_written_draft_is_of_our_making_but_for_its_programs_and_words(tmp_path: Path) -> None:
    answer = drafter.written() | {"keep": ["deep/net.py"], "unit": 'm"\n[metrics.other]', "title": "Two\nlines\x07"}
    of = given({"deep/net.py": b"x = 1\n"}, {"points.npz": b"bytes"}, wishes={"better": "higher", "metric": "score"})
    sort, files = drafted(answer, of)
    assert sort is Sort.WRITTEN
    words = Template.model_validate(tomllib.loads(files["template.toml"].decode()))
    assert words.title == "Two lines"
    assert list(words.metrics) == ["score"]
    assert words.metrics["score"].direction == "higher"
    assert words.metrics["score"].unit == 'm" [metrics.other]'
    assert set(words.editable) == {"experiment.py", "serve.py", "deep/net.py", "plot.py"}
    assert words.profiles["cpu"].confirm
    assert words.profiles["tiny"].limits_of("run").wall_s == 120
    assert draft_answers.problems(files, LAB) == ()
    command.place(files, tmp_path / "made")
    artifacts = MemoryArtifacts()
    try:
        shas = templates.snapshot(tmp_path / "made", artifacts)
        assert templates.check(shas, artifacts, "made") == ()
    finally:
        artifacts.close()
    frozen = drafting.frozen_of(shas)
    assert set(frozen) == {"prepare.py", "evaluate.py", "template.toml", "data/points.npz"}
    # Runs see neither the frozen pair nor the data.
    assert set(templates.workspace(shas)) == {"experiment.py", "serve.py", "plot.py", "deep/net.py"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"files": [{"path": "../evil.py", "content": ""}]}, "`files` has '../evil.py'"),
    ({"files": [{"path": "template.toml", "content": ""}]}, "`files` has 'template.toml'"),
    ({"files": [{"path": "serve.py", "content": ""}]}, "needs experiment.py"),
    ({"files": [{"path": "serve.py", "content": "\u00e9" * 40_000}]}, "longer than 60000 bytes"),
    ({"keep": ["own.py", "../../own.py"]}, "`keep` has '../../own.py'"),
    ({"keep": ["evaluate.py"]}, "a name that the draft needs itself"),
    ({"keep": ["notes.md"]}, "no Python file"),
    ({"datasets": []}, "`datasets` is empty"),
    ({"datasets": ["plane]\n"]}, "must be lower-case letters"),
    ({"metric": ""}, "must be lower-case letters"),
    ({"tiny": {"arguments": ["rm -rf"]}}, "no argument of the form"),
    ({"cpu": {"prepare_arguments": ["--key=/etc/passwd"]}}, "no argument of the form"),
    ({"task": " \n"}, "`task` is empty"),
    ({"sort": "functions"}, "needs one of no table"),
]


@pytest.mark.parametrize(("changed", "why"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_cannot_be_taken_is_said_in_a_sentence(changed: dict[str, Any], why: str) -> None:
    own = {"own.py": b"", "evaluate.py": b"", "notes.md": b""}
    with pytest.raises(BadInputError) as refused:
        drafted(drafter.written() | changed, given(own))
    assert why in str(refused.value)


def test_functions_that_write_more_than_a_model_are_refused() -> None:
    of = given(data={"a.csv": CSV, "b.csv": CSV})
    for changed, why in (
        ({"files": drafter.written()["files"]}, "you write model.py alone"),
        ({"files": []}, "needs model.py"),
        ({"table": ""}, "needs one of"),
        ({"target": "z"}, "no column 'z'"),
    ):
        with pytest.raises(BadInputError, match=why):
            drafted(drafter.functions("a.csv", "y") | changed, of)


PROGRAMS: list[tuple[dict[str, str], str]] = [
    ({"serve__py": "def load(:\n"}, "serve.py is not valid Python in line 1"),
    ({"serve__py": "def load(path, dataset, seed): ...\n"}, "serve.py has no top-level function predict"),
    ({"prepare__py": drafter.PREPARE.replace('"--key"', '"--kee"')}, "prepare.py does not have '--key'"),
    ({"evaluate__py": "import serve\n" + drafter.EVALUATE}, "evaluate.py imports serve, which it never finds"),
    ({"experiment__py": "import jax\n" + drafter.EXPERIMENT}, "experiment.py imports jax, which the lab does not"),
    ({"experiment__py": "import socket\n" + drafter.EXPERIMENT}, "experiment.py line 1"),
    ({"experiment__py": drafter.EXPERIMENT + "open('/in/held_out/plane.npz')\n"}, "experiment.py line"),
    ({"model__py": "def fit(x, y, seed): ...\n"}, "model.py has no top-level function predict"),
]


@pytest.mark.parametrize(("changed", "why"), PROGRAMS, ids=map(str, range(len(PROGRAMS))))
def test_programs_are_read_before_any_of_them_is_run(changed: dict[str, str], why: str) -> None:
    _, files = drafted(drafter.written(**changed), given())
    assert why in "\n".join(draft_answers.problems(files, LAB))
