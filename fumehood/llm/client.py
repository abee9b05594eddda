"""The `Model` port over the gateway, spoken to through Anthropic's client library."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from fumehood.domain.caps import Cap
from fumehood.domain.token import mint
from fumehood.errors import ModelUnavailableError, OverBudgetError
from fumehood.observe import traces
from fumehood.ports import Call, Clock, Shape

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import Message

TOOL = "answer"
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)
_TOKEN_REFUSED = 401
"""The gateway takes the token for no call any more, or takes none of this worker's; a person must look."""
_OVER_BUDGET = 402
_REFUSED = 424
"""The provider refuses the platform's key or account, so a person must mend it."""
ASKS = 3
"""How often a question is put whose answer is refused, cut off or empty: a model often does better the next time."""
_REPAIRS = 1
"""How often an answer that does not have the shape asked for is sent back with its faults."""
_CUT = "Your answer was cut off, so it is not used. Give the whole of it again, in fewer words."
MOST_BREAKPOINTS = 4
"""More a provider refuses."""


class GatewayModel:
    """Asks a model through the gateway, each time with a token that ends soon, for what the call's claims say."""

    def __init__(
        self, url: str, secret: bytes, clock: Clock, *, timeout_s: float = 900.0, token_life_s: float = 3600.0
    ) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout_s = timeout_s
        self._token_life_s = token_life_s

    def text(self, call: Call) -> str:
        """Return the answer as text."""
        return _text_of(self._usable(call, [{"role": "user", "content": _content(call)}]))

    def answer(self, call: Call, shape: type[Shape]) -> Shape:
        """Return the answer in this shape; an answer that does not fit is shown its faults once."""
        tool = {"name": TOOL, "description": "Give the answer.", "input_schema": shape.model_json_schema()}
        extra = {"tools": [tool], "tool_choice": {"type": "tool", "name": TOOL}}
        messages: list[dict[str, Any]] = [{"role": "user", "content": _content(call)}]
        fault = ""
        for _ in range(1 + _REPAIRS):
            reply = self._usable(call, messages, **extra)
            try:
                return shape.model_validate(_input_of(reply))
            except ValidationError as error:
                fault = _faults(error)
            except ValueError as error:
                fault = str(error)
            messages += _repair(reply, fault)
        raise ModelUnavailableError(f"The model's answer does not have the shape asked for: {fault}")

    def close(self) -> None:
        """Close the connections to the gateway."""
        self._client.close()

    def _usable(self, call: Call, messages: list[dict[str, Any]], **extra: Any) -> Message:
        """Return an answer that is one; it is asked for again where a model refuses, is cut off or says nothing."""
        fault, asked = "", messages
        for _ in range(ASKS):
            reply = self._ask(call, asked, **extra)
            fault = _fault_of(reply)
            if not fault:
                return reply
            asked = [*messages[:-1], _with(messages[-1], _CUT)] if reply.stop_reason == "max_tokens" else messages
        raise ModelUnavailableError(fault)

    def _ask(self, call: Call, messages: list[dict[str, Any]], **extra: Any) -> Message:
        import anthropic

        claims = dataclasses.replace(call.claims, expires_at=self._clock.now() + self._token_life_s)
        client = self._client.with_options(api_key=mint(claims, self._secret))
        fields = {"model": claims.model, "max_tokens": call.max_tokens, "messages": messages, **extra}
        if call.system:
            fields["system"] = call.system
        # The newest models take no temperature, so the library does not know it; the gateway sorts that out.
        fields["extra_body"] = {"temperature": call.temperature}
        fields["extra_headers"] = traces.carried()
        try:
            reply: Message = client.messages.create(**fields)
        except anthropic.APIStatusError as error:
            _raise(error.status_code, error.body, str(error))
        except anthropic.APIError as error:
            raise ModelUnavailableError(f"The gateway could not be reached: {error}", retryable=True) from error
        return reply

    @functools.cached_property
    def _client(self) -> Anthropic:
        import anthropic

        return anthropic.Anthropic(
            base_url=self._url,
            api_key="-",
            max_retries=0,  # the gateway tries again where that helps
            timeout=self._timeout_s,
            # The gateway is on this machine or next to it: a proxy set for the outside must not see its tokens.
            http_client=anthropic.DefaultHttpxClient(trust_env=False, timeout=self._timeout_s),
        )


def _content(call: Call) -> str | list[dict[str, Any]]:
    """Return the prompt in blocks; where its beginning comes again in a later call, the provider is asked to keep it.

    The gateway takes the wish out where a model does not keep so short a beginning, or none.
    """
    if not call.repeated:
        return call.prompt
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in call.blocks]
    for number in call.repeated[-MOST_BREAKPOINTS:]:
        blocks[number - 1]["cache_control"] = {"type": "ephemeral"}
    return blocks


def _raise(status: int, body: object, text: str) -> NoReturn:
    detail = body.get("error") if isinstance(body, Mapping) else None
    message = str(detail.get("message")) if isinstance(detail, Mapping) else text
    if status == _OVER_BUDGET:
        cap = str(body.get("cap", "")) if isinstance(body, Mapping) else ""
        raise OverBudgetError(message, is_directions=cap == Cap.DIRECTION, cap=cap)
    mendable = status in {_REFUSED, _TOKEN_REFUSED}
    raise ModelUnavailableError(message, retryable=status == 429 or status >= 500, mendable=mendable)


def _fault_of(reply: Message) -> str:
    if reply.stop_reason == "refusal":
        return "The model refused to answer."
    if reply.stop_reason in {"max_tokens", "model_context_window_exceeded"}:
        return "The model's answer was cut off."
    if not any(block.type == "tool_use" for block in reply.content) and not _text_of(reply).strip():
        return "The model answered with no text."
    return ""


def _with(message: dict[str, Any], sentence: str) -> dict[str, Any]:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": [*blocks, {"type": "text", "text": sentence}]}


def _text_of(reply: Message) -> str:
    return "".join(block.text for block in reply.content if block.type == "text")


def _input_of(reply: Message) -> object:
    for block in reply.content:
        if block.type == "tool_use":
            return block.input
    return json_in(_text_of(reply))


def json_in(text: str) -> object:
    """Return the JSON in a text: its last fenced block that parses, else the whole text; `ValueError` when neither."""
    for candidate in (*reversed(_FENCED.findall(text)), text):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    raise ValueError(f"The tool `{TOOL}` was not called, and there is no JSON in the text.")


def _faults(error: ValidationError) -> str:
    faults = (f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in error.errors())
    return "; ".join(faults)[:2000]


def _repair(reply: Message, fault: str) -> list[dict[str, Any]]:
    content = [block.model_dump(mode="json", exclude_none=True) for block in reply.content]
    asked = f"That does not fit: {fault} Give the whole answer again through the tool `{TOOL}`."
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "is_error": True, "content": fault}
        for block in content
        if block["type"] == "tool_use"
    ]
    content = content or [{"type": "text", "text": "(no answer)"}]
    return [
        {"role": "assistant", "content": content},
        {"role": "user", "content": [*results, {"type": "text", "text": asked}]},
    ]
