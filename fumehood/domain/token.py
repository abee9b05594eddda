"""The token that a caller shows to the gateway: claims, signed, with an end."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import hashlib
import hmac
import json
from dataclasses import dataclass

from fumehood.domain.execution import RANGES
from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError

PREFIX = "fhg_"
EXECUTION_PREFIX = "fhx_"
"""Of the tokens that the run side mints for executions, with a secret of its own."""
EXECUTION_ROLE = "execution"
"""The one role that those may have, and no other token."""
LONGEST_LIFE_S = 24 * 3600.0
"""No token ends later than this after it is shown, so that a revocation need not be kept for ever."""
MARGIN_S = 600.0
"""So much longer than its execution may run an execution's token lives, for a launch that takes its time."""
LONGEST_EXECUTION_LIFE_S = RANGES["wall_s"][1] + MARGIN_S
_MAX_LENGTH = 8192
READ = 256
"""So many tokens are not read again as long as others do not come between; whether one has ended is always asked."""
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


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
    return _signed(PREFIX, claims, secret)


def execution_secret(secret: bytes) -> bytes:
    """Return what the run side is given in the place of the gateway's secret: it makes executions' tokens only."""
    return hmac.digest(secret, b"executions", "sha256")


def mint_for_execution(claims: Claims, derived: bytes) -> str:
    """Return a token for the program of one execution, signed with the run side's secret."""
    return _signed(EXECUTION_PREFIX, claims, derived)


def id_for_execution(execution: str, fence: int) -> str:
    """Return the id of the one token that a launch of an execution has, however often that is minted."""
    digest = hashlib.sha256(f"{execution}:{fence}".encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    return "tok_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def read(token: str, secret: bytes, now: float) -> Claims:
    """Return the claims of a token of either kind; `TokenError` says what is wrong with it.

    An execution's token says of its holder no more than which execution that is: the rest stands in the database.
    """
    claims = _signed_claims(token, secret)
    if claims.expires_at <= now:
        raise TokenError("The token has expired.")
    if claims.execution and claims.expires_at > now + LONGEST_EXECUTION_LIFE_S:
        raise TokenError("The token would live for longer than any execution.")
    if not claims.execution and claims.expires_at > now + LONGEST_LIFE_S:
        raise TokenError("The token would live for longer than a day.")
    return claims


@functools.lru_cache(READ)
def _signed_claims(token: str, secret: bytes) -> Claims:
    """Return what a token says that holds, whenever that was; a step's or a program's is shown again and again."""
    prefix = EXECUTION_PREFIX if token.startswith(EXECUTION_PREFIX) else PREFIX
    is_execution = prefix == EXECUTION_PREFIX
    body, dot, signature = token.removeprefix(prefix).partition(".")
    if not token.startswith(prefix) or not dot or len(token) > _MAX_LENGTH or not token.isascii():
        raise TokenError("This is not a token of this platform.")
    key = execution_secret(secret) if is_execution else secret
    if not hmac.compare_digest(_encode(_sign(prefix + body, key)), signature):
        raise TokenError("The token's signature does not hold.")
    try:
        claims = Claims(**json.loads(_decode(body)))
    except (ValueError, TypeError, binascii.Error) as error:
        raise TokenError("The token's claims cannot be read.") from error
    if is_execution != (claims.role == EXECUTION_ROLE) or is_execution != bool(claims.execution):
        raise TokenError("The token's role is not one that whoever signed it may give.")
    return claims


def _signed(prefix: str, claims: Claims, secret: bytes) -> str:
    payload = json.dumps(dataclasses.asdict(claims), separators=(",", ":"), sort_keys=True)
    body = _encode(payload.encode())
    return f"{prefix}{body}.{_encode(_sign(prefix + body, secret))}"


def _sign(text: str, secret: bytes) -> bytes:
    return hmac.digest(secret, text.encode(), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
