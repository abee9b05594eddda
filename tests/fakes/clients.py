"""The libraries that ask the gateway, each behind the same question and answer."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anthropic
import openai

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
TOOL = "answer"
CALL_ID = "call_of_before"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, in no library's words."""

    model: str
    prompt: str = "Hello?"
    system: str = "Be brief."
    image: bool = False
    choice: str = ""
    """`auto`, `required`, or the name of the tool; empty gives no tool at all."""
    result: str = ""
    """What the tool gave when it was called before."""
    stream: bool = False
    max_tokens: int = 100


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    text: str
    calls: tuple[tuple[str, dict[str, Any]], ...]
    stop: str
    prompt_tokens: int
    output_tokens: int


class RefusedError(Exception):
    """An answer that is an error, as the library tells it."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client(Protocol):
    """One library."""

    @property
    def replaces(self) -> Mapping[int, int]:
        """The statuses that it tells as others."""

    def ask(self, url: str, token: str, question: Question) -> Answer: ...


def in_messages(question: Question) -> dict[str, Any]:
    """Return the question in the words of the Messages API."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question.prompt}]
    if question.image:
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
        content.insert(0, {"type": "image", "source": source})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if question.result:
        call = {"type": "tool_use", "id": CALL_ID, "name": TOOL, "input": {"score": 1}}
        result = {"type": "tool_result", "tool_use_id": CALL_ID, "content": question.result}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    told: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.max_tokens,
        "messages": messages,
        "system": question.system,
    }
    if question.choice:
        kinds = {"auto": {"type": "auto"}, "required": {"type": "any"}}
        told["tools"] = [{"name": TOOL, "description": "Give it.", "input_schema": SCHEMA}]
        told["tool_choice"] = kinds.get(question.choice, {"type": "tool", "name": question.choice})
    return told


def in_chat(question: Question) -> dict[str, Any]:
    """Return the question as a chat completion."""
    content: Any = question.prompt
    if question.image:
        url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": question.system},
        {"role": "user", "content": content},
    ]
    if question.result:
        function = {"name": TOOL, "arguments": '{"score": 1}'}
        call = {"id": CALL_ID, "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": CALL_ID, "content": question.result},
        ]
    told: dict[str, Any] = {"model": question.model, "max_tokens": question.max_tokens, "messages": messages}
    if question.choice:
        function = {"name": TOOL, "description": "Give it.", "parameters": SCHEMA}
        told["tools"] = [{"type": "function", "function": function}]
        named = {"type": "function", "function": {"name": question.choice}}
        told["tool_choice"] = question.choice if question.choice in {"auto", "required"} else named
    if question.stream:
        told |= {"stream": True, "stream_options": {"include_usage": True}}
    return told


class AnthropicClient:
    """Anthropic's own library."""

    replaces: Mapping[int, int] = {}

    def ask(self, url: str, token: str, question: Question) -> Answer:
        told = in_messages(question)
        with anthropic.Anthropic(base_url=url, api_key=token) as client:
            try:
                if question.stream:
                    with client.messages.stream(**told) as stream:
                        reply: Any = stream.get_final_message()
                else:
                    reply = client.messages.create(**told)
            except anthropic.APIStatusError as error:
                raise RefusedError(error.status_code, error.message) from error
        usage = reply.usage
        read = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        return Answer(
            text="".join(block.text for block in reply.content if block.type == "text"),
            calls=tuple((block.name, block.input) for block in reply.content if block.type == "tool_use"),
            stop=reply.stop_reason,
            prompt_tokens=usage.input_tokens + read,
            output_tokens=usage.output_tokens,
        )


_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def answer_of(completion: Mapping[str, Any]) -> Answer:
    """Read a completion as its own protocol has it."""
    (choice,) = completion["choices"]
    calls = choice["message"].get("tool_calls") or ()
    return Answer(
        text=choice["message"]["content"] or "",
        calls=tuple((call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls),
        stop=_STOPS[choice["finish_reason"]],
        prompt_tokens=completion["usage"]["prompt_tokens"],
        output_tokens=completion["usage"]["completion_tokens"],
    )


class OpenAiClient:
    """OpenAI's own library."""

    replaces: Mapping[int, int] = {}

    def ask(self, url: str, token: str, question: Question) -> Answer:
        told = in_chat(question)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as client:
            try:
                if not question.stream:
                    return answer_of(client.chat.completions.create(**told).model_dump())
                told.pop("stream")
                with client.chat.completions.stream(**told) as stream:
                    return answer_of(stream.get_final_completion().model_dump())
            except openai.LengthFinishReasonError as error:
                # What is cut off it calls an error, where it puts a stream together.
                return answer_of(error.completion.model_dump())
            except openai.APIStatusError as error:
                raise RefusedError(error.status_code, error.message) from error


class LiteLlm:
    """LiteLLM, through which Aider asks, as a process of the coder's environment; it speaks both protocols."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), "-I", str(Path(__file__).with_name("litellm_driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            text=True,
        )

    def speaking(self, protocol: str) -> Client:
        """Return the client of one protocol, `anthropic` or `openai`."""
        base = {"anthropic": "", "openai": "/v1"}[protocol]
        return _Speaking(lambda told, url: self._ask({**told, "api_base": url + base}), protocol)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        """End its process."""
        self._process.communicate(timeout=20)


@dataclass(frozen=True)
class _Speaking:
    send: Callable[[dict[str, Any], str], dict[str, Any]]
    protocol: str

    @property
    def replaces(self) -> Mapping[int, int]:
        return {402: 500, 403: 500, 413: 400, 529: 500} if self.protocol == "anthropic" else {}

    def ask(self, url: str, token: str, question: Question) -> Answer:
        told = {**in_chat(question), "model": f"{self.protocol}/{question.model}", "api_key": token}
        found = self.send(told, url)
        if "completion" not in found:
            raise RefusedError(found["status"], found["message"])
        return answer_of(found["completion"])
