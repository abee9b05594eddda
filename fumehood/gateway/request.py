"""What a caller may ask for: everything whose cost is bounded beforehand, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fumehood.errors import BadInputError

Body = dict[str, Any]

MAX_BYTES = 32 * 1024 * 1024
_FIELDS = frozenset({
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k",
    "stop_sequences", "cache_control", "tools", "tool_choice", "thinking", "output_config", "metadata",
})  # fmt: skip
_BLOCKS = frozenset({"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_IMAGE_TOKENS = 8192
"""More than any one image can cost."""
_OVERHEAD_TOKENS = 1024
"""What a provider adds to a prompt by itself, such as its description of tool use."""


def parse(raw: bytes, *, counting: bool = False) -> Body:
    """Return a request body that is sound and bounded; `BadInputError` says what is wrong with it."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadInputError("The request body is not JSON.") from error
    if not isinstance(body, dict):
        raise BadInputError("The request body must be a JSON object.")
    if strange := sorted(set(body) - _FIELDS):
        raise BadInputError(f"{strange[0]}: this field is not passed on, because what it costs has no bound.")
    if not isinstance(body.get("model"), str):
        raise BadInputError("model: a name is required.")
    max_tokens = body.get("max_tokens")
    if not counting and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise BadInputError("max_tokens: a number of at least 1 is required.")
    _check_messages(body.get("messages"))
    for tool in _list(body.get("tools", []), "tools"):
        if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
            raise BadInputError("tools: only tools that the caller runs are passed on.")
    _check_blocks(body.get("system", ""), "system")
    return body


def _check_messages(messages: object) -> None:
    for message in _list(messages, "messages", least=1):
        if not isinstance(message, dict) or message.get("role") not in {"user", "assistant"}:
            raise BadInputError("messages: each needs the role `user` or `assistant`.")
        _check_blocks(message.get("content"), "messages")


def _check_blocks(content: object, where: str) -> None:
    if isinstance(content, str):
        return
    for block in _list(content, where):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in _BLOCKS:
            raise BadInputError(f"{where}: a block of type {kind!r} is not passed on.")
        if kind == "image" and block.get("source", {}).get("type") != "base64":
            raise BadInputError(f"{where}: an image must be given as base64.")
        if kind == "tool_result":
            _check_blocks(block.get("content", ""), where)


def _list(value: object, where: str, least: int = 0) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise BadInputError(f"{where}: a list{' that is not empty' if least else ''} is required.")
    return value


def most_input_tokens(body: Mapping[str, Any]) -> int:
    """Return more tokens than the prompt can have: no token is shorter than one byte."""
    images = sum(1 for block in _blocks(body.get("messages")) if block.get("type") == "image")
    said = {key: body[key] for key in ("system", "messages", "tools", "output_config") if key in body}
    size = len(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return size + images * _IMAGE_TOKENS + _OVERHEAD_TOKENS


def uses_cache(body: Mapping[str, Any]) -> bool:
    """Tell whether the caller asks for parts of the prompt to be kept, which costs more the first time."""
    return "cache_control" in json.dumps(body)


def _blocks(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _blocks(item)
    elif isinstance(value, Mapping):
        yield value
        yield from _blocks(value.get("content"))


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, at four characters each."""
    return (len(text) + 3) // 4
