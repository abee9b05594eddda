"""Every library that may ask the gateway, before every kind of upstream: the same question has the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

from fumehood.gateway.line import Breaker, Line, Retries
from fumehood.gateway.models import Models
from fumehood.gateway.prices import Tokens
from fumehood.gateway.request import MAX_BYTES
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from fumehood.gateway.upstreams.http import Names
from fumehood.gateway.upstreams.openai import OpenAiUpstream
from fumehood.llm.aider import AiderCoder
from fumehood.ports import Call
from tests.fakes import completions, provider
from tests.fakes.clients import (
    CALL_ID,
    TOOL,
    Answer,
    AnthropicClient,
    Client,
    LiteLlm,
    OpenAiClient,
    Question,
    RefusedError,
)
from tests.fakes.completions import Completions
from tests.fakes.gateway import SECRET, Gateway, gateway
from tests.fakes.provider import Failure, Provider, serving
from tests.unit.test_coder_aider import CANNOT_BE_MADE, CODER_PYTHON, WARM

FRESH, CACHED, WRITTEN = 70, 30, 50
"""Tokens of every answer that a double gives."""
_NEEDS_AIDER = [
    pytest.mark.slow,
    pytest.mark.kill,
    pytest.mark.skipif(CANNOT_BE_MADE, reason="Aider has no Python that it runs on here"),
]
CLIENTS = [
    pytest.param("anthropic"),
    pytest.param("openai"),
    pytest.param("litellm-anthropic", marks=_NEEDS_AIDER),
    pytest.param("litellm-openai", marks=_NEEDS_AIDER),
]


@dataclass
class Behind:
    """An upstream, and what of it a test may set and see."""

    name: str
    model: str
    double: Provider | Completions | None = None
    waits: list[float] = field(default_factory=list)

    def anew(self) -> Behind:
        """Return it as if nothing had been asked yet."""
        self.waits.clear()
        if self.double:
            self.double.asked.clear()
        return self

    def says(self, text: str = "", score: int | None = None, *, cut: bool = False) -> None:
        """Have it answer with a text, or by calling the tool."""
        call = json.dumps({"score": score})
        counts = {"prompt_tokens": FRESH + CACHED, "cached_tokens": CACHED, "completion_tokens": WRITTEN}
        theirs = {"input_tokens": FRESH, "cache_read_input_tokens": CACHED, "output_tokens": WRITTEN}
        whole: dict[str, Any]
        if isinstance(self.double, Completions):
            whole = completions.text(text, "length" if cut else "stop", **counts)
            if score is not None:
                whole = completions.tools((TOOL, call), **counts)
            self.double.script = lambda _: whole
        elif self.double is not None:
            block: dict[str, Any] = {"type": "text", "text": text}
            stop = "max_tokens" if cut else "end_turn"
            if score is not None:
                block, stop = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {"score": score}}, "tool_use"
            whole = provider.message([block], stop, **theirs)
            self.double.script = lambda _: whole

    def fails(self, status: int, kind: str, message: str) -> None:
        assert self.double is not None
        self.double.script = lambda _: Failure(status, kind, message)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [one.body for one in self.double.asked] if self.double else []


@pytest.fixture(scope="module")
def litellm() -> Iterator[LiteLlm]:
    made = LiteLlm(CODER_PYTHON)
    yield made
    made.close()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    match request.param.partition("-"):
        case ("anthropic", _, _):
            return AnthropicClient()
        case ("openai", _, _):
            return OpenAiClient()
        case (_, _, protocol):
            return request.getfixturevalue("litellm").speaking(protocol)
    raise AssertionError


@pytest.fixture(scope="module")
def behinds() -> dict[str, Behind]:
    found = (
        Behind("anthropic", "claude-sonnet-4-6", Provider()),
        Behind("openai", "gpt-4.1", Completions()),
        Behind("offline", "offline"),
    )
    return {one.name: one for one in found}


@pytest.fixture(params=["anthropic", "openai", "offline"])
def behind(request: pytest.FixtureRequest, behinds: dict[str, Behind]) -> Behind:
    return behinds[request.param].anew()


@pytest.fixture(params=["anthropic", "openai"])
def paid(request: pytest.FixtureRequest, behinds: dict[str, Behind]) -> Behind:
    """An upstream that can fail and costs money."""
    return behinds[request.param].anew()


@pytest.fixture(scope="module")
def served(behinds: dict[str, Behind]) -> Iterator[Gateway]:
    lines = {
        name: Line(
            name,
            retries=Retries(sleep=behinds[name].waits.append, draw=lambda: 0.0),
            breaker=Breaker(failures=1000),  # what one test has fail is not to be told to the next
        )
        for name in ("anthropic", "openai")
    }
    theirs, ours = behinds["anthropic"].double, behinds["openai"].double
    assert theirs is not None
    assert ours is not None
    with serving(theirs.app) as one, serving(ours.app) as other:
        messages = AnthropicUpstream(one, key=lambda: provider.KEY, line=lines["anthropic"])
        chat = OpenAiUpstream(
            f"{other}/v1",
            key=lambda: completions.KEY,
            names=Names(provider="OpenAI", key="openai"),
            line=lines["openai"],
            limit_field="max_completion_tokens",
        )
        with gateway({"anthropic": messages, "openai": chat}) as made:
            yield made
        messages.close()
        chat.close()


@pytest.fixture
def house(served: Gateway) -> Gateway:
    return served.anew()


def check_ledger(house: Gateway, behind: Behind, answer: Answer) -> None:
    """Check that the ledger has what the double counted, to the token and the dollar."""
    (call,) = house.calls()
    assert (call.status, call.upstream, call.model) == (200, behind.name, behind.model)
    assert [entry.kind for entry in house.entries()] == ["reserved", "settled"]
    if behind.double is None:
        assert (call.usage.input_tokens, call.usage.output_tokens) == (answer.prompt_tokens, answer.output_tokens)
        assert answer.output_tokens > 0
        assert house.spent() == 0
        return
    tokens = Tokens(input=FRESH, cache_read=CACHED, output=WRITTEN)
    assert call.usage == tokens.usage(Models.shipped().of(behind.model).cost(tokens))
    assert house.spent() == pytest.approx(call.usage.usd)
    assert (answer.prompt_tokens, answer.output_tokens) == (FRESH + CACHED, WRITTEN)


def ask(house: Gateway, client: Client, behind: Behind, *, role: str = "notes", **fields: Any) -> Answer:
    return client.ask(house.url, house.token(behind.model, role=role), Question(model=behind.model, **fields))


OFFLINE_SAYS = "This run was carried out. Its numbers are in its record."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_text(house: Gateway, client: Client, behind: Behind, stream: bool) -> None:
    said = "Grüße, “world”. 🧪\nTwo lines." if behind.double else OFFLINE_SAYS
    behind.says(said)
    answer = ask(house, client, behind, stream=stream)
    assert (answer.text, answer.calls, answer.stop) == (said, (), "end_turn")
    check_ledger(house, behind, answer)
    for body in behind.asked:
        assert "Be brief." in json.dumps(body)
        assert "Hello?" in json.dumps(body["messages"])
        assert bool(body.get("stream")) == stream


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_is_cut_off(house: Gateway, client: Client, paid: Behind, stream: bool) -> None:
    paid.says("Half a sen", cut=True)
    answer = ask(house, client, paid, stream=stream)
    assert (answer.text, answer.stop) == ("Half a sen", "max_tokens")
    check_ledger(house, paid, answer)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("choice", ["required", TOOL])
def test_a_tool_that_is_forced(house: Gateway, client: Client, behind: Behind, choice: str, stream: bool) -> None:
    behind.says(score=7)
    answer = ask(house, client, behind, role="novelty_decision", choice=choice, stream=stream)
    ((name, given),) = answer.calls
    assert (name, answer.stop, answer.text) == (TOOL, "tool_use", "")
    assert given["decision"] == "unknown" if behind.double is None else given == {"score": 7}
    check_ledger(house, behind, answer)
    for body in behind.asked:
        forced = {"any", "tool"} if behind.name == "anthropic" else {"required", "function"}
        asked = body["tool_choice"]
        assert (asked if isinstance(asked, str) else asked["type"]) in forced


def test_a_tool_that_may_be_called(house: Gateway, client: Client, behind: Behind) -> None:
    behind.says("I need no tool." if behind.double else "")
    answer = ask(house, client, behind, choice="auto")
    assert answer.text == ("I need no tool." if behind.double else OFFLINE_SAYS)
    assert answer.calls == ()
    check_ledger(house, behind, answer)
    for body in behind.asked:
        assert len(body["tools"]) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_a_tool_gave_goes_back(house: Gateway, client: Client, behind: Behind, stream: bool) -> None:
    behind.says("Then it is 7." if behind.double else "")
    answer = ask(house, client, behind, choice="auto", result="The score is 7.", stream=stream)
    assert answer.text == ("Then it is 7." if behind.double else OFFLINE_SAYS)
    check_ledger(house, behind, answer)
    for body in behind.asked:  # the double has checked that the call and its result belong together
        assert json.dumps(body["messages"]).count(CALL_ID) == 2
        assert "The score is 7." in json.dumps(body["messages"][-1])


def test_an_image(house: Gateway, client: Client, behind: Behind) -> None:
    behind.says("A dot." if behind.double else "")
    answer = ask(house, client, behind, image=True)
    assert answer.text == ("A dot." if behind.double else OFFLINE_SAYS)
    check_ledger(house, behind, answer)
    for body in behind.asked:
        kinds = [part["type"] for part in body["messages"][-1]["content"]]
        assert kinds == ["image" if behind.name == "anthropic" else "image_url", "text"]


def test_tokens_are_counted_where_the_library_can(house: Gateway, behind: Behind) -> None:
    with anthropic.Anthropic(base_url=house.url, api_key=house.token(behind.model)) as client:
        counted = client.messages.count_tokens(
            model=behind.model, messages=[{"role": "user", "content": "word " * 4000}]
        )
    assert counted.input_tokens == 321 if behind.name == "anthropic" else 4000 < counted.input_tokens < 20_000
    assert house.entries() == ()


def refused(house: Gateway, client: Client, question: Question, token: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        client.ask(house.url, token, question)
    return caught.value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_wrong_token(house: Gateway, client: Client, behind: Behind, stream: bool) -> None:
    error = refused(house, client, Question(model=behind.model, stream=stream), "fhg_nonsense")
    assert error.status == 401
    assert "not a token" in str(error)
    assert behind.asked == []


def test_another_model_than_the_token_s(house: Gateway, client: Client, behind: Behind) -> None:
    error = refused(house, client, Question(model="claude-opus-5"), house.token(behind.model))
    assert error.status == client.replaces.get(403, 403)
    assert "claude-opus-5" in str(error)
    assert (behind.asked, house.entries()) == ([], ())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_budget_that_is_used_up(house: Gateway, client: Client, paid: Behind, stream: bool) -> None:
    house.budget(0.0001)
    error = refused(house, client, Question(model=paid.model, stream=stream), house.token(paid.model))
    assert error.status == client.replaces.get(402, 402)
    assert "budget is $0.0001" in str(error)
    assert (paid.asked, house.entries()) == ([], ())


def test_a_request_that_is_too_large(house: Gateway, client: Client) -> None:
    error = refused(house, client, Question(model="offline", prompt="x" * MAX_BYTES), house.token("offline"))
    assert error.status == client.replaces.get(413, 413)
    assert "32 MiB" in str(error)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        (400, "invalid_request_error", 1),
        (404, "not_found_error", 1),
        (413, "request_too_large", 1),
        (429, "rate_limit_error", 6),
        (529, "overloaded_error", 6),
    ],
)
def test_what_a_provider_refuses(
    house: Gateway, client: Client, paid: Behind, status: int, kind: str, tries: int, stream: bool
) -> None:
    paid.fails(status, kind, "as it pleases")
    error = refused(house, client, Question(model=paid.model, stream=stream), house.token(paid.model))
    assert error.status == client.replaces.get(status, status)
    assert f"The provider answered {status}: as it pleases" in str(error)
    assert len(paid.asked) == tries  # no library tries again what the gateway has tried
    assert len(paid.waits) == tries - 1
    assert house.spent() == 0
    assert [call.status for call in house.calls()] == [status]


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.skipif(CANNOT_BE_MADE, reason="Aider has no Python that it runs on here")
def test_aider_edits_by_the_answer_of_any_provider(house: Gateway, paid: Behind) -> None:
    paid.says("x.py\n```python\n<<<<<<< SEARCH\na = 1\n=======\na = 2\n>>>>>>> REPLACE\n```\n")
    claims = house.claims(paid.model, role="coder")
    coder = AiderCoder(WARM, house.url, SECRET, house.clock, timeout_s=200)
    done = coder.edit(Call(claims=claims, system="You edit.", prompt="Make it 2."), {"x.py": b"a = 1\n"}, ["x.py"], {})
    assert (done.problems, done.files) == ((), {"x.py": b"a = 2\n"})
    (call,) = house.calls()
    assert (call.upstream, call.status, call.usage.output_tokens) == (paid.name, 200, WRITTEN)


def test_a_stream_that_breaks_off(house: Gateway, paid: Behind) -> None:
    """LiteLLM is left out: it takes what it has for the whole."""
    paid.says("x" * 400)
    assert paid.double is not None
    whole: Any = paid.double.script(None)  # type: ignore[arg-type]
    paid.double.script = lambda _: provider.Broken(whole, 3)
    for client in (AnthropicClient(), OpenAiClient()):
        with pytest.raises((anthropic.APIError, openai.APIError, RefusedError), match="broke off"):
            ask(house, client, paid, stream=True)
    calls = house.closed(2)
    assert [call.status for call in calls] == [502, 502]
    assert all(call.usage.input_tokens and call.usage.output_tokens for call in calls)
