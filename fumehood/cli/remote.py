"""A server, asked over HTTP: what it refuses is an error with the command's exit status."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from ulid import ULID

from fumehood.errors import (
    BadInputError,
    ConflictError,
    FumehoodError,
    MachineUnfitError,
    NotFoundError,
    OverBudgetError,
    PolicyError,
    TamperedError,
    WorkFailedError,
)
from fumehood.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_S = 5.0
ANSWER_S = 60.0
TRIES = 3
"""How often one request is sent whose answer was cut off; a server takes its Idempotency-Key once."""
PAUSE_S = 0.5
PAGE = 200
NOBODY = (httpx.ConnectError, httpx.ConnectTimeout)
"""Where no server is: nothing was sent, and waiting seldom helps."""
_KINDS: Mapping[int, type[FumehoodError]] = {
    402: OverBudgetError,
    404: NotFoundError,
    409: ConflictError,
    429: OverBudgetError,
}
_BY_POLICY = "urn:fumehood:problem:refused-by-policy"
_TAMPERED = "urn:fumehood:problem:tampered"


class Server:
    """The API of one server, with one key.

    Raises `MachineUnfitError` when no server answers, `OverBudgetError` for what a quota or a budget refuses,
    `BadInputError` and its like for what else the caller must mend, and `WorkFailedError` for the server's own faults.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @classmethod
    def of(cls, settings: Settings, url: str = "") -> Server:
        """Return the server that is asked for, or the one of the settings."""
        place = checked(url or settings.url or DEFAULT_URL)
        key = settings.api_key.strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise BadInputError("FUMEHOOD_API_KEY holds no key: it has spaces or odd characters.")
        return cls(
            httpx.Client(
                base_url=place,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
                # A proxy that is set for the outside must not see the key on its way to this very machine.
                trust_env=not _is_here(place),
            )
        )

    def __enter__(self) -> Self:
        """Keep connections until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        self._client.close()

    def get(self, path: str, **query: str | int) -> Any:
        """Return a document."""
        return _document(self._ask("GET", path, params=query))

    def pages(self, path: str, **query: str | int) -> Iterator[Any]:
        """Return the items of a list, page after page."""
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, limit=PAGE, **query, **cursor)
            yield from page["items"]
            if not page.get("next"):
                return
            cursor = {"cursor": page["next"]}

    def post(self, path: str, body: object = None) -> Any:
        """Send a document and return the answer; sent again after a cut, it is still done once."""
        key = {"Idempotency-Key": str(ULID()).lower()}
        return _document(self._ask("POST", path, headers=key, **({} if body is None else {"json": body})))

    def put(self, path: str, body: object) -> Any:
        """Put a document in the place of what was there, and return the answer."""
        return _document(self._ask("PUT", path, json=body))

    def delete(self, path: str) -> Any:
        """Take something away, and return the answer."""
        return _document(self._ask("DELETE", path))

    def download(self, path: str) -> bytes:
        """Return a file's bytes."""
        return self._ask("GET", path).content

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], silence_s: float) -> Iterator[Iterator[str]]:
        """Give the lines of an answer as they come; a cut, or a silence that long, is an `httpx.TransportError`."""
        timeout = httpx.Timeout(silence_s, connect=CONNECT_S)
        with self._client.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if not answer.is_success:
                answer.read()
                raise _refusal(answer)
            yield answer.iter_lines()

    def _ask(self, verb: str, path: str, **given: Any) -> httpx.Response:
        for left in reversed(range(TRIES)):
            try:
                answer = self._client.request(verb, path, **given)
                break
            except httpx.TransportError as error:
                if not left or isinstance(error, NOBODY):
                    raise self.away(error) from error
                time.sleep(PAUSE_S)
        if not answer.is_success:
            raise _refusal(answer)
        return answer

    def away(self, error: httpx.TransportError) -> MachineUnfitError:
        """Return what is said of a server that is not there."""
        return MachineUnfitError(
            f"No server answers at {self._client.base_url} ({error or type(error).__name__}).",
            remedy="Start one with `fumehood serve`, or set FUMEHOOD_URL.",
        )


def checked(url: str) -> str:
    """Return a server's address without a slash at its end; `BadInputError` for what is none."""
    try:
        place = urlsplit(url.strip())
        is_address = place.scheme in {"http", "https"} and bool(place.hostname) and (place.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address:
        raise BadInputError(f"{url!r} is no server's address: give one such as {DEFAULT_URL}.")
    return url.strip().rstrip("/")


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _document(answer: httpx.Response) -> Any:
    if not answer.content:
        return {}
    try:
        return answer.json()
    except ValueError as error:
        raise WorkFailedError(f"What answers at {answer.url} is not Fumehood's API: it sends no JSON.") from error


def _refusal(answer: httpx.Response) -> FumehoodError:
    """Return the error that a problem document means."""
    status = answer.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return BadInputError("The server does not know this key: set FUMEHOOD_API_KEY to one that it made.")
    try:
        document = answer.json()
        detail = str(document["detail"])
        if document.get("type") == _BY_POLICY:
            return PolicyError(detail)
        if document.get("type") == _TAMPERED:
            return TamperedError(detail)
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"The server answered {status} {answer.reason_phrase}".rstrip() + "."
    if status in _KINDS:
        return _KINDS[status](detail)
    return BadInputError(detail) if answer.is_client_error else WorkFailedError(detail)
