"""A strict double of the Anthropic provider: real HTTP, real checks of each request, answers from a script."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.fakes import caching

KEY = f"sk-ant-test-{secrets.token_hex(8)}"
"""Of this process of the tests alone: whoever looks for it in all processes does not find what others beside it do."""
USAGE = {"input_tokens": 100, "output_tokens": 50, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


@dataclass(frozen=True)
class Asked:
    """A request as the provider saw it."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """An answer that is an error."""

    status: int
    kind: str = "api_error"
    message: str = "as the script says"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """A message whose stream is cut after so many events."""

    message: dict[str, Any]
    after: int
    wait_s: float = 0.0
    """Waits before each event but the first, so that a caller can go away meanwhile."""


@dataclass(frozen=True)
class Streamed:
    """A stream of these events, whatever they are, as they stand."""

    events: tuple[dict[str, Any], ...]


Reply = dict[str, Any] | Failure | Broken | Streamed
Script = Callable[[Asked], Reply]


def text(said: str = "Hello.", **usage: int) -> dict[str, Any]:
    """Return a message that is a text."""
    return message([{"type": "text", "text": said}], "end_turn", **usage)


def tool(answer: dict[str, Any], name: str = "answer", **usage: int) -> dict[str, Any]:
    """Return a message that calls a tool."""
    return message([{"type": "tool_use", "id": "toolu_1", "name": name, "input": answer}], "tool_use", **usage)


def message(content: list[dict[str, Any]], stop: str, **usage: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {**USAGE, **usage},
    }


def events(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a message, written down here on their own so that the gateway's are checked by them."""
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for at, block in enumerate(whole["content"]):
        is_tool = block["type"] == "tool_use"
        empty = {**block, "input": {}} if is_tool else {**block, "text": ""}
        found.append({"type": "content_block_start", "index": at, "content_block": empty})
        if at == 0:
            found.append({"type": "ping"})
        said = json.dumps(block["input"]) if is_tool else block["text"]
        for half in (said[: len(said) // 2], said[len(said) // 2 :]):
            delta = (
                {"type": "input_json_delta", "partial_json": half} if is_tool else {"type": "text_delta", "text": half}
            )
            found.append({"type": "content_block_delta", "index": at, "delta": delta})
        found.append({"type": "content_block_stop", "index": at})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": whole["usage"]["output_tokens"]}})
    found.append({"type": "message_stop"})
    return found


class Provider:
    """The double; `asked` holds what it was asked, sound or not."""

    def __init__(self, script: Script | None = None, kept: caching.Kept | None = None) -> None:
        self.script: Script = script or (lambda _: text())
        self.kept = kept
        self.asked: list[Asked] = []
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        asked = await self._note(request)
        if fault := _fault(asked):
            return _failed(fault)
        reply = self.script(asked)
        if isinstance(reply, Failure):
            return _failed(reply)
        if self.kept is not None and isinstance(reply, dict):
            reply = {**reply, "usage": {**reply["usage"], **self.kept.usage(asked.body)}}
        if isinstance(reply, Streamed):
            # With characters as they are, as the real one writes them.
            lines = (f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in reply.events)
            return Response("".join(lines), media_type="text/event-stream")
        if asked.body.get("stream"):
            return StreamingResponse(_stream(reply), media_type="text/event-stream")
        if isinstance(reply, Broken):
            return StreamingResponse(_half(reply.message), media_type="application/json")
        return Response(json.dumps(reply), media_type="application/json")

    async def _count(self, request: Request) -> Response:
        asked = await self._note(request)
        fault = _fault(asked, counting=True)
        return _failed(fault) if fault else JSONResponse({"input_tokens": 321})

    async def _note(self, request: Request) -> Asked:
        asked = Asked(request.url.path, json.loads(await request.body()), dict(request.headers))
        self.asked.append(asked)
        return asked


async def _half(reply: dict[str, Any]) -> AsyncIterator[bytes]:
    yield json.dumps(reply).encode()[:20]
    raise ConnectionAbortedError


async def _stream(reply: dict[str, Any] | Broken) -> AsyncIterator[bytes]:
    import anyio

    whole = reply.message if isinstance(reply, Broken) else reply
    for at, event in enumerate(events(whole)):
        if isinstance(reply, Broken):
            await anyio.sleep(reply.wait_s if at else 0.0)
            if at == reply.after:
                raise ConnectionAbortedError
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _failed(failure: Failure) -> Response:
    body = {"type": "error", "error": {"type": failure.kind, "message": failure.message}, "request_id": "req_1"}
    return JSONResponse(body, failure.status, headers=failure.headers)


LEAST_THINKING = 1024
_IMAGES = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8", "image/gif": b"GIF8", "image/webp": b"RIFF"}
_FIELDS = {
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools",
    "tool_choice", "thinking", "metadata", "output_config", "cache_control",
}  # fmt: skip


def _fault(asked: Asked, *, counting: bool = False) -> Failure | None:
    """Return what the real provider would refuse in a request."""
    body = asked.body
    if asked.headers.get("x-api-key") != KEY:
        return Failure(401, "authentication_error", "invalid x-api-key")
    if asked.headers.get("anthropic-version") != "2023-06-01":
        return Failure(400, "invalid_request_error", "anthropic-version: header is required")
    if asked.headers.get("content-type") != "application/json":
        return Failure(400, "invalid_request_error", "content-type must be application/json")
    faults = [f"{name}: Extra inputs are not permitted" for name in set(body) - _FIELDS]
    needed = ("model", "messages") if counting else ("model", "messages", "max_tokens")
    faults += [f"{name}: Field required" for name in needed if name not in body]
    faults += _message_faults(body.get("messages", [])) + _tool_faults(body) + _cache_faults(body)
    faults += _image_faults(body.get("messages", [])) + _thinking_faults(body)
    if not 0 <= body.get("temperature", 1.0) <= 1:
        faults.append("temperature: range: 0..1")
    if not counting and not (isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0):
        faults.append("max_tokens: must be at least 1")
    if "-5-5" in str(body.get("model")):
        # What the newest models refuse.
        faults += [
            f"`{name}` is deprecated for this model." for name in ("temperature", "top_p", "top_k") if name in body
        ]
        if body.get("tool_choice", {}).get("type") in {"tool", "any"}:
            faults.append("tool_choice: forced tool use is not supported for this model")
    return Failure(400, "invalid_request_error", faults[0]) if faults else None


def _message_faults(messages: list[dict[str, Any]]) -> list[str]:
    if not messages:
        return ["messages: at least one message is required"]
    faults = [f"messages.{at}.content: must not be empty" for at, one in enumerate(messages) if not one.get("content")]
    wanted = ["user", "assistant"] * len(messages)
    if [one["role"] for one in messages] != wanted[: len(messages)]:
        faults.append("messages: roles must alternate, starting with user")
    called: set[str] = set()
    for one in messages:
        blocks = one["content"] if isinstance(one["content"], list) else []
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if results != called:
            faults.append("messages: each tool_use needs its tool_result in the next message")
        called = {block["id"] for block in blocks if block["type"] == "tool_use"}
    return faults


def _image_faults(messages: list[dict[str, Any]]) -> list[str]:
    faults = []
    for one in messages:
        blocks = one["content"] if isinstance(one.get("content"), list) else []
        for image in (block for block in blocks if block["type"] == "image"):
            source = image.get("source", {})
            if one["role"] != "user":
                faults.append("messages: image blocks are only permitted in user messages")
            if source.get("media_type") not in _IMAGES:
                faults.append(f"image.source.base64.media_type: Input should be one of {sorted(_IMAGES)}")
            elif not _is_base64(source.get("data")):
                faults.append("image.source.base64.data: invalid base64 data")
            elif not base64.b64decode(source["data"]).startswith(_IMAGES[source["media_type"]]):
                faults.append("image.source.base64.data: Image does not match the provided media type")
    return faults


def _is_base64(data: object) -> bool:
    try:
        return isinstance(data, str) and bool(base64.b64decode(data, validate=True))
    except ValueError:
        return False


def _thinking_faults(body: dict[str, Any]) -> list[str]:
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking.get("type") != "enabled":
        return []
    budget, faults = thinking.get("budget_tokens", 0), []
    if budget < LEAST_THINKING:
        faults.append(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {LEAST_THINKING}")
    if budget >= body.get("max_tokens", 0):
        faults.append("`max_tokens` must be greater than `thinking.budget_tokens`")
    if body.get("temperature", 1) != 1 or "top_k" in body:
        faults.append("`temperature` may only be set to 1 when thinking is enabled")
    if body.get("tool_choice", {}).get("type") in {"tool", "any"}:
        faults.append("Thinking may not be enabled when tool_choice forces tool use.")
    return faults


def _cache_faults(body: dict[str, Any]) -> list[str]:
    contents = [body.get("system", ""), *(one.get("content") for one in body.get("messages", []))]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    faults = [
        "messages: text content blocks must contain non-whitespace text"
        for block in blocks
        if block.get("type") == "text" and not block["text"].strip()
    ]
    marks = [block[caching.MARK] for block in [*body.get("tools", []), *blocks] if caching.MARK in block]
    if len(marks) > caching.MOST:
        faults.append(f"A maximum of {caching.MOST} blocks with cache_control may be provided. Found {len(marks)}.")
    return faults + ["cache_control.type: must be ephemeral" for mark in marks if mark.get("type") != "ephemeral"]


def _tool_faults(body: dict[str, Any]) -> list[str]:
    tools = body.get("tools", [])
    faults = ["tools: name required" for one in tools if not one.get("name")]
    faults += [
        "tools: input_schema.type must be object"
        for one in tools
        if one.get("input_schema", {}).get("type") != "object"
    ]
    choice = body.get("tool_choice", {})
    if choice and not tools:
        faults.append("tool_choice: may only be given with tools")
    if choice.get("type") == "tool" and choice.get("name") not in {one.get("name") for one in tools}:
        faults.append("tool_choice: no such tool")
    return faults


@contextlib.contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Serve an ASGI app on a port of this machine, any free one when none is named, in a thread; yields its URL."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
