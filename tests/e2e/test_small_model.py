"""Real tokens of a real model, by both libraries and over both protocols, through the gateway into the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.gateway.models import Models
from fumehood.gateway.prices import Tokens
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from fumehood.gateway.upstreams.choose import upstreams
from fumehood.gateway.upstreams.openai import OpenAiUpstream
from tests.fakes.clients import Answer, AnthropicClient, Client, OpenAiClient, Question
from tests.fakes.gateway import Gateway, gateway

pytestmark = pytest.mark.small_model
SERVER = Path(__file__).parents[1] / "fakes/small_model.py"
OWN = """
[upstreams.house]
kind = "openai"
base_url = "URL/v1"

[upstreams.house-messages]
kind = "anthropic"
base_url = "URL"
key = "house"

[models.small]
upstream = "house"
called = "smollm2"
input = 1.0
output = 2.0

[models.small-messages]
upstream = "house-messages"
called = "smollm2"
input = 1.0
output = 2.0
"""
MOST = 24
"""Tokens of an answer; a machine with other work may write a few in a second only."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "The model did not start: `make test-small-model` installs what it needs."
        yield json.loads(line)["url"]
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def models(url: str, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The table with what an admin's file adds to it."""
    own = tmp_path_factory.mktemp("models") / "own.toml"
    own.write_text(OWN.replace("URL", url))
    return Models.shipped(str(own))


@pytest.fixture(scope="module")
def served(models: Models) -> Iterator[Gateway]:
    found = upstreams(models, MemoryArtifacts(), lambda name: "any" if name == "house" else None)
    with gateway(found, models) as made:
        yield made
    for one in found.values():
        if isinstance(one, AnthropicUpstream | OpenAiUpstream):
            one.close()


@pytest.fixture
def house(served: Gateway) -> Gateway:
    return served.anew()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", [AnthropicClient(), OpenAiClient()], ids=["anthropic", "openai"])
@pytest.mark.parametrize("model", ["small", "small-messages"])
def test_it_answers_and_is_paid_for(house: Gateway, models: Models, client: Client, model: str, stream: bool) -> None:
    answer = ask(house, client, Question(model=model, prompt="Say hello.", stream=stream, max_tokens=MOST))
    assert len(answer.text.split()) > 1
    assert answer.stop in {"end_turn", "max_tokens"}
    assert 0 < answer.output_tokens <= MOST
    assert 10 < answer.prompt_tokens < 100
    (call,) = house.calls()
    assert call.status == 200
    usage = call.usage
    assert usage.output_tokens == answer.output_tokens
    assert usage.input_tokens + usage.cached_tokens == answer.prompt_tokens
    tokens = Tokens(input=usage.input_tokens, cache_read=usage.cached_tokens, output=usage.output_tokens)
    assert usage.usd == pytest.approx(models.of(model).cost(tokens))
    assert house.spent() == pytest.approx((answer.prompt_tokens + 2 * answer.output_tokens) / 1e6)


@pytest.mark.parametrize("client", [AnthropicClient(), OpenAiClient()], ids=["anthropic", "openai"])
def test_a_longer_prompt_has_more_tokens(house: Gateway, client: Client) -> None:
    short = ask(house, client, Question(model="small", prompt="Hello.", max_tokens=1))
    long = ask(house, client, Question(model="small", prompt="Hello. " * 40, max_tokens=1))
    assert long.prompt_tokens > short.prompt_tokens + 40
    assert (short.output_tokens, short.stop) == (1, "max_tokens")
    assert sum(call.usage.output_tokens for call in house.calls()) == 2


def ask(house: Gateway, client: Client, question: Question) -> Answer:
    return client.ask(house.url, house.token(question.model), question)
