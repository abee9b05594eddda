"""The upstream of OpenAI's chat completions: OpenAI, DeepSeek, OpenRouter, and servers of one's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from fumehood.domain.ledger import Claims
from fumehood.gateway.line import FailedError, Line, streamed
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, decode
from fumehood.gateway.upstream import Message, UpstreamError
from fumehood.gateway.upstreams.completions import Events, counted, message_of, request_of
from fumehood.gateway.upstreams.http import Http, Names, failure

_PATH = "/chat/completions"
_ERRORS = (400, 599)
"""The first and the last status that is an error."""


class OpenAiUpstream:
    """A server that speaks OpenAI's chat completions over HTTP."""

    def __init__(
        self,
        base_url: str,
        *,
        key: Callable[[], str | None],
        names: Names,
        line: Line | None = None,
        limit_field: str = "max_tokens",
    ) -> None:
        self._line = line or Line(names.provider.lower())
        self.name = self._line.name
        self._http = Http(base_url, names, lambda given: {"authorization": f"Bearer {given}"} if given else {})
        self._key = key
        self._names = names
        self._limit_field = limit_field

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the whole answer."""
        key, asked = self._required_key(), request_of(body, self._limit_field)

        def attempt(left_s: float) -> Message:
            reply = self._http.json(_PATH, asked, key, left_s)
            self._check(reply, key)
            try:
                return message_of(reply, body)
            except UpstreamError as error:
                raise FailedError(error) from error

        return self._line.carry_out(attempt, claims.tenant)

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the answer's events; tried again only until the first of them is there."""
        key, asked = self._required_key(), request_of(body, self._limit_field)
        return streamed(
            self._line,
            lambda left_s: self._events(self._http.lines(_PATH, asked, key, left_s), body, key),
            claims.tenant,
        )

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return about how many tokens the prompt has."""
        return counted(body)

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def _events(self, lines: Iterator[str], body: Body, key: str) -> Generator[Event, None, None]:
        events = Events(body)
        for chunk in decode(lines):
            try:
                self._check(chunk, key)
            except FailedError as failed:
                raise failed.error from failed
            yield from events.see(chunk)
        yield from events.end()

    def _check(self, reply: Mapping[str, Any], key: str) -> None:
        """Raise what is an error, though it came as an answer: with the status 200, or in the midst of a stream."""
        told = reply.get("error")
        if not told:
            return
        table = told if isinstance(told, Mapping) else {"message": told}
        code = table.get("code")
        status = code if isinstance(code, int) and _ERRORS[0] <= code <= _ERRORS[1] else 502
        raise failure(status, str(table.get("message") or ""), self._names, None, key)

    def _required_key(self) -> str:
        return self._names.required(self._key)
