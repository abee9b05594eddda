"""Amazon Bedrock and Google Vertex AI behind the gateway, over real HTTP against strict doubles of both."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from fumehood.artifacts.local import LocalArtifacts
from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import CallText, Claims, ModelCall
from fumehood.errors import ModelUnavailableError
from fumehood.gateway import keys, request, tokens
from fumehood.gateway.app import create_app
from fumehood.gateway.exchange import TRIES, Desk
from fumehood.gateway.models import Models
from fumehood.gateway.upstreams.choose import upstreams
from fumehood.gateway.upstreams.clouds import Cloud
from fumehood.llm.client import GatewayModel
from fumehood.ports import Call
from fumehood.services import call_texts
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.fakes import clouds
from tests.fakes import provider as fake
from tests.fakes.clouds import Bedrock, Garbled, Thrown, Vertex
from tests.fakes.provider import Broken, Failure, serving
from tests.fakes.store import migrated

SECRET = b"s" * 32
SIGNED = f"{clouds.ACCESS_KEY}:{clouds.SECRET_KEY}"
NAMES = {"bedrock": "bedrock/sonnet", "vertex": "vertex/sonnet"}
TABLE = """
[upstreams.bedrock]
kind = "bedrock"
key = "bedrock"
region = "{region}"
base_url = "{bedrock}"

[upstreams.vertex]
kind = "vertex"
key = "vertex"
region = "{region}"
project = "{project}"
base_url = "{vertex}/v1"

[models."bedrock/sonnet"]
upstream = "bedrock"
called = "{model}"
input = 3.0
output = 15.0

[models."vertex/sonnet"]
upstream = "vertex"
called = "{vertex_model}"
input = 3.0
output = 15.0
"""
POISON = {
    "AWS_ACCESS_KEY_ID": "AKIAPOISONPOISON0000",
    "AWS_SECRET_ACCESS_KEY": "poison",
    "AWS_SESSION_TOKEN": "poison",
    "AWS_PROFILE": "of-nobody",
    "AWS_REGION": "us-poison-1",
    "AWS_BEARER_TOKEN_BEDROCK": "poison",
    "ANTHROPIC_BEDROCK_BASE_URL": "http://127.0.0.1:9",
    "ANTHROPIC_VERTEX_BASE_URL": "http://127.0.0.1:9",
    "ANTHROPIC_VERTEX_PROJECT_ID": "poison",
    "ANTHROPIC_CUSTOM_HEADERS": "x-poison: yes",
    "CLOUD_ML_REGION": "poison",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/poison.json",
    "GOOGLE_CLOUD_PROJECT": "poison",
}
"""What the clouds' own libraries would find, and must not be let find."""


@dataclass
class Room:
    """A gateway between a caller and one cloud."""

    cloud: str
    double: Any
    url: str
    store: SqlStore
    artifacts: LocalArtifacts
    direction: Direction
    keys: dict[str, str]
    upstream: Cloud
    double_url: str
    clock: SystemClock = field(default_factory=SystemClock)
    waits: list[float] = field(default_factory=list)

    @property
    def model(self) -> str:
        return NAMES[self.cloud]

    def claims(self) -> Claims:
        expires = self.clock.now() + 60
        return Claims(
            tenant=TenantId("ten_1"), direction_id=self.direction.id, role="idea", model=self.model, expires_at=expires
        )

    def client(self) -> anthropic.Anthropic:
        token = tokens.mint(self.claims(), SECRET)
        return anthropic.Anthropic(base_url=self.url, api_key=token, max_retries=0)

    def say(self, **changes: Any) -> Any:
        fields = {"model": self.model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello?"}]}
        with self.client() as client:
            return client.messages.create(**{**fields, **changes})

    def read(self) -> list[dict[str, Any]]:
        """Return the events of a stream, as they come over the wire."""
        body = {"model": self.model, "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "?"}]}
        headers = {"x-api-key": tokens.mint(self.claims(), SECRET)}
        with httpx.stream("POST", f"{self.url}/v1/messages", json=body, headers=headers, timeout=60) as response:
            lines = list(response.iter_lines())
        found = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        return found or [json.loads("".join(lines))]

    def refused(self) -> ModelUnavailableError:
        """Return how a worker is told of a call that comes to nothing."""
        model = GatewayModel(self.url, SECRET, self.clock)
        with pytest.raises(ModelUnavailableError) as caught:
            model.text(Call(claims=self.claims(), system="", prompt="Hello?", max_tokens=100))
        model.close()
        return caught.value

    def spent(self) -> float:
        with self.store.begin() as tx:
            return tx.ledger.spent_usd(self.direction.id)

    def said(self, call: ModelCall) -> CallText:
        with self.store.begin(write=False) as tx:
            return call_texts.said_in(tx, self.artifacts, call)

    def call(self) -> ModelCall:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with self.store.begin() as tx:
                if found := tx.calls.find():
                    return found[-1]
            time.sleep(0.02)
        raise AssertionError("no call was kept")


@pytest.fixture(params=["bedrock", "vertex"])
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def room(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/credentials").write_text("[default]\naws_access_key_id = AKIAPOISONPOISON0000\n")
    monkeypatch.setenv("HOME", str(home))
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    store = migrated(tmp_path / "fumehood.db")
    artifacts = LocalArtifacts(tmp_path / "artifacts")
    direction = Direction(
        id=DirectionId(SystemClock().new_id("dir")), tenant=TenantId("ten_1"), template="t", text="", model="m",
        review_model="m", profile="tiny", ideas=1, runs=1, budget_usd=1.0,
    )  # fmt: skip
    with store.begin() as tx:
        tx.directions.save(direction)
    double: Bedrock | Vertex = Bedrock() if cloud == "bedrock" else Vertex()
    with serving(double.app) as double_url:
        table = tmp_path / "models.toml"
        table.write_text(
            TABLE.format(
                region=clouds.REGION, bedrock=double_url, vertex=double_url, project=clouds.PROJECT,
                model=clouds.MODEL, vertex_model=clouds.VERTEX_MODEL,
            )
        )  # fmt: skip
        models = Models.shipped(str(table))
        kept = {"bedrock": clouds.BEARER, "vertex": clouds.TOKEN}
        found = upstreams(models, artifacts, kept.get)
        desk = Desk(
            store=store, artifacts=artifacts, clock=SystemClock(), secret=SECRET, upstreams=found, models=models
        )
        upstream = found[cloud]
        assert isinstance(upstream, Cloud)
        with serving(create_app(desk)) as url:
            made = Room(cloud, double, url, store, artifacts, direction, kept, upstream, double_url)
            upstream._line.retries.sleep = made.waits.append
            yield made
        upstream.close()
    store.close()


def in_turn(*replies: Any) -> Callable[[Any], Any]:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_a_text_comes_back_and_is_paid(room: Room) -> None:
    message = room.say(system="Be brief.", extra_body={"temperature": 0.5})
    assert message.content[0].text == "Hello."
    (asked,) = room.double.asked
    assert (asked.body["system"], asked.body["temperature"]) == ("Be brief.", 0.5)
    assert "model" not in asked.body
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)
    call = room.call()
    assert (call.upstream, call.model, call.status) == (room.cloud, room.model, 200)


def test_a_stream_has_the_cloud_s_events_in_their_order(room: Room) -> None:
    room.double.script = lambda _: fake.text("One two three.")
    wanted = [event for event in fake.events(fake.text("One two three.")) if event["type"] != "ping"]
    if room.cloud == "bedrock":
        wanted[-1]["amazon-bedrock-invocationMetrics"] = {"inputTokenCount": 100}
    assert room.read() == wanted
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)


def test_tools_and_images_go_there_and_back(room: Room) -> None:
    room.double.script = lambda _: fake.tool({"score": 7})
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    tool: Any = {"name": "answer", "input_schema": {"type": "object", "properties": {}}}
    asked = {"tools": [tool], "tool_choice": {"type": "tool", "name": "answer"}}
    content = [image, {"type": "text", "text": "What is it?"}]
    message = room.say(messages=[{"role": "user", "content": content}], **asked)
    assert message.content[0].input == {"score": 7}
    assert room.double.asked[0].body["messages"][0]["content"] == content
    with room.client() as client:
        fields: Any = {"messages": [{"role": "user", "content": content}], **asked}
        with client.messages.stream(model=room.model, max_tokens=99, **fields) as stream:
            last: Any = stream.get_final_message()
    assert last.content[0].input == {"score": 7}


def test_nothing_of_the_environment_or_the_home_is_looked_at(room: Room, tmp_path: Path) -> None:
    home, opened = str(tmp_path / "home"), []

    def see(event: str, told: tuple[Any, ...]) -> None:
        if event in {"open", "os.listdir", "os.scandir"} and str(told[0]).startswith(home):
            opened.append(told[0])

    sys.addaudithook(see)
    room.keys.update({"bedrock": SIGNED, "vertex": keys.checked("vertex", clouds.account(room.double_url))})
    room.say()
    room.read()
    assert [asked.headers.get("x-poison") for asked in room.double.asked] == [None, None]
    assert opened == []


@pytest.mark.parametrize("cloud", ["bedrock"], indirect=True)
@pytest.mark.parametrize("session", ["", clouds.SESSION])
def test_bedrock_s_requests_are_signed_where_the_key_is_a_pair(room: Room, session: str) -> None:
    room.keys["bedrock"] = f"{SIGNED}:{session}".rstrip(":")
    room.double.wants_session = bool(session)
    assert room.say().content[0].text == "Hello."
    assert room.read()[-1]["type"] == "message_stop"
    assert all(asked.headers["authorization"].startswith("AWS4-HMAC-SHA256") for asked in room.double.asked)


@pytest.mark.parametrize("cloud", ["vertex"], indirect=True)
def test_vertex_is_shown_a_token_of_the_service_account_until_that_expires(room: Room) -> None:
    room.keys["vertex"] = keys.checked("vertex", clouds.account(room.double_url))
    room.say()
    room.read()
    assert len(room.double.tokens) == 1
    room.double.life_s = 1
    room.upstream._made = None  # as after a restart
    room.say()
    room.say()
    assert len(room.double.tokens) == 3


@pytest.mark.parametrize("cloud", ["vertex"], indirect=True)
def test_a_token_that_does_not_come_at_once_is_asked_for_again(room: Room) -> None:
    room.keys["vertex"] = keys.checked("vertex", clouds.account(room.double_url))
    room.double.token_failures = [503, 429]
    assert room.say().content[0].text == "Hello."
    assert len(room.waits) == 2


WRONG = [
    ("bedrock", "ABSKwrong"),
    ("bedrock", f"{clouds.ACCESS_KEY}:wrong"),
    ("bedrock", f"AKIAOTHEROTHEROTHER0:{clouds.SECRET_KEY}"),
    ("bedrock", f"{clouds.ACCESS_KEY}:wrong:{clouds.SESSION}"),
    ("vertex", "ya29.wrong-token"),
    ("vertex", "another account"),
]


@pytest.mark.parametrize(("cloud", "key"), WRONG, indirect=["cloud"])
def test_wrong_credentials_are_told_without_being_shown(room: Room, key: str) -> None:
    if key == "another account":
        key = keys.checked("vertex", clouds.account(room.double_url, client_email="somebody@else.example"))
    room.keys[room.cloud] = key
    error = room.refused()
    wins = f", or in {keys.VARIABLES[room.cloud]}, which wins"
    assert f"give another with `fumehood keys set {room.cloud}`{wins}." in str(error)
    assert (error.retryable, error.mendable) == (False, True)
    signing = (*key.split(":"), clouds.SESSION, clouds.SECRET_KEY)
    secrets = signing if room.cloud == "bedrock" else (key, clouds.private_pem().splitlines()[1])
    kept = str(error) + room.said(room.call()).reply.decode()
    assert not [secret for secret in secrets if secret in kept]
    assert room.spent() == 0


@pytest.mark.parametrize(
    ("cloud", "key", "words"),
    [
        ("bedrock", clouds.ACCESS_KEY, "an access key's id without its secret"),
        ("bedrock", "a:b:c:d", "4 parts"),
        ("bedrock", "lower:secret", "no access key's id"),
        ("bedrock", '{"a":1}', "not JSON"),
        ("vertex", "AIzaSyTest", "takes no API key"),
        ("vertex", "/etc/account.json", "the path of a file"),
        ("vertex", '{"type":"authorized_user"}', "must be a service account's"),
        ("vertex", '{"type":"service_account","client_email":"a@b"}', "lacks its `private_key`"),
        ("vertex", clouds.account("http://127.0.0.1:1", private_key="-----BEGIN PRIVATE KEY-----"), "cannot be read"),
        ("vertex", clouds.account("ftp://x"), "must be https"),
    ],
    indirect=["cloud"],
)
def test_a_key_of_another_form_is_refused_in_one_sentence(room: Room, key: str, words: str) -> None:
    room.keys[room.cloud] = key
    error = room.refused()
    assert words in str(error)
    assert f"fumehood keys set {room.cloud}" in str(error)
    assert error.mendable
    assert key not in str(error)
    assert room.double.asked == []


def test_without_a_key_the_remedy_is_told(room: Room) -> None:
    del room.keys[room.cloud]
    assert f"fumehood keys set {room.cloud}" in str(room.refused())


def test_without_the_extra_the_remedy_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.keys["vertex"] = keys.checked("vertex", clouds.account(room.double_url))
    for name in [name for name in sys.modules if name.startswith(("botocore", "google.oauth2"))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setitem(sys.modules, "google.oauth2", None)
    error = room.refused()
    assert f"`pip install fumehood[{room.cloud}]`" in str(error)
    assert error.mendable
    assert room.double.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_failures_that_pass_are_tried_again(room: Room, stream: bool) -> None:
    limited = Failure(429, "ThrottlingException", headers={"retry-after": "7"})
    room.double.script = in_turn(limited, Failure(529), Failure(503), Failure(500), fake.text())
    if stream:
        assert room.read()[-1]["type"] == "message_stop"
    else:
        assert room.say().content[0].text == "Hello."
    assert len(room.waits) == 4
    assert room.waits[0] == 7.0
    assert room.spent() == pytest.approx((100 * 3 + 50 * 15) / 1e6)


def test_trying_again_has_a_ceiling_and_then_costs_nothing(room: Room) -> None:
    room.double.script = lambda _: Failure(429, "ThrottlingException")
    with pytest.raises(anthropic.RateLimitError):
        room.say()
    assert len(room.double.asked) == 6
    assert room.spent() == 0


@pytest.mark.parametrize("status", [400, 404])
def test_what_the_cloud_refuses_is_told_once(room: Room, status: int) -> None:
    room.double.script = lambda _: Failure(status, "ValidationException", f"too long {room.keys[room.cloud]}")
    with pytest.raises(anthropic.APIStatusError, match="too long") as caught:
        room.say()
    assert caught.value.status_code == status
    assert room.keys[room.cloud] not in str(caught.value)
    assert len(room.double.asked) == 1


def test_an_account_without_rights_is_no_fault_of_the_call(room: Room) -> None:
    told = "You don't have access to the model with the specified model ID."
    room.double.script = lambda _: Failure(403, "AccessDeniedException", told)
    error = room.refused()
    assert told in str(error)
    assert (error.retryable, error.mendable) == (False, True)


@pytest.mark.parametrize("cloud", ["bedrock"], indirect=True)
def test_a_model_that_broke_at_bedrock_is_tried_again(room: Room) -> None:
    room.double.script = in_turn(Failure(424, "ModelErrorException"), fake.text())
    assert room.say().content[0].text == "Hello."


def test_a_connection_that_breaks_is_tried_again(room: Room) -> None:
    room.double.script = in_turn(Broken(fake.text(), 0), fake.text("Again."))
    assert room.say().content[0].text == "Again."


def test_an_answer_that_is_no_message_is_no_answer(room: Room) -> None:
    room.double.script = lambda _: {"completion": "?"}
    assert "not a message" in str(room.refused())
    # It may have been paid for, so each time it is asked for with money of its own.
    assert len(room.double.asked) == TRIES


def test_a_cloud_that_does_not_answer_in_time_is_told(room: Room) -> None:
    room.say()  # the library is loaded, and connected
    refused = threading.Event()
    room.double.script = lambda _: refused.wait(60) and fake.text()
    room.upstream._line.retries.deadline_s = 1.0
    with pytest.raises(anthropic.APIStatusError, match="ReadTimeout") as caught:
        room.say()
    # It answers only now.
    refused.set()
    assert caught.value.status_code == 504


def test_a_stream_that_breaks_off_settles_what_was_counted(room: Room) -> None:
    cut_after = 4 if room.cloud == "vertex" else 3  # which sends a ping before that
    room.double.script = lambda _: Broken(fake.text("a" * 400), cut_after)
    last = room.read()[-1]
    assert last["type"] == "error"
    assert "broke off" in last["error"]["message"]
    call = room.call()
    assert call.status == 502
    assert (call.usage.input_tokens, call.usage.output_tokens) == (100, 100)
    assert json.loads(room.said(call).reply)["content"][0]["text"] == "a" * 200


@pytest.mark.parametrize("cloud", ["bedrock"], indirect=True)
def test_a_frame_whose_checksum_is_wrong_ends_the_stream(room: Room) -> None:
    room.double.script = lambda _: Garbled(fake.text("a" * 400), 3)
    last = room.read()[-1]
    assert "broke off (ChecksumMismatch)" in last["error"]["message"]
    assert room.call().status == 502


@pytest.mark.parametrize(
    ("cloud", "limited", "down", "status"),
    [
        ("bedrock", "throttlingException", "serviceUnavailableException", 503),
        ("vertex", "rate_limit_error", "overloaded_error", 529),
    ],
    indirect=["cloud"],
)
def test_an_error_in_a_stream_is_tried_again_before_the_first_event_and_told_after(
    room: Room, limited: str, down: str, status: int
) -> None:
    room.double.script = in_turn(Thrown(fake.text(), 0, limited), fake.text("Again."))
    assert room.read()[-1]["type"] == "message_stop"
    assert len(room.waits) == 1
    room.double.script = lambda _: Thrown(fake.text("a" * 400), 3, down, f"no: {room.keys[room.cloud]}")
    last = room.read()[-1]
    assert last["type"] == "error"
    assert last["error"]["message"] == f"The provider answered {status}: no: [secret]"
    with room.store.begin() as tx:
        assert sorted(call.status for call in tx.calls.find()) == [200, 502]


def test_a_caller_that_goes_away_settles_what_was_counted(room: Room) -> None:
    room.double.script = lambda _: Broken(fake.text("a" * 400), 99, wait_s=1.0)
    body = {"model": room.model, "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "?"}]}
    headers = {"x-api-key": tokens.mint(room.claims(), SECRET)}
    with httpx.stream("POST", f"{room.url}/v1/messages", json=body, headers=headers, timeout=60) as response:
        next(response.iter_lines())
    assert room.call().status == 499
    assert 0 < room.spent() < 0.01


def test_tokens_are_counted_or_estimated_upwards(room: Room) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    with room.client() as client:
        counted = client.messages.count_tokens(model=room.model, messages=messages).input_tokens
    if room.cloud == "vertex":
        assert counted == 321
        assert room.double.asked[0].body["model"] == clouds.VERTEX_MODEL
    else:
        assert counted == request.most_input_tokens({"messages": messages})
    assert room.spent() == 0


def test_a_call_is_recorded_and_told_without_secrets(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    pem = clouds.private_pem()
    secrets = [room.keys[room.cloud], pem]
    room.double.script = lambda _: fake.text(f"The key is {secrets[0]}, or {pem}.")
    with caplog.at_level("DEBUG", "fumehood"):
        room.say()
    call = room.call()
    kept = room.said(call).reply.decode()
    assert "The key is [secret], or [secret]" in kept
    kept += room.said(call).request.decode() + str([vars(line) for line in caplog.records])
    assert not [secret for secret in secrets if secret in kept or json.dumps(secret)[1:-1] in kept]
