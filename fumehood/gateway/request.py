"""What a caller may ask for: everything whose cost is bounded beforehand, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fumehood.errors import BadInputError

Body = dict[str, Any]

MAX_BYTES = 32 * 1024 * 1024
MOST_TOKENS = 10_000_000
_FIELDS = frozenset({
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k",
    "stop_sequences", "cache_control", "tools", "tool_choice", "thinking", "output_config", "metadata",
})  # fmt: skip
_BLOCKS = frozenset({"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_NEEDED: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
}
"""What a block cannot be without."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_IMAGE_TOKENS = 8192
"""More than any one image can cost."""
_OVERHEAD_TOKENS = 1024
"""What a provider adds to a prompt by itself, such as its description of tool use."""


def strict_json(text: str) -> Any:
    """Return what a JSON text says; `ValueError` also for numbers that only Python's JSON has."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def json_object(raw: bytes) -> Body:
    """Return the JSON object that a request's body is; `BadInputError` where it is something else."""
    try:
        body = strict_json(raw.decode())
        if _SURROGATE.search(raw):
            # Half a pair is JSON, as a program's output may have it, and nothing that can be passed on.
            halves = json.dumps(body, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
            body = json.loads(halves.decode("utf-16-le", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadInputError("The request body is not JSON in UTF-8.") from error
    if not isinstance(body, dict):
        raise BadInputError("The request body must be a JSON object.")
    return body


def parse(raw: bytes, *, counting: bool = False) -> Body:
    """Return a request body that is sound and bounded; `BadInputError` says what is wrong with it."""
    body = json_object(raw)
    if strange := sorted(set(body) - _FIELDS):
        raise BadInputError(f"{strange[0]}: this field is not passed on, because what it costs has no bound.")
    if not isinstance(body.get("model"), str):
        raise BadInputError("model: a name is required.")
    max_tokens = body.get("max_tokens")
    is_number = isinstance(max_tokens, int) and not isinstance(max_tokens, bool)
    if not counting and not (is_number and 1 <= int(max_tokens or 0) <= MOST_TOKENS):
        raise BadInputError(f"max_tokens: a number from 1 to {MOST_TOKENS} is required.")
    _check_messages(body.get("messages"))
    for tool in _list(body.get("tools", []), "tools"):
        if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
            raise BadInputError("tools: only tools that the caller runs are passed on.")
        if not isinstance(tool.get("name"), str) or not isinstance(tool.get("input_schema"), dict):
            raise BadInputError("tools: each needs a `name` and an `input_schema`.")
    for name in ("tool_choice", "output_config"):
        if not isinstance(body.get(name) or {}, dict):
            raise BadInputError(f"{name}: an object is required.")
    _check_blocks(body.get("system", ""), "system")
    return body


def _check_messages(messages: object) -> None:
    for message in _list(messages, "messages", least=1):
        if not isinstance(message, dict) or str(message.get("role")) not in {"user", "assistant"}:
            raise BadInputError("messages: each needs the role `user` or `assistant`.")
        _check_blocks(message.get("content"), "messages")


def _check_blocks(content: object, where: str) -> None:
    if isinstance(content, str):
        return
    for block in _list(content, where):
        kind = str(block.get("type")) if isinstance(block, dict) else None
        if kind not in _BLOCKS:
            raise BadInputError(f"{where}: a block of type {kind!r} is not passed on.")
        for name, needed in _NEEDED.get(kind, {}).items():
            if not isinstance(block.get(name), needed):
                raise BadInputError(f"{where}: a block of type {kind!r} needs its `{name}`.")
        if kind == "image":
            _check_image(block.get("source"), where)
        if kind == "tool_result":
            _check_blocks(block.get("content", ""), where)


def _check_image(source: object, where: str) -> None:
    if not isinstance(source, dict) or source.get("type") != "base64":
        raise BadInputError(f"{where}: an image must be given as base64.")
    if not isinstance(source.get("media_type"), str) or not isinstance(source.get("data"), str):
        raise BadInputError(f"{where}: an image needs its `media_type` and its `data`.")


def _list(value: object, where: str, least: int = 0) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise BadInputError(f"{where}: a list{' that is not empty' if least else ''} is required.")
    return value


def most_input_tokens(body: Mapping[str, Any]) -> int:
    """Return more tokens than the prompt can have: no token is shorter than one byte."""
    images = sum(1 for block in blocks_of(body.get("messages")) if block.get("type") == "image")
    said = {key: body[key] for key in ("system", "messages", "tools", "output_config") if key in body}
    size = len(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return size + images * _IMAGE_TOKENS + _OVERHEAD_TOKENS


def uses_cache(body: Mapping[str, Any]) -> bool:
    """Tell whether the caller asks for parts of the prompt to be kept, which costs more the first time."""
    return "cache_control" in json.dumps(body)


def blocks_of(value: object) -> Iterator[Mapping[str, Any]]:
    """Return messages with all their blocks, and the blocks within those."""
    if isinstance(value, list):
        for item in value:
            yield from blocks_of(item)
    elif isinstance(value, Mapping):
        yield value
        yield from blocks_of(value.get("content"))


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, at four characters each."""
    return (len(text) + 3) // 4
