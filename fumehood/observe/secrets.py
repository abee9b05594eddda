"""Keeps secrets out of what is said: those of the settings by their text, all others by how they look."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from fumehood.settings import Settings

HIDDEN = "[secret]"
SHORTEST = 6
"""What is shorter would be found in ordinary words."""
_LOOKS = re.compile(
    r"""
      \bfh[gx]_[\w.\-]{20,}               # a token for the gateway
    | \bfh_[A-Za-z0-9]+_[\w\-]{20,}       # a key of the API
    | \bsk-[\w\-]{16,}                    # a provider's key
    | \bABSK[\w+/=\-]{20,}               # a key of Bedrock
    | \bbedrock-api-key-[\w+/=\-]{20,}   # one that lasts for hours
    | \bya29\.[\w.\-]{20,}               # a token of Google
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?-----END[ ][A-Z ]*PRIVATE[ ]KEY-----
    | (?<=://)[^/\s:@]*:[^/\s@]+(?=@)     # who logs in, in an address
    """,
    re.VERBOSE | re.DOTALL,
)
_NAMED = re.compile(
    r"""(?ix)
    ( \b(?: bearer | basic )\s+
    | \b(?: x-api-key | api[_-]?key | password | secret[_-]?key | client[_-]?secret | access[_-]?token
          | x-amz-(?: signature | credential | security-token ) ) ['"]? \s* [=:] \s* ['"]?
    )
    ( [^\s'"&,;)]{6,} )
    """
)


class Mask:
    """Replaces secrets in a text."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {form for text in known if len(text) >= SHORTEST for form in _forms(text)}
        # The longest first: one secret may be part of another.
        texts = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, texts))) if texts else None

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _NAMED.sub(rf"\1{HIDDEN}", _LOOKS.sub(HIDDEN, text))


def _forms(text: str) -> set[str]:
    """Return a text as it is, and as Python and JSON write it inside of something else."""
    return {text, repr(text)[1:-1], json.dumps(text)[1:-1]}


def secrets_of(settings: Settings) -> Iterator[str]:
    """Give every secret among the settings, as it was written and as it is sent."""
    yield settings.api_key
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    for address in (settings.database_url, settings.redis_url):
        if password := _password(address):
            yield password
            yield unquote(password)


def _password(address: str) -> str:
    try:
        return urlsplit(address).password or ""
    except ValueError:
        return ""
