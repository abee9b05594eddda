"""The gateway's small parts: keys, prices, requests, events and waits."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain.caps import dollars
from fumehood.errors import BadInputError, MachineUnfitError, NotFoundError
from fumehood.gateway import request, sse
from fumehood.gateway.adapt import adapt
from fumehood.gateway.keys import Keys
from fumehood.gateway.line import Retries
from fumehood.gateway.models import Model, Models
from fumehood.gateway.prices import Rates, Tokens
from tests.fakes import provider as fake

ROOT = Path(__file__).parents[2]
VALUE = "sk-ant-not-a-real-one"
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}


def test_keys_are_kept_for_their_owner_only_and_listed_by_name(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    assert keys.list() == ()
    keys.set("anthropic", f"  {VALUE}\n")
    keys.set("openai", "other")
    assert keys.list() == ("anthropic", "openai")
    assert keys.get("anthropic") == VALUE
    file = tmp_path / "keys/providers.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    keys.remove("anthropic")
    assert keys.get("anthropic") is None
    assert [path.name for path in file.parent.iterdir()] == ["providers.json"]
    with pytest.raises(NotFoundError):
        keys.remove("anthropic")


def test_a_key_that_is_json_is_kept_on_one_line(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.set(
        "vertex", '{\n  "type": "service_account",\n  "private_key": "-----BEGIN PRIVATE KEY-----\\nAB+/=\\n"\n}\n'
    )
    assert keys.get("vertex") == '{"type":"service_account","private_key":"-----BEGIN PRIVATE KEY-----\\nAB+/=\\n"}'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Bad name", VALUE),
        ("anthropic", ""),
        ("anthropic", "two words"),
        ("", VALUE),
        ("vertex", '{"type": "service account'),
        ("vertex", "two {words}"),
    ],
)
def test_what_is_no_key_is_not_kept_nor_repeated(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadInputError) as caught:
        Keys(tmp_path).set(name, value)
    assert not value or value not in str(caught.value)


def test_a_damaged_or_open_key_file_is_told_without_what_it_holds(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.set("anthropic", VALUE)
    file = tmp_path / "keys/providers.json"
    file.write_text(f'["{VALUE}"')
    with pytest.raises(MachineUnfitError, match="damaged") as caught:
        keys.list()
    assert VALUE not in str(caught.value)
    assert caught.value.__cause__ is None
    file.chmod(0o644)
    with pytest.raises(MachineUnfitError, match="chmod 600"):
        keys.get("anthropic")


def test_every_shipped_price_is_whole() -> None:
    for model in Models.shipped().known().values():
        rates = model.rates
        assert 0 < rates.cache_read < rates.input <= rates.cache_write <= rates.cache_write_1h < rates.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not TOML"),
        ("upstreams = 5", "`upstreams` must be tables"),
        ('[upstreams.mine]\nkind = "soap"', "`kind` must be one of"),
        ('[upstreams.mine]\nkind = "openai"', "`base_url` must be where it listens"),
        ('[upstreams.mine]\nkind = "openai"\nbase_url = "http://h/v1"\nkeys = "x"', "there is no `keys`"),
        ('[upstreams.mine]\nkind = "bedrock"', "`region` must be where its models are"),
        ('[upstreams.mine]\nkind = "anthropic"\nmost_at_once = 0', "`most_at_once` must be at least 1"),
        ('[models.mine]\nupstream = "offline"', "`input` and `output` are needed"),
        ('[models.mine]\nupstream = "offline"\nfree = true\ninput = 1.0', "what is free has no price"),
        ('[models.mine]\nupstream = "nobody"\nfree = true', "there is no upstream 'nobody'"),
        ('[models.mine]\nupstream = "offline"\ninput = -1.0\noutput = 1.0', "`input` must be a price"),
        ('[models.mine]\nupstream = "offline"\nfree = 1', "`free` must be a bool"),
        ('[models.mine]\nupstream = "anthropic"\ninput = 1.0\noutput = 1.0\nlong = 5', "`above` must be a number"),
    ],
)
def test_a_table_of_models_that_is_wrong_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(BadInputError, match=words):
        Models.shipped(str(file))


def test_an_admins_table_adds_to_the_shipped_one_and_wins(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[models.claude-opus-5]\nupstream = "anthropic"\ninput = 1.0\noutput = 2.0\n'
        '[models.mine]\nupstream = "anthropic"\ncalled = "theirs"\ninput = 3.0\noutput = 4.0\n'
    )
    models = Models.shipped(str(file))
    assert models.of("claude-opus-5").cost(Tokens(input=1_000_000, cache_read=1_000_000)) == 2.0
    assert models.of("mine").called == "theirs"
    assert models.of("claude-sonnet-4-5") == Models.shipped().of("claude-sonnet-4-5")
    with pytest.raises(BadInputError, match="cannot be read"):
        Models.shipped(str(tmp_path / "none.toml"))


def test_a_dated_name_has_its_model_s_price_and_an_unknown_one_none() -> None:
    prices = Models.shipped()
    assert prices.of("claude-sonnet-4-5-20250929") == prices.of("claude-sonnet-4-5")
    with pytest.raises(BadInputError, match="claude-none"):
        prices.of("claude-none")
    assert Models.shipped(allow_unknown=True).of("claude-none").cost(Tokens(input=5)) == 0


counts = st.integers(0, 3_000_000)


@given(counts, counts, counts, counts, st.integers(0, 100), st.sampled_from(["claude-haiku-5-5", "claude-sonnet-4-6"]))
def test_no_call_costs_more_than_its_worst_case(
    plain: int, read: int, write: int, out: int, hour: int, model: str
) -> None:
    facts = Models.shipped().of(model)
    tokens = Tokens(input=plain, cache_read=read, cache_write=write, cache_write_1h=write * hour // 100, output=out)
    assert facts.cost(tokens) <= facts.at_worst(tokens.prompt, out, cached=True) + 1e-9
    uncached = Tokens(input=plain, output=out)
    assert facts.cost(uncached) <= facts.at_worst(plain, out, cached=False) + 1e-9


def test_long_prompts_are_paid_at_their_own_rates() -> None:
    facts = Models.shipped().of("claude-haiku-5-5")
    assert facts.cost(Tokens(input=100_000)) == pytest.approx(0.01)
    assert facts.cost(Tokens(input=60_000, cache_read=40_001, output=10)) == pytest.approx(0.03 + 0.00200005 + 0.000025)


@given(st.text())
def test_no_prompt_has_more_tokens_than_is_reserved_for(text: str) -> None:
    body = {**ASKED, "messages": [{"role": "user", "content": text}], "system": text}
    assert request.most_input_tokens(body) >= 2 * len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("raw", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInputError):
        request.parse(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 5},
        {"max_tokens": True},
        {"max_tokens": 10**400},
        {"max_tokens": "5"},
        {"messages": "Hi"},
        {"messages": ["Hi"]},
        {"messages": [{"role": "system", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "document"}]}]}]},
        {"system": [{"type": "document"}]},
        {"tools": {}},
        {"tools": ["search"]},
        {"mcp_servers": []},
    ],
)
def test_a_malformed_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        request.parse(json.dumps({**ASKED, **changes}).encode())


def test_a_request_is_given_to_a_model_as_it_takes_it() -> None:
    picky = Model(rates=Rates(), sampling=False, forced_tools=False, headroom=10)
    asked = {
        **ASKED,
        "temperature": 1,
        "top_k": 1,
        "metadata": {},
        "tool_choice": {"type": "tool", "name": "t"},
        "system": [{"type": "text", "text": "S"}],
    }
    given_on = adapt(asked, picky)
    assert set(given_on) == {"model", "max_tokens", "messages", "tool_choice", "system"}
    assert given_on["max_tokens"] == 15
    assert "`t`" in given_on["system"][1]["text"]
    assert adapt(asked, Model(rates=Rates())) == {key: value for key, value in asked.items() if key != "metadata"}
    assert asked["max_tokens"] == 5


blocks = st.lists(
    st.one_of(
        st.text().map(lambda text: {"type": "text", "text": text}),
        st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none())).map(
            lambda answer: {"type": "tool_use", "id": "toolu_1", "name": "answer", "input": answer}
        ),
    ),
    max_size=3,
)


@given(blocks)
def test_a_message_survives_its_way_through_events(content: list[dict[str, Any]]) -> None:
    message = fake.message(content, "end_turn")
    tally = sse.Tally()
    wire = b"".join(map(sse.encode, sse.events_of(message))).decode()
    for event in sse.decode(wire.split("\n")):
        assert not tally.is_whole
        tally.see(event)
    assert tally.is_whole
    assert tally.message == message
    assert tally.usage == message["usage"]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "index", "delta", "message", "usage"]),
            st.one_of(
                st.sampled_from(
                    ["message_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
                ),
                st.integers(0, 3),
            ),
        )
    )
)
def test_odd_events_do_not_break_the_count(events: list[dict[str, Any]]) -> None:
    tally = sse.Tally()
    for event in events:
        tally.see(event)
    Tokens.of(tally.usage)


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "$0.00"), (10, "$10.00"), (1.5, "$1.50"), (0.0001, "$0.0001"), (0.140912345, "$0.140912")]
)
def test_an_amount_shows_its_cents_and_no_budget_reads_as_nothing(usd: float, text: str) -> None:
    assert dollars(usd) == text


@given(st.integers(1, 50), st.none() | st.floats(0, 1e4), st.floats(0, 1))
def test_waits_grow_to_a_ceiling_and_never_undercut_what_was_asked_for(
    failures: int, asked_for: float | None, drawn: float
) -> None:
    wait = Retries(draw=lambda: drawn, first_s=0.5, longest_s=60).wait_s(failures, asked_for)
    grown = min(60, 0.5 * 2 ** (failures - 1))
    assert wait >= max(grown / 2, asked_for or 0)
    assert wait <= max(grown, asked_for or 0)


def test_no_cloud_s_library_is_loaded_before_it_is_asked() -> None:
    program = """
import sys
from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.gateway.models import Models
from fumehood.gateway.upstreams.choose import upstreams
found = upstreams(Models.shipped(), MemoryArtifacts(), lambda _: None)
assert {"bedrock", "vertex"} <= set(found)
print(sorted({"anthropic", "botocore", "google.auth", "httpx2"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "[]\n"), told.stderr


def test_a_long_prompt_s_prices_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[models.mine]\nupstream = "anthropic"\ninput = 3.0\noutput = 4.0\n'
        "[models.mine.long]\nabove = 10\ninput = 6.0\n"
    )
    with pytest.raises(BadInputError, match=r"models\.mine\.long: `input` and `output` are needed"):
        Models.shipped(str(file))
