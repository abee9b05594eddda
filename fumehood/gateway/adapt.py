"""A request as one model takes it: without what it refuses, with room for its thinking."""

from __future__ import annotations

from typing import Any

from fumehood.errors import BadInputError
from fumehood.gateway.models import Model
from fumehood.gateway.request import Body


def adapt(body: Body, model: Model) -> Body:
    """Return the request as this model takes it."""
    adapted = {key: value for key, value in body.items() if key != "metadata"}
    if model.called:
        adapted["model"] = model.called
    if not model.sampling:
        for key in ("temperature", "top_p", "top_k"):
            adapted.pop(key, None)
    choice = adapted.get("tool_choice") or {}
    if not isinstance(choice, dict):
        raise BadInputError("tool_choice: an object is required.")
    if not model.forced_tools and choice.get("type") in {"tool", "any"}:
        named = f"the tool `{choice['name']}`" if choice.get("name") else "one of the tools"
        adapted["tool_choice"] = {"type": "auto"}
        adapted["system"] = _appended(adapted.get("system"), f"Answer by calling {named}, and in no other way.")
    if "max_tokens" in body:
        adapted["max_tokens"] = body["max_tokens"] + model.headroom
    return adapted


def _appended(system: object, sentence: str) -> str | list[Any]:
    if isinstance(system, list):
        return [*system, {"type": "text", "text": sentence}]
    return f"{system}\n\n{sentence}" if system else sentence
