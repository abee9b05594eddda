"""The gateway gets what the catalogue names, for a step that asks, and nothing else for anybody."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fumehood.artifacts import fetching
from fumehood.artifacts.local import LocalArtifacts
from fumehood.domain.catalogue import Entry, EntryKind, Format
from fumehood.domain.direction import DirectionState
from fumehood.domain.ids import ExecutionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.template import PublicData
from fumehood.domain.token import TokenError
from fumehood.errors import ArtifactsUnavailableError, NotFoundError
from fumehood.gateway import fetches, tokens
from fumehood.gateway.app import create_app
from fumehood.gateway.exchange import Desk
from fumehood.gateway.fetch_client import GatewayFetcher
from fumehood.gateway.fetches import Fetches
from fumehood.gateway.models import Models
from fumehood.ports import Delivered
from fumehood.services.public_data import FetchedData
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.fakes.provider import serving
from tests.fakes.store import migrated
from tests.unit.test_domain_laws import DIRECTION
from tests.unit.test_fetching import Server

SECRET = b"s" * 32
TEXT = b"It is a truth universally acknowledged\n" * 100
PICKLE = b"\x80\x04K\x01."


@dataclasses.dataclass
class Place:
    """A gateway, its catalogue, and the server that the entries are on."""

    store: SqlStore
    artifacts: LocalArtifacts
    server: Server
    folder: Path
    clock: SystemClock
    fetches: Fetches

    def add(self, data: bytes = TEXT, **changes: Any) -> Entry:
        entry = Entry(
            id="austen",
            kind=EntryKind.DATA,
            title="Six novels",
            url=f"{self.server.address}/austen.txt",
            licence="public domain",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            format=Format.TEXT,
        )
        entry = dataclasses.replace(entry, **changes)
        self.server.body = data
        with self.store.begin() as tx:
            tx.catalogue.save(entry)
        return entry

    def claims(self, **changes: Any) -> Claims:
        told: dict[str, Any] = {"role": "catalogue", "model": "m", "expires_at": self.clock.now() + 60}
        return Claims(**{"tenant": DIRECTION.tenant, "direction_id": DIRECTION.id, **told, **changes})

    def has(self, sha256: str) -> bool:
        try:
            return self.artifacts.path(sha256).is_file()
        except NotFoundError:
            return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store, artifacts, clock = migrated(tmp_path / "fumehood.db"), LocalArtifacts(tmp_path / "artifacts"), SystemClock()
    with store.begin() as tx:
        tx.directions.save(DIRECTION)
    server, folder = Server(), tmp_path / "data"

    def download(name: str, source: PublicData) -> Path:
        return fetching.fetch(name, source, FetchedData(folder), wait_s=0.01).path

    desk = Desk(store=store, artifacts=artifacts, clock=clock, secret=SECRET, upstreams={}, models=Models.shipped())
    made = Fetches(store, artifacts, desk.accounts.check, download, wait_s=20.0)
    yield Place(store, artifacts, server, folder, clock, made)
    made.close()
    server.stop()
    store.close()


@pytest.fixture
def url(place: Place) -> Iterator[str]:
    desk = Desk(
        store=place.store,
        artifacts=place.artifacts,
        clock=place.clock,
        secret=SECRET,
        upstreams={},
        models=Models.shipped(),
    )
    with serving(create_app(desk, place.fetches)) as found:
        yield found


def test_a_worker_has_an_entry_got_over_http(place: Place, url: str) -> None:
    entry = place.add()
    fetcher = GatewayFetcher(url, SECRET, place.clock)
    came = fetcher.fetch(place.claims(), "austen")
    assert (came.state, came.sha256) == (Delivered.HERE, entry.sha256)
    assert place.artifacts.get(entry.sha256) == TEXT
    assert not list(place.folder.glob(entry.sha256)), "it is kept once"
    # What is here is not got again, also where the server has gone.
    place.server.status = 500
    assert fetcher.fetch(place.claims(), "austen").state is Delivered.HERE
    assert len(place.server.seen) == 1


def test_who_has_no_token_of_a_live_direction_gets_nothing(place: Place, url: str) -> None:
    entry = place.add()
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        assert httpx.post(f"{url}/v1/catalogue/austen", headers=headers).status_code == 401
    token = tokens.mint(place.claims(), SECRET)
    with place.store.begin() as tx:
        tx.directions.save(DIRECTION.to(DirectionState.CANCELLED))
    assert httpx.post(f"{url}/v1/catalogue/austen", headers={"x-api-key": token}).status_code == 401
    assert GatewayFetcher(url, b"x" * 32, place.clock).fetch(place.claims(), "austen").state is Delivered.AWAY
    assert not place.has(entry.sha256)
    assert place.server.seen == []


def test_no_execution_has_anything_got(place: Place) -> None:
    place.add()
    with pytest.raises(TokenError, match="fetches nothing"):
        place.fetches.get(place.claims(execution=ExecutionId("exec_1"), role="execution"), "austen")
    assert place.server.seen == []


@pytest.mark.parametrize("name", ["nothing", "AUSTEN", "../austen", "", "austen\n", "http://127.0.0.1/"])
def test_only_names_of_the_catalogue_lead_anywhere(place: Place, name: str) -> None:
    place.add()
    assert place.fetches.get(place.claims(), name).state is Delivered.REFUSED
    assert place.server.seen == []


@pytest.mark.parametrize("changes", [{"tenants": ("ten_2",)}, {"templates": ("other",)}, {"removed_at": 2.0}])
def test_what_is_not_for_a_direction_is_not_there_for_it(place: Place, changes: dict[str, Any]) -> None:
    place.add(**changes)
    # Whose it is, the database says, and never the token.
    assert place.fetches.get(place.claims(tenant=TenantId("ten_2")), "austen").state is Delivered.REFUSED
    assert place.server.seen == []


@pytest.mark.parametrize(
    ("data", "changes", "why"),
    [
        (PICKLE, {}, "is a pickle"),
        (TEXT, {"sha256": "0" * 64}, "is expected; it is not kept"),
        (TEXT, {"bytes": 10}, "more than the 10 bytes"),
        (TEXT, {"format": Format.NPZ}, "is no .npz archive"),
    ],
)
def test_what_is_not_what_it_says_is_refused_and_not_kept(
    place: Place, data: bytes, changes: dict[str, Any], why: str
) -> None:
    place.add(data, **changes)
    came = place.fetches.get(place.claims(), "austen")
    assert came.state is Delivered.REFUSED
    assert why in came.reason
    assert not place.has(hashlib.sha256(data).hexdigest())
    assert [path.name for path in place.folder.glob("*") if path.suffix not in {".part", ".json"}] == []
    # It can be mended: the right file is got the next time.
    place.add()
    assert place.fetches.get(place.claims(), "austen").state is Delivered.HERE


@pytest.mark.parametrize(("data", "changes"), [(PICKLE, {}), (TEXT, {"bytes": 10})])
def test_what_was_kept_before_is_checked_too(place: Place, data: bytes, changes: dict[str, Any]) -> None:
    place.add(data, **changes)
    place.artifacts.put(data)
    assert place.fetches.get(place.claims(), "austen").state is Delivered.REFUSED
    assert place.server.seen == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ArtifactsUnavailableError("away")])
def test_what_came_and_cannot_be_kept_is_not_got_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    entry = place.add()

    def fails(_: Path) -> str:
        raise error

    with monkeypatch.context() as full:
        full.setattr(place.artifacts, "put_file", fails)
        came = place.fetches.get(place.claims(), "austen")
    assert came.state is Delivered.AWAY
    assert str(error.args[-1]) in came.reason
    assert place.fetches.get(place.claims(), "austen").state is Delivered.HERE
    assert len(place.server.seen) == 1
    assert not place.folder.joinpath(entry.sha256).exists()


def test_what_a_killed_gateway_had_got_is_kept_and_leaves_nothing_behind(place: Place) -> None:
    entry = place.add()
    place.fetches._download(entry.id, fetches._source(entry))
    assert place.folder.joinpath(entry.sha256).exists()
    assert place.fetches.get(place.claims(), "austen").state is Delivered.HERE
    assert not place.folder.joinpath(entry.sha256).exists()
    assert len(place.server.seen) == 1


def test_two_entries_of_the_same_bytes_are_each_held_to_what_they_say(place: Place) -> None:
    place.add()
    place.add(id="bronte", format=Format.NPZ)
    go, found = threading.Barrier(2), {}

    def ask(name: str) -> None:
        go.wait()
        found[name] = place.fetches.get(place.claims(), name)

    both = [threading.Thread(target=ask, args=(name,)) for name in ("austen", "bronte")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found["austen"].state is Delivered.HERE
    assert found["bronte"].reason == "The file of bronte is no .npz archive."


def test_a_server_that_is_away_is_told_and_gone_on_with(place: Place) -> None:
    entry = place.add()
    place.server.breaks_at = [1000] * fetching.TRIES
    place.server.takes_ranges = False
    came = place.fetches.get(place.claims(), "austen")
    assert came.state is Delivered.AWAY
    assert "could not be fetched" in came.reason
    place.server.takes_ranges = True
    assert place.fetches.get(place.claims(), "austen").state is Delivered.HERE
    assert place.server.seen[-1] == ("/austen.txt", "bytes=1000-")
    assert place.artifacts.get(entry.sha256) == TEXT


def test_a_redirect_to_another_host_is_not_followed(place: Place) -> None:
    place.add()
    place.server.moved = "http://localhost:1/moved"
    came = place.fetches.get(place.claims(), "austen")
    assert came.state is Delivered.AWAY
    assert "not followed" in came.reason


def test_many_who_ask_at_once_wait_for_one_file(place: Place) -> None:
    place.add()
    found: list[Delivered] = []
    go = threading.Barrier(6)

    def ask() -> None:
        go.wait()
        found.append(place.fetches.get(place.claims(), "austen").state)

    everybody = [threading.Thread(target=ask) for _ in range(6)]
    for one in everybody:
        one.start()
    for one in everybody:
        one.join()
    assert found == [Delivered.HERE] * 6
    assert len(place.server.seen) == 1


def test_what_takes_longer_than_a_call_is_on_its_way(place: Place) -> None:
    entry, comes = place.add(), threading.Event()
    usual: Callable[..., Path] = place.fetches._download

    def slow(name: str, source: PublicData) -> Path:
        comes.wait(60)
        return usual(name, source)

    patient = Fetches(place.store, place.artifacts, lambda _: None, slow, wait_s=0.05)
    assert patient.get(place.claims(), "austen").state is Delivered.UNDER_WAY
    assert patient.get(place.claims(), "austen").state is Delivered.UNDER_WAY
    comes.set()
    while patient.get(place.claims(), "austen").state is Delivered.UNDER_WAY:
        pass
    assert place.has(entry.sha256)
    assert len(place.server.seen) == 1
    patient.close()


def test_where_no_gateway_answers_it_is_away() -> None:
    came = GatewayFetcher("http://127.0.0.1:9", SECRET, SystemClock(), timeout_s=2).fetch(
        Claims(tenant=DIRECTION.tenant, direction_id=DIRECTION.id, role="catalogue", model="m"), "austen"
    )
    assert came.state is Delivered.AWAY
    assert "could not be asked" in came.reason
