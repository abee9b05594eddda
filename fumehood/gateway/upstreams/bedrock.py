"""Amazon Bedrock: signed or shown a key, with streams in AWS's own framing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fumehood.domain.ledger import Claims
from fumehood.gateway import credentials, request
from fumehood.gateway.credentials import Aws
from fumehood.gateway.request import Body
from fumehood.gateway.upstreams.clouds import Cloud

if TYPE_CHECKING:
    import httpx2

_UNPROVED = frozenset({
    "ExpiredTokenException", "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException",
    "MissingAuthenticationTokenException", "UnrecognizedClientException",
})  # fmt: skip
"""What it calls a request of somebody unknown, each with the status of one who lacks a right."""
_MODEL_FAILED = 424
"""Its status for a model that broke; elsewhere it would say that a person must mend something."""


class BedrockUpstream(Cloud):
    """Anthropic's models at Amazon Bedrock."""

    version = "bedrock-2023-05-31"

    def make(self, key: str) -> Any:
        """Return a client that shows the key, or signs with it."""
        import anthropic
        import botocore  # noqa: F401 - the library needs it for streams, whatever proves who asks

        given = credentials.aws(key)
        region = self.source.region
        auth = None if given.bearer else _signer(given, region)
        return anthropic.AnthropicBedrock(
            # Given in every case, or it would be looked for in the environment; a signature takes its place.
            api_key=given.bearer or "-",
            aws_region=region,
            base_url=self.source.base_url or f"https://bedrock-runtime.{region}.amazonaws.com",
            max_retries=0,
            open_telemetry=False,
            http_client=anthropic.DefaultHttpxClient(follow_redirects=False, auth=auth),
        )

    def ready(self, client: Any, left_s: float) -> None:
        """Do nothing: what proves who asks is in each request."""

    def garbled(self) -> tuple[type[Exception], ...]:
        """Return what reading a stream raises whose frames or checksums are wrong."""
        from botocore.eventstream import ParserError
        from botocore.parsers import ResponseParserError

        return ValueError, ParserError, ResponseParserError

    def secrets(self, key: str) -> Iterable[str]:
        """Return the parts of the key."""
        return key.split(":")

    def meaning(self, status: int, headers: Mapping[str, str], body: object) -> tuple[int, str]:
        """Return the status that an error means, and its reason."""
        told = body if isinstance(body, Mapping) else {}
        reason = str(told.get("message") or told.get("Message") or "")
        kind = headers.get("x-amzn-errortype", "").partition(":")[0]
        if status == 403 and (kind in _UNPROVED or "api key is valid" in reason.lower()):
            return 401, reason
        return 502 if status == _MODEL_FAILED else status, reason

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return more tokens than the prompt has: the library's client has no way to have them counted."""
        return request.most_input_tokens(body)


def _signer(given: Aws, region: str) -> Callable[[httpx2.Request], httpx2.Request]:
    """Return what signs a request with exactly these credentials.

    The library would make a session for this, which reads the user's configuration and may find other ones.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signer = SigV4Auth(Credentials(given.access_key, given.secret_key, given.session_token or None), "bedrock", region)

    def sign(asked: httpx2.Request) -> httpx2.Request:
        # Only what no proxy on the way changes.
        kept = {name: asked.headers[name] for name in ("host", "content-type") if name in asked.headers}
        signed = AWSRequest(method=asked.method, url=str(asked.url), headers=kept, data=asked.read())
        signer.add_auth(signed)
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
            if name in signed.headers:
                asked.headers[name] = signed.headers[name]
        return asked

    return sign
