"""The token that a caller shows to the gateway: claims, signed, with an end."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import json
from dataclasses import dataclass

from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError

PREFIX = "fhg_"
LONGEST_LIFE_S = 24 * 3600.0
"""No token ends later than this after it is shown, so that a revocation need not be kept for ever."""
_MAX_LENGTH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A token that opens nothing any more; kept until every token with this id has ended by itself."""

    id: str
    """The token's, not its text."""
    at: float = 0.0


class TokenError(BadInputError):
    """The token is not one of ours, was changed, or is past its end."""


def mint(claims: Claims, secret: bytes) -> str:
    """Return a token that carries these claims; it ends at `claims.expires_at`."""
    payload = json.dumps(dataclasses.asdict(claims), separators=(",", ":"), sort_keys=True)
    body = _encode(payload.encode())
    return f"{PREFIX}{body}.{_encode(_sign(body, secret))}"


def read(token: str, secret: bytes, now: float) -> Claims:
    """Return the claims of a token; `TokenError` says what is wrong with it."""
    body, dot, signature = token.removeprefix(PREFIX).partition(".")
    if not token.startswith(PREFIX) or not dot or len(token) > _MAX_LENGTH or not token.isascii():
        raise TokenError("This is not a token of this platform.")
    if not hmac.compare_digest(_encode(_sign(body, secret)), signature):
        raise TokenError("The token's signature does not hold.")
    try:
        claims = Claims(**json.loads(_decode(body)))
    except (ValueError, TypeError, binascii.Error) as error:
        raise TokenError("The token's claims cannot be read.") from error
    if claims.expires_at <= now:
        raise TokenError("The token has expired.")
    if claims.expires_at > now + LONGEST_LIFE_S:
        raise TokenError("The token would live for longer than a day.")
    return claims


def _sign(body: str, secret: bytes) -> bytes:
    return hmac.new(secret, (PREFIX + body).encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
