"""Faults on purpose: every third call to the offline model fails, in turn in each of the ways that are asked for."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError
from fumehood.gateway.line import FailedError, Line, streamed
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message, Upstream, UpstreamError

EVERY = 3
_LOG = logging.getLogger("fumehood.gateway")


def _limit(_: Message) -> Message:
    raise FailedError(
        UpstreamError("Too many requests, on purpose.", status=429, kind="rate_limit_error", retryable=True), 0.1
    )


def _overload(_: Message) -> Message:
    raise FailedError(
        UpstreamError("Overloaded, on purpose.", status=529, kind="overloaded_error", retryable=True), 0.1
    )


def _cut(_: Message) -> Message:
    raise FailedError(UpstreamError("Broken off, on purpose.", status=502, kind="api_error", retryable=True), 0.1)


def _malformed(message: Message) -> Message:
    """Return the answer as JSON that breaks off, and not through the tool."""
    if not any(block["type"] == "tool_use" for block in message["content"]):
        return _cut(message)
    return {
        **message,
        "content": [{"type": "text", "text": '```json\n{"answer": [1, 2,\n```'}],
        "stop_reason": "end_turn",
    }


def _refusal(message: Message) -> Message:
    return {**message, "content": [], "stop_reason": "refusal"}


def _long(message: Message) -> Message:
    """Return the first half of the answer, as of one that came to the most tokens it may have."""
    halves = [_half(block) for block in message["content"]]
    return {**message, "content": halves, "stop_reason": "max_tokens"}


def _half(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "tool_use":
        return {**block, "input": dict(itertools.islice(block["input"].items(), len(block["input"]) // 2))}
    return {**block, "text": block["text"][: len(block["text"]) // 2]}


FAULTS: Mapping[str, Callable[[Message], Message]] = {
    "limit": _limit,
    "overload": _overload,
    "cut": _cut,
    "malformed": _malformed,
    "refusal": _refusal,
    "long": _long,
}


class Faulty:
    """An upstream that fails every third time, behind a line as a provider has."""

    def __init__(self, inner: Upstream, faults: Sequence[str], line: Line, *, every: int = EVERY) -> None:
        for name in faults:
            if name not in FAULTS:
                raise BadInputError(
                    f"FUMEHOOD_OFFLINE_FAULTS: there is no fault {name!r}; there are {', '.join(FAULTS)}."
                )
        self.name = inner.name
        self._inner = inner
        self._faults = [FAULTS[name] for name in faults]
        self._line = line
        self._every = every
        self._calls = itertools.count(1)
        self._lock = threading.Lock()

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the whole answer, or one with a fault."""
        return self._line.carry_out(lambda _: self._answer(claims, body), claims.tenant)

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the same as events; a stream that is cut is cut in its middle."""
        return streamed(self._line, lambda _: self._events(claims, body), claims.tenant)

    def count(self, claims: Claims, body: Body) -> int:
        """Return how many tokens the prompt has."""
        return self._inner.count(claims, body)

    def _answer(self, claims: Claims, body: Body) -> Message:
        fault = self._next()
        message = self._inner.send(claims, body)
        return fault(message) if fault else message

    def _events(self, claims: Claims, body: Body) -> Generator[Event, None, None]:
        fault = self._next()
        message = self._inner.send(claims, body)
        if fault is not _cut:
            yield from events_of(fault(message) if fault else message)
            return
        whole = list(events_of(message))
        yield from whole[: len(whole) // 2]
        raise UpstreamError("The stream was cut, on purpose.", status=502, kind="api_error", retryable=True)

    def _next(self) -> Callable[[Message], Message] | None:
        with self._lock:
            number = next(self._calls)
        turn, rest = divmod(number, self._every)
        if rest:
            return None
        fault = self._faults[(turn - 1) % len(self._faults)]
        _LOG.info("a fault on purpose: %s", next(name for name, one in FAULTS.items() if one is fault))
        return fault
