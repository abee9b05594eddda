"""Requests, answers and streams on their way between the Messages API and OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.errors import BadInputError
from fumehood.gateway import chat, request, sse
from fumehood.gateway.adapt import adapt
from fumehood.gateway.models import Model
from fumehood.gateway.request import most_input_tokens
from fumehood.gateway.upstream import UpstreamError
from fumehood.gateway.upstreams.completions import Events, counted, message_of, request_of
from tests.fakes import completions
from tests.fakes.provider import message

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BODY: dict[str, Any] = {**ASKED, "max_tokens": 9}
PICTURE = {"type": "base64", "media_type": "image/png", "data": "QUJD"}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
inputs = st.dictionaries(texts, st.one_of(texts, st.integers(), st.none(), st.lists(st.booleans())), max_size=3)
images = st.just({"type": "image", "source": PICTURE})
said = texts.map(lambda text: {"type": "text", "text": text})


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return a conversation in which every call of a tool has its result."""
    found: list[dict[str, Any]] = [{"role": "user", "content": draw(st.lists(said | images, min_size=1, max_size=3))}]
    for at in range(draw(st.integers(0, 2))):
        calls = [
            {"type": "tool_use", "id": f"call_{at}_{number}", "name": f"tool_{number}", "input": draw(inputs)}
            for number in range(draw(st.integers(0, 2)))
        ]
        spoken = draw(st.lists(said, min_size=0 if calls else 1, max_size=1))
        results = [{"type": "tool_result", "tool_use_id": one["id"], "content": draw(texts)} for one in calls]
        answer = draw(st.lists(said | images, min_size=0 if calls else 1, max_size=2))
        found += [{"role": "assistant", "content": [*spoken, *calls]}, {"role": "user", "content": [*results, *answer]}]
    return found


def essence(messages: list[dict[str, Any]]) -> list[Any]:
    """Return what must not be lost: whose turn it is, the texts, and every other block as it is."""
    found = []
    for turn in messages:
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(block["text"] for block in blocks if block["type"] == "text").replace("\n\n", "")
        found.append((turn["role"], text, [block for block in blocks if block["type"] != "text"]))
    return found


@given(turns(), st.none() | texts)
def test_a_conversation_survives_both_translations(messages: list[dict[str, Any]], system: str | None) -> None:
    body = {**BODY, "messages": messages, **({"system": system} if system else {})}
    asked = request_of(body, "max_completion_tokens")
    assert completions.order_faults(asked["messages"]) == []
    back = chat.to_messages(json.dumps(asked).encode())
    assert essence(back["messages"]) == essence(messages)
    assert (back.get("system"), back["max_tokens"]) == (system, 9)
    assert request.parse(json.dumps(back).encode()) == back


answers = st.lists(
    said | st.builds(lambda given: {"type": "tool_use", "id": "call_1", "name": "answer", "input": given}, inputs),
    min_size=1,
    max_size=3,
)


@given(answers, st.sampled_from(["end_turn", "max_tokens", "refusal"]))
def test_an_answer_is_the_same_streamed_and_whole(content: list[dict[str, Any]], stop: str) -> None:
    content = [{**block, **({"id": f"call_{at}"} if "id" in block else {})} for at, block in enumerate(content)]
    whole = message(content, "tool_use" if stop == "end_turn" and "input" in content[-1] else stop)
    once = chat.completion(whole, 1)
    chunks = chat.Chunks(1, with_usage=True)
    wire = b"".join(chunks.encode(event) for event in sse.events_of(whole)).decode()
    assert wire.endswith("data: [DONE]\n\n")
    events, tally = Events(BODY), sse.Tally()
    for chunk in sse.decode(wire.split("\n")):
        for event in events.see(chunk):
            tally.see(event)
    for event in events.end():
        tally.see(event)
    told = message_of(once, BODY)
    assert tally.is_whole
    assert tally.message is not None
    for one in (told, tally.message):
        assert essence([one]) == essence([whole])
        assert one["usage"] == whole["usage"]
    assert tally.message["stop_reason"] == told["stop_reason"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 2}, "^n: "),
        ({"seed": 1}, "^seed: "),
        ({"frequency_penalty": 0.5}, "^frequency_penalty: "),
        ({"web_search_options": {}}, "^web_search_options: "),
        ({"messages": "Hi"}, "^messages: "),
        ({"messages": [{"role": "function", "content": "x"}]}, "needs the role"),
        ({"messages": [{"role": "user", "content": ""}]}, "is empty"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "'audio'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "`tool_call_id`"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "'input_audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "needs its text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]}, "needs an `id`"),
        ({"tools": [{"type": "web_search"}]}, "^tools: "),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "^tools: "),
        ({"tool_choice": "required"}, "^tool_choice: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "f"}, "^tool_choice: "),
        ({"response_format": {"type": "json_object"}}, "^response_format: "),
        ({"stop": [5]}, "^stop: "),
    ],
)
def test_what_the_door_does_not_pass_on_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        chat.to_messages(json.dumps({**ASKED, **changes}).encode())


@pytest.mark.parametrize("url", ["https://example.org/a.png", "data:text/html;base64,QUJD", "data:image/png,QUJD", ""])
def test_an_image_that_must_be_fetched_is_refused(url: str) -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(BadInputError, match="must be given as a data: URL"):
        chat.to_messages(json.dumps({**ASKED, "messages": [{"role": "user", "content": parts}]}).encode())


def test_what_asks_for_nothing_is_let_through_and_left_out() -> None:
    neutral = {"n": 1, "logprobs": False, "presence_penalty": 0.0, "store": None, "seed": None, "user": "me"}
    body = chat.to_messages(json.dumps({**ASKED, **neutral}).encode())
    assert body == {**ASKED, "max_tokens": chat.MAX_TOKENS}


def test_a_request_has_its_equal_in_the_messages_api() -> None:
    function = {"name": "f", "description": "d", "strict": True}
    body = chat.to_messages(
        json.dumps(
            {
                "model": "m",
                "messages": [
                    {"role": "developer", "content": "One."},
                    {"role": "user", "content": "a"},
                    {"role": "user", "content": "b"},
                    {"role": "system", "content": [{"type": "text", "text": "Two."}]},
                ],
                "max_tokens": 5,
                "max_completion_tokens": 7,
                "stop": "END",
                "temperature": 0.5,
                "tools": [{"type": "function", "function": function}],
                "parallel_tool_calls": False,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            }
        ).encode()
    )
    assert body == {
        "model": "m",
        "max_tokens": 7,
        "system": "One.\n\nTwo.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "tools": [{**function, "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


def test_an_error_names_the_field_that_is_at_fault() -> None:
    assert chat.error("max_tokens: too many.", "invalid_request_error")["param"] == "max_tokens"
    assert chat.error("The budget: it is used up.", "billing_error", "insufficient_quota")["param"] is None


def test_arguments_that_are_no_object_are_kept_as_they_are() -> None:
    reply = completions.tools(("f", '{"a": '), ("g", "[1]"), ("h", ""), ("i", '{"loss": NaN}'))
    blocks = message_of(reply, BODY)["content"]
    kept = [{"unreadable": '{"a": '}, {"unreadable": "[1]"}, {}, {"unreadable": '{"loss": NaN}'}]
    assert [block["input"] for block in blocks] == kept


def test_a_tool_that_takes_nothing_is_called_with_an_object_in_a_stream() -> None:
    chunks = chat.Chunks(1, with_usage=False)
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    wire = chunks.encode(start) + chunks.encode({"type": "content_block_stop", "index": 0})
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in sse.decode(wire.decode().split("\n"))]
    assert "".join(call["function"]["arguments"] for call in calls) == "{}"


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, (10, 0, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, (2, 8, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 6}, (4, 6, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": None}, (10, 0, 4)),
        # Thinking that is shown in the total only.
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 50}, (10, 0, 40)),
    ],
)
def test_what_was_used_is_counted_as_anthropic_does(usage: dict[str, Any], found: tuple[int, int, int]) -> None:
    told = message_of({**completions.text(), "usage": usage}, BODY)["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == found


@pytest.mark.parametrize("usage", [None, {}, "none", {"prompt_tokens": 0, "completion_tokens": 0}])
def test_what_a_server_does_not_count_is_estimated_upwards(usage: object) -> None:
    told = message_of({**completions.text("x" * 1000), "usage": usage}, BODY)["usage"]
    assert told["input_tokens"] == most_input_tokens(BODY)
    assert 500 <= told["output_tokens"] <= 1000
    assert 0 < counted(BODY) < most_input_tokens(BODY)


@pytest.mark.parametrize(
    ("reply", "stop"),
    [
        (completions.text("x", "length"), "max_tokens"),
        (completions.text("x", "content_filter"), "refusal"),
        (completions.completion({"content": None, "refusal": "I will not."}, "stop"), "refusal"),
        (completions.tools(("f", "{}"), finish="stop"), "tool_use"),
        (completions.tools(("f", "{"), finish="length"), "max_tokens"),
    ],
)
def test_why_an_answer_ended_is_told(reply: dict[str, Any], stop: str) -> None:
    told = message_of(reply, BODY)
    assert told["stop_reason"] == stop
    assert told["content"]


@pytest.mark.parametrize(
    "reply", [{}, {"choices": []}, {"choices": [{}]}, {"choices": ["x"]}, completions.text("x", "error")]
)
def test_what_is_no_whole_completion_is_told(reply: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        message_of(reply, BODY)
    assert caught.value.retryable


def test_calls_that_are_mixed_with_each_other_come_one_after_the_other() -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}

    def call(at: int, arguments: str, **fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": at, "function": {"arguments": arguments, **fields}}])

    events, tally, seen = Events(BODY), sse.Tally(), []
    last = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    for chunk in (
        delta(content="So: "),
        call(0, "", name="f"),
        call(1, '{"b"', name="g"),
        call(0, '{"a": 1}'),
        delta(content="done"),
        call(1, ": 2}"),
        last,
    ):
        seen += list(events.see(chunk))
    seen += list(events.end())
    for event in seen:
        tally.see(event)
    assert tally.message is not None
    shown = [(block.get("text"), block.get("name"), block.get("input")) for block in tally.message["content"]]
    assert shown == [("So: ", None, None), (None, "f", {"a": 1}), (None, "g", {"b": 2}), ("done", None, None)]
    assert len({block["id"] for block in tally.message["content"] if "id" in block}) == 2
    assert [event["index"] for event in seen if event["type"] == "content_block_start"] == [0, 1, 2, 3]


def test_calls_that_a_server_numbers_alike_are_told_apart_by_their_ids() -> None:
    def call(key: str, name: str, arguments: str) -> dict[str, Any]:
        told = {"index": 0, "id": key, "function": {"name": name, "arguments": arguments}}
        return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [told]}, "finish_reason": None}]}

    events, tally = Events(BODY), sse.Tally()
    last = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    for chunk in (call("a", "f", '{"a": 1}'), call("b", "g", '{"b": 2}'), last):
        for event in events.see(chunk):
            tally.see(event)
    for event in events.end():
        tally.see(event)
    assert tally.message is not None
    assert [(one["name"], one["input"]) for one in tally.message["content"]] == [("f", {"a": 1}), ("g", {"b": 2})]


def test_a_request_is_put_in_the_server_s_own_words() -> None:
    body = {
        **BODY,
        "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "top_k": 3,
        "top_p": 0.5,
        "stop_sequences": ["END"],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "stream": True,
    }
    asked = request_of(body, "max_completion_tokens")
    shape = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert asked == {
        "model": "m",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 9,
        "top_p": 0.5,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": shape},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_image_that_a_tool_gave_follows_its_text() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "text", "text": "See:"}, {"type": "image", "source": PICTURE}],
    }
    tool, user = request_of({**BODY, "messages": [{"role": "user", "content": [result]}]}, "max_tokens")["messages"]
    assert tool == {"role": "tool", "tool_call_id": "t", "content": "See:"}
    assert user["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]


WITH_TOOLS: dict[str, Any] = {
    **BODY,
    "system": "S",
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "That does not fit."}]},
    ],
    "tools": [
        {"name": "f", "input_schema": {"type": "object", "title": "F"}},
        {"name": "g", "input_schema": {"type": "object", "title": "G"}},
    ],
}


@pytest.mark.parametrize(
    ("choice", "titles"),
    [({"type": "tool", "name": "f"}, "F"), ({"type": "any"}, "FG"), ({"type": "auto"}, ""), (None, "")],
)
def test_a_model_without_tools_is_asked_for_json_in_a_fence(choice: dict[str, Any] | None, titles: str) -> None:
    body = {**WITH_TOOLS, **({"tool_choice": choice} if choice else {})}
    adapted = adapt(body, Model(tools=False))
    assert set(adapted) == {"model", "max_tokens", "messages", "system"}
    assert "".join(title for title in "FG" if f'"title": "{title}"' in adapted["system"]) == titles
    assert ("```json" in adapted["system"]) == bool(titles)
    assert [turn["content"][0]["text"] for turn in adapted["messages"][1:]] == [
        '```json\n{"a": 1}\n```',
        "That does not fit.",
    ]
    assert body["messages"] == WITH_TOOLS["messages"]


def test_a_model_that_sees_nothing_is_shown_no_image() -> None:
    image = {"type": "image", "source": PICTURE}
    inside = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    for block in (image, inside):
        with pytest.raises(BadInputError, match="sees no images"):
            adapt({**BODY, "messages": [{"role": "user", "content": [block]}]}, Model(images=False))
    assert adapt(BODY, Model(images=False)) == BODY


@pytest.mark.parametrize("finished", ["error", "insufficient_system_resource"])
def test_an_answer_that_nobody_can_use_may_be_paid_for_all_the_same(finished: str) -> None:
    given_up = completions.text()
    given_up["choices"][0]["finish_reason"] = finished
    for reply in (given_up, {"object": "nothing of the kind"}):
        with pytest.raises(UpstreamError) as caught:
            message_of(reply, BODY)
        assert caught.value.maybe_paid
    with pytest.raises(UpstreamError) as caught:
        list(Events(BODY).end())
    assert caught.value.maybe_paid
