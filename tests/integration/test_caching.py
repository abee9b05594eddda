"""What a provider keeps of prompts: asked for where it helps, taken out where it cannot, and counted honestly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cost
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.gateway.adapt import adapt
from fumehood.gateway.models import Model, Models
from fumehood.gateway.prices import Tokens
from fumehood.llm import prompts
from fumehood.llm.client import _content
from fumehood.ports import Call
from tests.fakes.caching import LIFE_S, MARK, Kept
from tests.fakes.laboratory import Laboratory
from tests.fakes.sandbox import InstantSandbox

KEEP = {MARK: {"type": "ephemeral"}}
MODEL = "claude-sonnet-4-6"


def body(*texts: str, marks: tuple[int, ...] = ()) -> dict[str, Any]:
    content = [{"type": "text", "text": text, **(KEEP if at in marks else {})} for at, text in enumerate(texts)]
    return {"model": MODEL, "max_tokens": 10, "system": "s" * 40, "messages": [{"role": "user", "content": content}]}


class TestDouble:
    """The provider's double keeps what the provider would."""

    @pytest.fixture(autouse=True)
    def clock(self) -> None:
        self.now = 0.0
        self.kept = Kept(lambda: self.now)

    def usage(self, *texts: str, marks: tuple[int, ...] = ()) -> tuple[int, int, int]:
        told = self.kept.usage(body(*texts, marks=marks))
        return told["cache_read_input_tokens"], told["cache_creation_input_tokens"], told["input_tokens"]

    def test_what_was_written_is_read_for_five_minutes_and_each_time_anew(self) -> None:
        long = "a" * 16000
        assert self.usage(long, "tail", marks=(0,)) == (0, 4010, 1)
        self.now = LIFE_S - 1
        assert self.usage(long, "other", marks=(0,)) == (4010, 0, 2)
        self.now += LIFE_S - 1
        assert self.usage(long, "third", marks=(0,))[0] == 4010
        self.now += LIFE_S + 1
        assert self.usage(long, "fourth", marks=(0,))[:2] == (0, 4010)

    def test_what_grows_is_read_as_far_as_it_was_and_the_rest_written(self) -> None:
        long = "a" * 16000
        assert self.usage(long, "b" * 400, marks=(1,)) == (0, 4110, 0)
        assert self.usage(long, "b" * 400, "c" * 400, marks=(2,)) == (4110, 100, 0)
        assert self.usage(long, "x" * 400, "c" * 400, marks=(2,)) == (0, 4210, 0)

    def test_what_is_short_or_unmarked_is_not_kept(self) -> None:
        for marks in ((), (0,)):
            assert self.usage("a" * 400, marks=marks) == (0, 0, 110)
            assert self.usage("a" * 400, marks=marks) == (0, 0, 110)


@pytest.mark.parametrize(("least", "left"), [(0, []), (1, [0, 2]), (500, [2]), (5000, [])])
def test_a_wish_to_keep_too_short_a_beginning_is_taken_out(least: int, left: list[int]) -> None:
    asked = body("a" * 400, "b" * 4000, "c", marks=(0, 2))
    before = json.dumps(asked)
    content = adapt(asked, Model(upstream="x", cache_from=least))["messages"][0]["content"]
    assert [at for at, block in enumerate(content) if MARK in block] == left
    assert json.dumps(asked) == before


def test_a_wish_for_the_whole_request_goes_where_a_model_keeps_nothing() -> None:
    asked = {**body("a"), **KEEP}
    assert MARK not in adapt(asked, Model(upstream="x"))
    assert MARK in adapt(asked, Model(upstream="x", cache_from=1024))


def test_every_shipped_model_that_is_paid_says_from_where_on_it_keeps() -> None:
    shipped = Models.shipped()
    for name in shipped.known():
        if shipped.of(name).upstream == "anthropic":
            assert 1024 <= shipped.of(name).cache_from <= 4096, name


def test_a_prompt_goes_out_in_blocks_with_at_most_four_wishes() -> None:
    claims = Claims(tenant=TenantId("t"), direction_id=DirectionId("d"), role="idea", model=MODEL)
    call = Call(claims=claims, system="", prompt="abcdef", blocks=tuple("abcdef"), repeated=(1, 2, 3, 4, 5))
    content = _content(call)
    assert isinstance(content, list)
    assert "".join(block["text"] for block in content) == call.prompt
    assert [at for at, block in enumerate(content) if MARK in block] == [1, 2, 3, 4]
    assert _content(Call(claims=claims, system="", prompt="abc")) == "abc"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """A whole direction through the gateway and the strict double, and its folder."""
    folder = tmp_path_factory.mktemp("cost")
    lab = Laboratory(folder / "lab", files=cost.template(), sandbox=InstantSandbox(cost.programs))
    told = cost.measure(lab, 1, 2)
    yield told, lab.export(folder / "out")
    lab.artifacts.close()


def test_a_direction_pays_less_than_half_of_what_it_would_without_a_cache(
    measured: tuple[dict[str, Any], Path],
) -> None:
    told, out = measured
    assert told["papers"] == 1
    assert told["ratios"]["uncached_to_paid"] > 2
    stages = {line["stage"]: line for line in told["stages"]}
    assert set(stages) == {"ideas", "novelty", "coder", "fidelity", "plots", "notes", "writing", "review"}
    assert stages["writing"]["cached_tokens"] > 3 * stages["writing"]["input_tokens"]
    summary = json.loads((out / "summary.json").read_bytes())
    bare = [{name: value for name, value in line.items() if name != "uncached_usd"} for line in told["stages"]]
    assert summary["usage"] == bare
    assert sum(line["usd"] for line in summary["usage"]) == pytest.approx(summary["cost_usd"], abs=1e-5)


def test_the_count_is_that_of_the_requests(measured: tuple[dict[str, Any], Path]) -> None:
    """The gateway's figures against a fresh count over the recorded requests and answers."""
    told, out = measured
    lines = [json.loads(line) for path in out.rglob("llm_calls.jsonl") for line in path.read_text().splitlines()]
    price = Models.shipped().of(MODEL)
    usages = [line["reply"]["usage"] for line in lines]
    assert sum(price.cost(Tokens.of(one)) for one in usages) == pytest.approx(told["ratios"]["paid_usd"], abs=1e-3)
    uncached = 0.0
    for line in lines:
        whole = Kept().usage(line["request"])
        tokens = Tokens(input=sum(whole.values()), output=line["reply"]["usage"]["output_tokens"])
        uncached += price.cost(tokens)
    assert uncached == pytest.approx(told["ratios"]["uncached_usd"], abs=1e-3)


def test_each_recorded_call_names_its_prompt_file_and_hash(measured: tuple[dict[str, Any], Path]) -> None:
    _, out = measured
    lines = [json.loads(line) for path in out.rglob("llm_calls.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) > 20
    for line in lines:
        claims = line["claims"]
        fields = dict.fromkeys(prompts.fences.LONGEST, "{}")
        fields["subject"] = claims["subject"] or "method"
        wanted = set(prompts.string.Template(prompts.read(claims["prompt"])).get_identifiers()) - {"tips"}
        again = prompts.render(claims["prompt"], **{name: fields[name] for name in wanted})
        assert claims["prompt_sha256"] == again.sha256
