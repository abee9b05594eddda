"""The way out of a sandbox, on each adapter that has one: what is granted answers, and nothing else is reached."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fumehood.domain.execution import Outcome, Verdict
from fumehood.errors import BadInputError, ConflictError, SandboxUnavailableError
from fumehood.gateway.keys import Keys
from sandbox import records, uids
from sandbox.egress.pair import Caps, launch_pair
from sandbox.egress.rules import Rules
from sandbox.lab import find
from sandbox.local import LocalSandbox
from tests.contract.conftest import RUN_DIR
from tests.fakes.upstream import Double, serving
from tests.fakes.ways_round import ALLOWED, ways

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

ROOT = Path(__file__).parents[2]
KEY = "key-that-must-not-be-seen-8f3a"

ASK = """
import json, os, socket, sys
def ask(told, patience=20):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(patience)
        stream.connect("/egress/socket")
        try:
            stream.sendall(told)
        except OSError:
            pass
        said = b""
        try:
            while chunk := stream.recv(65536):
                said += chunk
        except OSError:
            pass
    head, _, body = said.partition(b"\\r\\n\\r\\n")
    words = head.split(None, 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), head.decode("latin-1"), body
def get(target, *headers):
    lines = [f"GET {target} HTTP/1.1", "Host: egress", *headers, "", ""]
    return ask("\\r\\n".join(lines).encode("latin-1"))
"""


@dataclass
class Ground:
    """A bench whose sandbox leads to a double, and a canary beside it."""

    bench: Bench
    double: Double
    canary: Double

    def build(self, **rules: Any) -> Sandbox:
        rules = {"doubles": {"semantic-scholar": self.double.url, "openalex": self.double.url}} | rules
        found, state = {**find(self.bench.state_dir)}, self.bench.state_dir
        told = Rules(**{"interval_s": 0.0, **rules})
        if self.bench.adapter == "local":
            return LocalSandbox(state, RUN_DIR, found, egress=told)
        from sandbox import docker_engine
        from sandbox.docker import DockerSandbox

        return DockerSandbox(docker_engine.connect(), state, RUN_DIR, found, egress=told)

    def use(self, **rules: Any) -> None:
        self.bench.sandbox = self.build(**rules)

    def python(self, code: str, network: str = "allow:semantic-scholar", **asked: Any) -> Outcome:
        return self.bench.python(ASK + code, network=network, **asked)

    def launch(self, code: str, network: str = "allow:semantic-scholar", **asked: Any) -> str:
        return self.bench.launch(
            "python3", "program.py", files={"work/program.py": ASK + code}, network=network, **asked
        )

    def place(self, name: str) -> Path:
        return self.bench.state_dir / "executions" / name


@pytest.fixture
def ground(bench: Bench) -> Iterator[Ground]:
    with serving() as double, serving() as canary:
        made = Ground(bench, double, canary)
        made.use()
        yield made


def said(outcome: Outcome) -> Any:
    assert outcome.verdict == Verdict.SUCCEEDED, outcome
    return json.loads(outcome.output_tail)


def test_what_is_granted_answers_through_the_socket(ground: Ground) -> None:
    outcome = ground.python(f"status, head, body = get({ALLOWED!r}); print(json.dumps([status, head, body.decode()]))")
    status, head, body = said(outcome)
    assert (status, body) == (200, '{"total": 1}')
    assert "Content-Type: application/json" in head
    assert ground.double.targets == ["/graph/v1/paper/search?limit=1&query=diffusion"]


def test_what_is_granted_answers_on_loopback_too(ground: Ground) -> None:
    code = """
import urllib.request
place = os.environ["SEMANTIC_SCHOLAR_URL"] + "/graph/v1/paper/search?query=a"
answers = [urllib.request.urlopen(place).read().decode() for _ in range(3)]
print(json.dumps([answers, os.environ["FUMEHOOD_EGRESS_SOCKET"], "OPENALEX_URL" in os.environ]))
"""
    assert said(ground.python(code)) == [['{"total": 1}'] * 3, "/egress/socket", False]


@pytest.mark.parametrize("code", [0, 3, 127])
def test_a_command_behind_the_forwarder_ends_as_it_would_alone(ground: Ground, code: int) -> None:
    command = ["no-such-command"] if code == 127 else ["sh", "-c", f"echo out; echo err >&2; exit {code}"]
    outcome = ground.bench.run(*command, network="allow:semantic-scholar")
    assert (outcome.exit_code, outcome.verdict) == (code, Verdict.FAILED if code else Verdict.SUCCEEDED)
    assert code == 127 or outcome.output_tail == "out\nerr\n"


def test_every_request_is_told(ground: Ground) -> None:
    code = f"get({ALLOWED!r}); get('/semantic-scholar/graph/v1/secret'); get('/openalex/works')"
    told = [(one.method, one.capability, one.path, one.status, one.bytes) for one in ground.python(code).egress]
    assert told == [
        ("GET", "semantic-scholar", "/graph/v1/paper/search", 200, 12),
        ("GET", "", "/semantic-scholar/graph/v1/secret", 403, 0),
        ("GET", "", "/openalex/works", 403, 0),
    ]


def test_the_key_is_added_outside_and_seen_nowhere_inside(ground: Ground) -> None:
    Keys(ground.bench.state_dir).set("semantic-scholar", KEY)
    # Written as numbers, so that the program does not find itself.
    code = f"""
key, found, read = bytes({list(KEY.encode())}), [], 0
status, head, body = get({ALLOWED!r})
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
            if key in data: found.append(os.path.join(folder, name))
everywhere = head.encode() + body + str(os.environ).encode()
print(json.dumps([status, found, key in everywhere, read > 20]))
"""
    assert said(ground.python(code)) == [200, [], False, True]
    assert ground.double.hits[0][1]["x-api-key"] == KEY


def test_an_answer_that_quotes_the_key_is_held_back(ground: Ground) -> None:
    Keys(ground.bench.state_dir).set("semantic-scholar", KEY)
    ground.double.body = f'{{"your key is": "{KEY}"}}'.encode()
    status, body = said(
        ground.python(f"status, _, body = get({ALLOWED!r}); print(json.dumps([status, body.decode()]))")
    )
    assert status == 502
    assert KEY not in body


def test_only_headers_of_the_gateway_go_up_and_come_down(ground: Ground) -> None:
    ground.double.headers |= {"Set-Cookie": "a=b", "X-Internal": "host-7", "Location": "http://elsewhere/"}
    code = f"print(json.dumps(get({ALLOWED!r}, 'Cookie: c=d', 'X-Forwarded-Host: evil', 'Authorization: Bearer x')[1]))"
    head = said(ground.python(code))
    assert set(ground.double.hits[0][1]) == {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert not {"set-cookie", "x-internal", "location", "server"} & {
        line.split(":")[0].lower() for line in head.splitlines()
    }


def test_no_way_round_reaches_anything(ground: Ground) -> None:
    cases = {name: told.hex() for name, told in ways(ground.canary.port, ground.double.port).items()}
    code = "cases = json.load(open('cases.json'))\n"
    code += "print(json.dumps({name: ask(bytes.fromhex(told), 4)[0] for name, told in cases.items()}))"
    answers = said(ground.python(code, files={"work/cases.json": json.dumps(cases)}, wall_s=120))
    assert {name: status for name, status in answers.items() if status and not 400 <= status < 600} == {}
    # The very same program with what is allowed does reach it, so the double would have been hit.
    assert (ground.canary.hits, ground.double.hits) == ([], [])
    outcome = ground.python(f"print(json.dumps(get({ALLOWED!r})[0]))")
    assert (said(outcome), len(ground.double.hits)) == (200, 1)


def test_a_second_request_on_a_connection_is_never_read(ground: Ground) -> None:
    code = f"""
one = b"GET {ALLOWED} HTTP/1.1\\r\\nHost: egress\\r\\n\\r\\n"
other = b"GET http://127.0.0.1:{ground.canary.port}/ HTTP/1.1\\r\\nHost: egress\\r\\n\\r\\n"
print(json.dumps(ask(one + other + one)[1].count("HTTP/1.1")))
"""
    assert said(ground.python(code)) == 1
    assert (len(ground.double.hits), ground.canary.hits) == (1, [])


def test_there_is_no_other_network(ground: Ground) -> None:
    code = f"""
reached = []
for family, place in [(2, ("127.0.0.1", {ground.canary.port})), (2, ("127.0.0.1", {ground.double.port})),
                      (2, ("169.254.169.254", 80)), (2, ("1.1.1.1", 443)), (10, ("::1", {ground.canary.port}))]:
    try:
        with socket.socket(family) as stream:
            stream.settimeout(2)
            stream.connect(place)
            reached.append(place)
    except OSError: pass
try: reached.append(socket.getaddrinfo("api.semanticscholar.org", 443))
except OSError: pass
print(json.dumps(reached))
"""
    assert said(ground.python(code)) == []
    assert ground.canary.hits == ground.double.hits == []


def test_the_folder_is_read_only_and_the_socket_only_its_own(ground: Ground) -> None:
    code = """
said = {}
for name, act in {"write": lambda: open("/egress/x", "w"), "unlink": lambda: os.unlink("/egress/socket"),
                  "chmod": lambda: os.chmod("/egress/socket", 0o666),
                  "rename": lambda: os.rename("/egress/socket", "/work/s"),
                  "forward": lambda: open("/egress/forward.py", "w")}.items():
    try: act(); said[name] = "done"
    except OSError as error: said[name] = error.strerror
print(json.dumps(said), flush=True)
import time; time.sleep(60)
"""
    name = ground.launch(code)
    ground.bench.says(name, b"forward")
    assert "done" not in json.loads(ground.bench.sandbox.follow(name)).values()
    home = ground.bench.sandbox.installation  # type: ignore[attr-defined]
    socket = RUN_DIR / home / name / "egress" / "socket"
    owner = uids.claims(RUN_DIR, home)[name]
    found = socket.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (owner, 0o600)
    told = process_of(ground, name)
    status = Path(f"/proc/{told}/status").read_text(encoding="ascii")
    assert f"Uid:\t{uids.claims(RUN_DIR, home)[f'{name}.egress']}\t" in status
    assert str(owner) not in status
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def process_of(ground: Ground, name: str, kind: str = "egress") -> int:
    return int((ground.place(name) / f"{kind}.pid").read_text(encoding="ascii"))


def test_an_execution_has_a_budget_of_requests(ground: Ground) -> None:
    ground.use(requests=3)
    code = f"print(json.dumps([get({ALLOWED!r})[0] for _ in range(5)]))"
    assert said(ground.python(code)) == [200, 200, 200, 429, 429]
    assert len(ground.double.hits) == 3


def test_an_answer_too_large_is_not_passed_on(ground: Ground) -> None:
    ground.double.body = b"x" * (5 * 1024 * 1024 + 1)
    assert said(ground.python(f"print(json.dumps(get({ALLOWED!r})[0]))")) == 502
    ground.double.body = b"x" * 5 * 1024 * 1024
    assert said(ground.python(f"print(json.dumps(len(get({ALLOWED!r})[2])))")) == 5 * 1024 * 1024


def test_two_hundred_connections_at_once_are_survived(ground: Ground) -> None:
    ground.use(requests=200)
    code = f"""
idle = []
for _ in range(20):
    stream = socket.socket(socket.AF_UNIX)
    stream.connect("/egress/socket")
    stream.sendall(b"GET / HT")
    idle.append(stream)
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(50) as pool:
    found = list(pool.map(lambda _: get({ALLOWED!r})[0], range(180)))
print(json.dumps([found.count(200), len(found)]))
"""
    answered, asked = said(ground.python(code, processes=128, memory_mib=512, wall_s=120))
    assert (answered, asked) == (180, 180)


def test_a_redirect_is_followed_only_where_one_might_ask_oneself(ground: Ground) -> None:
    here, there = ground.double.url, ground.canary.url
    places = {
        f"{here}/graph/v1/paper/search?query=b": 200,
        "/graph/v1/paper/search?query=c": 200,
        f"{there}/graph/v1/paper/search": 502,
        "/graph/v1/secret": 502,
        "//127.0.0.1/graph/v1/paper/search": 502,
        "/graph/v1/../../x": 502,
        "": 502,
    }
    for place, status in places.items():
        ground.double.answers.append((302, {"Location": place}, b""))
        if status == 200:
            ground.double.answers.append((200, {"Content-Type": "application/json"}, b"{}"))
    code = f"print(json.dumps([get({ALLOWED!r})[0] for _ in range({len(places)})]))"
    assert said(ground.python(code)) == list(places.values())
    assert ground.canary.hits == []


def test_recorded_answers_are_given_again_without_a_network(ground: Ground) -> None:
    code = f"status, head, body = get({ALLOWED!r}); print(json.dumps([status, body.decode('latin-1')]))"
    ground.use(mode="record")
    ground.double.body = bytes(range(256))
    first = said(ground.python(code))
    ground.use(mode="replay", doubles={"semantic-scholar": "http://127.0.0.1:9"})
    again = ground.python(code.replace("query=diffusion&limit=1", "limit=1&query=diffusion"))
    assert (said(again), [one.cached for one in again.egress]) == (first, [True])
    missing = ground.python(code.replace("diffusion", "another"))
    assert said(missing)[0] == 504
    assert "not recorded" in said(missing)[1]
    assert len(ground.double.hits) == 1


def test_what_was_recorded_and_then_changed_is_not_given(ground: Ground) -> None:
    ground.use(mode="record")
    ground.python(f"get({ALLOWED!r})")
    (kept,) = (ground.bench.state_dir / "egress").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b'"total": 1', b'"total": 2'))
    ground.use(mode="replay")
    assert said(ground.python(f"print(json.dumps(get({ALLOWED!r})[0]))")) == 502


def test_a_killed_gateway_is_started_again(ground: Ground) -> None:
    ground.use(requests=4)
    code = f"""
import time
def one():
    try: return get({ALLOWED!r})[0]
    except OSError: return 0
print("first", one(), flush=True)
while one() == 200: time.sleep(0.05)
print("gone", flush=True)
while (status := one()) != 429: time.sleep(0.05)
print("again", status, flush=True)
"""
    name = ground.launch(code, wall_s=60)
    ground.bench.says(name, b"first 200")
    killed = process_of(ground, name)
    os.kill(killed, signal.SIGKILL)
    ground.bench.says(name, b"gone")
    # Whoever looks at the execution brings it back; what was spent stays spent.
    assert ground.bench.wait(name).verdict == Verdict.SUCCEEDED
    assert process_of(ground, name) != killed
    assert len(ground.double.hits) <= 4


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2, 0.5])
def test_nothing_is_left_of_a_gateway_killed_at_any_moment(ground: Ground, delay_s: float) -> None:
    name = ground.launch(f"while True: get({ALLOWED!r})")
    time.sleep(delay_s)
    os.kill(process_of(ground, name), signal.SIGKILL)
    ground.bench.sandbox.remove(name)
    assert ground.bench.left(ground.bench.state_dir) == {}


def test_a_gateway_ends_with_its_execution_though_nobody_looks(ground: Ground) -> None:
    name = ground.launch("pass")
    gateway = process_of(ground, name)
    ground.bench.until(lambda: not Path(f"/proc/{gateway}").exists(), 20)


@pytest.mark.parametrize(
    ("network", "error"),
    [
        ("allow:nowhere", BadInputError),
        ("allow:", BadInputError),
        ("deny:arxiv", BadInputError),
        ("allow:arxiv,example.org", BadInputError),
        ("host", BadInputError),
        ("relay:asks:somebody", BadInputError),
        ("allow:llm", SandboxUnavailableError),
        ("allow:arxiv,llm", SandboxUnavailableError),
    ],
)
def test_what_is_no_capability_is_refused(ground: Ground, network: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ground.bench.launch("true", network=network)
    assert ground.bench.left(ground.bench.state_dir) == {}


def test_capabilities_can_be_switched_off(ground: Ground) -> None:
    ground.use(mode="off")
    with pytest.raises(SandboxUnavailableError, match="FUMEHOOD_EGRESS"):
        ground.bench.launch("true", network="allow:arxiv")


def test_the_promise_is_held_and_told(ground: Ground) -> None:
    held = {one.promise: one for one in ground.bench.sandbox.capabilities()}
    assert held["S2"].held
    assert "S2" in ground.python("pass").isolation


ANSWERER = """
import sys; sys.path.insert(0, "/egress"); import dialogue
seen = b""
for question in dialogue.join():
    seen += question
    TALK
    TALK_MORE
print(seen.decode())
"""
ASKER = """
import sys, json; sys.path.insert(0, "/egress"); import dialogue
talk = dialogue.join()
"""


class Pair:
    """Both executions of a dialogue, launched together."""

    def __init__(self, ground: Ground, asker: str, answerer: str, **caps: Any) -> None:
        self.ground, bench = ground, ground.bench
        self.asking = bench.spec("python3", "program.py", files={"work/program.py": ASKER + asker}, wall_s=60)
        self.answering = bench.spec("python3", "program.py", files={"work/program.py": answerer}, wall_s=60)
        launch_pair(bench.sandbox, self.asking, self.answering, Caps(**caps))

    def outcomes(self) -> tuple[Outcome, Outcome]:
        found = []
        for spec in (self.asking, self.answering):
            self.ground.bench.wait(spec.name, 60)
            found.append(self.ground.bench.sandbox.collect(spec.name, self.ground.bench.folder / "out"))
        return found[0], found[1]


def answerer(act: str) -> str:
    return f"""
import sys, time; sys.path.insert(0, "/egress"); import dialogue
talk = dialogue.join()
seen = b""
for question in talk:
    seen += question
    {act}
print(seen.decode()[:1000])
"""


def test_a_query_never_sees_a_character_before_it_answered_for_the_last(ground: Ground) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    asker = f"answers = [talk.ask(c.encode()).decode() for c in {text!r}]; print(json.dumps(answers))"
    # It answers with all it has seen, and before that waits for more to come, which must not.
    act = """import select
    early, _, _ = select.select([talk._stream], [], [], 0.02)
    talk.say(seen + (b"!" if early else b""))"""
    asked, answered = Pair(ground, asker, answerer(act)).outcomes()
    assert said(asked) == [text[: t + 1] for t in range(len(text))]
    assert answered.output_tail == f"{text}\n"
    assert asked.detail == f"The dialogue ended after {len(text)} questions: gone."


def test_questions_sent_ahead_are_held_back(ground: Ground) -> None:
    asker = """
for c in (b"a", b"b", b"c"): talk.say(c)
print(json.dumps([talk.hear().decode() for _ in range(3)]))
"""
    act = """import select
    early, _, _ = select.select([talk._stream], [], [], 0.3)
    talk.say(seen + (b"!" if early else b""))"""
    asked, _ = Pair(ground, asker, answerer(act)).outcomes()
    assert said(asked) == ["a", "ab", "abc"]


ENDS = {
    "too_large": ("talk.ask(b'x' * 2000)", "talk.say(b'y')", {"message_bytes": 1000}),
    "too_large of an answer": ("talk.ask(b'x')", "talk.say(b'y' * 2000)", {"message_bytes": 1000}),
    "too_many": ("[talk.ask(b'x') for _ in range(10)]", "talk.say(b'y')", {"messages": 5}),
    "too_many bytes": ("[talk.ask(b'x' * 100) for _ in range(100)]", "talk.say(b'y')", {"total_bytes": 1000}),
    "timeout": ("talk.ask(b'x')", "time.sleep(30)", {"answer_s": 0.5}),
    "gone": ("talk.ask(b'x')", "break", {}),
    "out_of_turn": (
        "talk.ask(b'x'); time.sleep(1); talk.ask(b'x')",
        "talk.say(b'y'); talk.say(b'z')",
        {},
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_dialogue_ends_with_a_word_for_why(ground: Ground, end: str) -> None:
    ask, act, caps = ENDS[end]
    asker = f"import time\ntry:\n    {ask}\n    print(json.dumps('none'))\n"
    asker += "except dialogue.EndedError as error:\n    print(json.dumps(error.args[0]))"
    asked, _ = Pair(ground, asker, answerer(act), **{"answer_s": 20.0, **caps}).outcomes()
    word = end.split(maxsplit=1)[0]
    assert said(asked) == word
    questions = {"too_large": 0, "too_many": 5, "too_many bytes": 9}.get(end, 1)
    assert asked.detail == f"The dialogue ended after {questions} questions: {word}."


def test_a_pair_launched_again_is_the_same_pair(ground: Ground) -> None:
    pair = Pair(ground, "print(json.dumps(talk.ask(b'x').decode()))", answerer("talk.say(b'y')"))
    launch_pair(ground.bench.sandbox, pair.asking, pair.answering, Caps())
    with pytest.raises(ConflictError):
        launch_pair(ground.bench.sandbox, pair.asking, pair.answering, Caps(messages=1))
    assert said(pair.outcomes()[0]) == "y"


def test_a_side_of_a_dialogue_is_one_connection(ground: Ground) -> None:
    asker = """
import os, socket
talk.ask(b"x")
try:
    with socket.socket(socket.AF_UNIX) as other: other.connect(os.environ["FUMEHOOD_RELAY_SOCKET"])
    print(json.dumps("connected"))
except OSError as error: print(json.dumps(error.strerror))
"""
    assert said(Pair(ground, asker, answerer("talk.say(b'y')")).outcomes()[0]) == "Connection refused"


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\x80\0\0\4gone", b"\0\0"])
def test_what_is_no_message_is_not_passed_on(ground: Ground, frame: bytes) -> None:
    asker = f"talk._stream.sendall({frame!r})\nprint(json.dumps('sent'))"
    asked, answered = Pair(ground, asker, answerer("talk.say(b'y')")).outcomes()
    assert (said(asked), answered.output_tail) == ("sent", "\n")
    assert asked.detail.startswith("The dialogue ended after 0 questions: ")


def test_a_pair_shares_one_fence_and_nothing_else(ground: Ground) -> None:
    bench = ground.bench
    one, other = bench.spec("true"), bench.spec("true", fence=1)
    with pytest.raises(BadInputError, match="fence"):
        launch_pair(bench.sandbox, one, other)
    with pytest.raises(BadInputError, match="capability"):
        launch_pair(bench.sandbox, one, bench.spec("true", network="allow:arxiv"))
    with pytest.raises(ConflictError, match="not running"):
        bench.sandbox.launch(
            bench.spec("true", network=f"relay:asks:{other.name}:1000:10:10000:1.0:100"),
        )
    assert bench.left(bench.state_dir) == {}


def test_nothing_is_left_of_a_pair_removed_in_the_middle(ground: Ground) -> None:
    pair = Pair(ground, "while True: talk.ask(b'x')", answerer("talk.say(b'y')"))
    relay = process_of(ground, pair.asking.name, "relay")
    ground.bench.sandbox.remove(pair.answering.name)
    ground.bench.until(lambda: not Path(f"/proc/{relay}").exists(), 20)
    ground.bench.sandbox.remove(pair.asking.name)
    assert ground.bench.left(ground.bench.state_dir) == {}


def test_nothing_is_left_of_a_launch_that_fails_on_the_way(ground: Ground) -> None:
    spec = ground.bench.spec("true", network="allow:semantic-scholar", files={"work/a": "text"})
    Path(spec.inputs[0].source).write_text("another")
    with pytest.raises(Exception, match="work/a"):
        ground.bench.sandbox.launch(spec)
    assert ground.bench.left(ground.bench.state_dir) == {}


LAUNCH = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from sandbox import records
from sandbox.egress.pair import launch_pair
from sandbox.lab import find
state, adapter = Path({state!r}), {adapter!r}
if adapter == "local":
    from sandbox.local import LocalSandbox
    sandbox = LocalSandbox(state, Path("/run/fumehood"), {{**find(state)}})
else:
    from sandbox import docker_engine
    from sandbox.docker import DockerSandbox
    sandbox = DockerSandbox(docker_engine.connect(), state, Path("/run/fumehood"), {{**find(state)}})
print("go", flush=True)
asking, answering, asker = (records.decode(told) for told in json.loads({specs!r}))
launch_pair(sandbox, asking, answering)
sandbox.launch(asker)
print("done", flush=True)
"""


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_left_after_the_launching_process_was_killed(ground: Ground, seed: int) -> None:
    bench = ground.bench
    specs = [bench.spec("sleep", "30", network=network) for network in ("none", "none", "allow:arxiv")]
    program = LAUNCH.format(
        root=str(ROOT),
        state=str(bench.state_dir),
        adapter=bench.adapter,
        specs=json.dumps([records.encode(spec) for spec in specs]),
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(random.Random(seed).uniform(0.0, 1.5))
        process.kill()

    def is_gone() -> bool:
        # As the reaper does, more than once: what an engine was asked for may come after whoever asked is dead.
        bench.sandbox.reap()
        return bench.left(bench.state_dir) == {}

    bench.until(is_gone, 20)
