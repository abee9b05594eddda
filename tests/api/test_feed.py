"""The events of a direction as they come, looked for once for all who read along."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from api import streams
from api.feed import END, HEARTBEAT, Feed
from api.streams import EventStream, while_it_opens
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Event
from fumehood.errors import StoreUnavailableError
from fumehood.services import browsing, directions, keys
from fumehood.store.memory import MemoryStore, MemoryTransaction
from tests.api.test_api import ASKED, Served, problem
from tests.contract.conftest import until


class CountingStore(MemoryStore):
    """A store that counts how often it was asked for its version, and for anything else."""

    asked = 0
    begun = 0

    @contextmanager
    def begin(self, *, write: bool = True, durable: bool = True) -> Iterator[MemoryTransaction]:
        self.begun += 1
        with super().begin(write=write, durable=durable) as tx:
            yield tx

    def version(self) -> int:
        self.asked += 1
        return super().version()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


def submitted(served: Served) -> DirectionId:
    return DirectionId(served.client.post("/v1/directions", json=ASKED).json()["id"])


def tell(served: Served, known: DirectionId, text: str) -> None:
    with served.lab.store.begin() as tx:
        tx.events.append(Event(direction_id=known, kind="test", text=text))


def test_each_reader_gets_what_happens_later_and_the_end(served: Served) -> None:
    known = submitted(served)
    feed = Feed(served.lab.store, poll_s=0.01)

    async def read() -> list[bytes]:
        return [chunk async for chunk in feed.read(known, 0, follow=True)]

    async def together() -> list[list[bytes]]:
        readers = [asyncio.create_task(read()) for _ in range(20)]
        for number in range(500):
            tell(served, known, f"later {number}.")
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        directions.cancel(served.lab.store, served.lab.clock, known)
        return await asyncio.gather(*readers)

    told = asyncio.run(together())
    events, final = browsing.events(served.lab.store, known, 0, 10_000)
    assert final
    assert all(len(one) == len(events) + 1 and one[-1] is END for one in told)
    assert all(b"later 499." in b"".join(one) for one in told)
    assert feed.streams == 0


def test_who_reads_nothing_for_long_misses_nothing(served: Served) -> None:
    known = submitted(served)
    feed = Feed(served.lab.store, poll_s=0.01)

    async def slowly() -> list[bytes]:
        tell(served, known, "first")
        async with aclosing(feed.read(known, 0, follow=True, heartbeat_s=0.05)) as stream:
            found = [await anext(stream)]
            while (chunk := await anext(stream)) is not HEARTBEAT:
                found.append(chunk)
            for number in range(1_000):
                tell(served, known, f"later {number}.")
            await asyncio.sleep(0.2)
            directions.cancel(served.lab.store, served.lab.clock, known)
            return found + [chunk async for chunk in stream if chunk is not HEARTBEAT]

    told = asyncio.run(slowly())
    events, _ = browsing.events(served.lab.store, known, 0, 10_000)
    assert len(told) == len(events) + 1


def test_one_look_serves_all_and_ends_with_the_last_reader(served: Served) -> None:
    known = submitted(served)
    store = CountingStore()
    with served.lab.store.begin(write=False) as tx:
        direction = tx.directions.get(known)
    with store.begin() as tx:
        tx.directions.save(direction)
    feed = Feed(store, poll_s=0.05)

    async def idle() -> None:
        async with asyncio.timeout(60):
            streams = [feed.read(known, 0, follow=True, heartbeat_s=0.5) for _ in range(100)]
            await asyncio.gather(*(anext(one) for one in streams))
            assert feed.streams == 100
            for one in streams:
                await one.aclose()
            asked = store.asked
            await asyncio.sleep(0.2)
            assert store.asked == asked

    asyncio.run(idle())
    assert feed.streams == 0
    assert store.asked < 100


def test_a_number_that_is_to_come_is_the_newest_there_is(served: Served) -> None:
    known = submitted(served)
    feed = Feed(served.lab.store, poll_s=0.01)

    async def read(seq: int) -> list[bytes]:
        return [chunk async for chunk in feed.read(known, seq, follow=True)]

    async def together() -> list[list[bytes]]:
        async with asyncio.timeout(60):
            readers = [asyncio.create_task(read(seq)) for seq in (2**63 - 1, 0)]
            await asyncio.sleep(0.2)
            tell(served, known, "later")
            directions.cancel(served.lab.store, served.lab.clock, known)
            return await asyncio.gather(*readers)

    ahead, plain = asyncio.run(together())
    assert [b"later" in b"".join(one) for one in (ahead, plain)] == [True, True]
    assert ahead == plain[-3:]
    assert ahead[-1] is END


def test_a_place_that_the_database_no_longer_has_is_waited_at(served: Served) -> None:
    known = submitted(served)
    store = CountingStore()
    with served.lab.store.begin(write=False) as tx:
        direction = tx.directions.get(known)
    with store.begin() as tx:
        tx.directions.save(direction)
    feed = Feed(store, poll_s=0.05)

    async def follow() -> None:
        async with asyncio.timeout(60), aclosing(feed.read(known, 0, follow=True, heartbeat_s=0.2)) as stream:
            assert await anext(stream) is HEARTBEAT
            # As where a database is set back beneath a server.
            feed._topics[known].floor = 10
            begun = store.begun
            assert [await anext(stream) for _ in range(2)] == [HEARTBEAT, HEARTBEAT]
            assert store.begun - begun < 10

    asyncio.run(follow())


def test_a_client_that_takes_nothing_is_let_go(served: Served) -> None:
    known = submitted(served)
    tell(served, known, "first")
    feed = Feed(served.lab.store, poll_s=0.01)

    async def stuck(message: object) -> None:
        if isinstance(message, dict) and message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def stream() -> None:
        await EventStream(feed.read(known, 0, follow=True), {}, stall_s=0.05).stream_response(stuck)

    asyncio.run(stream())
    assert feed.streams == 0


def test_no_more_streams_than_the_server_holds(served: Served) -> None:
    known = submitted(served)
    served.feed.streams = 1
    answer = served.client.get(f"/v1/directions/{known}/events")
    problem(answer, 429, "too-many-streams")
    assert answer.headers["retry-after"]


def holder(served: Served, lives_s: float | None) -> str:
    """Return the id of a key, and have everything asked with its text from now on."""
    asked = {"tenant": "local", "scopes": ["read"], "lives_s": lives_s}
    made = served.client.post("/v1/admin/keys", json=asked).json()
    served.nobody.headers["Authorization"] = f"Bearer {made['key']}"
    return str(made["id"])


@pytest.mark.parametrize("ends", ["revoked", "expired"])
def test_a_stream_ends_with_its_key(served: Served, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ASK_EVERY_S", 0.0)
    known, lab = submitted(served), served.lab
    tell(served, known, "before")
    key = holder(served, 3600.0)

    def go_on() -> None:
        # Whatever there was has been told, and what comes is waited for.
        until(lambda: bool(served.feed._topics))
        if ends == "revoked":
            keys.revoke(lab.store, lab.clock, "test", key)
        else:
            lab.clock.advance(3601)
        tell(served, known, "later")
        try:
            until(lambda: not served.feed.streams)
        finally:
            directions.cancel(lab.store, lab.clock, known)

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        told = served.nobody.get(f"/v1/directions/{known}/events").text
        going.result()
    assert "before" in told
    assert "later" not in told
    assert "event: end" not in told
    assert served.feed.streams == 0


def test_a_stream_whose_key_opens_goes_on_also_where_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ASK_EVERY_S", 0.0)
    answers = iter((True, None, True, False))

    def opens() -> bool:
        if (answer := next(answers)) is None:
            raise StoreUnavailableError("away")
        return answer

    async def counting() -> AsyncGenerator[bytes, None]:
        for number in itertools.count():
            yield b"%d" % number

    async def read() -> list[bytes]:
        return [chunk async for chunk in while_it_opens(opens, counting())]

    assert asyncio.run(read()) == [b"0", b"1", b"2"]
