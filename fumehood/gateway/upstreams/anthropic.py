"""The Anthropic upstream: passes calls on over HTTP as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping

from fumehood.domain.ledger import Claims
from fumehood.gateway.line import Line, streamed
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, decode
from fumehood.gateway.upstream import Message
from fumehood.gateway.upstreams.http import STATUSES, Http, Names, failure, unreadable

NAMES = Names(provider="Anthropic", key="anthropic", variable="ANTHROPIC_API_KEY")
COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking")
"""The fields of a request whose tokens are counted."""
_VERSION = "2023-06-01"


class AnthropicUpstream:
    """A provider that speaks the Messages API over HTTP."""

    def __init__(
        self, base_url: str, *, key: Callable[[], str | None], line: Line | None = None, names: Names = NAMES
    ) -> None:
        self._line = line or Line(names.provider.lower())
        self.name = self._line.name
        version = {"anthropic-version": _VERSION}
        self._http = Http(base_url, names, lambda given: version | ({"x-api-key": given} if given else {}))
        self._key = key
        self._names = names

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the whole answer."""
        key = self._required_key()
        return self._line.carry_out(
            lambda left_s: checked(self._http.json("/v1/messages", body, key, left_s)), claims.tenant
        )

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the answer's events; tried again only until the first of them is there."""
        key = self._required_key()
        return streamed(
            self._line,
            lambda left_s: self._events(self._http.lines("/v1/messages", body, key, left_s), key),
            claims.tenant,
        )

    def count(self, claims: Claims, body: Body) -> int:
        """Return how many tokens the provider counts in the prompt."""
        key, told = self._required_key(), {name: body[name] for name in COUNTED if name in body}
        path = "/v1/messages/count_tokens"
        reply = self._line.carry_out(lambda left_s: self._http.json(path, told, key, left_s), claims.tenant)
        return int(reply.get("input_tokens", 0))

    def close(self) -> None:
        """Close the connections to the provider."""
        self._http.close()

    def _events(self, lines: Iterator[str], key: str) -> Generator[Event, None, None]:
        has_begun = False
        for event in decode(lines):
            if event.get("type") == "error" and not has_begun:
                # A provider that is overloaded says so after a status of success, too.
                told = event.get("error")
                inner = told if isinstance(told, Mapping) else {}
                status = STATUSES.get(str(inner.get("type")), 500)
                raise failure(status, str(inner.get("message") or ""), self._names, None, key).error
            has_begun = has_begun or event.get("type") == "message_start"
            yield _without(key, event) if event.get("type") == "error" else event

    def _required_key(self) -> str:
        return self._names.required(self._key)


def _without(key: str, event: Event) -> Event:
    """Return an error that does not say the provider's key; whoever asked is shown it."""
    return {**event, "error": json.loads(json.dumps(event.get("error")).replace(key, "[secret]"))} if key else event


def checked(reply: Message) -> Message:
    """Return an answer that is a message; `FailedError` where it is something else."""
    if reply.get("type") != "message" or not isinstance(reply.get("content"), list):
        raise unreadable("a message")
    return reply
