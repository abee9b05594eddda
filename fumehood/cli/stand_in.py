"""A stand-in for a provider, which answers at once and always the same: `python -m fumehood.cli.stand_in FD`.

It serves the Messages API on the listening socket that it is handed, for measurements of what lies in front of it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = 40
PAUSE_S = 0.05
"""Between two words of a stream: 40 of them take two seconds, as a short answer does."""
_USAGE = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


async def messages(request: Request) -> Response:
    """Answer with a short text, or with words that come one after the other."""
    asked = await request.json()
    if asked.get("stream"):
        return StreamingResponse(_events(asked["model"]), media_type="text/event-stream")
    content = [{"type": "text", "text": "word " * WORDS}]
    return JSONResponse(
        {
            **_head(asked["model"]),
            "content": content,
            "stop_reason": "end_turn",
            "usage": {**_USAGE, "output_tokens": WORDS},
        }
    )


def _head(model: str) -> dict[str, object]:
    return {
        "id": f"msg_{secrets.token_hex(8)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "stop_sequence": None,
    }


async def _events(model: str) -> AsyncIterator[bytes]:
    start = {**_head(model), "content": [], "stop_reason": None, "usage": {**_USAGE, "output_tokens": 1}}
    yield _event({"type": "message_start", "message": start})
    yield _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for _ in range(WORDS):
        await asyncio.sleep(PAUSE_S)
        yield _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}})
    yield _event({"type": "content_block_stop", "index": 0})
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": ended, "usage": {"output_tokens": WORDS}})
    yield _event({"type": "message_stop"})


def _event(event: dict[str, object]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def main() -> None:
    """Serve until told to stop."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = Starlette(routes=[Route("/v1/messages", messages, methods=["POST"])])
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
