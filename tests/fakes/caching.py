"""What a provider keeps of prompts, and how many tokens of each prompt it therefore reads, writes or takes in full.

The rules are those that Anthropic documents: a prompt is read in the order tools, system, messages; what comes before a
`cache_control` is kept for five minutes if it is long enough; it is found again when everything up to the end of a
block is the same, at most twenty blocks before a `cache_control`; each time it is found, the five minutes begin anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

LIFE_S = 300.0
LOOKED_BACK = 20
LEAST: Mapping[str, int] = {"claude-sonnet-4-5": 1024, "claude-sonnet-4-6": 2048, "claude-opus-4-8": 1024}
DEAREST = 4096
MOST = 4
MARK = "cache_control"


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has, at four characters each."""
    return -(-len(text) // 4)


def blocks_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a request's blocks in the order in which a provider reads them."""
    found: list[dict[str, Any]] = [dict(tool) for tool in body.get("tools", [])]
    parts = [("system", body.get("system", ""))]
    parts += [(str(message["role"]), message["content"]) for message in body["messages"]]
    for role, content in parts:
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [{"role": role, **block} for block in blocks if block.get("type") != "text" or block["text"]]
    return found


class Kept:
    """A provider's cache."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: dict[str, float] = {}

    def usage(self, body: Mapping[str, Any]) -> dict[str, int]:
        """Return what a request's `usage` says of its prompt, and keep what it asks for."""
        blocks = blocks_of(body)
        digest, size = hashlib.sha256(str(body["model"]).encode()), 0
        names, sizes = [], []
        for block in blocks:
            told = json.dumps({key: value for key, value in block.items() if key != MARK}, sort_keys=True)
            digest.update(told.encode())
            size += tokens_of(str(block["text"]) if "text" in block else told)
            names.append(digest.hexdigest())
            sizes.append(size)
        asked = [at for at, block in enumerate(blocks) if MARK in block]
        long = [at for at in asked if sizes[at] >= LEAST.get(str(body["model"]), DEAREST)]
        read = self._found(names, long)
        for at in long:
            self._ends[names[at]] = self._now() + LIFE_S
        read_tokens = sizes[read] if read is not None else 0
        written = max((sizes[at] for at in long), default=0)
        return {
            "cache_read_input_tokens": read_tokens,
            "cache_creation_input_tokens": max(0, written - read_tokens),
            "input_tokens": size - max(written, read_tokens),
        }

    def _found(self, names: list[str], asked: list[int]) -> int | None:
        for mark in reversed(asked):
            for at in range(mark, max(-1, mark - LOOKED_BACK), -1):
                if self._ends.get(names[at], 0.0) > self._now():
                    self._ends[names[at]] = self._now() + LIFE_S
                    return at
        return None
