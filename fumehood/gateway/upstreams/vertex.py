"""Google Vertex AI: asked with an access token, which a service account asks Google for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError
from fumehood.gateway import credentials
from fumehood.gateway.request import Body
from fumehood.gateway.upstreams.anthropic import COUNTED
from fumehood.gateway.upstreams.clouds import Cloud
from fumehood.gateway.upstreams.http import CONNECT_S, Names, failure, retry_after_s, unreached

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_S = 30.0
"""How long an access token may take to come."""
_NOT_PROVED = frozenset({400, 401})
"""What Google answers where it does not know the account, or its key no longer."""


class VertexUpstream(Cloud):
    """Anthropic's models at Google Vertex AI."""

    version = "vertex-2023-10-16"
    _account: _Account | None = None

    def make(self, key: str) -> Any:
        """Return a client for the account's project, or for the one that the table of models names."""
        import anthropic

        given = credentials.google(key)
        project = self.source.project or given.account.get("project_id", "")
        if not project:
            raise BadInputError(f"upstreams.{self.source.name} names no `project`, and its key has none.")
        self._account = _Account(given.account, self.names) if given.account else None
        return anthropic.AnthropicVertex(
            region=self.source.region,
            project_id=project,
            # Given in every case, or it would be looked for in the user's home and at the machine's own cloud.
            access_token=given.token or "-",
            base_url=self.source.base_url or _address(self.source.region),
            max_retries=0,
            open_telemetry=False,
            http_client=anthropic.DefaultHttpxClient(follow_redirects=False),
        )

    def ready(self, client: Any, left_s: float) -> None:
        """Ask for an access token where there is none that is still good."""
        if self._account is not None:
            client.access_token = self._account.token(left_s)

    def secrets(self, key: str) -> Iterable[str]:
        """Return the key, or the account's secret and the token that was asked for."""
        if not key.startswith("{"):
            return (key,)
        return () if self._account is None else self._account.secrets()

    def meaning(self, status: int, headers: Mapping[str, str], body: object) -> tuple[int, str]:  # noqa: ARG002 - as in `Cloud`
        """Return the status that an error means, and its reason."""
        first = body[0] if isinstance(body, list) and body else body
        error = first.get("error") if isinstance(first, Mapping) else None
        return status, str(error.get("message") or "") if isinstance(error, Mapping) else str(error or "")

    def count(self, claims: Claims, body: Body) -> int:
        """Return how many tokens Vertex AI counts in the prompt."""
        return self.counted(claims, {name: body[name] for name in COUNTED if name in body})


def _address(region: str) -> str:
    if region == "global":
        return "https://aiplatform.googleapis.com/v1"
    if region in {"us", "eu"}:
        return f"https://aiplatform.{region}.rep.googleapis.com/v1"
    return f"https://{region}-aiplatform.googleapis.com/v1"


class _Account:
    """A service account, and the access token that it has now."""

    def __init__(self, account: Mapping[str, str], names: Names) -> None:
        from google.oauth2 import service_account

        try:
            found = service_account.Credentials.from_service_account_info(dict(account), scopes=[_SCOPE])  # type: ignore[no-untyped-call]
        except ValueError:
            # Without `from`: what is wrong with a key may be told by quoting it.
            raise BadInputError("The service account's `private_key` cannot be read.") from None
        self._credentials: Any = found
        self._private_key = account["private_key"]
        self._names = names
        self._lock = threading.Lock()

    def token(self, left_s: float) -> str:
        """Return a token that is still good; whoever comes while one is asked for waits for it."""
        from google.auth.exceptions import GoogleAuthError

        with self._lock:
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(_exchange(self._names, min(left_s, _TOKEN_S)))
                except (GoogleAuthError, TypeError) as error:  # the second where it is no JSON
                    reason = f"it gave no access token ({type(error).__name__})."
                    raise failure(502, reason, self._names, None) from None
            return str(self._credentials.token)

    def secrets(self) -> Iterable[str]:
        """Return what must stand in no message."""
        return self._private_key, str(self._credentials.token or "")


def _exchange(names: Names, timeout_s: float) -> Any:
    """Return what google-auth sends its request with; `FailedError` where that is refused or does not arrive."""
    import httpx

    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))

    def ask(url: str, method: str, body: bytes, headers: Mapping[str, str], **_: Any) -> _Answer:
        try:
            answer = httpx.request(method, url, content=body, headers=dict(headers), timeout=timeout)
        except httpx.HTTPError as error:
            # No token is worth any money.
            timed_out = isinstance(error, httpx.TimeoutException)
            raise unreached(error, timed_out=timed_out, was_sent=False) from error
        if answer.status_code != httpx.codes.OK:
            status = 401 if answer.status_code in _NOT_PROVED else answer.status_code
            raise failure(status, "no access token", names, retry_after_s(answer.headers))
        return _Answer(answer.content)

    return ask


class _Answer:
    """An answer as google-auth reads it."""

    status = 200

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.headers: dict[str, str] = {}
