"""The gateway over real HTTP, between Anthropic's own client and a strict double of the provider."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from pydantic import BaseModel, Field

from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall, ModelUsage
from fumehood.errors import (
    ArtifactsUnavailableError,
    BadInputError,
    ModelUnavailableError,
    OverBudgetError,
    StoreUnavailableError,
)
from fumehood.gateway import tokens
from fumehood.gateway.accounts import Accounts
from fumehood.gateway.app import answer_to, create_app
from fumehood.gateway.exchange import TRIES, Desk
from fumehood.gateway.line import Line, Retries
from fumehood.gateway.models import Models
from fumehood.gateway.upstream import Upstream, UpstreamError
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from fumehood.gateway.upstreams.faults import EVERY, FAULTS, Faulty
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.llm.client import ASKS, GatewayModel
from fumehood.observe import metrics
from fumehood.ports import Call
from fumehood.services import call_texts
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.fakes import provider as fake
from tests.fakes.provider import KEY, Asked, Broken, Failure, Provider, Streamed, serving
from tests.fakes.store import migrated

MODEL = "claude-sonnet-4-6"  # $3 in, $15 out
SECRET = b"s" * 32


@dataclasses.dataclass
class Room:
    """A gateway between a caller and a provider."""

    provider: Provider
    store: SqlStore
    artifacts: LocalArtifacts
    clock: SystemClock
    url: str
    direction: Direction
    waits: list[float]
    models: list[GatewayModel]
    provider_url: str
    upstreams: dict[str, Upstream]

    def claims(self, **changes: Any) -> Claims:
        claims = Claims(
            tenant=TenantId("ten_1"),
            direction_id=self.direction.id,
            role="idea",
            model=MODEL,
            expires_at=self.clock.now() + 60,
        )
        return dataclasses.replace(claims, **changes)

    def client(self, **changes: Any) -> anthropic.Anthropic:
        token = tokens.mint(self.claims(**changes), SECRET)
        return anthropic.Anthropic(base_url=self.url, api_key=token, max_retries=0)

    def call(self, **changes: Any) -> Call:
        return Call(claims=self.claims(**changes), system="Be brief.", prompt="Hello?", max_tokens=100)

    def model(self) -> GatewayModel:
        self.models.append(GatewayModel(self.url, SECRET, self.clock))
        return self.models[-1]

    def entries(self) -> tuple[LedgerEntry, ...]:
        with self.store.begin() as tx:
            return tx.ledger.entries(self.direction.id)

    def spent(self) -> float:
        with self.store.begin() as tx:
            return tx.ledger.spent_usd(self.direction.id)

    def sum(self) -> tuple[float, int]:
        """Return the dollars and tokens of the direction, open reservations included."""
        with self.store.begin() as tx:
            balance = tx.ledger.balance(self.direction.id)
        return balance.usd, balance.tokens

    def said(self, call: ModelCall) -> CallText:
        with self.store.begin(write=False) as tx:
            return call_texts.said_in(tx, self.artifacts, call)

    def calls(self) -> tuple[ModelCall, ...]:
        with self.store.begin() as tx:
            return tx.calls.find()

    def closed(self, count: int = 1) -> tuple[ModelCall, ...]:
        """Wait until so many calls are closed: after a caller has gone this takes a moment."""
        deadline = time.monotonic() + 60
        while len(self.calls()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.calls()

    def budget(self, usd: float | None, **changes: Any) -> None:
        with self.store.begin() as tx:
            tx.directions.save(dataclasses.replace(self.direction, budget_usd=usd, **changes))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    clock = SystemClock()
    waits: list[float] = []
    store = migrated(tmp_path / "fumehood.db")
    artifacts = LocalArtifacts(tmp_path / "artifacts")
    direction = Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=TenantId("ten_1"),
        template="t",
        text="",
        model=MODEL,
        review_model=MODEL,
        profile="tiny",
        ideas=1,
        runs=1,
        budget_usd=1.0,
    )
    with store.begin() as tx:
        tx.directions.save(direction)
    provider = Provider()
    with serving(provider.app) as provider_url:
        upstream = AnthropicUpstream(
            provider_url,
            key=lambda: KEY,
            line=Line("anthropic", retries=Retries(sleep=waits.append, draw=lambda: 0.0, deadline_s=120)),
        )
        upstreams: dict[str, Upstream] = {"anthropic": upstream, "offline": OfflineModel(artifacts)}
        desk = Desk(
            store=store,
            artifacts=artifacts,
            clock=clock,
            secret=SECRET,
            upstreams=upstreams,
            models=Models.shipped(),
        )
        with serving(create_app(desk)) as url:
            room = Room(provider, store, artifacts, clock, url, direction, waits, [], provider_url, upstreams)
            yield room
            for model in room.models:
                model.close()
        upstream.close()
    store.close()


def say(client: anthropic.Anthropic, **changes: Any) -> Any:
    fields = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello?"}]}
    with client:
        return client.messages.create(**{**fields, **changes})


ASKED: Any = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello?"}]}


def in_turn(*replies: fake.Reply) -> Callable[[Asked], fake.Reply]:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_the_library_talks_to_the_gateway_unchanged(room: Room) -> None:
    message = say(room.client(), system="Be brief.")
    assert message.content[0].text == "Hello."
    (asked,) = room.provider.asked
    assert asked.body["system"] == "Be brief."
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)
    assert [entry.kind for entry in room.entries()] == ["reserved", "settled"]


def test_a_stream_has_the_provider_s_events_in_their_order(room: Room) -> None:
    room.provider.script = lambda _: fake.text("One two three.")
    body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "?"}]}
    headers = {"authorization": f"Bearer {tokens.mint(room.claims(), SECRET)}"}
    with httpx.stream("POST", f"{room.url}/v1/messages", json=body, headers=headers) as response:
        lines = list(response.iter_lines())
    assert response.headers["content-type"].startswith("text/event-stream")
    got = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert got == fake.events(fake.text("One two three."))
    assert [line[7:] for line in lines if line.startswith("event: ")] == [event["type"] for event in got]
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)


@pytest.mark.parametrize("model", ["offline", MODEL])
def test_the_library_reads_streams_of_text_and_tools(room: Room, model: str) -> None:
    room.provider.script = lambda _: fake.tool({"exhausted": True})
    schema: Any = {"name": "answer", "input_schema": {"type": "object", "properties": {}}}
    playbook = room.artifacts.put(b"[paper]\n")
    with (
        room.client(model=model, playbook=playbook) as client,
        client.messages.stream(
            model=model,
            max_tokens=99,
            messages=[{"role": "user", "content": "Hi"}],
            tools=[schema],
            tool_choice={"type": "tool", "name": "answer"},
        ) as stream,
    ):
        kinds = [event.type for event in stream]
        message: Any = stream.get_final_message()
    assert message.content[0].input == {"exhausted": True}
    assert message.stop_reason == "tool_use"
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert len(room.calls()) == 1


def test_tokens_are_counted_by_the_provider_and_cost_nothing(room: Room) -> None:
    with room.client() as client:
        counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert counted.input_tokens == 321
    assert room.entries() == ()


class Opinion(BaseModel):
    score: int = Field(ge=1, le=10)
    reason: str


def test_an_answer_comes_in_the_shape_asked_for(room: Room) -> None:
    room.provider.script = lambda _: fake.tool({"score": 7, "reason": "sound"})
    assert room.model().answer(room.call(), Opinion) == Opinion(score=7, reason="sound")
    (asked,) = room.provider.asked
    assert asked.body["tool_choice"] == {"type": "tool", "name": "answer"}
    assert asked.body["temperature"] == 0.7


def test_an_answer_that_does_not_fit_is_shown_its_faults_once(room: Room) -> None:
    room.provider.script = in_turn(fake.tool({"score": 70}), fake.tool({"score": 7, "reason": "sound"}))
    assert room.model().answer(room.call(), Opinion).score == 7
    told = json.dumps(room.provider.asked[1].body["messages"][2])
    assert "less than or equal to 10" in told
    assert "reason" in told
    assert len(room.calls()) == 2


def test_an_answer_that_never_fits_is_no_answer(room: Room) -> None:
    room.provider.script = lambda _: fake.tool({"score": 70})
    with pytest.raises(ModelUnavailableError, match="score") as caught:
        room.model().answer(room.call(), Opinion)
    assert not caught.value.retryable
    assert len(room.provider.asked) == 2


def test_fenced_json_is_taken_where_the_tool_is_not_called(room: Room) -> None:
    room.provider.script = lambda _: fake.text('Thoughts {.\n```json\n{"score": 3, "reason": "```"}\n```\nDone.')
    assert room.model().answer(room.call(), Opinion).score == 3


REFUSED = fake.message([], "refusal")
CUT = fake.message([{"type": "text", "text": "Well, it"}], "max_tokens")
EMPTY = fake.message([], "end_turn")
FULL = fake.message([{"type": "text", "text": "Well, it"}], "model_context_window_exceeded")


@pytest.mark.parametrize("fault", [REFUSED, CUT, EMPTY, FULL])
def test_an_answer_that_is_none_is_asked_for_again(room: Room, fault: dict[str, Any]) -> None:
    room.provider.script = in_turn(fault, fault, fake.text("It is so."))
    assert room.model().text(room.call()) == "It is so."
    last = room.provider.asked[-1].body["messages"]
    assert len(last) == 1
    assert ("in fewer words" in str(last)) == (fault is CUT)
    assert len(room.closed(3)) == 3


@pytest.mark.parametrize(
    ("fault", "words"), [(REFUSED, "refused to answer"), (CUT, "was cut off"), (EMPTY, "with no text")]
)
def test_one_that_never_comes_is_no_answer(room: Room, fault: dict[str, Any], words: str) -> None:
    room.provider.script = lambda _: fault
    with pytest.raises(ModelUnavailableError, match=words):
        room.model().text(room.call())
    assert len(room.provider.asked) == ASKS


def test_a_repair_is_not_used_up_by_a_refusal(room: Room) -> None:
    odd = fake.tool({"score": "odd"})
    room.provider.script = in_turn(REFUSED, odd, REFUSED, CUT, fake.tool({"score": 2, "reason": "fine"}))
    assert room.model().answer(room.call(), Opinion).score == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_purpose_costs_no_answer(room: Room, fault: str) -> None:
    room.upstreams["anthropic"] = Faulty(
        room.upstreams["anthropic"], [fault], Line("anthropic", retries=Retries(sleep=room.waits.append))
    )
    room.provider.script = lambda asked: (
        fake.tool({"score": 2, "reason": "fine"}) if asked.body.get("tools") else fake.text("It is so.")
    )
    for _ in range(EVERY):
        assert room.model().text(room.call()) == "It is so."
        assert room.model().answer(room.call(), Opinion).score == 2


def test_a_fault_that_is_none_is_named() -> None:
    with pytest.raises(BadInputError, match="there is no fault 'explosion'"):
        Faulty(OfflineModel(MemoryArtifacts()), ["explosion"], Line("offline"))


def test_what_a_model_refuses_is_left_out_or_said_in_words(room: Room) -> None:
    room.provider.script = lambda _: fake.tool({"score": 7, "reason": "sound"})
    assert room.model().answer(room.call(model="claude-opus-5-5"), Opinion).score == 7
    (asked,) = room.provider.asked
    assert "temperature" not in asked.body
    assert asked.body["tool_choice"] == {"type": "auto"}
    assert "`answer`" in asked.body["system"]
    assert asked.body["max_tokens"] > 100


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("fhg_nonsense", "not a token"),
        ("sk-ant-something", "not a token"),
        (
            tokens.mint(Claims(tenant=TenantId("t"), direction_id=DirectionId("d"), role="r", model=MODEL), SECRET),
            "expired",
        ),
        (
            tokens.mint(Claims(tenant=TenantId("t"), direction_id=DirectionId("d"), role="r", model=MODEL), b"x"),
            "signature",
        ),
    ],
)
def test_a_wrong_token_is_told_what_is_wrong(room: Room, token: str, message: str) -> None:
    client = anthropic.Anthropic(base_url=room.url, api_key=token, max_retries=0)
    with pytest.raises(anthropic.AuthenticationError, match=message):
        say(client)
    assert room.provider.asked == []


def test_a_caller_without_a_token_is_refused(room: Room) -> None:
    assert httpx.post(f"{room.url}/v1/messages", json={}).status_code == 401
    assert httpx.get(f"{room.url}/healthz").json() == {"status": "ok"}
    missing = httpx.get(f"{room.url}/elsewhere")
    assert missing.status_code == 404
    assert missing.json()["type"] == "error"


def test_a_caller_cannot_choose_another_model(room: Room) -> None:
    with pytest.raises(anthropic.PermissionDeniedError, match="claude-opus-5"):
        say(room.client(), model="claude-opus-5")
    assert room.provider.asked == []
    assert room.entries() == ()


def test_a_cancelled_direction_spends_nothing_more(room: Room) -> None:
    room.budget(1.0, state=DirectionState.CANCELLED)
    with pytest.raises(anthropic.AuthenticationError, match="cancelled"):
        say(room.client())


@pytest.mark.parametrize("model", ["claude-unheard-of", "gpt-9"])
def test_a_model_without_a_price_or_an_upstream_is_refused(room: Room, model: str) -> None:
    with pytest.raises(anthropic.APIStatusError, match=model) as caught:
        say(room.client(model=model), model=model)
    assert caught.value.status_code in {400, 404}
    assert room.provider.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"extra_body": {"speed": "fast"}},
        {"extra_body": {"inference_geo": "us"}},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": ["user"], "content": "?"}]},
        {"messages": [{"role": "user", "content": [{"type": {}, "text": "?"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
    ],
)
def test_what_has_no_bounded_cost_is_not_passed_on(room: Room, changes: dict[str, Any]) -> None:
    with pytest.raises(anthropic.BadRequestError):
        say(room.client(), **changes)
    assert room.provider.asked == []
    assert room.entries() == ()


def image(media_type: str, data: str, role: str = "user") -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"role": role, "content": [{"type": "image", "source": source}]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"messages": [image("image/tiff", "AAAA")]}, "media_type"),
        ({"messages": [image("image/png", "no base64!")]}, "invalid base64"),
        ({"messages": [image("image/png", "R0lGODlh")]}, "does not match"),
        (
            {"messages": [{"role": "user", "content": "?"}, image("image/gif", "R0lGODlh", "assistant")]},
            "user messages",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "must be greater than"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}, "max_tokens": 2000}, "greater than or equal"),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "max_tokens": 2000,
                "extra_body": {"temperature": 0.5},
            },
            "set to 1",
        ),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
    ],
)
def test_what_the_provider_refuses_is_told_once_and_costs_nothing(
    room: Room, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=told):
        say(room.client(), **changes)
    assert len(room.provider.asked) == 1
    assert room.spent() == 0


def test_over_budget_is_402_as_a_problem_and_nothing_is_sent(room: Room) -> None:
    room.budget(0.0001)
    with pytest.raises(anthropic.APIStatusError) as caught:
        say(room.client())
    response = caught.value.response
    assert response.status_code == 402
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 402
    assert "$0.00" in response.json()["detail"]
    assert room.provider.asked == []
    assert room.spent() == 0
    with pytest.raises(OverBudgetError, match="budget"):
        room.model().text(room.call())


def test_failures_that_pass_are_tried_again_with_growing_waits(room: Room) -> None:
    room.provider.script = in_turn(
        Failure(529, "overloaded_error"),
        Failure(500),
        Failure(429, "rate_limit_error", headers={"retry-after": "7"}),
        fake.text(),
    )
    assert say(room.client()).content[0].text == "Hello."
    assert room.waits == [0.5, 1.0, 7.0]
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 500, 529])
def test_trying_again_has_a_ceiling_and_then_costs_nothing(room: Room, status: int, stream: bool) -> None:
    room.provider.script = lambda _: Failure(status)
    with pytest.raises(anthropic.APIStatusError) as caught:
        say(room.client(), stream=stream)
    assert caught.value.status_code == (502 if status == 500 else status)
    assert len(room.provider.asked) == 6
    assert room.spent() == 0
    assert [entry.kind for entry in room.entries()] == ["reserved", "released"]


def test_a_wait_past_the_deadline_is_not_waited_for(room: Room) -> None:
    room.provider.script = lambda _: Failure(429, headers={"retry-after": "1000"})
    with pytest.raises(anthropic.RateLimitError):
        say(room.client())
    assert room.waits == []
    assert len(room.provider.asked) == 1


def test_a_refused_key_is_not_the_caller_s_fault_and_is_not_shown(room: Room) -> None:
    room.provider.script = lambda _: Failure(401, "authentication_error", f"invalid key {KEY}")
    with pytest.raises(anthropic.APIStatusError) as caught:
        say(room.client())
    assert caught.value.status_code == 424
    assert KEY not in str(caught.value)
    assert len(room.provider.asked) == 1
    with pytest.raises(ModelUnavailableError, match="fumehood keys set anthropic") as unavailable:
        room.model().text(room.call())
    assert (unavailable.value.retryable, unavailable.value.mendable) == (False, True)


@pytest.mark.parametrize(
    ("status", "words"), [(402, "pay"), (403, "no right"), (400, "Your credit balance is too low to use this.")]
)
def test_an_account_without_money_or_rights_is_no_fault_of_the_call(room: Room, status: int, words: str) -> None:
    room.provider.script = lambda _: Failure(status, message=words)
    with pytest.raises(ModelUnavailableError, match=words) as caught:  # never `OverBudgetError`, which is ours
        room.model().text(room.call())
    assert (caught.value.retryable, caught.value.mendable) == (False, True)
    assert len(room.provider.asked) == 1


def test_without_a_key_nothing_is_sent_and_the_remedy_is_told(room: Room) -> None:
    upstream = AnthropicUpstream("http://127.0.0.1:9", key=lambda: None)
    with pytest.raises(UpstreamError, match="fumehood keys set anthropic"):
        upstream.send(room.claims(), {"model": MODEL})


def test_a_provider_that_does_not_answer_in_time_is_told(room: Room) -> None:
    refused = threading.Event()
    room.provider.script = lambda _: refused.wait(60) and fake.text()
    upstream = AnthropicUpstream(
        room.provider_url, key=lambda: KEY, line=Line("anthropic", retries=Retries(deadline_s=1.0))
    )
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "?"}]}
    with pytest.raises(UpstreamError, match="TimeoutError") as caught:
        upstream.send(room.claims(), body)
    # It answers only now.
    refused.set()
    upstream.close()
    assert caught.value.status == 504


def test_a_caller_that_goes_away_from_a_whole_answer_pays_for_it(room: Room) -> None:
    asked, gone = threading.Event(), threading.Event()

    def answer(_: Asked) -> fake.Reply:
        asked.set()
        gone.wait(60)
        return fake.text()

    room.provider.script = answer
    body, place = json.dumps(ASKED), httpx.URL(room.url)
    lines = ("POST /v1/messages HTTP/1.1", f"host: {place.host}", f"x-api-key: {tokens.mint(room.claims(), SECRET)}")
    lines += ("content-type: application/json", f"content-length: {len(body)}", "", body)
    with socket.create_connection((place.host, place.port or 0)) as caller:
        caller.sendall("\r\n".join(lines).encode())
        assert asked.wait(60)
    gone.set()
    (call,) = room.closed()
    assert call.status == 200
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)


def test_a_request_that_the_provider_refuses_is_told_once(room: Room) -> None:
    room.provider.script = lambda _: Failure(400, "invalid_request_error", f"prompt is too long {KEY}")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as caught:
        say(room.client())
    assert KEY not in str(caught.value)
    assert len(room.provider.asked) == 1
    assert room.spent() == 0


def test_a_connection_that_breaks_is_tried_again_with_money_of_its_own(room: Room) -> None:
    room.provider.script = in_turn(Broken(fake.text(), 0), fake.text("Again."))
    assert say(room.client()).content[0].text == "Again."
    # Whether the first was answered, and is to be paid, nobody knows.
    first, second = room.closed(2)
    assert (first.status, second.status) == (502, 200)
    assert [entry.kind for entry in room.entries()] == ["reserved", "settled"] * 2
    reserved = room.entries()[0].usd
    assert first.usage.usd == pytest.approx(reserved)
    assert room.spent() == pytest.approx(reserved + second.usage.usd)


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_always_breaks_is_paid_each_time_and_told(room: Room, stream: bool) -> None:
    room.provider.script = lambda _: Broken(fake.text(), 0)
    with pytest.raises(anthropic.APIStatusError, match=r"did not answer to the end|broke off"):
        say(room.client(), stream=stream)
    assert len(room.provider.asked) == TRIES
    assert room.spent() == pytest.approx(TRIES * room.entries()[0].usd)


def test_one_that_is_sent_again_keeps_within_the_budget(room: Room) -> None:
    room.provider.script = lambda _: Broken(fake.text(), 0)
    room.budget(1.5 * Models.shipped().of(MODEL).at_worst(1200, 100, cached=False))
    with pytest.raises(anthropic.APIStatusError) as caught:
        say(room.client())
    assert (caught.value.status_code, len(room.provider.asked)) == (402, 1)


@pytest.mark.parametrize("pings", [0, 2])
def test_an_overload_that_a_stream_begins_with_is_tried_again(room: Room, pings: int) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    room.provider.script = in_turn(Streamed((*({"type": "ping"},) * pings, error)), fake.text("Now."))
    with room.client() as client, client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Now."
    assert (len(room.waits), len(room.closed())) == (1, 1)


def test_a_stream_keeps_signs_at_which_lines_end_elsewhere(room: Room) -> None:
    said = "a\u2028b\u2029c\x85d"
    room.provider.script = lambda _: Streamed(tuple(fake.events(fake.text(said))))
    with room.client() as client, client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == said


@pytest.mark.parametrize("said", ["half a pair: \ud83d", "\udc00"])
def test_half_a_pair_of_surrogates_comes_through_both_ways(room: Room, said: str) -> None:
    room.provider.script = lambda _: {**fake.text(""), "content": [{"type": "text", "text": said}]}
    body = json.dumps({**ASKED, "messages": [{"role": "user", "content": said}]})
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    answer = httpx.post(f"{room.url}/v1/messages", content=body, headers=headers)
    assert (answer.status_code, json.loads(answer.content)["content"][0]["text"]) == (200, said)
    assert "\N{REPLACEMENT CHARACTER}" in room.provider.asked[0].body["messages"][0]["content"]


def test_thoughts_that_nobody_is_shown_are_paid_when_a_stream_is_left(room: Room) -> None:
    room.provider.script = lambda _: Broken(fake.text("a" * 400), 3)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    asked: Any = {**ASKED, "max_tokens": 2000, "thinking": thinking, "stream": True}
    with room.client() as client, pytest.raises(anthropic.APIStatusError, match="broke off"):
        list(client.messages.create(**asked))
    (call,) = room.closed()
    assert call.usage.output_tokens == 2000


@pytest.mark.parametrize("usage", [17, [1, 2], None, {}, {"input_tokens": 1000.0, "output_tokens": 500.0}])
def test_a_usage_that_is_none_costs_what_was_set_aside(room: Room, usage: Any) -> None:
    room.provider.script = lambda _: {**fake.text(), "usage": usage}
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    answer = httpx.post(f"{room.url}/v1/messages", json=ASKED, headers=headers)
    assert answer.status_code == 200
    assert room.spent() == pytest.approx(room.entries()[0].usd)


def test_a_stream_whose_length_nobody_counts_is_paid_by_what_came(room: Room) -> None:
    told = [{**one, "usage": {}} if one["type"] == "message_delta" else one for one in fake.events(fake.text("a" * 60))]
    room.provider.script = lambda _: Streamed(tuple(told))
    with room.client() as client, client.messages.stream(**ASKED) as stream:
        stream.until_done()
    (call,) = room.closed()
    assert call.usage.output_tokens >= 30


def test_a_prompt_that_was_to_be_kept_is_forfeited_at_what_was_set_aside(room: Room) -> None:
    room.provider.script = in_turn(Broken(fake.text(), 0), fake.text("Again."))
    kept = [{"type": "text", "text": "x" * 5000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    with room.client() as client:
        client.messages.create(**ASKED, system=kept)  # type: ignore[arg-type]
    first, _ = room.closed(2)
    assert first.usage.usd == pytest.approx(room.entries()[0].usd)


def test_an_error_amid_a_stream_does_not_say_the_key(room: Room) -> None:
    start = fake.events(fake.text())[0]
    error = {"type": "error", "error": {"type": "api_error", "message": f"boom {KEY}"}}
    room.provider.script = lambda _: Streamed((start, error))
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    answer = httpx.post(f"{room.url}/v1/messages", json={**ASKED, "stream": True}, headers=headers)
    assert "boom [secret]" in answer.text
    assert KEY not in answer.text


def test_a_key_that_a_provider_repeats_is_in_no_record(room: Room) -> None:
    keys = ["AKIDEXAMPLE7:secret/of the account:session-of-an-hour", "a key like no other"]
    said = f"{keys[1]} and secret/of the account"
    upstream = AnthropicUpstream(room.provider_url, key=lambda: KEY)
    room.provider.script = lambda _: fake.tool({said: 1})
    desk = Desk(
        store=room.store, artifacts=room.artifacts, clock=room.clock, secret=SECRET,
        upstreams={"anthropic": upstream}, models=Models.shipped(), keys=lambda: keys,
    )  # fmt: skip
    body = {**ASKED, "messages": [{"role": "user", "content": said}]}
    assert said in str(desk.open(room.claims(), json.dumps(body).encode()).send())
    upstream.close()
    (call,) = room.closed()
    kept = room.said(call)
    for text in (kept.request.decode(), kept.reply.decode()):
        assert "[secret] and [secret]" in text
        assert "account" not in text


class ArtifactsThatGo(LocalArtifacts):
    """Artifacts that are away while they are told to be."""

    is_away = True
    why: Exception = ArtifactsUnavailableError("The artifact store does not answer.")

    def put(self, data: bytes) -> str:
        if self.is_away:
            raise self.why
        return super().put(data)


@pytest.mark.parametrize("why", [ArtifactsThatGo.why, OSError(28, "No space left on device")])
def test_an_answer_goes_out_though_it_can_only_be_booked_later(room: Room, tmp_path: Path, why: Exception) -> None:
    upstream = AnthropicUpstream(room.provider_url, key=lambda: KEY)
    artifacts = ArtifactsThatGo(tmp_path / "those-that-go")
    artifacts.why = why
    desk = Desk(
        store=room.store,
        artifacts=artifacts,
        clock=room.clock,
        secret=SECRET,
        upstreams={"anthropic": upstream},
        models=Models.shipped(),
        most_beside=0,
    )
    with serving(create_app(desk)) as url:
        for _ in range(2):
            client = anthropic.Anthropic(base_url=url, api_key=tokens.mint(room.claims(), SECRET), max_retries=0)
            assert say(client).content[0].text == "Hello."
        assert [entry.kind for entry in room.entries()] == ["reserved"] * 2
        reserved = room.spent()
        artifacts.is_away = False
        calls = room.closed(2)
    upstream.close()
    assert [call.status for call in calls] == [200, 200]
    assert room.spent() == pytest.approx(2 * (100 * 3 + 50 * 15) / 1e6)
    assert room.spent() < reserved


def test_what_a_killed_gateway_had_reserved_is_closed_by_the_next(room: Room) -> None:
    before, after = Accounts(room.store, room.clock), Accounts(room.store, room.clock)
    paid = before.reserve("call_paid", room.claims(), 0.25, 100)
    before.reserve("call_free", room.claims(model="offline"), 0.0, 50)
    assert after.close_abandoned() == 2
    assert after.close_abandoned() == 0
    assert [entry.kind for entry in room.entries()] == ["reserved", "reserved", "settled", "settled"]
    assert room.sum() == (0.25, 150)
    # It was not dead after all, and books what its call really cost, once.
    usage = ModelUsage(input_tokens=10, output_tokens=5, usd=0.05)
    call = ModelCall(
        id="call_paid", direction_id=room.direction.id, role="idea", model=MODEL, upstream="claude", claims="{}",
        request="", reply="", status=200, usage=usage, at=room.clock.now(), duration_s=1.0,
    )  # fmt: skip
    for _ in range(2):
        before.settle(paid, call, CallText(id=call.id))
    assert room.sum() == (pytest.approx(0.05), 65)


@pytest.mark.parametrize("error", [StoreUnavailableError("It is away."), ArtifactsUnavailableError("It is away.")])
def test_a_call_without_database_or_artifacts_is_told_to_come_back(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer_to(error).status_code == 503
    [line] = caplog.records
    assert line.exc_info is None


def test_an_unreachable_provider_is_told_and_costs_nothing(room: Room, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    upstream = AnthropicUpstream(
        f"http://127.0.0.1:{port}", key=lambda: KEY, line=Line("anthropic", retries=Retries(sleep=room.waits.append))
    )
    desk = Desk(
        store=room.store,
        artifacts=room.artifacts,
        clock=room.clock,
        secret=SECRET,
        upstreams={"anthropic": upstream},
        models=Models.shipped(),
    )
    with serving(create_app(desk)) as url:
        client = anthropic.Anthropic(base_url=url, api_key=tokens.mint(room.claims(), SECRET), max_retries=0)
        with pytest.raises(anthropic.InternalServerError, match="could not be reached"):
            say(client)
    upstream.close()
    assert len(room.waits) == 5
    assert room.spent() == 0


def test_a_stream_that_breaks_off_settles_what_was_counted(room: Room) -> None:
    room.provider.script = lambda _: Broken(fake.text("a" * 400), 4)
    with room.client() as client, pytest.raises(anthropic.APIStatusError, match="broke off"):
        list(
            client.messages.create(
                model=MODEL, max_tokens=500, stream=True, messages=[{"role": "user", "content": "?"}]
            )
        )
    (call,) = room.closed()
    assert call.status == 502
    assert call.usage.input_tokens == 100
    assert call.usage.output_tokens == 100  # 200 of the letters had come
    assert room.spent() == pytest.approx((100 * 3 + 100 * 15) / 1e6)
    assert json.loads(room.said(call).reply)["content"][0]["text"] == "a" * 200


def test_a_caller_that_goes_away_settles_what_was_counted(room: Room) -> None:
    room.provider.script = lambda _: Broken(fake.text("a" * 400), 99, wait_s=1.0)
    body = {"model": MODEL, "max_tokens": 500, "stream": True, "messages": [{"role": "user", "content": "?"}]}
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    with httpx.stream("POST", f"{room.url}/v1/messages", json=body, headers=headers) as response:
        next(response.iter_lines())
    (call,) = room.closed()
    assert call.status == 499
    assert call.usage.input_tokens == 100
    assert [entry.kind for entry in room.entries()] == ["reserved", "settled"]
    assert 0 < room.spent() < 0.01


def test_a_caller_that_goes_away_while_the_provider_is_silent_ends_it(room: Room) -> None:
    room.provider.script = lambda _: Broken(fake.text("a" * 400), 99, wait_s=60.0)
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    with httpx.stream("POST", f"{room.url}/v1/messages", json={**ASKED, "stream": True}, headers=headers) as response:
        next(response.iter_lines())
        first = time.monotonic()
    (call,) = room.closed()
    # Long before the provider's next word.
    assert time.monotonic() - first < 30.0
    assert call.status == 499
    # The connections that are kept are whole.
    room.provider.script = lambda _: fake.text("Still here.")
    with room.client() as client, client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Still here."


def test_calls_at_the_same_time_never_pass_the_cap(room: Room) -> None:
    gate = threading.Event()

    def slow(_: Asked) -> fake.Reply:
        gate.wait(0.05)
        return fake.text(output_tokens=100)

    room.provider.script = slow
    room.budget(0.02)
    highest: list[float] = []
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            highest.append(room.spent())

    watcher = threading.Thread(target=watch)
    watcher.start()

    def one(_: int) -> int:
        try:
            say(room.client())
        except anthropic.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(one, range(24)))
    watching.set()
    watcher.join()
    assert set(statuses) == {200, 402}
    assert max(highest) <= 0.02
    assert room.spent() == pytest.approx(statuses.count(200) * (100 * 3 + 100 * 15) / 1e6)


def test_a_call_is_recorded_without_secrets(room: Room) -> None:
    token = tokens.mint(room.claims(), SECRET)
    room.provider.script = lambda _: fake.text(f"The key is {KEY}.")
    say(room.client(), messages=[{"role": "user", "content": f"My token is {token}."}])
    (call,) = room.calls()
    request, reply = room.said(call).request.decode(), room.said(call).reply.decode()
    assert "My token is [secret]" in request
    assert "The key is [secret]" in reply
    kept = request + reply + call.claims
    assert token not in kept
    assert KEY not in kept
    assert "expires_at" not in call.claims
    assert (call.role, call.model, call.upstream, call.status) == ("idea", MODEL, "anthropic", 200)
    assert call.usage.output_tokens == 50
    assert call.duration_s >= 0


def test_cached_prompts_are_paid_at_their_own_rates(room: Room) -> None:
    reply = fake.text(input_tokens=10, output_tokens=0, cache_creation_input_tokens=1000, cache_read_input_tokens=2000)
    reply["usage"]["cache_creation"] = {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}
    room.provider.script = lambda _: reply
    say(room.client())
    assert room.spent() == pytest.approx((10 * 3 + 400 * 3.75 + 600 * 6 + 2000 * 0.3) / 1e6)


def test_the_offline_model_is_counted_and_costs_nothing(room: Room) -> None:
    room.budget(0.0)
    playbook = room.artifacts.put(b'[[ideas]]\nname = "a"\ntitle = "A"\n')
    message = say(room.client(model="offline", playbook=playbook), model="offline")
    assert '"title": "A"' in message.content[0].text
    (call,) = room.calls()
    assert call.upstream == "offline"
    assert call.usage.usd == 0
    assert call.usage.output_tokens > 0


def figure(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_what_a_provider_did_is_counted_and_told(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    names = {
        "fumehood_upstream_errors_total": {"upstream": "anthropic", "kind": "overloaded_error"},
        "fumehood_upstream_retries_total": {"upstream": "anthropic"},
        "fumehood_model_call_seconds_count": {"upstream": "anthropic", "role": "idea", "status": "200"},
    }
    before = {name: figure(name, **labels) for name, labels in names.items()}
    room.provider.script = in_turn(Failure(529, "overloaded_error"), Failure(529, "overloaded_error"), fake.text())
    with caplog.at_level("INFO", "fumehood.gateway"):
        say(room.client())
    assert [figure(name, **labels) - before[name] for name, labels in names.items()] == [2.0, 2.0, 1.0]
    [line] = [one for one in caplog.records if one.name == "fumehood.gateway"]
    [call] = room.calls()
    assert (line.call, line.status, line.usd) == (call.id, 200, call.usage.usd)  # type: ignore[attr-defined]
    assert not [one for one in vars(line).values() if KEY in str(one) or "Hello" in str(one)]
