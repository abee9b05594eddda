"""One HTTP request to a provider, and what its answer means whatever dialect it is in."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import LineTooLong
from typing import Any

from fumehood.gateway.hanging_up import HangUp, of_this_stream
from fumehood.gateway.line import FailedError
from fumehood.gateway.upstream import UpstreamError
from fumehood.gateway.upstreams.connections import Answer, BrokenError, Connections

NO_KEY = 424
"""Not a status that clients try again: waiting does not bring a key."""
_AGAIN = frozenset({408, 409, 429})
_KINDS = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "validationException": 400,
    "throttlingException": 429,
    "modelTimeoutException": 504,
    "serviceUnavailableException": 503,
}
"""What the kinds of errors within a stream would be outside of one; any other is the provider's own fault."""
_UNAUTHORISED = 401
_ACCOUNT = frozenset({402, 403})
"""It is the platform's account that lacks money or a right. Passed on as they are they would speak of the caller."""
_NO_MONEY = ("credit balance is too low", "insufficient_quota", "exceeded your current quota")
"""What providers say, as a fault of the request or as a limit of the rate, when an account is empty."""
_HEADERS = {"accept": "*/*", "content-type": "application/json", "user-agent": "fumehood"}
CONNECT_S = 10.0
"""How long a connection may take to come about."""
LONGEST_LINE = 32 * 1024 * 1024
"""Bytes of one line of a stream."""
SILENCE_S = 180.0
"""A stream in which nothing comes for so long is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How a provider and what it takes are called in sentences."""

    provider: str
    key: str
    """As in `fumehood keys set KEY`; empty where it takes none."""
    variable: str = ""
    """The environment's variable that wins over the key that is kept."""

    def required(self, key: Callable[[], str | None]) -> str:
        """Return the key, nothing where none is taken; `UpstreamError` where there is none."""
        found = key() if self.key else ""
        if self.key and not found:
            raise self.no_key()
        return found or ""

    def no_key(self) -> UpstreamError:
        """Return the error of a call for which there is no key."""
        wins = f", or in {self.variable}, which wins" if self.variable else ""
        told = f"There is no key for {self.provider}; give one with `fumehood keys set {self.key}`{wins}."
        return UpstreamError(told, status=NO_KEY, kind="api_error", mendable=True)

    def refused_key(self) -> UpstreamError:
        """Return the error of a call whose key is refused.

        Not passed on as 401: it is the platform's key that is refused, not the caller's token.
        """
        wins = f", or in {self.variable}, which wins" if self.variable else ""
        give = f": give another with `fumehood keys set {self.key}`{wins}." if self.key else "."
        told = f"{self.provider} refuses the platform's key{give}"
        return UpstreamError(told, status=NO_KEY, kind="api_error", mendable=True)


class Http:
    """Requests to one provider over connections that are kept."""

    def __init__(self, base_url: str, names: Names, headers: Callable[[str], dict[str, str]]) -> None:
        self._connections = Connections(base_url)
        self._names = names
        self._headers = headers

    def json(self, path: str, body: Mapping[str, Any], key: str, left_s: float) -> dict[str, Any]:
        """Return the JSON object that a POST is answered with; `FailedError` when there is none in time."""
        ends_at = time.monotonic() + left_s
        answer = self._send(path, body, key, left_s)
        try:
            reply = json.loads(b"".join(_in_time(answer.parts(), ends_at)))
        except BrokenError as error:
            raise _no_answer(error) from error
        except ValueError:
            reply = None
        finally:
            answer.close()
        if not isinstance(reply, dict):
            raise unreadable("JSON")
        return reply

    def lines(self, path: str, body: Mapping[str, Any], key: str, left_s: float) -> Iterator[str]:
        """Return the lines of a streamed answer; `FailedError` before the first, `UpstreamError` among them."""
        answer, hang_up = self._send(path, body, key, left_s), of_this_stream()
        hang_up.watch(answer.wire)
        return self._lines(answer, time.monotonic() + left_s, hang_up)

    def _lines(self, answer: Answer, ends_at: float, hang_up: HangUp) -> Iterator[str]:
        try:
            yield from _split(_in_time(answer.parts(), ends_at))
        except BrokenError as error:
            raise broken_off(error.cause) from error
        finally:
            hang_up.forget()
            answer.close()

    def close(self) -> None:
        """Close the connections to the provider."""
        self._connections.close()

    def _send(self, path: str, body: Mapping[str, Any], key: str, left_s: float) -> Answer:
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        silence_s = min(left_s, SILENCE_S) if body.get("stream") else left_s
        headers = _HEADERS | self._headers(key)
        try:
            answer = self._connections.post(path, data, headers, connect_s=min(left_s, CONNECT_S), silence_s=silence_s)
            if answer.status == HTTPStatus.OK:
                return answer
            try:
                reason = _reason(b"".join(answer.parts()))
            finally:
                answer.close()
        except BrokenError as error:
            raise _no_answer(error) from error
        raise failure(answer.status, reason, self._names, retry_after_s(answer.headers), key)


def _in_time(parts: Iterator[bytes], ends_at: float) -> Iterator[bytes]:
    """Return what comes until a time: each part may be in time, and all of them together not."""
    for part in parts:
        yield part
        if time.monotonic() > ends_at:
            raise BrokenError(TimeoutError(), was_sent=True)


def _split(parts: Iterator[bytes]) -> Iterator[str]:
    """Return the lines of an event stream: other signs at which Unicode ends a line may stand within its JSON."""
    left = b""
    for part in parts:
        *lines, left = (left + part).split(b"\n")
        if len(left) > LONGEST_LINE:
            raise BrokenError(LineTooLong("event"), was_sent=True)
        yield from (line.removesuffix(b"\r").decode(errors="replace") for line in lines)
    if left:
        yield left.removesuffix(b"\r").decode(errors="replace")


def _no_answer(error: BrokenError) -> FailedError:
    return unreached(error.cause, timed_out=isinstance(error.cause, TimeoutError), was_sent=error.was_sent)


def unreached(error: BaseException, *, timed_out: bool, was_sent: bool) -> FailedError:
    """Return what it means that no answer came; only the error's class is told, since its text may hold credentials.

    Where a request `was_sent`, the provider may have answered, and takes its money.
    """
    kind, status = ("timeout_error", 504) if timed_out else ("api_error", 502)
    told = "did not answer to the end" if was_sent else "could not be reached"
    message = f"The provider {told} ({type(error).__name__})."
    return FailedError(UpstreamError(message, status=status, kind=kind, retryable=True, maybe_paid=was_sent))


def broken_off(error: BaseException) -> UpstreamError:
    """Return what it means that a stream ended before its last event."""
    message = f"The provider's stream broke off ({type(error).__name__})."
    return UpstreamError(message, status=502, kind="api_error", retryable=True, maybe_paid=True)


def unreadable(what: str) -> FailedError:
    """Return what it means that an answer came, for which the provider takes money, that nobody can use."""
    told = f"The provider's answer is not {what}."
    return FailedError(UpstreamError(told, status=502, kind="api_error", retryable=True, maybe_paid=True))


def failure(status: int, reason: str, names: Names, retry_after: float | None, secret: str = "") -> FailedError:
    """Return what a provider's answer means that is an error."""
    if status == _UNAUTHORISED:
        return FailedError(names.refused_key())
    reason = reason.replace(secret, "[secret]") if secret else reason
    told = f"The provider answered {status}: {reason[:1000] or 'no reason given'}"
    if status in _ACCOUNT or any(words in reason for words in _NO_MONEY):
        return FailedError(UpstreamError(told, status=NO_KEY, kind="api_error", mendable=True))
    retryable = status in _AGAIN or status >= 500
    said = status if status in _KINDS else 400 if status < 500 else 502
    error = UpstreamError(told, status=said, kind=_KINDS.get(said, "api_error"), retryable=retryable)
    return FailedError(error, retry_after)


def _reason(answer: bytes) -> str:
    try:
        error = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(error, Mapping):
        words = (error.get("message"), error.get("code"))
        return " ".join(str(word) for word in words if word and isinstance(word, str))
    return str(error)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a provider asks to wait; None where it does not say."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(float(milliseconds) / 1000, 0.0)
        given = headers.get("retry-after")
        if not given:
            return None
        if given.replace(".", "", 1).isdigit():
            return float(given)
        return max(email.utils.parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
