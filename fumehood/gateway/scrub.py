"""Takes what may be a secret out of what is kept of a call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
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


SHORTEST = 12
"""Characters of what is taken for a key by its value; a shorter one would be found in words."""


def without_keys(text: str, keys: Iterable[str]) -> str:
    """Return the text of a JSON value without these keys, nor the parts of one that has several."""
    parts = {part for key in keys for part in (key, *key.split(":")) if len(part) >= SHORTEST}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(json.dumps(part, ensure_ascii=False)[1:-1], "[secret]")
    return text


def without_secrets(value: Any) -> Any:
    """Return a JSON value in which each text has lost what looks like a key; names of fields stay."""
    if isinstance(value, str):
        return _SECRETS.sub("[secret]", value)
    if isinstance(value, Mapping):
        return {name: without_secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value
