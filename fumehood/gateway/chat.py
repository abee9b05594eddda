"""OpenAI's chat completions as a door: a request becomes one of the Messages API, its answer a completion again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from fumehood.errors import BadInputError
from fumehood.gateway.prices import Tokens
from fumehood.gateway.request import Body, json_object, strict_json
from fumehood.gateway.sse import Event
from fumehood.gateway.upstream import Message

Object = dict[str, Any]

MAX_TOKENS = 4096
"""The longest answer where the caller names no bound."""
_PASSED = {
    "model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "temperature", "top_p",
    "stop", "tools", "tool_choice", "parallel_tool_calls", "response_format",
}  # fmt: skip
_LEFT_OUT = {"user", "metadata", "safety_identifier"}
"""They name the caller to its provider, which need not know."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""What may be said as long as it asks for nothing, since some libraries always say it."""
_IN_MESSAGE = {"role", "content", "name", "refusal", "tool_calls", "tool_call_id", "annotations", "reasoning_content"}
_DATA = re.compile(r"data:(image/[a-z0-9.+-]+);base64,([A-Za-z0-9+/=\s]+)", re.IGNORECASE)
_FINISHED = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def to_messages(raw: bytes) -> Body:
    """Return the request as one of the Messages API; `BadInputError` says what is wrong with it or has no bound."""
    asked = {name: value for name, value in json_object(raw).items() if value is not None}
    for name, value in asked.items():
        if name not in _PASSED | _LEFT_OUT and not _is_neutral(name, value):
            raise BadInputError(
                f"{name}: this field is not passed on, because what it asks for has no equal or no bound."
            )
    turns = _list(asked.get("messages"), "messages")
    body: Body = {
        "model": asked.get("model"),
        "max_tokens": asked.get("max_completion_tokens", asked.get("max_tokens", MAX_TOKENS)),
        "messages": _messages(turns),
    }
    if system := "\n\n".join(_plain(turn) for turn in turns if turn.get("role") in {"system", "developer"}):
        body["system"] = system
    body |= {name: asked[name] for name in ("temperature", "top_p", "stream") if name in asked}
    if stop := asked.get("stop"):
        body["stop_sequences"] = [stop] if isinstance(stop, str) else _list(stop, "stop", str)
    if tools := _list(asked.get("tools", []), "tools"):
        body["tools"] = [_tool(tool) for tool in tools]
    if choice := _tool_choice(asked):
        body["tool_choice"] = choice
    if shape := _shape(asked.get("response_format")):
        body["output_config"] = {"format": shape}
    return body


def wants_usage(raw: bytes) -> bool:
    """Tell whether a caller that streams asks for a last chunk with the usage."""
    options = json_object(raw).get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _is_neutral(name: str, value: object) -> bool:
    return value in _NEUTRAL.get(name, ())


def _list(value: object, where: str, kind: type = dict) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise BadInputError(f"{where}: a list of {'objects' if kind is dict else 'strings'} is required.")
    return value


def _messages(turns: list[Object]) -> list[Object]:
    """Return the turns with those of one side in a row made into one, as the Messages API wants them."""
    merged: list[tuple[str, list[Object]]] = []
    for turn in turns:
        side, blocks = _side(turn)
        if side and merged and merged[-1][0] == side:
            merged[-1][1].extend(blocks)
        elif side:
            merged.append((side, list(blocks)))
    if not all(blocks for _, blocks in merged):
        raise BadInputError("messages: one of them is empty.")
    return [{"role": side, "content": _simplest(blocks)} for side, blocks in merged]


def _simplest(blocks: list[Object]) -> str | list[Object]:
    return str(blocks[0]["text"]) if [block["type"] for block in blocks] == ["text"] else blocks


def _side(turn: Object) -> tuple[str, list[Object]]:
    """Return whose turn it is in the Messages API, and its blocks; nobody's where it belongs to the system prompt."""
    if strange := sorted(name for name in set(turn) - _IN_MESSAGE if turn[name] is not None):
        raise BadInputError(f"messages: the field {strange[0]!r} is not passed on.")
    match turn.get("role"):
        case "system" | "developer":
            return "", []
        case "user":
            return "user", _blocks(turn.get("content"))
        case "tool":
            if not isinstance(turn.get("tool_call_id"), str):
                raise BadInputError("messages: a tool's message needs the `tool_call_id` that it answers.")
            result = {"type": "tool_result", "tool_use_id": turn["tool_call_id"], "content": _plain(turn)}
            return "user", [result]
        case "assistant":
            refused = turn.get("refusal")
            said = [*_blocks(turn.get("content") or ""), *(_blocks(refused) if refused else [])]
            return "assistant", [*said, *map(_call, _list(turn.get("tool_calls") or [], "messages.tool_calls"))]
    raise BadInputError("messages: each needs the role `system`, `developer`, `user`, `assistant` or `tool`.")


def _plain(turn: Object) -> str:
    blocks = _blocks(turn.get("content"))
    if any(block["type"] != "text" for block in blocks):
        raise BadInputError(f"messages: what the role {turn.get('role')!r} says must be text.")
    return "".join(block["text"] for block in blocks)


def _blocks(content: object) -> list[Object]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for part in _list(content, "messages.content") for block in _block(part)]


def _block(part: Object) -> list[Object]:
    kind = str(part.get("type"))
    if kind in {"text", "refusal"}:
        if not isinstance(part.get(kind), str):
            raise BadInputError(f"messages: a part of type {kind!r} needs its text.")
        return _blocks(part[kind])
    if kind != "image_url":
        raise BadInputError(f"messages: a part of type {kind!r} is not passed on.")
    link = part.get("image_url")
    found = _DATA.fullmatch(str(link.get("url", ""))) if isinstance(link, dict) else None
    if found is None:
        raise BadInputError("messages: an image must be given as a data: URL in base64.")
    kind = found[1].lower().replace("image/jpg", "image/jpeg")
    source = {"type": "base64", "media_type": kind, "data": re.sub(r"\s", "", found[2])}
    return [{"type": "image", "source": source}]


def _call(call: Object) -> Object:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        raise BadInputError("messages.tool_calls: only calls of functions are passed on.")
    named = (call.get("id"), function.get("name"), function.get("arguments", ""))
    if not all(isinstance(one, str) for one in named):
        raise BadInputError("messages.tool_calls: each needs an `id`, and a `name` and `arguments` of its function.")
    return {"type": "tool_use", "id": named[0], "name": named[1], "input": arguments(str(named[2]))}


def arguments(text: str) -> Object:
    """Return a call's arguments; what is no JSON object is kept as it is, under `unreadable`."""
    try:
        found = strict_json(text or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"unreadable": text}


def _tool(tool: Object) -> Object:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadInputError("tools: only functions with a name are passed on.")
    made: Object = {"name": function["name"]}
    if function.get("description"):
        made["description"] = function["description"]
    made["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    return {**made, "strict": True} if function.get("strict") else made


def _tool_choice(asked: Object) -> Object:
    choice, several = asked.get("tool_choice"), asked.get("parallel_tool_calls", True)
    if not asked.get("tools"):
        if choice not in (None, "none", "auto"):
            raise BadInputError("tool_choice: it may only be given with tools.")
        return {}
    made: Object
    match choice:
        case None | "auto":
            made = {"type": "auto"} if choice or several is False else {}
        case "none":
            return {"type": "none"}
        case "required":
            made = {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            made = {"type": "tool", "name": name}
        case _:
            raise BadInputError("tool_choice: it must be `none`, `auto`, `required` or a function by name.")
    return {**made, "disable_parallel_tool_use": True} if several is False else made


def _shape(wanted: object) -> Object:
    match wanted:
        case None | {"type": "text"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"type": "json_schema", "schema": schema}
    raise BadInputError("response_format: only `text` and a `json_schema` are passed on.")


def completion(message: Message, created: int) -> Object:
    """Return an answer as a chat completion."""
    blocks = message["content"]
    calls = [
        {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": _dump(block["input"])}}
        for block in blocks
        if block["type"] == "tool_use"
    ]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    said: Object = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": _finish(message.get("stop_reason"))}
    return {
        "id": message["id"],
        "object": "chat.completion",
        "created": created,
        "model": message["model"],
        "choices": [choice],
        "usage": usage(message.get("usage") or {}),
    }


def _dump(value: object) -> str:
    return json.dumps(value)


def _finish(stop_reason: object) -> str:
    return _FINISHED.get(str(stop_reason), "stop")


def usage(told: Mapping[str, Any]) -> Object:
    """Return the usage as OpenAI counts: the prompt with what of it was cached."""
    tokens = Tokens.of(told)
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.prompt + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read},
    }


def error(message: str, kind: str, code: str | None = None) -> Object:
    """Return an error in OpenAI's shape; the field that is at fault is named where the sentence begins with it."""
    found = re.match(r"([a-z_]+)[.a-z_]*: ", message)
    return {"message": message, "type": kind, "code": code, "param": found[1] if found else None}


class Chunks:
    """Writes a stream's events as the chunks of a completion."""

    def __init__(self, created: int, *, with_usage: bool) -> None:
        self._head: Object = {"id": "", "object": "chat.completion.chunk", "created": created, "model": ""}
        self._with_usage = with_usage
        self._usage: Object = {}
        self._calls: dict[object, int] = {}
        self._without_arguments: set[object] = set()
        self._kinds: Mapping[str, Callable[[Event], bytes]] = {
            "message_start": self._start,
            "content_block_start": self._block,
            "content_block_delta": self._delta,
            "content_block_stop": self._close,
            "message_delta": self._finish,
            "message_stop": self._stop,
            "error": self._error,
        }

    def encode(self, event: Event) -> bytes:
        """Return what an event is on the wire; nothing where a completion has no such thing."""
        write = self._kinds.get(str(event.get("type")))
        return write(event) if write else b""

    def _start(self, event: Event) -> bytes:
        message = event["message"]
        self._head |= {"id": message.get("id"), "model": message.get("model")}
        self._usage = dict(message.get("usage") or {})
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _block(self, event: Event) -> bytes:
        block = event["content_block"]
        if block.get("type") != "tool_use":
            return self._chunk({"content": block["text"]}) if block.get("text") else b""
        at = self._calls.setdefault(event.get("index"), len(self._calls))
        self._without_arguments.add(event.get("index"))
        function = {"name": block.get("name"), "arguments": ""}
        call = {"index": at, "id": block.get("id"), "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def _delta(self, event: Event) -> bytes:
        match event["delta"]:
            case {"type": "text_delta", "text": text}:
                return self._chunk({"content": text})
            case {"type": "input_json_delta", "partial_json": str(piece)} if piece and event["index"] in self._calls:
                self._without_arguments.discard(event["index"])
                return self._arguments(event["index"], piece)
        return b""

    def _close(self, event: Event) -> bytes:
        # A tool that takes nothing is called with an object all the same, which the Messages API leaves unsaid.
        at = event.get("index")
        return self._arguments(at, "{}") if at in self._without_arguments else b""

    def _arguments(self, at: object, piece: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls[at], "function": {"arguments": piece}}]})

    def _finish(self, event: Event) -> bytes:
        self._usage |= {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
        return self._chunk({}, _finish(event["delta"].get("stop_reason")))

    def _stop(self, _: Event) -> bytes:
        last = {**self._head, "choices": [], "usage": usage(self._usage)}
        return (_data(_dump(last)) if self._with_usage else b"") + _data("[DONE]")

    def _error(self, event: Event) -> bytes:
        told = event.get("error") or {}
        return _data(_dump({"error": error(str(told.get("message", "")), str(told.get("type", "api_error")))}))

    def _chunk(self, delta: Object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        extra = {"usage": None} if self._with_usage else {}
        return _data(_dump({**self._head, "choices": [choice], **extra}))


def _data(text: str) -> bytes:
    return f"data: {text}\n\n".encode()
