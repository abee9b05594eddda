"""An answer that goes on, and lets go of whoever does not read it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import anyio
from fastapi import Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from api.feed import HEARTBEAT_S, Feed
from api.problem import problem
from fumehood.errors import StoreUnavailableError

ASK_EVERY_S = HEARTBEAT_S
"""How long a stream goes on before its key is looked up again; so long, at most, it tells a revoked one something."""
STALL_S = 30.0
"""How long a client may take nothing before its stream is ended; it may resume where it was."""
EVENTS = "text/event-stream"
RETRY_S = "5"
_LOG = logging.getLogger("fumehood.api")
LAST_SEQ = 2**63 - 1
AskedPlace = Annotated[int, Header(ge=0, le=LAST_SEQ, description="Events after this one.")]


def events_of(example: str) -> dict[str, Any]:
    """Return how a stream is documented."""
    return {EVENTS: {"schema": {"type": "string"}, "example": example}}


def followed(feed: Feed, opens: Callable[[], bool], events: AsyncGenerator[bytes, None]) -> Response:
    """Return a stream of the feed for as long as its key opens, or refuse it where the server holds all it can."""
    if feed.is_full:
        detail = "As many streams are open as this server holds; close one, or try again."
        return problem(429, "too-many-streams", detail, {"Retry-After": RETRY_S})
    return EventStream(while_it_opens(opens, events), {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def while_it_opens(opens: Callable[[], bool], chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Give the chunks of a stream until its key no longer opens; who asks anew is then told so at the door.

    Asked between two chunks, so a stream must send heartbeats.
    """
    asked = time.monotonic()
    async with aclosing(chunks):
        async for chunk in chunks:
            if time.monotonic() - asked >= ASK_EVERY_S:
                if not await run_in_threadpool(_or_unknown, opens):
                    return
                asked = time.monotonic()
            yield chunk


def _or_unknown(opens: Callable[[], bool]) -> bool:
    try:
        return opens()
    except StoreUnavailableError as error:
        # What holds the keys holds the events too: nothing new is told until it answers, and then it is asked again.
        _LOG.warning("Whether a stream's key still opens cannot be asked now: %s", error)
        return True


class EventStream(StreamingResponse):
    """Server-sent events."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], stall_s: float = STALL_S
    ) -> None:
        super().__init__(events, media_type=EVENTS, headers=headers)
        self._events = events
        self._stall_s = stall_s

    async def stream_response(self, send: Send) -> None:
        """Send each event as it comes; end without a last word when the client has stopped reading."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Closed here and now, so that a client that went away frees its place at once.
        async with aclosing(self._events) as events:
            async for chunk in events:
                with anyio.move_on_after(self._stall_s) as patience:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if patience.cancelled_caught:
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
