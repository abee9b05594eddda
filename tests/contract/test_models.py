"""The capability llm, on each adapter that has it: from a program to the gateway of models, and nothing besides."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from fumehood.domain.execution import Kind, Outcome
from fumehood.domain.experiment import Execution, ExecutionState
from fumehood.domain.ids import ExecutionId
from fumehood.domain.token import execution_secret, id_for_execution
from fumehood.errors import SandboxUnavailableError
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from sandbox.egress.granting import ModelGateway
from sandbox.egress.models import MAX_ANSWER, MAX_BODY
from sandbox.egress.rules import Rules
from sandbox.lab import find
from sandbox.local import LocalSandbox
from tests.contract.conftest import RUN_DIR
from tests.contract.test_egress import ASK, said
from tests.fakes import provider, upstream
from tests.fakes.gateway import SECRET, Gateway, gateway
from tests.fakes.provider import KEY, Provider

if TYPE_CHECKING:
    from fumehood.ports import Sandbox
    from tests.contract.conftest import Bench

pytestmark = [
    pytest.mark.escape,
    pytest.mark.parametrize(
        "bench",
        [pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)],
        indirect=True,
    ),
]

MODEL = "claude-sonnet-4-6"
EXECUTION = "exec_01kaw3v9m1c7d2e5f8g0h3j6kq"
CAP_USD = 0.05
ASKING = """
import urllib.error, urllib.request
def post(path, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    place = os.environ["ANTHROPIC_BASE_URL"] + path
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(place, data, headers), timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()
def message(most=100, **more):
    return {"model": MODEL, "max_tokens": most, "messages": [{"role": "user", "content": "Hello?"}], **more}
def raw(head, body=b""):
    return ask("\\r\\n".join([*head, "Host: egress", "", ""]).encode("latin-1") + body)
"""
EVERYWHERE = """
def seen(words):
    found, read = [], 0
    for top in ("/egress", "/proc", "/in", "/work", "/tmp", "/etc", "/dev/shm"):
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if name not in ("task", "sys", "fd", "fdinfo", "map_files")]
            for name in names:
                try:
                    descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK)
                    data = os.read(descriptor, 1 << 20)
                    os.close(descriptor)
                except OSError:
                    continue
                read += 1
                if any(word in data for word in words): found.append(os.path.join(folder, name))
    return found, read > 20
"""


@dataclass
class Ground:
    """A bench whose sandbox leads to a gateway of models, and the execution that may ask it."""

    bench: Bench
    gateway: Gateway
    double: Provider

    def build(self, url: str = "", **rules: Any) -> Sandbox:
        models = ModelGateway(url=url or self.gateway.url, secret=lambda: execution_secret(SECRET))
        told = Rules(**{"models": models, **rules})
        found, state = {**find(self.bench.state_dir)}, self.bench.state_dir
        if self.bench.adapter == "local":
            return LocalSandbox(state, RUN_DIR, found, egress=told)
        from sandbox import docker_engine
        from sandbox.docker import DockerSandbox

        return DockerSandbox(docker_engine.connect(), state, RUN_DIR, found, egress=told)

    def use(self, url: str = "", **rules: Any) -> None:
        self.bench.sandbox = self.build(url, **rules)

    def save(self, **changes: Any) -> None:
        asking = Execution(
            id=ExecutionId(EXECUTION), direction_id=self.gateway.direction.id, kind=Kind.RUN, image="plain",
            command=("true",), network="allow:llm", llm_usd=CAP_USD, state=ExecutionState.LAUNCHED,
        )  # fmt: skip
        with self.gateway.store.begin() as tx:
            tx.executions.save(dataclasses.replace(asking, **changes))

    def python(self, code: str, **asked: Any) -> Outcome:
        labels = {"execution": EXECUTION, "direction": self.gateway.direction.id}
        code = f"{ASK}{ASKING}{EVERYWHERE}\nMODEL = {MODEL!r}\n{code}"
        return self.bench.python(code, **{"network": "allow:llm", "labels": labels, **asked})


@pytest.fixture
def ground(bench: Bench) -> Iterator[Ground]:
    double = Provider()
    with provider.serving(double.app) as url:
        above = AnthropicUpstream(url, key=lambda: KEY)
        with gateway({"anthropic": above}) as served:
            direction = dataclasses.replace(served.direction, model=MODEL)
            with served.store.begin() as tx:
                tx.directions.save(direction)
            made = Ground(bench, dataclasses.replace(served, direction=direction), double)
            made.save()
            made.use()
            yield made
        above.close()


def test_a_program_asks_its_model_by_either_protocol_and_pays_from_its_own_account(ground: Ground) -> None:
    outcome = ground.python("""
whole = post("/v1/messages", message())
streamed = post("/v1/messages", message(stream=True))
chat = post("/v1/chat/completions", message())
counted = post("/v1/messages/count_tokens", {k: v for k, v in message().items() if k != "max_tokens"})
models = urllib.request.urlopen(os.environ["OPENAI_BASE_URL"] + "/models").read().decode()
print(json.dumps([whole, streamed, chat, counted, models]))
""")
    whole, streamed, chat, counted, models = said(outcome)
    assert (whole[0], json.loads(whole[2])["content"][0]["text"]) == (200, "Hello.")
    assert (streamed[:2], "message_stop" in streamed[2]) == ([200, "text/event-stream; charset=utf-8"], True)
    assert (chat[0], json.loads(chat[2])["choices"][0]["message"]["content"]) == (200, "Hello.")
    assert (counted[0], json.loads(counted[2])) == (200, {"input_tokens": 321})
    assert [one["id"] for one in json.loads(models)["data"]] == [MODEL]
    told = [(one.method, one.capability, one.path, one.status, one.bytes > 0) for one in outcome.egress]
    doors = [("POST", "/v1/messages"), ("POST", "/v1/messages"), ("POST", "/v1/chat/completions")]
    doors += [("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models")]
    assert told == [(method, "llm", path, 200, True) for method, path in doors]
    ground.gateway.closed(3)
    account = id_for_execution(EXECUTION, 0)
    entries = ground.gateway.entries()
    assert [one.kind for one in entries] == ["reserved", "settled"] * 3
    assert {(one.token, one.role, one.model) for one in entries} == {(account, "execution", MODEL)}
    with ground.gateway.store.begin(write=False) as tx:
        assert tx.ledger.balance(account).usd == pytest.approx(3 * (100 * 3 + 50 * 15) / 1e6)


def test_events_come_one_after_the_other(ground: Ground) -> None:
    ground.double.script = lambda _: provider.Broken(provider.text(), after=3, wait_s=0.3)
    outcome = ground.python("""
import time
begun, came = time.monotonic(), []
with socket.socket(socket.AF_UNIX) as stream:
    stream.settimeout(20); stream.connect("/egress/socket")
    body = json.dumps(message(stream=True)).encode()
    head = ["POST /llm/v1/messages HTTP/1.1", "Host: egress", "Content-Type: application/json"]
    stream.sendall("\\r\\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    while chunk := stream.recv(65536): came.append((time.monotonic() - begun, chunk.decode()))
print(json.dumps([came[0][0], came[-1][0], "".join(text for _, text in came)]))
""")
    first, last, text = said(outcome)
    assert last - first > 0.4
    assert "message_start" in text
    assert "broke off" in text
    assert "Transfer-Encoding: chunked" in text


def test_over_its_cap_it_is_told_and_goes_on(ground: Ground) -> None:
    outcome = ground.python("""
print(json.dumps([post("/v1/messages", message(10_000)), post("/v1/messages", message(100))]))
""")
    (status, kind, body), cheaper = said(outcome)
    assert (status, kind) == (402, "application/problem+json")
    assert (json.loads(body)["cap"], json.loads(body)["type"]) == ("token", "urn:fumehood:problem:over-budget")
    assert cheaper[0] == 200
    assert [one.status for one in outcome.egress] == [402, 200]


def test_it_has_no_say_in_which_model_it_is_given(ground: Ground) -> None:
    status, _, body = said(ground.python('print(json.dumps(post("/v1/messages", message() | {"model": "offline"})))'))
    assert status == 403
    assert "not for 'offline'" in json.loads(body)["error"]["message"]
    assert ground.double.asked == []


@pytest.mark.parametrize(
    "changes",
    [{"fence": 1}, {"state": ExecutionState.COLLECTED}, {"network": "none"}],
    ids=["begun again", "ended", "not granted"],
)
def test_what_the_database_does_not_grant_is_not_given(ground: Ground, changes: dict[str, Any]) -> None:
    ground.save(**changes)
    status, _, _ = said(ground.python('print(json.dumps(post("/v1/messages", message())))'))
    assert (status, ground.gateway.entries()) == (401, ())


def test_the_token_is_nowhere_inside(ground: Ground) -> None:
    # Written as numbers, so that the program does not find itself.
    outcome = ground.python(f"""
words = [bytes({list(b"fhx_")}), bytes({list(EXECUTION.encode())})]
answer = post("/v1/messages", message())
found, enough = seen(words)
everywhere = (str(os.environ) + str(answer)).encode()
keys = [os.environ["ANTHROPIC_API_KEY"], os.environ["OPENAI_API_KEY"]]
print(json.dumps([answer[0], found, [word in everywhere for word in words], enough, keys]))
""")
    assert said(outcome) == [200, [], [False, False], True, ["no-key-is-needed-here"] * 2]
    for place in (ground.bench.state_dir / "executions").rglob("*"):
        assert not place.is_file() or b"fhx_" not in place.read_bytes()


def test_only_some_headers_go_up_and_none_that_could_be_a_key(ground: Ground) -> None:
    with upstream.serving() as double:
        ground.use(double.url)
        double.headers |= {"Set-Cookie": "a=b", "X-Internal": "1", "Retry-After": "7", "X-Should-Retry": "false"}
        outcome = ground.python("""
body = json.dumps(message()).encode()
head = ["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
own = ["Authorization: Bearer own", "x-api-key: own", "Cookie: c=d", "X-Forwarded-For: 1.1.1.1", "traceparent: 00-1"]
print(json.dumps(raw([*head, *own, "anthropic-version: 2023-06-01", "anthropic-beta: x"], body)[1]))
""")
        head = said(outcome)
        ((target, headers),) = double.hits
    assert target == "/v1/messages"
    allowed = {"host", "accept-encoding", "user-agent", "connection", "content-type", "content-length"}
    assert set(headers) == {*allowed, "x-api-key", "anthropic-version"}
    assert headers["x-api-key"].startswith("fhx_")
    names = {line.split(":")[0].lower() for line in head.splitlines()[1:]}
    kept = {"content-type", "x-content-type-options", "connection", "content-length", "retry-after", "x-should-retry"}
    assert names - {""} == kept


@pytest.mark.parametrize(("kind", "status"), [("application/json", 502), ("text/event-stream", 200)])
def test_an_answer_that_quotes_the_token_is_held_back(ground: Ground, kind: str, status: int) -> None:
    with upstream.serving() as double:
        ground.use(double.url)
        double.headers, double.body, double.quotes = {"Content-Type": kind}, b"data: your token is ", "x-api-key"
        outcome = ground.python("""
status, _, body = raw(["GET /llm/v1/models HTTP/1.1"])
print(json.dumps([status, body.decode()]))
""")
        assert double.hits[0][1]["x-api-key"].startswith("fhx_")
    found, body = said(outcome)
    assert found == status
    assert "fhx_" not in body


REFUSED = {
    "another path": (["GET /llm/healthz HTTP/1.1"], b"", 403),
    "a path above": (["GET /llm/../healthz HTTP/1.1"], b"", 403),
    "a query": (["GET /llm/v1/models?a=b HTTP/1.1"], b"", 403),
    "a host": (["GET http://egress/llm/v1/models HTTP/1.1"], b"", 403),
    "another method": (["PUT /llm/v1/messages HTTP/1.1", "Content-Length: 2"], b"{}", 405),
    "a question by GET": (["GET /llm/v1/messages HTTP/1.1"], b"", 405),
    "a body with GET": (["GET /llm/v1/models HTTP/1.1", "Content-Length: 2"], b"{}", 413),
    "no type": (["POST /llm/v1/messages HTTP/1.1", "Content-Length: 2"], b"{}", 415),
    "a form": (
        ["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 2"],
        b"{}",
        415,
    ),
    "packed": (
        ["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json", "Content-Encoding: gzip",
         "Content-Length: 2"],
        b"{}",
        415,
    ),
    "no JSON": (["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json", "Content-Length: 2"], b"{]", 400),
    "a list": (["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json", "Content-Length: 2"], b"[]", 400),
    "an older version": (
        ["POST /llm/v1/messages HTTP/1.0", "Content-Type: application/json", "Content-Length: 2"],
        b"{}",
        505,
    ),
    "a switch": (["GET /llm/v1/models HTTP/1.1", "Upgrade: h2c", "Connection: upgrade"], b"", 403),
    "announced as too large": (
        ["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json", f"Content-Length: {MAX_BODY + 1}"],
        b"",
        413,
    ),
}  # fmt: skip


def test_what_is_no_question_never_goes_up(ground: Ground) -> None:
    with upstream.serving() as double:
        ground.use(double.url)
        cases = {name: (head, body.decode()) for name, (head, body, _) in REFUSED.items()}
        code = f"cases = json.loads({json.dumps(json.dumps(cases))})\n"
        code += "told = {name: raw(head, body.encode()) for name, (head, body) in cases.items()}\n"
        code += f"""
large = b'{{"a": "' + b"x" * {MAX_BODY} + b'"}}'
pieces = b"%x\\r\\n%b\\r\\n0\\r\\n\\r\\n" % (len(large), large)
head = ["POST /llm/v1/messages HTTP/1.1", "Content-Type: application/json"]
told["in pieces, and too large"] = raw([*head, "Transfer-Encoding: chunked"], pieces)
told["too large, by a library"] = post("/v1/messages", large)
print(json.dumps({{name: answer[0] for name, answer in told.items()}}))
"""
        outcome = ground.python(code, wall_s=90)
        found = said(outcome)
        assert (double.hits, len(outcome.egress)) == ([], len(found))
    expected = {name: status for name, (_, _, status) in REFUSED.items()}
    assert found == {**expected, "in pieces, and too large": 413, "too large, by a library": 413}
    # But for the one that names a host.
    assert [one.capability for one in outcome.egress].count("llm") == len(found) - 1


def test_requests_are_counted(ground: Ground) -> None:
    ground.use(requests=2)
    outcome = ground.python('print(json.dumps([post("/v1/messages", message())[0] for _ in range(3)]))')
    assert said(outcome) == [200, 200, 429]


def test_a_gateway_that_is_away_or_answers_too_much_is_told(ground: Ground) -> None:
    with upstream.serving() as double:
        ground.use(double.url)
        double.answers = [(200, {}, b"x" * (MAX_ANSWER + 1)), (307, {"Location": "http://1.1.1.1/"}, b"")]
        outcome = ground.python('print(json.dumps([post("/v1/messages", message())[0] for _ in range(2)]))')
        assert (said(outcome), len(double.hits)) == ([502, 502], 2)
    outcome = ground.python('print(json.dumps(post("/v1/messages", message())[0]))')
    assert said(outcome) == 502


def test_nothing_else_is_reached_with_it(ground: Ground) -> None:
    outcome = ground.python("""
place = os.environ["ANTHROPIC_BASE_URL"].rpartition("/")[0]
def status(path):
    try: return urllib.request.urlopen(place + path).status
    except urllib.error.HTTPError as error: return error.code
print(json.dumps([status("/arxiv/api/query?id_list=1"), status("/llm"), status("/"), "ARXIV_URL" in os.environ]))
""")
    assert said(outcome) == [403, 403, 403, False]


def test_it_is_refused_where_nobody_pays_or_the_gateway_is_not_known(ground: Ground) -> None:
    labels = {"execution": EXECUTION, "direction": ground.gateway.direction.id}
    for named, rules, sentence in (
        ({}, {}, "no direction that would pay"),
        (labels, {"models": None}, "does not know the gateway"),
        (labels, {"models": ModelGateway(url="http://127.0.0.1:1", secret=lambda: b"")}, "does not know the gateway"),
        (labels, {"mode": "off"}, "switched off"),
    ):
        ground.use(**rules)
        with pytest.raises(SandboxUnavailableError, match=sentence) as refused:
            ground.bench.launch("true", network="allow:llm", labels=named)
        assert refused.value.reason == "capability_unsupported"
        assert refused.value.remedy


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_it_is_asked_also_where_other_answers_are_recorded(ground: Ground, mode: str) -> None:
    ground.use(mode=mode)
    outcome = ground.python('print(json.dumps(post("/v1/messages", message())[0]))')
    assert (said(outcome), [one.cached for one in outcome.egress]) == (200, [False])
    assert not (ground.bench.state_dir / "egress").exists() or not list((ground.bench.state_dir / "egress").iterdir())


def test_a_gateway_in_the_place_of_one_that_died_pays_from_the_same_account(ground: Ground) -> None:
    labels = {"execution": EXECUTION, "direction": ground.gateway.direction.id}
    code = f"""{ASK}{ASKING}
import time
MODEL, gateway = {MODEL!r}, os.stat("/egress/socket").st_ino
print(post("/v1/messages", message())[0], flush=True)
while os.stat("/egress/socket").st_ino == gateway: time.sleep(0.05)
print(post("/v1/messages", message())[0])
"""
    name = ground.bench.launch(
        "python3", "program.py", files={"work/program.py": code}, network="allow:llm", labels=labels
    )
    ground.bench.says(name, b"200\n")
    # One that was just begun is not begun again for a second.
    time.sleep(1.1)
    os.kill(int((ground.bench.state_dir / "executions" / name / "egress.pid").read_text(encoding="ascii")), 9)
    ground.bench.wait(name)
    ground.gateway.closed(2)
    assert [one.token for one in ground.gateway.entries()] == [id_for_execution(EXECUTION, 0)] * 4
