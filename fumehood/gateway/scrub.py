"""Takes what may be a secret out of what is kept of a call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRETS = re.compile(
    r"""
      (?<![\w\-])
      (?: fh[gx]_[\w.\-]{20,} | sk-[\w\-]{16,} | (?: ABSK | bedrock-api-key- )[\w+/=\-]{20,} | ya29\.[\w.\-]{20,} )
    | -----BEGIN\ [A-Z\ ]{0,40}PRIVATE\ KEY-----
      (?: (?!-----BEGIN\ ) . ){0,8192}?
      -----END\ [A-Z\ ]{0,40}PRIVATE\ KEY-----
    """,
    re.VERBOSE | re.DOTALL,
)
"""A key's text is bounded and holds no other's beginning, so that no text takes long to look through."""


def without_secrets(value: Any) -> Any:
    """Return a JSON value in which each text has lost what looks like a key; names of fields stay."""
    if isinstance(value, str):
        return _SECRETS.sub("[secret]", value)
    if isinstance(value, Mapping):
        return {name: without_secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value
