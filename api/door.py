"""Who may come in: the key is asked for before anything else of a request is read, and bodies are short."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problem import problem

OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/v1/signing-keys", "/docs", "/openapi.json"})
"""What answers without the key; every other path, known or not, asks for it."""
LONGEST_BODY = 1024 * 1024


class Door:
    """Stands before the application and turns away who has no key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "http":
            if scope["path"] not in OPEN and not self._knows_key(Headers(scope=scope).get("authorization", "")):
                detail = "A valid key is needed: Authorization: Bearer <key>."
                refusal = problem(401, "unauthorised", detail, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
            receive = _short(receive)
        await self._app(scope, receive, send)

    def _knows_key(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode("latin-1"), self._key)


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
