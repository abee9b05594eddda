"""The way to the platform's own gateway of models: four doors, each with the execution's token, added here."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import h11
import httpcore

from fumehood.domain.execution import LLM
from sandbox.egress.desk import Reply, problem
from sandbox.egress.journal import Journal
from sandbox.egress.request import RefusedError, check_headers
from sandbox.egress.serving import Talk, head

MAX_BODY, MAX_ANSWER = 1024 * 1024, 5 * 1024 * 1024
DOORS = {
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
}
"""What may be asked for, and how; the gateway has no other doors that take a token."""
CONNECT_S, READ_S, WHOLE_S = 10.0, 900.0, 3600.0
"""The gateway tries a provider again for ten minutes before it answers at all."""
_STREAM = "text/event-stream"
_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+(?:; ?charset=[A-Za-z0-9-]+)?", re.IGNORECASE)
_JSON = re.compile(rb"application/json(?:; ?charset=utf-8)?", re.IGNORECASE)
_UP = {
    b"anthropic-version": re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    b"accept": re.compile(rb"[a-zA-Z*/., -]{1,80}"),
}
_DOWN = {"retry-after": re.compile(r"[0-9]{1,4}"), "x-should-retry": re.compile("true|false")}
"""The headers that pass, up and down, with what each may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the gateway stands, as an administrator said; nothing that a program says leads anywhere else."""

    scheme: str
    host: str
    port: int
    path: str = ""


class Models:
    """Passes the requests of one execution on to the gateway, and its answers back as they come."""

    def __init__(self, place: Place, token: str, journal: Journal, requests: int) -> None:
        self._place, self._token, self._journal, self._requests = place, token, journal, requests
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if place.scheme == "https" else None,
            network_backend=httpcore.AnyIOBackend(),
            http1=True,
            http2=False,
            max_connections=16,
            max_keepalive_connections=0,
        )

    async def pass_on(self, talk: Talk) -> bool:
        """Answer one request; whether the answer came from the gateway."""
        asked = talk.asked
        method, path = asked.method.decode("latin-1"), asked.target.decode("latin-1").removeprefix(f"/{LLM}")
        try:
            _check(asked, method, path)
            body = await _json(talk) if method == "POST" else b""
            self._spend()
        except RefusedError as error:
            self._journal.note_refused(method=method, capability=LLM, path=path, status=error.status)
            await talk.refuse(replace(problem(error), allow=DOORS.get(path, "GET")))
            return False
        told = _Told()
        try:
            await self._carry(talk, told, method, path, body)
        finally:
            self._journal.note_sent(method=method, capability=LLM, path=path, status=told.status, size=told.size)
        return told.is_answered

    def _spend(self) -> None:
        if self._journal.spent >= self._requests:
            raise RefusedError(429, f"All {self._requests} requests of this execution are used up.")
        try:
            self._journal.spend()
        except OSError:
            # The host's disk is full: what cannot be counted does not go up.
            raise RefusedError(503, "Requests cannot be counted at this moment.", retry_after_s=5) from None

    async def _carry(self, talk: Talk, told: _Told, method: str, path: str, body: bytes) -> None:
        try:
            with anyio.fail_after(WHOLE_S):
                async with self._asked(method, path, talk.asked, body) as response:
                    await self._answer(talk, told, response)
            return
        except (TimeoutError, httpcore.TimeoutException):
            error = RefusedError(504, "The gateway of models did not answer in time.")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as cause:
            error = RefusedError(502, f"The gateway of models cannot be reached ({type(cause).__name__}).")
        except RefusedError as refused:
            error = refused
        if not told.is_begun:
            # Of what has begun the program sees that its end is missing.
            told.status = error.status
            await talk.send(_whole(problem(error), {}))

    @asynccontextmanager
    async def _asked(self, method: str, path: str, asked: h11.Request, body: bytes) -> AsyncIterator[httpcore.Response]:
        place = self._place
        host = f"[{place.host}]" if ":" in place.host else place.host
        headers: list[tuple[str | bytes, str | bytes]] = [
            ("Host", f"{host}:{place.port}"), ("Accept-Encoding", "identity"), ("User-Agent", "fumehood"),
            ("Connection", "close"), ("x-api-key", self._token),
        ]  # fmt: skip
        if method == "POST":
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        headers += [(name, value) for name, value in asked.headers if name in _UP and _UP[name].fullmatch(value)]
        url = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=place.path + path)
        times = {"connect": CONNECT_S, "read": READ_S, "write": CONNECT_S, "pool": WHOLE_S}
        async with self._pool.stream(
            method, url, headers=headers, content=body, extensions={"timeout": times}
        ) as response:
            yield response

    async def _answer(self, talk: Talk, told: _Told, response: httpcore.Response) -> None:
        named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if 300 <= response.status < 400 or named.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(502, "The gateway of models answers as none of ours does.")
        passed = {name: named[name] for name, shape in _DOWN.items() if shape.fullmatch(named.get(name, ""))}
        kind = named.get("content-type", "")
        kind = kind if _TYPE.fullmatch(kind) else "application/octet-stream"
        screened = self._screened(response.aiter_stream())
        if response.status == 200 and kind.startswith(_STREAM):
            await _stream(talk, told, kind, passed, screened)
            return
        whole = b"".join([piece async for piece in screened])
        told.begin(response.status)
        told.size = len(whole)
        await talk.send(_whole(Reply(status=response.status, content_type=kind, body=whole), passed))

    async def _screened(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield an answer as it comes, up to a size, but for what could be the beginning of the token."""
        token, held, size = self._token.encode(), b"", 0
        async for piece in pieces:
            size += len(piece)
            held += piece
            if size > MAX_ANSWER:
                raise RefusedError(502, f"The answer is larger than {MAX_ANSWER} bytes.")
            if token in held:
                raise RefusedError(502, "The answer quotes the execution's token, so it is not passed on.")
            keep = next((n for n in range(min(len(token) - 1, len(held)), 0, -1) if token.startswith(held[-n:])), 0)
            if passed := held[: len(held) - keep]:
                yield passed
            held = held[len(held) - keep :]
        if held:
            yield held


class _Told:
    """How far an answer to the program has come."""

    def __init__(self) -> None:
        self.status, self.size, self.is_begun, self.is_answered = 502, 0, False, False

    def begin(self, status: int) -> None:
        self.status, self.is_begun, self.is_answered = status, True, True


async def _stream(talk: Talk, told: _Told, kind: str, passed: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
    told.begin(200)
    await talk.send(head(200, kind, {"Transfer-Encoding": "chunked", "Cache-Control": "no-cache", **passed}))
    async for piece in pieces:
        told.size += len(piece)
        await talk.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await talk.send(b"0\r\n\r\n")


def _whole(reply: Reply, passed: Mapping[str, str]) -> bytes:
    return head(reply.status, reply.content_type, {"Content-Length": str(len(reply.body)), **passed}) + reply.body


def _check(asked: h11.Request, method: str, path: str) -> None:
    if asked.http_version != b"1.1":
        raise RefusedError(505, "Only HTTP/1.1 is spoken here.")
    if path not in DOORS:
        raise RefusedError(403, f"The path is not among those of the capability {LLM}, or has a query.")
    if method != DOORS[path]:
        raise RefusedError(405, f"Only {DOORS[path]} is answered here.")
    headers = list(asked.headers)
    check_headers(headers, has_body=method == "POST")
    told = dict(headers)
    if method == "POST" and not _JSON.fullmatch(told.get(b"content-type", b"")):
        raise RefusedError(415, "The body must be JSON, and its header content-type say so.")
    if told.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError(415, "The body must not be packed.")
    if int(told.get(b"content-length", b"0")) > MAX_BODY:
        raise RefusedError(413, f"The body is larger than {MAX_BODY} bytes.")


async def _json(talk: Talk) -> bytes:
    body = await talk.body(MAX_BODY)
    try:
        is_object = isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise RefusedError(400, "The body must be a JSON object.")
    return body
