"""What was fetched for a template is among its files, and what stands in for it is told wherever results are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.template import PublicData, Template
from fumehood.errors import TamperedError
from fumehood.services import facts, public_data
from fumehood.services.known_templates import KnownTemplates
from fumehood.services.public_data import FetchedData
from tests.fakes.laboratory import TINY, Laboratory

TEMPLATE = Path(__file__).parents[2] / "templates" / "nanogpt_lite"
NAME = "shakespeare_char"
BYTES = b"To be, or not to be\n"
SHA256 = hashlib.sha256(BYTES).hexdigest()
SOURCE = PublicData(url="https://plays.example/all.txt", sha256=SHA256, bytes=len(BYTES), licence="public domain")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a template whose data have a hash that we know the bytes of."""
    copied = tmp_path / "plays"
    shutil.copytree(TEMPLATE, copied)
    told = (copied / "template.toml").read_text()
    (known,) = [line for line in told.splitlines() if line.startswith("sha256 = ")]
    (copied / "template.toml").write_text(told.replace(known, f'sha256 = "{SHA256}"'))
    return copied


@pytest.fixture
def fetched(tmp_path: Path) -> FetchedData:
    (tmp_path / "data").mkdir()
    return FetchedData(tmp_path / "data")


def test_fetched_data_are_files_of_the_template(folder: Path, fetched: FetchedData) -> None:
    artifacts = MemoryArtifacts()
    known = KnownTemplates(fetched=fetched)
    before = known.read(folder, artifacts)
    assert public_data.place(NAME) not in before.files
    fetched.path(SHA256).write_bytes(BYTES)
    # It is seen at once, and not only when the folder is read again.
    after = known.read(folder, artifacts)
    assert after.files == {**before.files, public_data.place(NAME): SHA256}
    assert artifacts.get(SHA256) == BYTES
    artifacts.close()


def test_what_a_folder_has_itself_comes_before(folder: Path, fetched: FetchedData) -> None:
    artifacts = MemoryArtifacts()
    fetched.path(SHA256).write_bytes(BYTES)
    (folder / "data").mkdir()
    (folder / "data" / NAME).write_bytes(b"its own")
    read = KnownTemplates(fetched=fetched).read(folder, artifacts)
    assert read.files[public_data.place(NAME)] == hashlib.sha256(b"its own").hexdigest()
    artifacts.close()


def test_bytes_that_changed_are_never_used(folder: Path, fetched: FetchedData) -> None:
    artifacts = MemoryArtifacts()
    fetched.path(SHA256).write_bytes(b"other bytes")
    with pytest.raises(TamperedError, match="no longer match"):
        KnownTemplates(fetched=fetched).read(folder, artifacts)
    artifacts.close()


def test_origins_and_limitations_say_what_stands_in() -> None:
    template = Template(title="Plays", data={NAME: SOURCE, "other": SOURCE})
    files = {public_data.place(NAME): "a" * 64, public_data.stand_in("other"): "b" * 64}
    assert public_data.origins(template, files) == {
        NAME: {"from": "fetched", "sha256": "a" * 64},
        "other": {"from": "stand-in", "sha256": "b" * 64},
    }
    (sentence,) = public_data.limitations(template, files)
    assert "(other)" in sentence
    assert "published" in sentence
    assert public_data.limitations(template, {**files, public_data.place("other"): "c" * 64}) == ()
    assert public_data.limitations(Template(title="None"), {}) == ()


def test_a_hash_that_an_admin_vouched_for_is_known_by_the_address(fetched: FetchedData) -> None:
    nameless = SOURCE.model_copy(update={"sha256": ""})
    assert fetched.hash_of(nameless) == ""
    fetched.path(SHA256).write_bytes(BYTES)
    assert not fetched.has(nameless)
    told = {"url": SOURCE.url, "sha256": SHA256, "vouched_by": "template"}
    fetched.note(SHA256).write_text(json.dumps(told))
    assert not fetched.has(nameless)
    fetched.note(SHA256).write_text(json.dumps({**told, "vouched_by": "admin"}))
    assert fetched.has(nameless)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://plays.example/a"},
        {"url": "https://plays.example"},
        {"sha256": "abc"},
        {"sha256": "A" * 64},
        {"bytes": 0},
        {"bytes": 17 * 1024**3},
        {"licence": ""},
    ],
)
def test_what_is_no_catalogue_entry_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PublicData.model_validate({**SOURCE.model_dump(), **wrong})


@pytest.mark.parametrize("name", ["../up", "a/b", "A", "", "1a"])
def test_a_data_sets_name_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(ValidationError):
        Template(title="Plays", data={name: SOURCE})


@pytest.mark.parametrize("is_fetched", [True, False])
def test_records_papers_and_runs_agree_on_what_was_used(make_lab: Callable[..., Laboratory], is_fetched: bool) -> None:
    catalogue = f'[data.plays]\nurl = "{SOURCE.url}"\nsha256 = "{SHA256}"\nbytes = 20\nlicence = "public domain"\n'
    files = {**TINY, "template.toml": TINY["template.toml"] + catalogue, "stand_in/plays.txt": "A small text.\n"}
    if is_fetched:
        files["data/plays"] = BYTES.decode()
    lab = make_lab(files=files)
    lab.submit(runs=1)
    lab.go_on()
    for run in lab.runs():
        origin = facts.predicate(lab.artifacts.get(run.record))["sources"]["plays"]
        assert origin["from"] == ("fetched" if is_fetched else "stand-in")
    seen: dict[str, set[str]] = {}
    for spec in lab.sandbox.launched:
        seen.setdefault(spec.kind.value, set()).update(one.path for one in spec.inputs)
    # The text itself reaches what draws the data, and no run.
    wanted = f"in/template/{'data/plays' if is_fetched else 'stand_in/plays.txt'}"
    assert wanted in seen["prepare"]
    assert not any("plays" in path for path in seen["run"])
    (experiment,) = lab.experiments()
    assert any("stood in" in one for one in experiment.limitations) != is_fetched
