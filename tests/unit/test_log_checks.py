"""A folder against the log: what was left out, added or changed is told by name, also by whoever holds the key."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import Ed25519Signer, key_id_of, open_envelope
from fumehood.cli.main import main
from fumehood.errors import ConflictError, NotFoundError
from fumehood.ports import Signer
from fumehood.services import export, forks, log, log_checks, log_file, log_line
from fumehood.services.forks import Edits
from tests.fakes.laboratory import Laboratory
from tests.fakes.model import ScriptedCoder

INSIDE = "experiments/smaller_scale"
BROKEN = ({"experiment.py": b"raise RuntimeError\n"}, "RUN: Broken | it breaks")
Told = dict[str, Any]


class Written:
    """An experiment's folder in memory, and the installation's key."""

    def __init__(self, signer: Signer, files: dict[str, bytes], key: bytes) -> None:
        self.signer = signer
        self.files = files
        self.key = key

    def problems(self) -> list[str]:
        trusted = {key_id_of(self.key): self.key}
        checked = log_checks.check(
            sorted(self.files), self._read, self._digest, lambda data, kind: open_envelope(data, trusted, kind)
        )
        return checked.problems

    def told(self) -> Told:
        told: Told = json.loads(self.files["log.json"])
        return told

    def change(self, change: Callable[[Told], object]) -> None:
        told = self.told()
        change(told)
        self.files["log.json"] = json.dumps(told).encode()

    def leaf(self, number: int) -> Told:
        """Return the leaf of the experiment's entry with a number."""
        found: Told = next(
            leaf for leaf in self.told()["leaves"] if leaf["entry"]["experiment"] and leaf["entry"]["number"] == number
        )
        return found

    def without(self, number: int) -> None:
        gone = self.leaf(number)
        self.change(lambda told: told["leaves"].remove(gone))

    def _read(self, path: str) -> bytes:
        if path not in self.files:
            raise NotFoundError(f"{path} is missing")
        return self.files[path]

    def _digest(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest() if path in self.files else ""


def exported(lab: Laboratory, name: str = "smaller_scale") -> Written:
    shas = export.direction_files(lab.store, lab.artifacts, lab.clock, lab.direction().id, lab.signer)
    prefix = f"experiments/{name}/"
    files = {path.removeprefix(prefix): lab.artifacts.get(sha) for path, sha in shas.items() if path.startswith(prefix)}
    return Written(lab.signer, files, lab.signer.public_key_bytes())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """A laboratory whose experiment needed two attempts for run 1."""
    made = Laboratory(tmp_path_factory.mktemp("lab"), coder=ScriptedCoder({(1, 1): BROKEN}))
    made.submit(runs=2)
    made.go_on()
    yield made
    made.artifacts.close()


@pytest.fixture
def written(lab: Laboratory) -> Written:
    return exported(lab)


def test_what_was_written_holds(written: Written) -> None:
    assert written.problems() == []
    assert [leaf["entry"]["folder"] for leaf in written.told()["leaves"]] == ["run_1", "run_1", "run_2", "run_0"]
    assert (printed(written).size, len(printed(written).root)) == (4, 64)


def test_a_log_that_grew_after_the_paper_still_holds(lab: Laboratory, written: Written) -> None:
    before = json.loads(base64.b64decode(written.told()["head"]["payload"]))["size"]
    source = lab.experiments()[0]
    forks.fork(lab.store, lab.artifacts, lab.clock, "me", source.id, "run_2", Edits())
    lab.go_on()
    later = exported(lab)
    assert json.loads(base64.b64decode(later.told()["head"]["payload"]))["size"] > before
    assert later.files["latex/main.tex"] == written.files["latex/main.tex"]
    assert later.problems() == []
    fork = exported(lab, "smaller_scale_2")
    assert [leaf["entry"]["shared"] for leaf in fork.told()["leaves"]][:3] == [True, True, False]
    assert fork.problems() == []
    reviewed = forks.fork(lab.store, lab.artifacts, lab.clock, "me", source.id, "reviewing", Edits())
    lab.go_on()
    assert exported(lab, reviewed.name).problems() == []


def test_a_left_out_run_is_told_by_name(written: Written) -> None:
    del written.files["run_2/record.json"]
    assert written.problems() == [
        "run_2 (attempt 1, measured) is in the log and was left out: there is no run_2/record.json"
    ]


def test_a_run_that_is_left_out_of_the_log_s_file_too_leaves_a_gap(written: Written) -> None:
    del written.files["run_1/record.json"]
    gone = written.told()["experiment"]
    written.without(2)
    assert written.problems() == [f"log.json: entry 2 of the 3 of {gone} is missing: a run or an attempt was left out"]


def test_the_entries_cannot_be_counted_down_to_hide_one(written: Written) -> None:
    gone = written.told()["experiment"]
    written.without(2)
    written.change(lambda told: told["counts"].update({gone: 2}))
    assert f"log.json: entry 2 of the 2 of {gone} is missing: a run or an attempt was left out" in written.problems()
    assert f"log.json: {gone} has 2 entries and says 2" in written.problems()


def test_an_attempt_that_is_not_told_of_is_named(written: Written) -> None:
    runs = json.loads(written.files["runs.json"])
    runs[1]["attempts"] = []
    written.files["runs.json"] = json.dumps(runs).encode()
    assert written.problems() == [
        "run_1 (attempt 1, failed) is in the log and was left out: runs.json does not tell of it"
    ]


@pytest.mark.parametrize(("field", "value"), [("verdict", "timed_out"), ("number", 2)])
def test_an_attempt_that_the_log_does_not_have_is_named(written: Written, field: str, value: object) -> None:
    runs = json.loads(written.files["runs.json"])
    runs[1]["attempts"][0][field] = value
    written.files["runs.json"] = json.dumps(runs).encode()
    told = {"number": 1, "verdict": "failed", field: value}
    named = f"attempt {told['number']} of run_1 ({told['verdict']})"
    assert written.problems()[0] == f"runs.json: {named} is not in the log"


@pytest.mark.parametrize("folder", ["run_3", "confirm_1"])
def test_a_record_that_the_log_does_not_have_is_named(written: Written, folder: str) -> None:
    written.files[f"{folder}/record.json"] = written.files["run_2/record.json"]
    assert written.problems() == [f"{folder}/record.json is not in the log"]


def test_a_program_s_own_file_of_that_name_is_no_record(written: Written) -> None:
    written.files["run_2/deep/record.json"] = b"{}"
    assert written.problems() == []


def test_another_record_in_the_place_of_the_logged_one_is_named(written: Written) -> None:
    written.files["run_2/record.json"] = written.files["run_1/record.json"]
    assert written.problems() == ["run_2/record.json is not the record that is in the log"]


@pytest.mark.parametrize("field", ["at", "attempt", "code", "direction", "run", "verdict", "shared", "index"])
def test_a_changed_entry_is_not_in_the_log(written: Written, field: str) -> None:
    def change(told: Told) -> None:
        leaf = next(leaf for leaf in told["leaves"] if leaf["entry"]["folder"] == "run_2")
        leaf["entry"][field] = "other" if isinstance(leaf["entry"][field], str) else 7

    written.change(change)
    assert [one for one in written.problems() if "is not in the log that was signed" in one]


@pytest.mark.parametrize("change", ["index", "proof", "cut"])
def test_a_proof_that_does_not_hold_is_named(written: Written, change: str) -> None:
    def forge(told: Told) -> None:
        leaf = told["leaves"][0]
        if change == "index":
            leaf["index"] += 1
        elif change == "proof":
            leaf["proof"][0] = "00" * 32
        else:
            leaf["proof"] = leaf["proof"][:-1]

    written.change(forge)
    assert written.problems() == ["log.json: the entry of run_1 (attempt 1, failed) is not in the log that was signed"]


def head_of(signer: Signer, **told: object) -> Told:
    head: Told = json.loads(signer.sign(json.dumps(told).encode(), log.TREE_HEAD_TYPE))
    return head


def test_a_head_that_the_installation_did_not_sign_is_refused(written: Written, tmp_path: Path) -> None:
    stranger = Ed25519Signer(tmp_path / "stranger")
    payload = base64.b64decode(written.told()["head"]["payload"])
    written.change(lambda told: told.update(head=json.loads(stranger.sign(payload, log.TREE_HEAD_TYPE))))
    assert written.problems() == [f"log.json: signed by unknown key {stranger.key_id}"]


def test_a_head_of_another_size_or_root_holds_nothing(written: Written) -> None:
    told = json.loads(base64.b64decode(written.told()["head"]["payload"]))
    # A size of as many levels may fit the proofs of a few leaves: that it is another is known from the last ones alone.
    for forged in ({"size": told["size"] * 4}, {"root": "00" * 32}):
        head = head_of(written.signer, **(told | forged))
        written.change(lambda told, head=head: told.update(head=head))
        assert written.problems(), forged
    assert len(written.problems()) == 5


def test_what_is_signed_for_another_purpose_is_no_head(written: Written) -> None:
    written.change(lambda told: told.update(head=json.loads(written.files["run_1/record.json"])))
    assert "not 'application/vnd.fumehood.tree-head+json'" in written.problems()[0]


def printed(written: Written) -> log_line.Printed:
    found = log_line.read(written.files["latex/main.tex"].decode())
    assert found is not None
    return found


def print_instead(written: Written, *lines: str) -> None:
    """Put other lines into the paper in the place of the log's."""
    source = written.files["latex/main.tex"].decode()
    written.files["latex/main.tex"] = source.replace(log_line.latex(printed(written)), "".join(lines)).encode()


@pytest.mark.parametrize("forged", [{"root": "0" * 64}, {"size": 3}, {"size": 10**6}])
def test_the_paper_must_print_a_root_that_the_log_had(written: Written, forged: Any) -> None:
    other = dataclasses.replace(printed(written), **forged)
    print_instead(written, log_line.latex(other))
    assert written.problems() == [
        f"latex/main.tex prints {other.size} entries and root {other.root}, which the log never had"
    ]


@pytest.mark.parametrize("times", [0, 2])
def test_a_paper_prints_the_log_s_root_once(written: Written, times: int) -> None:
    print_instead(written, log_line.latex(printed(written)) * times)
    assert written.problems() == ["latex/main.tex does not print the log's size and root"]


def test_a_paper_that_counted_before_the_run_came_is_told(lab: Laboratory, written: Written) -> None:
    size = json.loads(base64.b64decode(written.told()["head"]["payload"]))["size"]
    with lab.store.begin(write=False) as tx:
        early = log_line.Printed(size=3, root=log.root(tx, 3))
        proof = log.consistency(tx, 3, size)
    print_instead(written, log_line.latex(early))
    written.change(lambda told: told.update(paper={"size": 3, "consistency": proof}))
    assert written.problems() == [
        "run_2 (attempt 1, measured) came into the log after latex/main.tex had counted its entries"
    ]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", b'{"head": {}}', b"\xff", b"[" * 5000, b'{"head": 1, "experiment": 2}']
)
def test_a_file_that_makes_no_sense_is_one_problem_and_no_crash(written: Written, data: bytes) -> None:
    written.files["log.json"] = data
    assert len(written.problems()) == 1
    assert written.problems()[0].startswith("log.json")


@pytest.mark.parametrize("field", ["index", "entry", "proof"])
def test_a_leaf_that_makes_no_sense_is_a_problem_and_no_crash(written: Written, field: str) -> None:
    for value in (None, 5, "x", [], {}, [5], ["zz"]):
        before = written.files["log.json"]
        written.change(lambda told, value=value: told["leaves"][0].update({field: value}))
        assert written.problems(), value
        written.files["log.json"] = before


def test_an_entry_of_another_experiment_is_none_of_this_one(written: Written) -> None:
    written.change(lambda told: told["leaves"][0]["entry"].update(experiment="exp_other"))
    assert "is neither the experiment's nor its baseline's" in written.problems()[0]


def test_a_folder_without_the_file_shows_nothing(written: Written) -> None:
    del written.files["log.json"]
    assert written.problems() == ["log.json is missing: nothing shows that no run was left out"]


def test_a_head_that_is_too_old_for_the_folder_is_refused(lab: Laboratory) -> None:
    exported(lab)  # which signs the head
    with lab.store.begin(write=False) as tx:
        newest = tx.log.newest_head()
        assert newest is not None
        old = dataclasses.replace(newest, size=2, root=log.root(tx, 2))
    experiment = lab.experiments()[0]
    with lab.store.begin(write=False) as tx, pytest.raises(ConflictError, match="make it again"):
        log_file.build(tx, lab.artifacts, experiment, (), old)


def test_verify_names_the_left_out_run_and_ends_with_1(
    lab: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever leaves a run out and signs the folder anew with the installation's own key is found out all the same."""
    monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(lab.folder / "state"))
    out = lab.export(tmp_path / "out")
    assert main(["verify", str(out)]) == 0
    assert "log entries" in capsys.readouterr().out
    inside = out / INSIDE
    for path in (inside / "run_2").iterdir():
        path.unlink()
    (inside / "run_2").rmdir()
    for folder in (inside, out):
        files = {one.relative_to(folder).as_posix(): one for one in folder.rglob("*") if one.is_file()}
        shas = {path: lab.artifacts.put(one.read_bytes()) for path, one in files.items() if path != "manifest.json"}
        (folder / "manifest.json").write_bytes(export.manifest(shas, lab.artifacts, lab.signer))
    assert main(["verify", str(out)]) == 1
    told = capsys.readouterr().out
    assert f"{INSIDE}/run_2 (attempt 1, measured) is in the log and was left out" in told
