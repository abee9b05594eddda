"""The ASGI app: the Messages API and OpenAI's chat completions for holders of our tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fumehood.domain.token import TokenError
from fumehood.errors import (
    ArtifactsUnavailableError,
    BadInputError,
    MachineUnfitError,
    OverBudgetError,
    StoreUnavailableError,
)
from fumehood.gateway import chat
from fumehood.gateway.exchange import Desk, Relay, WrongModelError
from fumehood.gateway.fetches import Fetches
from fumehood.gateway.line import MOST_WAITING
from fumehood.gateway.request import MAX_BYTES
from fumehood.gateway.upstream import Message, UpstreamError
from fumehood.observe import traces
from fumehood.ports import Delivered
from fumehood.serving import Threads

Shape = Callable[[int, str, str], dict[str, Any]]
"""Makes the body of an error from its status, kind and sentence."""

TOKEN_REFUSED = "urn:fumehood:problem:token-refused"  # noqa: S105 - a problem's name
SPARE = 32
"""Threads beside those that calls to all providers hold at most, for what is told at once: that there are too many."""
_CODES = {401: "invalid_api_key", 402: "insufficient_quota", 403: "model_not_allowed", 429: "rate_limit_exceeded"}
"""What OpenAI's libraries know an error by beside its status."""
_log = logging.getLogger(__name__)


def create_app(desk: Desk, fetches: Fetches | None = None) -> Starlette:
    """Return the gateway over these adapters; without `fetches` nothing of the catalogue is got."""
    doors = _Doors(desk, fetches)
    return Starlette(
        routes=[
            Route("/v1/messages", doors.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", doors.count_tokens, methods=["POST"]),
            Route("/v1/chat/completions", doors.chat, methods=["POST"]),
            Route("/v1/models", doors.models, methods=["GET"]),
            Route("/v1/catalogue/{name}", doors.catalogue, methods=["POST"]),
            Route("/healthz", _healthz, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _our_error},
    )


class _Doors:
    def __init__(self, desk: Desk, fetches: Fetches | None) -> None:
        self._desk = desk
        self._fetches = fetches
        sources = desk.models.sources.values()
        self._streams = sum(one.most_at_once for one in sources)
        # A call that was sent is settled, even when nobody waits for its answer any more. There is a thread for each
        # that any provider's line lets in, so that none waits because another provider is slow.
        self._calls = Threads(self._streams + len(sources) * MOST_WAITING + SPARE, "calls")

    async def messages(self, request: Request) -> Response:
        try:
            return await self._messages(request)
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer; ours are logged there
            return answer_to(error)

    async def _messages(self, request: Request) -> Response:
        claims = self._desk.claims(_token(request))
        raw = await _body(request)
        parent = traces.carried_by(request.headers)

        def answered() -> Message | Relay:
            exchange = self._desk.open(claims, raw, parent)
            return exchange.stream() if exchange.wants_stream else exchange.send()

        answer = await self._calls.do(answered)
        return _EventStream(answer, self._events) if isinstance(answer, Relay) else _Json(answer)

    async def count_tokens(self, request: Request) -> Response:
        try:
            claims = self._desk.claims(_token(request))
            raw = await _body(request)
            return _Json({"input_tokens": await self._calls.do(lambda: self._desk.count(claims, raw))})
        except Exception as error:  # noqa: BLE001 - as above
            return answer_to(error)

    async def chat(self, request: Request) -> Response:
        try:
            return await self._chat(request)
        except Exception as error:  # noqa: BLE001 - as above
            return answer_to(error, _chat_shape)

    async def _chat(self, request: Request) -> Response:
        claims = self._desk.claims(_token(request))
        raw, parent, created = await _body(request), traces.carried_by(request.headers), int(self._desk.clock.now())

        def answered() -> Message | Relay:
            exchange = self._desk.open(claims, json.dumps(chat.to_messages(raw)).encode(), parent)
            if not exchange.wants_stream:
                return chat.completion(exchange.send(), created)
            return exchange.stream(chat.Chunks(created, with_usage=chat.wants_usage(raw)).encode)

        answer = await self._calls.do(answered)
        return _EventStream(answer, self._events) if isinstance(answer, Relay) else _Json(answer)

    async def models(self, request: Request) -> Response:
        try:
            claims = self._desk.claims(_token(request))
            name, owner = await self._calls.do(lambda: self._desk.model(claims))
        except Exception as error:  # noqa: BLE001 - as above
            return answer_to(error, _chat_shape)
        model = {"id": name, "object": "model", "created": 0, "owned_by": owner}
        return _Json({"object": "list", "data": [model]})

    async def catalogue(self, request: Request) -> Response:
        try:
            claims, fetches = self._desk.claims(_token(request)), self._fetches
            if fetches is None:
                return _Json({"state": Delivered.AWAY, "reason": "This gateway fetches nothing.", "sha256": ""})
            found = await self._asked.do(lambda: fetches.get(claims, request.path_params["name"]))
            return _Json({"state": found.state, "reason": found.reason, "sha256": found.sha256})
        except Exception as error:  # noqa: BLE001 - as above
            return answer_to(error)

    # Not the threads of calls, of which those that wait for a place wait for a stream to end; only made where an event
    # loop runs.
    @cached_property
    def _asked(self) -> Threads:
        return Threads(SPARE, "catalogue")

    @cached_property
    def _events(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(self._streams + SPARE)


class _Json(JSONResponse):
    """All of it ASCII: half a pair of surrogates, as a cut answer may hold, is no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class _EventStream(Response):
    """Sends a relay's events, and closes it in every case, also when the caller goes away."""

    media_type = "text/event-stream"

    def __init__(self, relay: Relay, limiter: anyio.CapacityLimiter) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._relay = relay
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_gone, receive, group.cancel_scope)
                await self._send(send)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._relay.close, limiter=self._limiter)

    async def _until_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # Whoever waits for the provider's next sign is not waited for.
        self._relay.hang_up()
        scope.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while (data := await anyio.to_thread.run_sync(self._relay.next, limiter=self._limiter)) is not None:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _token(request: Request) -> str:
    key = request.headers.get("x-api-key")
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if key:
        return key
    if scheme.lower() == "bearer" and bearer:
        return bearer.strip()
    raise TokenError("A token is required, in `x-api-key` or as `Authorization: Bearer`.")


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise UpstreamError("The request is larger than 32 MiB.", status=413, kind="request_too_large")
        parts.append(part)
    return b"".join(parts)


def _messages_shape(_: int, kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _chat_shape(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": chat.error(message, kind, _CODES.get(status))}


def answer_to(error: Exception, shape: Shape = _messages_shape) -> Response:
    """Return the answer that tells the caller what went wrong, in the shape its client expects."""
    match error:
        case TokenError():
            return _error(401, "authentication_error", str(error), shape, problem=TOKEN_REFUSED)
        case WrongModelError():
            return _error(403, "permission_error", str(error), shape)
        case OverBudgetError():
            return _over_budget(error, shape)
        case BadInputError():
            return _error(400, "invalid_request_error", str(error), shape)
        case UpstreamError():
            return _error(error.status, error.kind, str(error), shape, problem=_problem(error))
        case StoreUnavailableError() | ArtifactsUnavailableError():
            _log.warning("a call was refused: %s", error)
            return _error(503, "api_error", "The database or the artifacts do not answer now.", shape)
        case MachineUnfitError():
            # The file of keys cannot be read: waiting does not mend it.
            return _error(424, "api_error", str(error), shape, problem="urn:fumehood:problem:model-refused")
        case ClientDisconnect():
            return _error(400, "invalid_request_error", "The caller went away.", shape)
    _log.error("the gateway failed", exc_info=error)
    return _error(500, "api_error", "The gateway failed; its log says how.", shape)


def _problem(error: UpstreamError) -> str:
    """Return what sets an error apart that a coder's program passes on as mere text."""
    if error.mendable:
        return "urn:fumehood:problem:model-refused"
    return "urn:fumehood:problem:model-away" if error.retryable else ""


def _error(status: int, kind: str, message: str, shape: Shape = _messages_shape, *, problem: str = "") -> Response:
    # The gateway has already tried again where that could help, so its callers need not.
    body = shape(status, kind, message)
    if problem:
        body = {"problem": problem, **body}
    return _Json(body, status, headers={"x-should-retry": "false"})


def _over_budget(error: OverBudgetError, shape: Shape) -> Response:
    message = str(error)
    problem = {
        **shape(402, "billing_error", message),
        "type": "urn:fumehood:problem:over-budget",
        "title": "Over budget",
        "status": 402,
        "detail": message,
        "cap": str(error.cap),
    }
    headers = {"x-should-retry": "false"}
    return Response(json.dumps(problem), 402, headers, media_type="application/problem+json")


async def _healthz(_: Request) -> Response:
    return _Json({"status": "ok"})


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return _error(status, kind, "There is nothing here that takes this request.")


async def _our_error(_: Request, error: Exception) -> Response:
    return answer_to(error)
