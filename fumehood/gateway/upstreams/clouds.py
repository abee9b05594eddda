"""Anthropic's models at a cloud, asked through the cloud's own client in Anthropic's library.

The library brings the cloud's addresses, its way to prove who asks and its framing of streams. Retries, places, errors
and credentials stay ours: it is given no chance to look for credentials in the environment or in anybody's home.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError
from fumehood.gateway.credentials import hidden
from fumehood.gateway.line import FailedError, Line, streamed
from fumehood.gateway.models import Source
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event
from fumehood.gateway.upstream import Message, UpstreamError
from fumehood.gateway.upstreams.anthropic import checked
from fumehood.gateway.upstreams.http import (
    CONNECT_S,
    NO_KEY,
    SILENCE_S,
    STATUSES,
    Names,
    broken_off,
    failure,
    retry_after_s,
    unreached,
    unreadable,
)

if TYPE_CHECKING:
    import anthropic

_NAMED = ("model", "messages", "max_tokens", "stream")
"""The fields of a request that the library takes by name; all others go as they are."""
_AFTER_ASKING = frozenset({"ReadTimeout", "ReadError", "RemoteProtocolError", "DecodingError"})
"""What fails, by its name, once a request was sent."""


class Cloud(ABC):
    """A cloud that has Anthropic's models."""

    version = ""
    """Of the Messages API, as this cloud calls it."""

    def __init__(
        self, source: Source, *, names: Names, key: Callable[[], str | None], line: Line | None = None
    ) -> None:
        self.name = source.name
        self.source = source
        self.names = names
        self._key = key
        self._line = line or Line(source.name)
        self._lock = threading.Lock()
        self._made: tuple[str, Any] | None = None

    @abstractmethod
    def make(self, key: str) -> Any:
        """Return the library's client for a key; `BadInputError` says what is wrong with one that it cannot be."""

    @abstractmethod
    def ready(self, client: Any, left_s: float) -> None:
        """See that the client can prove who asks; `FailedError` where that takes an answer that does not come."""

    def garbled(self) -> tuple[type[Exception], ...]:
        """Return what reading a stream raises that is not what it should be."""
        return (ValueError,)

    @abstractmethod
    def secrets(self, key: str) -> Iterable[str]:
        """Return what of a key must stand in no message."""

    @abstractmethod
    def meaning(self, status: int, headers: Mapping[str, str], body: object) -> tuple[int, str]:
        """Return the status that an error means, and its reason."""

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the whole answer."""
        key = self._required_key()

        def attempt(left_s: float) -> Message:
            asking = self._client(key, left_s).messages.with_streaming_response.create
            return checked(self._whole(asking, body, key, left_s))

        return self._line.carry_out(attempt, claims.tenant)

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the answer's events; tried again only until the first of them is there."""
        key = self._required_key()
        return streamed(self._line, lambda left_s: self._events(body, key, left_s), claims.tenant)

    @abstractmethod
    def count(self, claims: Claims, body: Body) -> int:
        """Return how many tokens the prompt has, or more where the cloud does not count."""

    def counted(self, claims: Claims, body: Body) -> int:
        """Return how many tokens the cloud counts in the prompt."""
        key = self._required_key()

        def attempt(left_s: float) -> dict[str, Any]:
            asking = self._client(key, left_s).messages.with_streaming_response.count_tokens
            return self._whole(asking, body, key, left_s)

        return int(self._line.carry_out(attempt, claims.tenant).get("input_tokens", 0))

    def close(self) -> None:
        """Close the connections to the cloud."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made[1].close()

    def _required_key(self) -> str:
        key = self._key()
        if not key:
            raise self.names.no_key()
        return key

    def _client(self, key: str, left_s: float) -> Any:
        with self._lock:
            if self._made is None or self._made[0] != key:
                # One that was made for another key may be in use, and goes when it no longer is.
                self._made = key, self._prepared(key)
            client = self._made[1]
        self.ready(client, left_s)
        return client

    def _prepared(self, key: str) -> Any:
        try:
            client = self.make(key)
        except ImportError as error:
            told = f"{self.names.provider} needs what `pip install fumehood[{self.source.kind}]` installs."
            raise UpstreamError(told, status=NO_KEY, kind="api_error", mendable=True) from error
        except BadInputError as error:
            told = f"{error} Give another with `fumehood keys set {self.names.key}`."
            raise UpstreamError(told, status=NO_KEY, kind="api_error", mendable=True) from None
        # The library adds those that it finds in the environment, whatever it is given.
        client._custom_headers = {}
        return client

    def _whole(self, ask: Callable[..., Any], body: Body, key: str, left_s: float) -> dict[str, Any]:
        import httpx2

        ends_at = time.monotonic() + left_s
        with self._asked(ask, body, key, left_s) as response:
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > ends_at:
                        # Each part came in time, but all of them together did not.
                        raise httpx2.ReadTimeout("too slow")
                reply = json.loads(b"".join(parts))
            except httpx2.HTTPError as error:
                raise _no_answer(error, timed_out=isinstance(error, httpx2.TimeoutException)) from error
            except ValueError:
                reply = None
        if not isinstance(reply, dict):
            raise unreadable("JSON")
        return reply

    def _events(self, body: Body, key: str, left_s: float) -> Generator[Event, None, None]:
        import anthropic
        import httpx2

        ends_at = time.monotonic() + left_s
        broken: tuple[type[Exception], ...] = (httpx2.HTTPError, *self.garbled())
        asking = self._client(key, left_s).messages.with_streaming_response.create
        with self._asked(asking, body, key, left_s, stream=True) as response:
            try:
                # As objects, so that the events are what came and not what the library makes of them.
                for event in response.parse(to=anthropic.Stream[object]):
                    if isinstance(event, dict):
                        yield event
                    if time.monotonic() > ends_at:
                        raise httpx2.ReadTimeout("too slow")
            except anthropic.APIStatusError as error:
                raise self._told(error, key).error from None
            except broken as error:
                raise broken_off(error) from error

    @contextlib.contextmanager
    def _asked(
        self, ask: Callable[..., Any], body: Body, key: str, left_s: float, *, stream: bool = False
    ) -> Iterator[Any]:
        """Give the answer to a request once it has begun; `FailedError` where it does not."""
        import anthropic

        named = {name: body[name] for name in _NAMED if name in body and name != "stream"}
        others = {name: value for name, value in body.items() if name not in _NAMED}
        timeout = anthropic.Timeout(min(left_s, SILENCE_S) if stream else left_s, connect=min(left_s, CONNECT_S))
        asking = ask(
            **named,
            **({"stream": True} if stream else {}),
            extra_body={**others, "anthropic_version": self.version},
            timeout=timeout,
        )
        with contextlib.ExitStack() as open_until_read:
            try:
                response = open_until_read.enter_context(asking)
            except anthropic.APIStatusError as error:
                raise self._told(error, key) from None
            except anthropic.APIConnectionError as error:
                timed_out = isinstance(error, anthropic.APITimeoutError)
                raise _no_answer(error.__cause__ or error, timed_out=timed_out) from error
            except ValueError as error:
                told = f"{self.names.provider} cannot be asked for this: {error}"
                raise FailedError(UpstreamError(told, status=400, kind="invalid_request_error")) from error
            yield response

    def _told(self, error: anthropic.APIStatusError, key: str) -> FailedError:
        """Return what an answer means that is an error; within a stream its status is that of a success."""
        if error.response.is_success:
            found = error.body.get("error") if isinstance(error.body, Mapping) else None
            inner = found if isinstance(found, Mapping) else {}
            status, reason = STATUSES.get(str(inner.get("type")), 500), str(inner.get("message") or "")
        else:
            status, reason = self.meaning(error.status_code, error.response.headers, error.body)
        reason = hidden(reason, self.secrets(key))
        return failure(status, reason, self.names, retry_after_s(error.response.headers))


def _no_answer(error: BaseException, *, timed_out: bool) -> FailedError:
    return unreached(error, timed_out=timed_out, was_sent=type(error).__name__ in _AFTER_ASKING)
