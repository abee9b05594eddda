"""The log over HTTP: a signed head, proofs that hold, and no other tenant's entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain import merkle
from fumehood.domain.log import canonical
from fumehood.services import log
from tests.api.test_api import ASKED, Served, problem
from tests.api.test_tenancy import as_holder, key_of


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Three entries, and one more after the log was signed."""
    made = Served(tmp_path_factory.mktemp("done"))
    made.client.post("/v1/directions", json=ASKED)
    made.lab.go_on()
    log.sign(made.lab.store, made.lab.clock, made.lab.signer)
    made.client.post("/v1/directions", json=ASKED | {"ideas": 1})
    made.lab.go_on()
    yield made
    made.lab.artifacts.close()


def read(done: Served, path: str) -> dict[str, Any]:
    answer = done.client.get(f"/v1/log{path}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def raw(hashes: list[str]) -> list[bytes]:
    return [bytes.fromhex(one) for one in hashes]


def test_the_head_is_signed_by_the_installation(done: Served) -> None:
    told = read(done, "")
    key = done.lab.signer.public_key_bytes()
    payload = open_envelope(json.dumps(told["envelope"]).encode(), {key_id_of(key): key}, log.TREE_HEAD_TYPE)
    assert json.loads(payload) == {name: told[name] for name in ("size", "root", "at")}
    assert told["size"] == 3


def test_each_leaf_is_proved_to_be_under_the_signed_root(done: Served) -> None:
    head = read(done, "")
    for leaf in range(3):
        told = read(done, f"/proof?leaf={leaf}")
        assert (told["leaf"], told["size"], told["root"]) == (leaf, 3, head["root"])
        entry = canonical(told["entry"]).encode()
        assert merkle.leaf_hash(entry).hex() == told["hash"]
        assert merkle.is_included(leaf, 3, merkle.leaf_hash(entry), raw(told["proof"]), bytes.fromhex(head["root"]))


def test_a_later_tree_is_proved_to_begin_with_an_earlier_one(done: Served) -> None:
    for path, new in (("/consistency?from=2", 3), ("/consistency?from=2&to=5", 5)):
        told = read(done, path)
        assert (told["from"], told["to"]) == (2, new)
        old_root, new_root = bytes.fromhex(told["from_root"]), bytes.fromhex(told["to_root"])
        assert merkle.is_prefix(2, new, old_root, new_root, raw(told["proof"]))
    assert read(done, "/consistency?from=3")["to_root"] == read(done, "")["root"]


def test_another_tenant_sees_hashes_and_no_entry(done: Served) -> None:
    foreign = as_holder(done, key_of(done.lab, "foreign"))
    ours, theirs = read(done, "/proof?leaf=1"), foreign.get("/v1/log/proof?leaf=1").json()
    assert theirs == {**ours, "entry": None}
    assert foreign.get("/v1/log").json() == read(done, "")


@pytest.mark.parametrize(
    "path",
    ["/proof?leaf=3", "/proof?leaf=0&size=99", "/proof?leaf=-1", "/proof", "/proof?leaf=x", "/consistency?from=4",
     "/consistency?from=1&to=99", "/consistency", f"/proof?leaf={2**70}"],
)  # fmt: skip
def test_what_the_log_does_not_have_is_refused(done: Served, path: str) -> None:
    problem(done.client.get(f"/v1/log{path}"), 422, "bad-input")


def test_before_the_first_signature_there_is_nothing_to_read(tmp_path: Path) -> None:
    served = Served(tmp_path)
    for path in ("", "/proof?leaf=0", "/consistency?from=0"):
        problem(served.client.get(f"/v1/log{path}"), 404, "not-found")
    problem(served.nobody.get("/v1/log"), 401, "unauthorised")
    served.lab.artifacts.close()
