"""Chat completions as upstreams speak them: requests, answers and streams put into the terms of the Messages API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fumehood.gateway.chat import arguments
from fumehood.gateway.request import Body, most_input_tokens
from fumehood.gateway.sse import Event
from fumehood.gateway.upstream import Message, UpstreamError

Object = dict[str, Any]

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_STOPPED = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
_FAILED = frozenset({"error", "insufficient_system_resource"})
"""With these an answer was not finished, whatever there is of it."""
_BYTES_A_TOKEN = 2
"""Fewer than there are in what models write, so that an estimate is not too low."""
_ID = re.compile(r"[^A-Za-z0-9_-]")


def request_of(body: Body, limit_field: str) -> Object:
    """Return a request of the Messages API as one for a chat completion."""
    asked: Object = {"model": body["model"], "messages": _messages(body), limit_field: body["max_tokens"]}
    asked |= {name: body[name] for name in ("temperature", "top_p") if name in body}
    if body.get("stop_sequences"):
        asked["stop"] = body["stop_sequences"]
    if body.get("tools"):
        asked["tools"] = [_tool(tool) for tool in body["tools"]]
        asked |= _tool_choice(body.get("tool_choice") or {})
    if shape := _table((body.get("output_config") or {}).get("format")):
        asked["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": shape.get("schema"), "strict": True},
        }
    if body.get("stream"):
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


def _messages(body: Body) -> list[Object]:
    system = body.get("system") or ""
    said = system if isinstance(system, str) else _text(system)
    turns: list[Object] = [{"role": "system", "content": said}] if said else []
    for turn in body["messages"]:
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns += [_answered(blocks)] if turn["role"] == "assistant" else _asked(blocks)
    return turns


def _answered(blocks: list[Object]) -> Object:
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"], ensure_ascii=False)},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    turn: Object = {"role": "assistant", "content": text or (None if calls else "")}
    return {**turn, "tool_calls": calls} if calls else turn


def _asked(blocks: list[Object]) -> list[Object]:
    """Return a user's turn: first what tools gave, each by itself and as text, then the rest."""
    turns: list[Object] = []
    rest: list[Object] = []
    for block in blocks:
        if block["type"] != "tool_result":
            rest.append(block)
            continue
        given = block.get("content") or ""
        parts = [{"type": "text", "text": given}] if isinstance(given, str) else given
        turns.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": _text(parts)})
        rest += [part for part in parts if part["type"] == "image"]
    if any(block["type"] == "image" for block in rest):
        turns.append(
            {"role": "user", "content": [_part(block) for block in rest if block["type"] in {"text", "image"}]}
        )
    elif rest:
        # As one string, which every server takes.
        turns.append({"role": "user", "content": _text(rest)})
    return turns


def _text(blocks: list[Object]) -> str:
    return "\n\n".join(block["text"] for block in blocks if block["type"] == "text")


def _part(block: Object) -> Object:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}


def _tool(tool: Object) -> Object:
    function = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _tool_choice(choice: Mapping[str, Any]) -> Object:
    made: Object = {}
    if choice.get("type") == "tool":
        made["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice:
        made["tool_choice"] = _CHOICES.get(str(choice.get("type")), "auto")
    if choice.get("disable_parallel_tool_use"):
        made["parallel_tool_calls"] = False
    return made


def message_of(reply: Mapping[str, Any], body: Body) -> Message:
    """Return a completion as a message; `UpstreamError` where it is none, or was not finished."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(said, Mapping):
        raise _unfit("The provider's answer is not a completion.")
    name = _name(reply)
    calls = [call for call in said.get("tool_calls") or () if isinstance(call, Mapping)]
    texts = [text for text in (said.get("content"), said.get("refusal")) if isinstance(text, str) and text]
    content: list[Object] = [{"type": "text", "text": text} for text in texts]
    for at, call in enumerate(calls):
        function = _table(call.get("function"))
        given = str(function.get("arguments") or "")
        told = {"id": _call_id(call, name, at), "name": str(function.get("name") or "")}
        content.append({"type": "tool_use", **told, "input": arguments(given)})
    refused = bool(said.get("refusal"))
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": str(reply.get("model") or body["model"]),
        "content": content,
        "stop_reason": stop_reason(choice.get("finish_reason"), called=bool(calls), refused=refused),
        "stop_sequence": None,
        "usage": usage_of(reply.get("usage"), body, _written(said)),
    }


def stop_reason(finished: object, *, called: bool, refused: bool) -> str:
    """Return why an answer ended; `UpstreamError` where it did not get so far.

    A tool that was forced is called with the reason `stop`.
    """
    if finished in _FAILED:
        raise _unfit(f"The provider gave the answer up ({finished}).")
    if refused:
        return "refusal"
    found = _STOPPED.get(str(finished), "end_turn")
    return "tool_use" if called and found == "end_turn" else found


def usage_of(told: object, body: Body, written: int) -> dict[str, int]:
    """Return the usage as Anthropic counts it, where what was cached is no part of the input.

    Where the server does not count, it is what was reserved for the prompt, and too many for `written` bytes.
    """
    if not isinstance(told, Mapping) or not _count(told.get("prompt_tokens")):
        return _usage(most_input_tokens(body), 0, max(1, -(-written // _BYTES_A_TOKEN)))
    prompt, total = _count(told.get("prompt_tokens")), _count(told.get("total_tokens"))
    details = _table(told.get("prompt_tokens_details"))
    cached = _count(details.get("cached_tokens")) or _count(told.get("prompt_cache_hit_tokens"))
    # Thinking is within the completion's tokens, but for servers that show it in the total alone.
    output = max(_count(told.get("completion_tokens")), total - prompt)
    return _usage(prompt - min(cached, prompt), min(cached, prompt), output)


def _usage(fresh: int, cached: int, output: int) -> dict[str, int]:
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }


def counted(body: Body) -> int:
    """Return about how many tokens a prompt has, rather too many: there is nothing that counts them."""
    return -(-most_input_tokens(body) // _BYTES_A_TOKEN)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(reply: Mapping[str, Any]) -> str:
    return str(reply.get("id") or "chatcmpl-unnamed")


def _call_id(call: Mapping[str, Any], name: str, at: int) -> str:
    # Some servers give none, and the Messages API takes no other characters.
    return _ID.sub("_", str(call.get("id") or f"call_{name}_{at}"))


def _written(said: Mapping[str, Any]) -> int:
    """Return how many bytes of an answer, thinking included, are paid for."""
    return len(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _unfit(sentence: str) -> UpstreamError:
    # An answer came, for which the provider takes money.
    return UpstreamError(sentence, status=502, kind="api_error", retryable=True, maybe_paid=True)


class Events:
    """Makes a message's events from the chunks of a completion.

    A block of a message ends before the next begins. So what comes for another call, or for the text, while a call is
    being written is held back until the end.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._name = ""
        self._finished: object = None
        self._refused = False
        self._usage: object = None
        self._written = 0
        self._open: object = None
        self._blocks = 0
        self._calls: dict[object, Mapping[str, Any]] = {}
        self._given: dict[object, object] = {}
        """The ids that the server gave."""
        self._later: dict[object, list[str]] = {}

    def see(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """Return what one chunk comes to."""
        if not self._name:
            self._name = _name(chunk)
            yield self._start(chunk)
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = _table(_table(choice).get("delta"))
            self._finished = _table(choice).get("finish_reason") or self._finished
            self._written += _written(delta) if delta else 0
            yield from self._text(delta)
            for call in delta.get("tool_calls") or ():
                yield from self._call(_table(call))

    def end(self) -> Iterator[Event]:
        """Return the last events; `UpstreamError` where the completion was not finished."""
        if self._finished is None:
            raise _unfit("The provider's stream broke off.")
        reason = stop_reason(self._finished, called=bool(self._calls), refused=self._refused)
        yield from self._close()
        for key, pieces in self._later.items():
            yield from self._begin(key)
            yield self._piece(key, "".join(pieces))
            yield from self._close()
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": usage_of(self._usage, self._body, self._written)}
        yield {"type": "message_stop"}

    def _start(self, chunk: Mapping[str, Any]) -> Event:
        message: Object = {
            "id": self._name,
            "type": "message",
            "role": "assistant",
            "model": str(chunk.get("model") or self._body["model"]),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # Told at the end; one that breaks off before is booked by this.
            "usage": _usage(most_input_tokens(self._body), 0, 0),
        }
        return {"type": "message_start", "message": message}

    def _text(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        for field in ("content", "refusal"):
            text = delta.get(field)
            if isinstance(text, str) and text:
                self._refused = self._refused or field == "refusal"
                yield from self._add("text", text)

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        # A server that does not number them names each call, and goes on with the last.
        numbered = isinstance(call.get("index"), int)
        key = call["index"] if numbered else call.get("id") or next(reversed(self._calls), 0)
        if call.get("id") and self._given.setdefault(key, call["id"]) != call["id"]:
            # Some give every call the same number, and each whole.
            key = call["id"]
        function = _table(call.get("function"))
        if key not in self._calls:
            told = {"id": _call_id(call, self._name, len(self._calls)), "name": str(function.get("name") or "")}
            self._calls[key] = told
        yield from self._add(key, str(function.get("arguments") or ""))

    def _add(self, key: object, piece: str) -> Iterator[Event]:
        if self._open != key:
            if self._open not in {None, "text"}:
                self._later.setdefault(key, []).append(piece)
                return
            yield from self._close()
            yield from self._begin(key)
        if piece:
            yield self._piece(key, piece)

    def _begin(self, key: object) -> Iterator[Event]:
        block: Object = {"type": "text", "text": ""}
        if key != "text":
            block = {"type": "tool_use", **self._calls[key], "input": {}}
        self._open = key
        yield {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _piece(self, key: object, piece: str) -> Event:
        delta = {"type": "text_delta", "text": piece}
        if key != "text":
            delta = {"type": "input_json_delta", "partial_json": piece}
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._blocks}
            self._blocks += 1
            self._open = None
