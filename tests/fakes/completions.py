"""A strict double of OpenAI's chat completions: real HTTP, real checks of each request, answers from a script."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.fakes.provider import Asked, Broken, Failure, Script

KEY = "sk-proj-test-0123456789abcdef"
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


def text(said: str = "Hello.", finish: str = "stop", **usage: int) -> dict[str, Any]:
    """Return a completion that is a text."""
    return completion({"content": said}, finish, **usage)


def tools(*calls: tuple[str, str], finish: str = "tool_calls", **usage: int) -> dict[str, Any]:
    """Return a completion that calls tools, each by its name and the text of its arguments."""
    made = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls, start=1)
    ]
    return completion({"content": None, "tool_calls": made}, finish, **usage)


def completion(said: dict[str, Any], finish: str | None, **usage: int) -> dict[str, Any]:
    counts = {**USAGE, **usage}
    cached, thought = counts.pop("cached_tokens", 0), counts.pop("reasoning_tokens", 0)
    counts["total_tokens"] = counts["prompt_tokens"] + counts["completion_tokens"]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-double",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "refusal": None, "annotations": [], **said},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": {
            **counts,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
        },
        "service_tier": "default",
    }


def chunks(whole: dict[str, Any], *, with_usage: bool) -> list[dict[str, Any]]:
    """Return a completion as OpenAI streams it."""
    head = {name: whole[name] for name in ("id", "created", "model", "service_tier")}
    head["object"] = "chat.completion.chunk"
    if with_usage:
        head["usage"] = None
    choice = whole["choices"][0]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    for field in ("content", "refusal"):
        deltas += [{field: half} for half in _halves(choice["message"].get(field) or "")]
    for at, call in enumerate(choice["message"].get("tool_calls") or []):
        begun = {**call, "index": at, "function": {"name": call["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        for half in _halves(call["function"]["arguments"]):
            deltas.append({"tool_calls": [{"index": at, "function": {"arguments": half}}]})
    found = [{**head, "choices": [_choice(delta, None)]} for delta in deltas]
    if choice["finish_reason"]:
        found.append({**head, "choices": [_choice({}, choice["finish_reason"])]})
    if with_usage and "usage" in whole:
        found.append({**head, "choices": [], "usage": whole["usage"]})
    return found


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _halves(said: str) -> list[str]:
    return [half for half in (said[: len(said) // 2], said[len(said) // 2 :]) if half]


class Completions:
    """The double; `asked` holds what it was asked, sound or not."""

    def __init__(self, script: Script | None = None, *, key: str = KEY) -> None:
        self.script: Script = script or (lambda _: text())
        self.key = key
        """Empty where it takes none, as a server of one's own."""
        self.asked: list[Asked] = []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        asked = Asked(request.url.path, json.loads(await request.body()), dict(request.headers))
        self.asked.append(asked)
        if fault := self._fault(asked):
            return _failed(fault)
        reply = self.script(asked)
        if isinstance(reply, Failure):
            return _failed(reply)
        if asked.body.get("stream"):
            return StreamingResponse(_stream(reply, asked.body), media_type="text/event-stream")
        if isinstance(reply, Broken):
            raise ConnectionAbortedError
        return JSONResponse(reply)

    def _fault(self, asked: Asked) -> Failure | None:
        """Return what the real provider would refuse in a request."""
        given = asked.headers.get("authorization")
        if self.key and given != f"Bearer {self.key}":
            return Failure(401, "invalid_request_error", f"Incorrect API key provided: {given}.")
        if not self.key and given is not None:
            return Failure(400, "invalid_request_error", "This server takes no key.")
        faults = [*_field_faults(asked.body), *_message_faults(asked.body.get("messages")), *_tool_faults(asked.body)]
        return Failure(400, "invalid_request_error", faults[0]) if faults else None


async def _stream(reply: dict[str, Any] | Broken, body: dict[str, Any]) -> AsyncIterator[bytes]:
    import anyio

    whole = reply.message if isinstance(reply, Broken) else reply
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    for at, chunk in enumerate(chunks(whole, with_usage=with_usage)):
        if isinstance(reply, Broken):
            await anyio.sleep(reply.wait_s if at else 0.0)
            if at == reply.after:
                raise ConnectionAbortedError
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _failed(failure: Failure) -> Response:
    error = {"message": failure.message, "type": failure.kind, "param": None, "code": None}
    return JSONResponse({"error": error}, failure.status, headers=failure.headers)


_FIELDS = {
    "model", "messages", "max_tokens", "max_completion_tokens", "n", "stop", "stream", "stream_options", "temperature",
    "top_p", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "seed", "user",
    "metadata", "store", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty",
}  # fmt: skip
_UNANSWERED = "An assistant message with 'tool_calls' must be followed by tool messages for each of them."
_MOST_STOPS = 4
_THINKS = re.compile(r"gpt-5|o\d")
"""The models that think before they answer."""


def _field_faults(body: dict[str, Any]) -> list[str]:
    faults = [f"Unrecognized request argument supplied: {name}" for name in sorted(set(body) - _FIELDS)]
    if not isinstance(body.get("model"), str):
        faults.append("you must provide a model parameter")
    if "stream_options" in body and not body.get("stream"):
        faults.append("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if name in body]
    if any(not isinstance(limit, int) or limit < 1 for limit in limits) or len(limits) > 1:
        faults.append("Invalid value for the limit of tokens.")
    if _THINKS.match(str(body.get("model"))):
        if "max_tokens" in body:
            faults.append("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        faults += [f"Unsupported value: '{name}'" for name in ("temperature", "top_p") if body.get(name, 1) != 1]
        faults += ["Unsupported parameter: 'stop'"] if "stop" in body else []
    if not 0 <= body.get("temperature", 1) <= 2 or not 0 <= body.get("top_p", 1) <= 1:
        faults.append("Invalid sampling.")
    if not 1 <= body.get("n", 1) <= 128:
        faults.append("Invalid 'n'.")
    stops = body.get("stop", "")
    if not isinstance(stops, str) and not 0 < len(stops) <= _MOST_STOPS:
        faults.append("Invalid 'stop': array too long.")
    return faults


def _message_faults(messages: object) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return ["Invalid 'messages': empty array."]
    faults = [fault for at, one in enumerate(messages) for fault in _turn_faults(one, f"messages[{at}]")]
    return faults + order_faults(messages)


def _turn_faults(one: dict[str, Any], where: str) -> list[str]:
    role, content, calls = one.get("role"), one.get("content"), one.get("tool_calls")
    faults = [
        f"Unknown parameter: {where}.{name}."
        for name in sorted(set(one) - {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})
    ]
    if role not in {"system", "developer", "user", "assistant", "tool"}:
        faults.append(f"Invalid value: {role!r}, {where}.role.")
    if calls is not None and (role != "assistant" or not calls):
        faults.append(f"Invalid {where}.tool_calls.")
    if content is None and not (role == "assistant" and calls):
        faults.append(f"Invalid value for {where}.content: expected a string, got null.")
    faults += [fault for call in calls or [] for fault in _call_faults(call, where)]
    return faults + _part_faults(content, role, where)


def order_faults(messages: list[dict[str, Any]]) -> list[str]:
    faults: list[str] = []
    left: list[str] = []
    for one in messages:
        if one.get("role") == "tool" and one.get("tool_call_id") in left:
            left.remove(one["tool_call_id"])
        elif one.get("role") == "tool":
            faults.append("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.")
        elif left:
            faults.append(_UNANSWERED)
        if one.get("role") == "assistant":
            left = [call.get("id") for call in one.get("tool_calls") or []]
    return [*faults, _UNANSWERED] if left else faults


def _call_faults(call: dict[str, Any], where: str) -> list[str]:
    function = call.get("function", {})
    sound = call.get("type") == "function" and isinstance(function.get("name"), str)
    return [] if sound and isinstance(function.get("arguments"), str) else [f"Invalid {where}.tool_calls."]


def _part_faults(content: object, role: object, where: str) -> list[str]:
    if content is None or isinstance(content, str):
        return []
    if not isinstance(content, list) or not content:
        return [f"Invalid {where}.content."]
    faults = []
    for part in content:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        link = part.get("image_url")
        if kind != "image_url" or role != "user":
            faults.append(f"Invalid {where}.content: a part {kind!r} of {role!r}.")
        elif not isinstance(link, dict) or not re.match(r"https?://|data:image/\w+;base64,\w", str(link.get("url"))):
            faults.append(f"Invalid {where}.content: image_url.url is not an image.")
    return faults


def _tool_faults(body: dict[str, Any]) -> list[str]:
    given = body.get("tools")
    if given is None:
        return [f"'{name}' is only allowed when 'tools' are specified." for name in _WITH_TOOLS if name in body]
    faults = [] if given else ["Invalid 'tools': empty array."]
    names = set()
    for one in given:
        function = one.get("function", {})
        if one.get("type") != "function" or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", str(function.get("name"))):
            faults.append("Invalid 'tools': a function with a name is needed.")
        if function.get("parameters", {"type": "object"}).get("type") != "object":
            faults.append("Invalid schema for function: it must be of type 'object'.")
        if strange := set(function) - {"name", "description", "parameters", "strict"}:
            faults.append(f"Unknown parameter: tools.function.{min(strange)}.")
        names.add(function.get("name"))
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        if choice.get("type") != "function" or choice.get("function", {}).get("name") not in names:
            faults.append("Invalid 'tool_choice': no such function.")
    elif choice not in {"none", "auto", "required"}:
        faults.append("Invalid 'tool_choice'.")
    return faults


_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")
