"""What goes on, read along: the events of directions and the output of runs, looked for once for all who follow."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

from starlette.concurrency import run_in_threadpool

from fumehood.domain.ids import RunId
from fumehood.domain.output import Over, Printed
from fumehood.domain.step import Event
from fumehood.errors import StoreUnavailableError
from fumehood.ports import Artifacts, Store
from fumehood.services import browsing, outputs

PAGE = 200
TAIL = 256
"""Pieces of a stream that are kept for those who read along; who is further behind reads the database."""
POLL_S = 0.25
HEARTBEAT_S = 15.0
"""After so long a stream that has nothing to tell says that it is still there."""
PAUSE_S = 2.0
"""Until the next look after one that failed."""
MOST_STREAMS = 1_000
_LOG = logging.getLogger("fumehood.api")
Chunk = tuple[int, bytes]
"""A place in a stream, and what is sent there."""
Newest = Callable[[], int]
Look = Callable[[int, int], tuple[list[Chunk], bytes | None]]
"""Given a place and a most, returns what follows it, and the last word where nothing will follow that."""


def _told(event: Event) -> Chunk:
    told = {
        "seq": event.seq,
        "kind": event.kind,
        "text": event.text,
        "data": dict(event.data),
        "experiment_id": event.experiment_id,
        "at": event.at,
    }
    return event.seq, f"id: {event.seq}\ndata: {json.dumps(told)}\n\n".encode()


def _shown(piece: Printed) -> Chunk:
    # JSON in ASCII: whatever a program prints, no byte of it can end a line of the stream.
    told = {"execution_id": piece.execution_id, "offset": piece.offset, "text": piece.text}
    return piece.place, f"id: {piece.place}\ndata: {json.dumps(told)}\n\n".encode()


def _ended(over: Over) -> bytes:
    return f"event: end\ndata: {json.dumps(dataclasses.asdict(over))}\n\n".encode()


END = b"event: end\ndata: {}\n\n"
HEARTBEAT = b": still here\n\n"


@dataclass(frozen=True, slots=True)
class _Next:
    """What follows in a stream; the last word has the place of what came before it."""

    place: int
    chunk: bytes
    is_last: bool = False


class _Topic:
    """The newest pieces of one stream."""

    def __init__(self, look: Look, seq: int) -> None:
        self.look = look
        self.floor = seq
        """Everything after this number is in the tail."""
        self.seq = seq
        self.tail: deque[Chunk] = deque()
        self.last: bytes | None = None
        self.looked = False
        self.readers = 0
        self.changed = asyncio.Event()

    def add(self, found: list[Chunk], last: bytes | None) -> None:
        self.looked = True
        if not found and last == self.last:
            return
        self.last = last
        for one in found:
            self.tail.append(one)
            self.seq = one[0]
        while len(self.tail) > TAIL:
            self.floor = self.tail.popleft()[0]
        self.changed.set()
        self.changed = asyncio.Event()


class Feed:
    """Reads every stream that somebody follows, whenever the database has changed.

    One look serves all readers of the process, and nothing is kept for a reader but its place: who reads slowly costs
    no memory and misses nothing.
    """

    def __init__(self, store: Store, *, poll_s: float = POLL_S, most: int = MOST_STREAMS) -> None:
        self._store = store
        self._poll_s = poll_s
        self._most = most
        self._topics: dict[str, _Topic] = {}
        self._looking: asyncio.Task[None] | None = None
        self.streams = 0

    @property
    def is_full(self) -> bool:
        """Whether no further stream is served."""
        return self.streams >= self._most

    def read(
        self, direction_id: str, seq: int, *, follow: bool, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[bytes, None]:
        """Give a direction's events after `seq` as server-sent events, and go on until the direction has ended.

        A number that is still to come, as after a restore of the database, is taken for the newest there is.
        """

        def look(seq: int, limit: int) -> tuple[list[Chunk], bytes | None]:
            events, final = browsing.events(self._store, direction_id, seq, limit)
            return [_told(event) for event in events], END if final else None

        return self._read(
            direction_id, look, seq, partial(browsing.newest_event, self._store, direction_id),
            follow=follow, heartbeat_s=heartbeat_s,
        )  # fmt: skip

    def printed(
        self, artifacts: Artifacts, run_id: RunId, place: int, *, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[bytes, None]:
        """Give what a run's program prints after `place`, and go on until it has ended; the last word is how."""

        def look(place: int, limit: int) -> tuple[list[Chunk], bytes | None]:
            pieces, over = outputs.read(self._store, artifacts, run_id, place, limit)
            return [_shown(piece) for piece in pieces], None if over is None else _ended(over)

        newest = partial(outputs.newest, self._store, run_id)
        return self._read(run_id, look, place, newest, follow=True, heartbeat_s=heartbeat_s)

    async def _read(
        self, key: str, look: Look, seq: int, newest: Newest, *, follow: bool, heartbeat_s: float
    ) -> AsyncGenerator[bytes, None]:
        self.streams += 1
        try:
            # Where one stream begins, the tail begins for all that join it.
            seq = min(seq, await run_in_threadpool(newest)) if seq else 0
            async with aclosing(_stored(look, seq)) as stored:
                async for one in stored:
                    seq = one.place
                    yield one.chunk
                    if one.is_last:
                        return
            if follow:
                async with aclosing(self._live(key, look, seq, heartbeat_s)) as live:
                    async for chunk in live:
                        yield chunk
        finally:
            self.streams -= 1

    async def _live(self, key: str, look: Look, seq: int, heartbeat_s: float) -> AsyncGenerator[bytes, None]:
        with self._joined(key, look, seq) as topic:
            while True:
                changed, before = topic.changed, seq
                if seq < topic.floor:
                    async with aclosing(_stored(look, seq)) as stored:
                        async for one in stored:
                            seq = one.place
                            yield one.chunk
                            if one.is_last:
                                return
                    # Where the database has nothing to catch up with, asking at once again would be all this does.
                    if seq > before:
                        continue
                else:
                    for number, chunk in [one for one in topic.tail if one[0] > seq]:
                        seq = number
                        yield chunk
                if changed is not topic.changed:
                    continue
                if topic.last is not None:
                    yield topic.last
                    return
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except TimeoutError:
                    yield HEARTBEAT

    @contextmanager
    def _joined(self, key: str, look: Look, seq: int) -> Iterator[_Topic]:
        topic = self._topics.setdefault(key, _Topic(look, seq))
        topic.readers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield topic
        finally:
            topic.readers -= 1
            if not topic.readers:
                del self._topics[key]
            if not self._topics and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        version: int | None = None
        while True:
            try:
                now = await run_in_threadpool(self._store.version)
                if now != version or not all(topic.looked for topic in self._topics.values()):
                    # The number was read first, so what is committed meanwhile is seen at the next look.
                    version = now
                    await self._catch_up()
                await asyncio.sleep(self._poll_s)
            except Exception as error:  # noqa: BLE001 - whoever follows waits while the database is away, and then goes on
                # A database that is away has said all there is to say.
                trace = None if isinstance(error, StoreUnavailableError) else error
                _LOG.warning("the events could not be read, next look in %s s: %s", PAUSE_S, error, exc_info=trace)
                version = None
                await asyncio.sleep(PAUSE_S)

    async def _catch_up(self) -> None:
        for topic in list(self._topics.values()):
            more = True
            while more:
                found, last = await run_in_threadpool(topic.look, topic.seq, PAGE)
                topic.add(found, last)
                more = len(found) == PAGE


async def _stored(look: Look, seq: int) -> AsyncGenerator[_Next, None]:
    """Give what the database has after `seq`, a page at a time."""
    while True:
        found, last = await run_in_threadpool(look, seq, PAGE)
        for seq, chunk in found:
            yield _Next(seq, chunk)
        if last is not None:
            yield _Next(seq, last, is_last=True)
        if len(found) < PAGE:
            return
