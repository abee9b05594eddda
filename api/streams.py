"""An answer that goes on, and lets go of whoever does not read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Send

STALL_S = 30.0
"""How long a client may take nothing before its stream is ended; it may resume where it was."""


class EventStream(StreamingResponse):
    """Server-sent events."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], stall_s: float = STALL_S
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
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
