"""Who may come in: the key is asked for before anything else of a request is read, and bodies are short."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import documentation
from api.problem import problem, store_away
from api.rates import Ask, Rates, Taken
from fumehood.batching import InBatches
from fumehood.domain.tenant import Scope as KeyScope
from fumehood.errors import StoreUnavailableError
from fumehood.services.keys import Caller

OPEN = documentation.OPEN | {"/healthz", "/readyz", "/metrics", "/v1/signing-keys", "/openapi.json"}
"""What answers without a key; every other path, known or not, asks for one."""
ADMIN = "/v1/admin"
LONGEST_BODY = 1024 * 1024
LONGEST_KEY = 500
KNOWN_S = 1.0
"""How long a key that was found is not looked up again; so long, at most, a revoked one still opens."""
MOST_KNOWN = 10_000
READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Door:
    """Stands before the application and turns away who has no key, the wrong one, or asks too much."""

    def __init__(self, app: ASGIApp, authenticate: Callable[[str], Caller | None], rates: Rates) -> None:
        self._app = app
        self._authenticate = authenticate
        self._take: InBatches[Ask, Taken] = InBatches(rates.take_all, "counting")
        self._known: dict[str, tuple[float, Caller]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = _short(receive)
        if scope["path"] not in OPEN:
            try:
                caller = await self._caller(Headers(scope=scope).get("authorization", ""))
            except StoreUnavailableError as error:
                await store_away(error)(scope, receive, send)
                return
            if caller is None:
                detail = "A valid key is needed: Authorization: Bearer <key>."
                await problem(401, "unauthorised", detail, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
            needed = _needed(scope)
            if needed not in caller.scopes:
                detail = f"This key lacks the scope {needed}."
                await problem(403, "forbidden", detail)(scope, receive, send)
                return
            taken = await self._take(Ask(caller.key, scope["method"] in READS))
            if refusal := taken.refusal:
                await problem(*refusal, taken.headers)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            send = _telling(send, taken)
        await self._app(scope, receive, send)

    async def _caller(self, authorization: str) -> Caller | None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given or len(given) > LONGEST_KEY:
            return None
        now = time.monotonic()
        until, known = self._known.get(given, (0.0, None))
        if known and now < until:
            return known
        found = await run_in_threadpool(self._authenticate, given)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        if found:
            self._known[given] = (now + KNOWN_S, found)
        else:
            self._known.pop(given, None)
        return found


def _needed(scope: Scope) -> KeyScope:
    if scope["path"] == ADMIN or scope["path"].startswith(f"{ADMIN}/"):
        return KeyScope.ADMIN
    return KeyScope.READ if scope["method"] in READS else KeyScope.WRITE


def _telling(send: Send, taken: Taken) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(taken.headers)
        await send(message)

    return told


def _short(receive: Receive) -> Receive:
    length = 0

    async def limited() -> Message:
        nonlocal length
        message = await receive()
        length += len(message.get("body", b""))
        if length > LONGEST_BODY:
            raise HTTPException(413, f"The body is longer than {LONGEST_BODY} bytes.")
        return message

    return limited
