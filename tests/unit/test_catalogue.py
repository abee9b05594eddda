"""The catalogue: only an admin writes it, and what an idea may ask for is looked up exactly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.cli.main import main
from fumehood.domain import catalogue as entries
from fumehood.domain.catalogue import EntryKind, Format
from fumehood.domain.direction import Direction
from fumehood.domain.ids import TenantId
from fumehood.domain.template import Takes, Template
from fumehood.domain.tenant import Tenant
from fumehood.errors import BadInputError, ConflictError, NotFoundError
from fumehood.services import catalogue
from fumehood.store.memory import FixedClock, MemoryStore
from tests.unit.test_domain_laws import DIRECTION, EXPERIMENT

SHA = "ab" * 32
GIVEN = {
    "name": "austen",
    "kind": "data",
    "title": "Six novels",
    "url": "https://texts.example/austen.txt",
    "licence": "public domain",
    "sha256": SHA,
    "bytes": 40,
    "format": "text",
}
TAKES = Template(title="Texts", datasets=("own",), catalogue=Takes(formats=(Format.TEXT,), models=True))


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    with made.begin() as tx:
        tx.tenants.save(Tenant(id=TenantId("ten_1"), name="physics"), Tenant(id=TenantId("ten_2"), name="maths"))
    return made


@pytest.fixture
def add(store: MemoryStore) -> Callable[..., entries.Entry]:
    def added(**changes: Any) -> entries.Entry:
        return catalogue.add(store, FixedClock(), "key_1", catalogue.offer(**{**GIVEN, **changes}))

    return added


def given(store: MemoryStore, *requests: str, template: Template = TAKES) -> tuple[list[str], str]:
    with store.begin(write=False) as tx:
        found, why = catalogue.given(tx, DIRECTION, template, requests)
    return [one.id for one in found], why


def offered(store: MemoryStore, template: Template = TAKES) -> list[str]:
    with store.begin(write=False) as tx:
        return [one.id for one in catalogue.offered(tx, submitted(1e12), template)]


def submitted(at: float) -> Direction:
    return dataclasses.replace(DIRECTION, created_at=at)


def test_ideas_are_told_of_what_was_there_when_their_direction_was_submitted(store: MemoryStore) -> None:
    clock = FixedClock()
    first = catalogue.add(store, clock, "key_1", catalogue.offer(**GIVEN))
    direction = submitted(clock.now())
    clock.advance(1.0)
    later = catalogue.add(store, clock, "key_1", catalogue.offer(**{**GIVEN, "name": "bronte", "sha256": "cd" * 32}))
    with store.begin(write=False) as tx:
        assert catalogue.offered(tx, direction, TAKES) == (first,)
        assert catalogue.given(tx, direction, TAKES, ["bronte"]) == ((later,), "")
        assert catalogue.of_record(tx, direction, TAKES) == (first,)
    with store.begin() as tx:
        tx.directions.save(direction)
        tx.experiments.save(
            dataclasses.replace(EXPERIMENT, direction_id=direction.id, added={later.place: later.sha256})
        )
    with store.begin(write=False) as tx:
        assert catalogue.of_record(tx, direction, TAKES) == (first, later)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": None},
        {"sha256": ""},
        {"sha256": "AB" * 32},
        {"name": "Austen"},
        {"name": "../austen"},
        {"name": "a" * 41},
        {"name": "austen\n"},
        {"url": "ftp://texts.example/austen"},
        {"url": "file:///etc/passwd"},
        {"url": "https://me:secret@texts.example/austen"},
        {"url": "https://texts.example/two words"},
        {"licence": " "},
        {"title": "a\nb"},
        {"bytes": 0},
        {"bytes": 2**40},
        {"format": "pickle"},
        {"format": "pt"},
        {"kind": "program"},
        {"kind": "model", "format": "npz"},
        {"split": 0.9},
        {"split": float("nan")},
        {"folder": "/etc"},
    ],
)
def test_what_makes_no_entry_is_refused_in_a_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="makes no entry"):
        catalogue.offer(**{**GIVEN, **changes})


def test_an_entry_is_added_once_audited_and_removed(store: MemoryStore, add: Any) -> None:
    entry = add()
    assert add() == entry
    with pytest.raises(ConflictError, match="another austen"):
        add(sha256="cd" * 32)
    assert catalogue.entries(store, None, 10) == (entry,)
    gone = catalogue.remove(store, FixedClock(), "key_1", "austen")
    assert gone.removed_at is not None
    assert catalogue.entries(store, None, 10) == ()
    with pytest.raises(NotFoundError):
        catalogue.remove(store, FixedClock(), "key_1", "austen")
    assert add(sha256="cd" * 32).removed_at is None
    with store.begin(write=False) as tx:
        told = [(one.actor, one.action, one.subject, one.detail.get("sha256")) for one in tx.audit.since()]
    added, removed = "catalogue.added", "catalogue.removed"
    assert told == [
        ("key_1", added, "austen", SHA),
        ("key_1", removed, "austen", SHA),
        ("key_1", added, "austen", "cd" * 32),
    ]


def test_a_tenant_is_named_or_refused(store: MemoryStore, add: Any) -> None:
    assert add(tenants=["physics"]).tenants == ("ten_1",)
    with pytest.raises(NotFoundError):
        add(name="other", tenants=["nobody"])
    assert len(catalogue.entries(store, None, 10)) == 1


def test_ideas_are_offered_what_is_theirs_and_of_use_here(store: MemoryStore, add: Any) -> None:
    add()
    add(name="mine", tenants=["physics"])
    add(name="theirs", tenants=["maths"])
    add(name="elsewhere", templates=["grokking"])
    add(name="here", templates=["t"])
    add(name="table", format="parquet")
    add(name="own")
    add(name="weights", kind="model", format="safetensors")
    add(name="gone")
    catalogue.remove(store, FixedClock(), "key_1", "gone")
    assert offered(store) == ["austen", "here", "mine", "weights"]
    assert offered(store, Template(title="None")) == []
    assert offered(store, Template(title="Models", catalogue=Takes(models=True))) == ["weights"]
    assert given(store, "austen", "weights") == (["austen", "weights"], "")
    for name in ("theirs", "elsewhere", "gone", "nothing", "AUSTEN", "../austen", "austen\n", ""):
        found, why = given(store, "austen", name)
        assert found == []
        assert "not in the catalogue" in why
    assert given(store, "theirs")[1].replace("theirs", "x") == given(store, "nothing")[1].replace("nothing", "x")
    assert "takes no data in the format parquet" in given(store, "table")[1]
    assert "data set of the template" in given(store, "own")[1]
    assert "5 are the most" in given(store, *"abcdef")[1]


def test_what_a_model_asks_for_is_made_harmless_to_tell() -> None:
    said = ["austen", " austen ", "a" * 90, "x'; DROP TABLE\n", "", "../../etc/passwd"]
    assert catalogue.asked(said) == ("austen", "a" * 41, "x___DROP_TABLE", ".._.._etc_passwd")


def test_the_document_is_the_same_for_the_same_entries(add: Any) -> None:
    one, two = add(), add(name="weights", kind="model", format="safetensors")
    data = entries.document((one, two))
    assert data == entries.document((two, one))
    assert entries.written({name: entry.told() for name, entry in entries.read(data).items()}) == data
    found = entries.read(data)
    assert (found["austen"].place, found["weights"].place) == (
        "data/catalogue/austen.txt",
        "models/weights.safetensors",
    )
    assert found["austen"].kind is EntryKind.DATA
    assert entries.document((one,)) != entries.document((add(name="other"),))


def test_the_commands_keep_it_in_this_machines_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("FUMEHOOD_URL", raising=False)
    words = ("--from", str(GIVEN["url"]), "--sha256", SHA, "--bytes", "40", "--licence", "public domain")
    asked = ("admin", "catalogue", "add", "austen", *words, "--title", "Six novels", "--format", "text")
    # Nothing was kept here yet, which is an empty catalogue.
    assert main(("admin", "catalogue", "list")) == 0
    assert capsys.readouterr().out == "The catalogue is empty.\n"
    assert main(("admin", "catalogue", "remove", "austen")) == 2
    assert "no entry of this name" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
    assert main(asked) == 0
    added = capsys.readouterr().out
    assert f"sha256: {SHA}" in added
    assert re.search(r"^added_at: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", added, re.MULTILINE)
    assert "templates" not in added
    assert main((*asked[:-1], "pickle")) == 2
    assert "makes no entry" in capsys.readouterr().err
    assert main(("admin", "catalogue", "list")) == 0
    assert capsys.readouterr().out == f"{added}\n"
    assert main(("admin", "catalogue", "remove", "austen")) == 0
    assert main(("admin", "catalogue", "remove", "austen")) == 2
    capsys.readouterr()
    assert main(("admin", "catalogue", "list", "--json")) == 0
    assert capsys.readouterr().out.strip() == "[]"
