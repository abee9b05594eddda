"""The Anthropic upstream: passes calls on over HTTP, and tries again where that can help."""

from __future__ import annotations

import email.utils
import functools
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fumehood.domain.ledger import Claims
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, decode
from fumehood.gateway.upstream import Message, UpstreamError
from fumehood.observe import metrics

if TYPE_CHECKING:
    import httpx

_VERSION = "2023-06-01"
_AGAIN = frozenset({408, 409, 429})
_KINDS = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_UNAUTHORISED = 401
_ACCOUNT = frozenset({402, 403})
"""It is the platform's account that lacks money or a right. Passed on as they are they would speak of the caller."""
_NO_CREDIT = "credit balance is too low"
"""What the provider says, as a fault of the request, when an account is empty."""
_NO_KEY = 424
"""Not a status that clients try again: waiting does not bring a key."""


class Retries:
    """How often and how long to try: waits grow twofold up to `longest_s`, each shortened at random by up to half."""

    def __init__(
        self,
        *,
        attempts: int = 6,
        first_s: float = 0.5,
        longest_s: float = 60.0,
        deadline_s: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.attempts = attempts
        self.deadline_s = deadline_s
        self.now = monotonic
        self.sleep = sleep
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw

    def wait_s(self, failures: int, asked_for: float | None) -> float:
        """Return how long to wait after so many failures; what the provider asked for is never undercut."""
        grown = min(self._longest_s, self._first_s * 2 ** (failures - 1))
        return float(max(grown * (1 - self._draw() / 2), asked_for or 0.0))


class AnthropicUpstream:
    """The upstream of the models named `claude-...`."""

    name = "anthropic"
    is_free = False

    def __init__(self, base_url: str, *, key: Callable[[], str | None], retries: Retries | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._retries = retries or Retries()

    @functools.cached_property
    def _client(self) -> httpx.Client:
        import httpx  # half of the gateway's start-up time, and the offline model never needs it

        return httpx.Client(base_url=self._base_url, follow_redirects=False)

    def send(self, claims: Claims, body: Body) -> Message:  # noqa: ARG002 - part of the port
        """Return the whole answer."""
        message = self._json(self._post("/v1/messages", body))
        if message.get("type") != "message":
            raise UpstreamError("The provider's answer is not a message.", status=502, kind="api_error")
        return message

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:  # noqa: ARG002 - part of the port
        """Return the answer's events; tried again only until the provider began to answer."""
        response = self._post("/v1/messages", body, stream=True)
        return self._events(response)

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return how many tokens the provider counts in the prompt."""
        fields = ("model", "messages", "system", "tools", "tool_choice", "thinking")
        reply = self._json(self._post("/v1/messages/count_tokens", {key: body[key] for key in fields if key in body}))
        return int(reply.get("input_tokens", 0))

    def close(self) -> None:
        """Close the connections to the provider."""
        self._client.close()

    def _events(self, response: httpx.Response) -> Iterator[Event]:
        import httpx

        try:
            yield from decode(response.iter_lines())
        except httpx.HTTPError as error:
            message = f"The provider's stream broke off ({type(error).__name__})."
            raise UpstreamError(message, status=502, kind="api_error", retryable=True) from error
        finally:
            response.close()

    def _post(self, path: str, body: Body, *, stream: bool = False) -> httpx.Response:
        key = self._key()
        if not key:
            raise UpstreamError(
                "There is no key for Anthropic; give one with `fumehood keys set anthropic`.",
                status=_NO_KEY,
                kind="api_error",
                mendable=True,
            )
        ends_at = self._retries.now() + self._retries.deadline_s
        failures = 0
        while True:
            # Each attempt may take what is left of the whole, so that all of them together keep the deadline.
            left_s = max(ends_at - self._retries.now(), 1.0)
            outcome = self._try(path, body, key, left_s, stream=stream)
            if not isinstance(outcome, _Failure):
                return outcome
            failures += 1
            metrics.UPSTREAM_ERRORS.labels(self.name, outcome.error.kind).inc()
            wait_s = self._retries.wait_s(failures, outcome.retry_after_s)
            is_late = self._retries.now() + wait_s > ends_at
            if not outcome.error.retryable or failures >= self._retries.attempts or is_late:
                raise outcome.error
            metrics.UPSTREAM_RETRIES.labels(self.name).inc()
            self._retries.sleep(wait_s)

    def _try(self, path: str, body: Body, key: str, left_s: float, *, stream: bool) -> httpx.Response | _Failure:
        import httpx

        headers = {"x-api-key": key, "anthropic-version": _VERSION}
        try:
            timeout = httpx.Timeout(left_s, connect=min(left_s, 10.0))
            request = self._client.build_request("POST", path, json=body, headers=headers, timeout=timeout)
            response = self._client.send(request, stream=stream)
            if response.status_code == httpx.codes.OK:
                return response
            response.read()
            response.close()
        except httpx.HTTPError as error:
            # Only its class is told: its text may hold an address with credentials in it.
            message = f"The provider could not be reached ({type(error).__name__})."
            kind, status = ("timeout_error", 504) if isinstance(error, httpx.TimeoutException) else ("api_error", 502)
            return _Failure(UpstreamError(message, status=status, kind=kind, retryable=True))
        return _failure(response, key)

    @staticmethod
    def _json(response: httpx.Response) -> dict[str, Any]:
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise UpstreamError("The provider's answer is not JSON.", status=502, kind="api_error")
        return reply


class _Failure:
    def __init__(self, error: UpstreamError, retry_after_s: float | None = None) -> None:
        self.error = error
        self.retry_after_s = retry_after_s


def _failure(response: httpx.Response, key: str) -> _Failure:
    status = response.status_code
    if status == _UNAUTHORISED:
        # Not passed on as 401: it is the platform's key that is refused, not the caller's token.
        refusal = (
            "Anthropic refuses the platform's key: give another with `fumehood keys set anthropic`, "
            "or in ANTHROPIC_API_KEY, which wins."
        )
        return _Failure(UpstreamError(refusal, status=_NO_KEY, kind="api_error", mendable=True))
    retryable = status in _AGAIN or status >= 500
    told = _told(response).replace(key, "[secret]")
    if status in _ACCOUNT or _NO_CREDIT in told:
        return _Failure(UpstreamError(told, status=_NO_KEY, kind="api_error", mendable=True))
    said = status if status in _KINDS else 400 if status < 500 else 502
    error = UpstreamError(told, status=said, kind=_KINDS.get(said, "api_error"), retryable=retryable)
    return _Failure(error, _retry_after_s(response))


def _told(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = ""
    return f"The provider answered {response.status_code}: {str(message)[:1000] or 'no reason given'}"


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        if milliseconds := response.headers.get("retry-after-ms"):
            return max(float(milliseconds) / 1000, 0.0)
        given = response.headers.get("retry-after")
        if not given:
            return None
        if given.replace(".", "", 1).isdigit():
            return float(given)
        return max(email.utils.parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
