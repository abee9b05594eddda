"""The gateway over real HTTP before a strict double of OpenAI, as the table of models has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.gateway.models import Models
from fumehood.gateway.upstreams.choose import upstreams
from fumehood.gateway.upstreams.openai import OpenAiUpstream
from tests.fakes import completions
from tests.fakes.completions import KEY, Completions
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.provider import Asked, Failure, Reply, serving

OWN = """
[upstreams.openai]
kind = "openai"
base_url = "URL/v1"
key = "openai"
limit_field = "max_completion_tokens"

[upstreams.house]
kind = "openai"
base_url = "URL/v1"

[models.mine]
upstream = "house"
called = "theirs"
input = 1.0
output = 2.0
"""


@dataclass
class Room:
    """What a test has at hand."""

    double: Completions
    house: Gateway
    keys: dict[str, str] = field(default_factory=lambda: {"openai": KEY})

    def post(self, model: str = "gpt-4.1", **changes: Any) -> httpx.Response:
        """Ask through the door that is OpenAI's."""
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], **changes}
        headers = {"authorization": f"Bearer {self.house.token(model)}"}
        return httpx.post(f"{self.house.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


@pytest.fixture
def make_room(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    double, keys = Completions(), {"openai": KEY}
    with serving(double.app) as url:
        own = tmp_path / "own.toml"
        own.write_text(OWN.replace("URL", url))
        models = Models.shipped(str(own))
        found = upstreams(models, MemoryArtifacts(), keys.get)
        with gateway(found, models) as house:
            yield lambda: Room(double, house, keys)
        for one in found.values():
            if isinstance(one, OpenAiUpstream):
                one.close()


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    return make_room()


def test_a_model_that_thinks_is_asked_as_it_wants(room: Room) -> None:
    body = room.post("gpt-5-mini", temperature=0.3, top_p=0.5).json()
    assert body["choices"][0]["message"]["content"] == "Hello."
    (asked,) = room.double.asked  # which the double has found sound
    assert asked.body["max_completion_tokens"] == 50 + 8192
    assert not {"temperature", "top_p", "max_tokens"} & set(asked.body)


def test_a_server_of_one_s_own_takes_no_key_and_its_own_name(room: Room) -> None:
    room.double.key = ""
    assert room.post("mine").status_code == 200
    (asked,) = room.double.asked
    assert (asked.body["model"], asked.body["max_tokens"]) == ("theirs", 50)
    assert "authorization" not in asked.headers
    (call,) = room.house.calls()
    assert (call.upstream, call.model) == ("house", "mine")
    assert room.house.spent() == pytest.approx((100 + 2 * 50) / 1e6)


@pytest.mark.parametrize(("key", "words"), [("", "There is no key for OpenAI"), ("sk-wrong", "OpenAI refuses")])
def test_a_key_that_is_missing_or_refused_is_told_without_it(room: Room, key: str, words: str) -> None:
    room.keys["openai"] = key
    answer = room.post()
    assert answer.status_code == 424
    assert answer.json()["problem"] == "urn:fumehood:problem:model-refused"
    assert words in answer.json()["error"]["message"]
    assert "fumehood keys set openai" in answer.json()["error"]["message"]
    assert "sk-wrong" not in answer.text
    assert room.house.spent() == 0


def test_an_empty_account_is_for_a_person_to_mend(room: Room) -> None:
    room.double.script = lambda _: Failure(429, "insufficient_quota", "You exceeded your current quota")
    assert room.post().status_code == 424
    assert len(room.double.asked) == 1


def test_an_error_has_openai_s_shape_and_is_not_to_be_tried_again(room: Room) -> None:
    answer = room.post(n=2)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (400, "false")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["type"], error["param"]) == ("invalid_request_error", "n")
    room.house.budget(0.0001)
    answer = room.post()
    assert (answer.status_code, answer.headers["content-type"]) == (402, "application/problem+json")
    assert answer.json()["type"] == "urn:fumehood:problem:over-budget"
    assert answer.json()["error"]["code"] == "insufficient_quota"
    assert room.double.asked == []


def test_a_token_s_model_is_listed(room: Room) -> None:
    with openai.OpenAI(base_url=f"{room.house.url}/v1", api_key=room.house.token("gpt-4.1")) as client:
        (found,) = client.models.list()
    assert (found.id, found.owned_by) == ("gpt-4.1", "openai")
    with (
        openai.OpenAI(base_url=f"{room.house.url}/v1", api_key="sk-other") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def in_turn(*replies: Reply) -> Callable[[Asked], Reply]:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_an_error_that_comes_as_an_answer_is_one_and_is_tried_again(room: Room) -> None:
    error: Reply = {"error": {"message": "Upstream overloaded", "code": 503}}
    room.double.script = in_turn(error, completions.text("At last."))
    assert room.post().json()["choices"][0]["message"]["content"] == "At last."
    room.double.script = lambda _: {"error": {"message": "No such thing", "code": 404}}
    answer = room.post()
    assert answer.status_code == 404
    assert "No such thing" in answer.json()["error"]["message"]
    assert len(room.double.asked) == 3


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_a_stream_without_its_reason_has_broken_off(room: Room) -> None:
    room.double.script = lambda _: completions.completion({"content": "Half a"}, None)
    answer = room.post(stream=True)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    assert "broke off" in events(answer)[-1]["error"]["message"]
    (call,) = room.house.calls()
    assert call.status == 502
    # What it cost is not known: the prompt is booked as it was reserved.
    assert call.usage.input_tokens > 100
    assert call.usage.output_tokens == 3


def test_a_stream_that_is_not_counted_is_booked_upwards(room: Room) -> None:
    whole = completions.text("x" * 500)
    del whole["usage"]
    room.double.script = lambda _: whole
    answer = room.post(stream=True, stream_options={"include_usage": True})
    told = events(answer)[-1]["usage"]
    (call,) = room.house.calls()
    assert call.status == 200
    assert told["completion_tokens"] == call.usage.output_tokens >= 250
    assert told["prompt_tokens"] == call.usage.input_tokens > 1000


def test_usage_comes_only_where_it_is_asked_for(room: Room) -> None:
    plain = events(room.post(stream=True))
    assert all("usage" not in chunk for chunk in plain)
    counted = events(room.post(stream=True, stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in counted[:-1]] == [None] * (len(counted) - 1)
    assert (counted[-1]["choices"], counted[-1]["usage"]["total_tokens"]) == ([], 150)
    assert all(asked.body["stream_options"] == {"include_usage": True} for asked in room.double.asked)


def test_parallel_calls_go_there_and_back(room: Room) -> None:
    room.double.script = lambda _: completions.tools(("f", '{"a": 1}'), ("g", '{"b": "ü"}'))
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    turns: list[Any] = [{"role": "user", "content": "Both."}]
    with openai.OpenAI(base_url=f"{room.house.url}/v1", api_key=room.house.token("gpt-4.1")) as client:
        ask: Any = client.chat.completions
        said = ask.create(model="gpt-4.1", messages=turns, tools=tools).choices[0].message
        assert [json.loads(call.function.arguments) for call in said.tool_calls] == [{"a": 1}, {"b": "ü"}]
        turns.append(said.model_dump())
        turns += [{"role": "tool", "tool_call_id": call.id, "content": call.function.name} for call in said.tool_calls]
        with ask.stream(model="gpt-4.1", messages=turns, tools=tools) as stream:
            again = stream.get_final_completion().choices[0].message
    assert [json.loads(call.function.arguments) for call in again.tool_calls] == [{"a": 1}, {"b": "ü"}]
    results = [one for one in room.double.asked[1].body["messages"] if one["role"] == "tool"]
    assert [one["content"] for one in results] == ["f", "g"]


def test_a_request_without_a_bound_has_one(room: Room) -> None:
    with openai.OpenAI(base_url=f"{room.house.url}/v1", api_key=room.house.token("gpt-4.1")) as client:
        client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": "Hi"}])
    (asked,) = room.double.asked
    assert asked.body["max_completion_tokens"] == 4096
