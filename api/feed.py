"""The events of directions, looked for once for all who read along."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from starlette.concurrency import run_in_threadpool

from api.streams import HEARTBEAT, HEARTBEAT_S
from fumehood.domain.step import Event
from fumehood.ports import Store
from fumehood.services import browsing

PAGE = 200
TAIL = 256
"""Events of a direction that are kept for those who read along; who is further behind reads the database."""
POLL_S = 0.25
PAUSE_S = 2.0
"""Until the next look after one that failed."""
MOST_STREAMS = 1_000
_LOG = logging.getLogger("fumehood.api")


def _told(event: Event) -> tuple[int, bytes]:
    told = {
        "seq": event.seq,
        "kind": event.kind,
        "text": event.text,
        "data": dict(event.data),
        "experiment_id": event.experiment_id,
        "at": event.at,
    }
    return event.seq, f"id: {event.seq}\ndata: {json.dumps(told)}\n\n".encode()


END = b"event: end\ndata: {}\n\n"


class _Topic:
    """The newest events of one direction."""

    def __init__(self, seq: int) -> None:
        self.floor = seq
        """Everything after this number is in the tail."""
        self.seq = seq
        self.tail: deque[tuple[int, bytes]] = deque()
        self.final = False
        self.looked = False
        self.readers = 0
        self.changed = asyncio.Event()

    def add(self, events: list[tuple[int, bytes]], *, final: bool) -> None:
        self.looked = True
        if not events and final == self.final:
            return
        self.final = final
        for one in events:
            self.tail.append(one)
            self.seq = one[0]
        while len(self.tail) > TAIL:
            self.floor = self.tail.popleft()[0]
        self.changed.set()
        self.changed = asyncio.Event()


class Feed:
    """Reads the events of every direction that somebody follows, whenever the database has changed.

    One look serves all streams of the process, and nothing is kept for a stream but its place: who reads slowly costs
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

    async def read(
        self, direction_id: str, seq: int, *, follow: bool, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[bytes, None]:
        """Give the events after `seq` as server-sent events, and go on until the direction has ended.

        A number that is still to come, as after a restore of the database, is taken for the newest there is.
        """
        self.streams += 1
        try:
            seq = await self._known(direction_id, seq)
            async with aclosing(self._stored(direction_id, seq)) as stored:
                async for number, chunk in stored:
                    seq = number
                    yield chunk
                    if chunk is END:
                        return
            if follow:
                async with aclosing(self._live(direction_id, seq, heartbeat_s)) as live:
                    async for chunk in live:
                        yield chunk
        finally:
            self.streams -= 1

    async def _known(self, direction_id: str, seq: int) -> int:
        """Return the place to begin at: where one stream begins, the tail begins for all that join it."""
        return min(seq, await run_in_threadpool(browsing.newest_event, self._store, direction_id)) if seq else 0

    async def _stored(self, direction_id: str, seq: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Give what the database has after `seq`, a page at a time, with its number."""
        while True:
            events, final = await run_in_threadpool(browsing.events, self._store, direction_id, seq, PAGE)
            for event in events:
                seq = event.seq
                yield _told(event)
            if final:
                yield seq, END
            if len(events) < PAGE:
                return

    async def _live(self, direction_id: str, seq: int, heartbeat_s: float) -> AsyncGenerator[bytes, None]:
        with self._joined(direction_id, seq) as topic:
            while True:
                changed, before = topic.changed, seq
                if seq < topic.floor:
                    async with aclosing(self._stored(direction_id, seq)) as stored:
                        async for number, chunk in stored:
                            seq = number
                            yield chunk
                            if chunk is END:
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
                if topic.final:
                    yield END
                    return
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except TimeoutError:
                    yield HEARTBEAT

    @contextmanager
    def _joined(self, direction_id: str, seq: int) -> Iterator[_Topic]:
        topic = self._topics.setdefault(direction_id, _Topic(seq))
        topic.readers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield topic
        finally:
            topic.readers -= 1
            if not topic.readers:
                del self._topics[direction_id]
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
            except Exception:  # noqa: BLE001 - whoever follows waits while the database is away, and then goes on
                _LOG.warning("The events could not be read; the next look is in %s s.", PAUSE_S, exc_info=True)
                version = None
                await asyncio.sleep(PAUSE_S)

    async def _catch_up(self) -> None:
        for direction_id, topic in list(self._topics.items()):
            more = True
            while more:
                events, final = await run_in_threadpool(browsing.events, self._store, direction_id, topic.seq, PAGE)
                topic.add([_told(event) for event in events], final=final)
                more = len(events) == PAGE
