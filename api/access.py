"""Sees every request from first to last: its id, its line in the log, its figures, and what broke in it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.meters import Meters
from api.problem import problem
from fumehood.observe import context, traces

HEADER = "X-Request-Id"
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
"""An id that a caller may give its request."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""A method that is none, or the route of a request that found none: what callers make up is no label and no log."""
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines; heard at the level `debug` while all is well."""
_GONE = 499
"""The caller went away before there was an answer."""
_LOG = logging.getLogger("fumehood.api.access")


class Access:
    """Stands outermost, before the door."""

    def __init__(self, app: ASGIApp, meters: Meters, new_id: Callable[[], str]) -> None:
        self._app = app
        self._meters = meters
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its id, and tell what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if WELL_FORMED.fullmatch(given) else self._new_id()
        answer = _Answer(send, request_id)
        # A caller's own trace is not joined: who has no key must not write into the traces of others.
        with context.working_on(request_id=request_id), traces.span("request", request_id=request_id) as span:
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                _LOG.exception("the request broke")
                if answer.status:
                    # Half of it has gone out: only a connection that is cut says that the rest is missing.
                    raise
                refusal = problem(500, "internal", "Something is broken on our side.")
                await refusal(scope, receive, answer.send)
            finally:
                self._tell(scope, answer, span)

    def _tell(self, scope: Scope, answer: _Answer, span: traces.Span) -> None:
        route, status = _route(scope), answer.status or _GONE
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._meters.answered(route, method, status, answer.waited_s)
        for name, value in (("method", method), ("route", route), ("status", status)):
            span.set_attribute(f"fumehood.{name}", value)
        is_probe = route in PROBES and status < 400
        duration_s = answer.duration_s
        _LOG.log(
            logging.DEBUG if is_probe else logging.INFO,
            "%s %s %d in %.3f s",
            method,
            route,
            status,
            duration_s,
            extra={"method": method, "route": route, "status": status, "duration_s": round(duration_s, 6)},
        )


class _Answer:
    """What is sent, on its way out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._began = time.perf_counter()
        self._answered_s: float | None = None
        self.status = 0

    @property
    def duration_s(self) -> float:
        """How long the request has taken until now."""
        return time.perf_counter() - self._began

    @property
    def waited_s(self) -> float:
        """How long the caller waited for the answer to begin; a stream then goes on for as long as it likes."""
        return self.duration_s if self._answered_s is None else self._answered_s

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._answered_s = self.duration_s
            MutableHeaders(scope=message)[HEADER] = self._request_id
        await self._send(message)


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", OTHER))
