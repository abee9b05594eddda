"""A request as one model takes it: without what it refuses, with room for its thinking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fumehood.errors import BadInputError
from fumehood.gateway.models import Model
from fumehood.gateway.request import Body, blocks_of, estimate_tokens

_KEEP = "cache_control"


def adapt(body: Body, model: Model) -> Body:
    """Return the request as this model takes it; `BadInputError` for what it cannot take in any form."""
    adapted = {key: value for key, value in body.items() if key != "metadata"}
    if not model.images and any(block.get("type") == "image" for block in blocks_of(body["messages"])):
        raise BadInputError(f"messages: the model {body['model']!r} sees no images.")
    if model.called:
        adapted["model"] = model.called
    if not model.sampling:
        for key in ("temperature", "top_p", "top_k"):
            adapted.pop(key, None)
    choice = adapted.get("tool_choice") or {}
    is_forced = choice.get("type") in {"tool", "any"}
    if not model.tools:
        _in_words(adapted, choice if is_forced else {})
    elif not model.forced_tools and is_forced:
        named = f"the tool `{choice['name']}`" if choice.get("name") else "one of the tools"
        adapted["tool_choice"] = {"type": "auto"}
        adapted["system"] = _appended(adapted.get("system"), f"Answer by calling {named}, and in no other way.")
    adapted = _kept(adapted, model.cache_from)
    if "max_tokens" in body:
        adapted["max_tokens"] = body["max_tokens"] + model.headroom
    return adapted


def _in_words(adapted: Body, forced: Mapping[str, Any]) -> None:
    """Take the tools out of a request: one that is forced is asked for as JSON, and those of before become text."""
    tools = adapted.pop("tools", [])
    adapted.pop("tool_choice", None)
    if forced:
        wanted = [tool for tool in tools if tool.get("name") == forced.get("name", tool.get("name"))]
        schemas = "\n\n".join(json.dumps(tool.get("input_schema"), ensure_ascii=False) for tool in wanted)
        which = "this JSON schema" if len(wanted) == 1 else "one of these JSON schemas"
        sentence = f"Answer with one JSON object in one fenced block (```json), which fits {which}:\n\n{schemas}"
        adapted["system"] = _appended(adapted.get("system"), sentence)
    adapted["messages"] = [{**turn, "content": _flat(turn["content"])} for turn in adapted["messages"]]


def _flat(content: str | list[Any]) -> str | list[Any]:
    if isinstance(content, str):
        return content
    return [flat for block in content for flat in _flat_block(block)]


def _flat_block(block: Mapping[str, Any]) -> list[Any]:
    if block["type"] == "tool_use":
        return [{"type": "text", "text": f"```json\n{json.dumps(block.get('input'), ensure_ascii=False)}\n```"}]
    if block["type"] == "tool_result":
        given = block.get("content") or "(nothing)"
        return [{"type": "text", "text": given}] if isinstance(given, str) else list(given)
    return [dict(block)]


def _appended(system: object, sentence: str) -> str | list[Any]:
    if isinstance(system, list):
        return [*system, {"type": "text", "text": sentence}]
    return f"{system}\n\n{sentence}" if system else sentence


def _kept(body: Body, least: int) -> Body:
    """Take out each wish to keep a beginning that is shorter than the model keeps; what was given stays as it is."""
    if _KEEP in body and not least:
        body = {name: value for name, value in body.items() if name != _KEEP}
    size = 0

    def looked_at(block: Any) -> Any:
        nonlocal size
        if not isinstance(block, dict):
            return block
        bare = {name: value for name, value in block.items() if name != _KEEP}
        size += estimate_tokens(json.dumps(bare, ensure_ascii=False))
        return block if least and size >= least else bare

    def blocks(value: Any) -> Any:
        return [looked_at(block) for block in value] if isinstance(value, list) else value

    # In the order in which a provider reads them.
    changed: Body = {name: blocks(body[name]) for name in ("tools", "system") if name in body}
    size += estimate_tokens(body["system"]) if isinstance(body.get("system"), str) else 0
    messages = []
    for message in body["messages"]:
        if isinstance(message["content"], str):
            size += estimate_tokens(message["content"])
        messages.append({**message, "content": blocks(message["content"])})
    return {**body, **changed, "messages": messages}
