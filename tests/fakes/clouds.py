"""Strict doubles of the clouds that have Anthropic's models: real HTTP, real signatures, answers from a script."""

from __future__ import annotations

import base64
import datetime
import functools
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import anyio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.fakes import provider as fake
from tests.fakes.provider import Asked, Broken, Failure, Script

BEARER = "ABSKdGVzdC1mYWtlLWtleTowMTIzNDU2Nzg5YWJjZGVm"
ACCESS_KEY, SECRET_KEY, SESSION = (
    "AKIATESTFAKE01234567",
    "wJalrTestFakeSecret/0123456789+abcdefghij",
    "FwoTestFake/Token==",
)
REGION = "eu-central-1"
MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
VERTEX_MODEL = "claude-sonnet-4-5@20250929"
TOKEN = "ya29.test-fake-0123456789abcdef"
PROJECT = "fumehood-test"
AUDIENCE = "https://oauth2.googleapis.com/token"
"""Whom an account's assertion is for, wherever it is sent."""
EMAIL = "gateway@fumehood-test.iam.gserviceaccount.com"
_FIELDS = {
    "anthropic_version", "anthropic_beta", "messages", "max_tokens", "system", "temperature", "top_p", "top_k",
    "stop_sequences", "tools", "tool_choice", "thinking", "output_config",
}  # fmt: skip


@dataclass(frozen=True)
class Thrown:
    """A message whose stream ends with an error after so many events."""

    message: dict[str, Any]
    after: int
    kind: str
    said: str = "as the script says"


@dataclass(frozen=True)
class Garbled:
    """A message one of whose frames arrives with a bit that fell over."""

    message: dict[str, Any]
    after: int


def _faults(body: dict[str, Any], version: str, extra: frozenset[str] = frozenset()) -> list[str]:
    faults = [f"{name}: Extra inputs are not permitted" for name in sorted(set(body) - _FIELDS - extra)]
    faults += [
        f"{name}: Field required" for name in ("anthropic_version", "messages", "max_tokens") if name not in body
    ]
    if body.get("anthropic_version", version) != version:
        faults.append(f"anthropic_version: must be {version}")
    return faults + fake._message_faults(body.get("messages", [])) + fake._tool_faults(body)


@dataclass
class Bedrock:
    """The runtime of Amazon Bedrock."""

    script: Script | Any = field(default=lambda _: fake.text())
    asked: list[Asked] = field(default_factory=list)
    wants_session: bool = False

    @functools.cached_property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/model/{model:path}/invoke", self._invoke, methods=["POST"]),
                Route("/model/{model:path}/invoke-with-response-stream", self._invoke, methods=["POST"]),
            ]
        )

    async def _invoke(self, request: Request) -> Response:
        raw = await request.body()
        asked = Asked(request.url.path, json.loads(raw), dict(request.headers))
        self.asked.append(asked)
        if refused := self._stranger(request, raw):
            return _aws_error(refused)
        if request.path_params["model"] != MODEL:
            return _aws_error(Failure(400, "ValidationException", "The provided model identifier is invalid."))
        if faults := _faults(asked.body, "bedrock-2023-05-31"):
            return _aws_error(Failure(400, "ValidationException", faults[0]))
        reply = self.script(asked)
        if isinstance(reply, Failure):
            return _aws_error(reply)
        if request.url.path.endswith("/invoke"):
            if not isinstance(reply, dict):
                raise ConnectionAbortedError
            return JSONResponse(reply, headers={"x-amzn-requestid": "req-1"})
        headers = {"x-amzn-bedrock-content-type": "application/json"}
        return StreamingResponse(_frames(reply), media_type="application/vnd.amazon.eventstream", headers=headers)

    def _stranger(self, request: Request, raw: bytes) -> Failure | None:
        """Return why the caller is not let in; None where it is."""
        shown = request.headers.get("authorization", "")
        if shown.startswith("Bearer "):
            told = "Authentication failed: Please make sure your API Key is valid."
            return None if shown == f"Bearer {BEARER}" else Failure(403, "AccessDeniedException", told)
        parts = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", shown))
        if not shown.startswith("AWS4-HMAC-SHA256 ") or len(parts) != 3:
            return Failure(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        when, names = request.headers.get("x-amz-date", ""), parts["SignedHeaders"].split(";")
        if parts["Credential"] != f"{ACCESS_KEY}/{when[:8]}/{REGION}/bedrock/aws4_request":
            told = "The security token included in the request is invalid."
            return Failure(403, "UnrecognizedClientException", told)
        at = datetime.datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        if abs((datetime.datetime.now(datetime.UTC) - at).total_seconds()) > 300:
            return Failure(403, "InvalidSignatureException", "Signature expired")
        session = request.headers.get("x-amz-security-token", "")
        needed = {"host", "x-amz-date"} | ({"x-amz-security-token"} if session else set())
        if not needed <= set(names) or session != (SESSION if self.wants_session else ""):
            return Failure(403, "InvalidSignatureException", f"What was signed is not enough: {session}")
        return self._signed_otherwise(request, raw, names, when, parts["Signature"])

    def _signed_otherwise(
        self, request: Request, raw: bytes, names: list[str], when: str, signature: str
    ) -> Failure | None:
        url = f"http://{request.headers['host']}{request.scope['raw_path'].decode()}"
        kept = {name: request.headers[name] for name in names}
        signed = AWSRequest(method="POST", url=url, headers=kept, data=raw)
        signed.context["timestamp"] = when
        signer = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "bedrock", REGION)
        canonical = signer.canonical_request(signed)
        if signer.signature(signer.string_to_sign(signed, canonical), signed) == signature:
            return None
        # As the real one does, this quotes what was signed, and so the session's token.
        told = f"The request signature we calculated does not match. The Canonical String should have been {canonical}"
        return Failure(403, "InvalidSignatureException", told)


def _aws_error(failure: Failure) -> Response:
    headers = {"x-amzn-errortype": f"{failure.kind}:http://internal.amazon.com/", **failure.headers}
    return JSONResponse({"message": failure.message}, failure.status, headers=headers)


async def _frames(reply: Any) -> AsyncIterator[bytes]:
    whole = reply if isinstance(reply, dict) else reply.message
    told = [event for event in fake.events(whole) if event["type"] != "ping"]
    told[-1]["amazon-bedrock-invocationMetrics"] = {"inputTokenCount": whole["usage"]["input_tokens"]}
    for at, event in enumerate(told):
        is_here = not isinstance(reply, dict) and at == reply.after
        if isinstance(reply, Broken):
            await anyio.sleep(reply.wait_s if at else 0.0)
        if is_here and isinstance(reply, Broken):
            raise ConnectionAbortedError
        if is_here and isinstance(reply, Thrown):
            payload = json.dumps({"message": reply.said}).encode()
            yield frame(payload, {":message-type": "exception", ":exception-type": reply.kind})
            return
        payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcdef"}).encode()
        data = frame(payload, {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"})
        if is_here and isinstance(reply, Garbled):
            data = data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]
        # In two pieces, since nobody promises that frames arrive whole.
        yield data[:7]
        yield data[7:]


def frame(payload: bytes, headers: dict[str, str]) -> bytes:
    """Return a message of AWS's event stream, written down here on its own."""
    told = b""
    for name, value in headers.items():
        told += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(told) + len(payload), len(told))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + told + payload
    return data + struct.pack(">I", zlib.crc32(data))


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def private_pem() -> str:
    """Return the private key of the service account."""
    kind = serialization.PrivateFormat.PKCS8
    return _key().private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def account(url: str, **changes: str) -> str:
    """Return a service account's file as Google gives it, whose tokens come from the double at this address."""
    told = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123456789abcdef",
        "private_key": private_pem(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"{url}/token",
    }
    return json.dumps({**told, **changes}, indent=2)


@dataclass
class Vertex:
    """Vertex AI, and Google's endpoint for tokens beside it."""

    script: Script | Any = field(default=lambda _: fake.text())
    asked: list[Asked] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """Those that were given out."""
    life_s: int = 3599
    token_failures: list[int] = field(default_factory=list)
    """The statuses of the next answers to who asks for a token."""

    @functools.cached_property
    def app(self) -> Starlette:
        models = f"/v1/projects/{PROJECT}/locations/{REGION}/publishers/anthropic/models"
        return Starlette(
            routes=[
                Route("/token", self._token, methods=["POST"]),
                Route(f"{models}/count-tokens:rawPredict", self._count, methods=["POST"]),
                Route(f"{models}/{VERTEX_MODEL}:rawPredict", self._predict, methods=["POST"]),
                Route(f"{models}/{VERTEX_MODEL}:streamRawPredict", self._predict, methods=["POST"]),
            ]
        )

    async def _token(self, request: Request) -> Response:
        if self.token_failures:
            return JSONResponse({"error": "internal_failure"}, self.token_failures.pop(0))
        if fault := self._unproved(await request.body()):
            return JSONResponse({"error": "invalid_grant", "error_description": fault}, 400)
        self.tokens.append(f"ya29.test-issued-{len(self.tokens)}-0123456789")
        told = {"access_token": self.tokens[-1], "expires_in": self.life_s, "token_type": "Bearer"}
        return JSONResponse(told)

    def _unproved(self, raw: bytes) -> str:
        from google.auth import jwt

        form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return "Invalid grant_type"
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        public = _key().public_key().public_bytes(serialization.Encoding.PEM, kind)
        try:
            told = jwt.decode(form.get("assertion", ""), certs=public, audience=AUDIENCE)
        except ValueError:
            return "Invalid JWT Signature."
        is_ours = told["iss"] == EMAIL and told["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        return "" if is_ours else "Invalid JWT: issuer or scope."

    async def _predict(self, request: Request) -> Response:
        asked = await self._note(request)
        is_stream = request.url.path.endswith(":streamRawPredict")
        faults = _faults(asked.body, "vertex-2023-10-16", frozenset({"stream"}))
        if asked.body.get("stream", False) is not is_stream:
            faults.append("stream: does not fit the method")
        if refused := self._stranger(asked, faults):
            return _google_error(refused)
        reply = self.script(asked)
        if isinstance(reply, Failure):
            return _google_error(reply)
        if is_stream:
            told = _thrown(reply) if isinstance(reply, Thrown) else fake._stream(reply)
            return StreamingResponse(told, media_type="text/event-stream")
        if not isinstance(reply, dict):
            raise ConnectionAbortedError
        return JSONResponse(reply)

    async def _count(self, request: Request) -> Response:
        asked = await self._note(request)
        faults = [f"{name}: Field required" for name in ("model", "messages") if name not in asked.body]
        faults += [f"{name}: Extra inputs are not permitted" for name in set(asked.body) - _FIELDS - {"model"}]
        refused = self._stranger(asked, faults)
        return _google_error(refused) if refused else JSONResponse({"input_tokens": 321})

    async def _note(self, request: Request) -> Asked:
        asked = Asked(request.url.path, json.loads(await request.body()), dict(request.headers))
        self.asked.append(asked)
        return asked

    def _stranger(self, asked: Asked, faults: list[str]) -> Failure | None:
        if asked.headers.get("authorization") not in {f"Bearer {token}" for token in (TOKEN, *self.tokens)}:
            told = f"Request had invalid authentication credentials: {asked.headers.get('authorization')}"
            return Failure(401, "UNAUTHENTICATED", told)
        return Failure(400, "INVALID_ARGUMENT", faults[0]) if faults else None


async def _thrown(reply: Thrown) -> AsyncIterator[bytes]:
    error = {"type": "error", "error": {"type": reply.kind, "message": reply.said}}
    for event in [*fake.events(reply.message)[: reply.after], error]:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _google_error(failure: Failure) -> Response:
    told = {"code": failure.status, "message": failure.message, "status": failure.kind}
    return JSONResponse([{"error": told}], failure.status, headers=failure.headers)
