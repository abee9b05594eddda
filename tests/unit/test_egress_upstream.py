"""The way to an upstream: names screened and kept, certificates checked, answers bounded, the pace and the cache."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import anyio.abc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox.egress import cache, capabilities, journal, pace, serving, upstream
from sandbox.egress.capabilities import ARXIV, SEMANTIC_SCHOLAR
from sandbox.egress.desk import Desk, Reply, Source
from sandbox.egress.journal import Journal
from sandbox.egress.pace import Pace
from sandbox.egress.request import RefusedError, Wanted
from sandbox.egress.upstream import Answer, Base, Upstream
from sandbox.installation import find
from tests.fakes.upstream import Double
from tests.fakes.upstream import serving as serving_double

WANTED = Wanted(capability=ARXIV, path="/api/query", query=(("start", "1"),))


@pytest.fixture
def double() -> Iterator[Double]:
    with serving_double() as made:
        yield made


def base(double: Double) -> Base:
    return Base(scheme="http", host="127.0.0.1", port=double.port, is_double=True)


def refusal(ask: Callable[[], Awaitable[object]]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        anyio.run(ask)
    return caught.value


def resolver(*addresses: str) -> upstream.Resolve:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.1",), ("169.254.169.254",), ("8.8.8.8", "127.0.0.1"), ("::ffff:8.8.8.8",), ()],
)
def test_a_name_that_leads_inside_is_not_connected_to(double: Double, addresses: tuple[str, ...]) -> None:
    told = Upstream(Base(scheme="http", host="export.arxiv.org", port=double.port), resolver=resolver(*addresses))
    error = refusal(lambda: told.ask(WANTED))
    assert (error.status, double.hits) == (502, [])
    assert "not public" in error.sentence or "no address" in error.sentence


def test_a_double_must_stand_on_this_machine() -> None:
    told = Upstream(Base(scheme="http", host="10.0.0.1", port=80, is_double=True))
    assert "loopback" in refusal(lambda: told.ask(WANTED)).sentence


class Certified:
    """A server with a certificate for one name, on a loopback address."""

    def __init__(self, folder: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.place = folder / "certificate.pem"
        self.place.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.place)
        context.sni_callback = lambda _stream, name, _context: self.names.append(name)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, args=(context,))
        self.thread.start()

    def _serve(self, context: ssl.SSLContext) -> None:
        connection, _ = self.listener.accept()
        with connection:
            try:
                with context.wrap_socket(connection, server_side=True) as stream:
                    self.requests.append(stream.recv(4096))
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                # The other side did not like the certificate.
                pass

    def close(self) -> None:
        self.thread.join(10)
        self.listener.close()


@pytest.mark.parametrize(
    ("name", "is_trusted", "answer"),
    [("export.arxiv.org", True, b"ok"), ("export.arxiv.org", False, None), ("evil.example", True, None)],
)
def test_the_certificate_must_be_trusted_and_of_that_name(
    tmp_path: Path, name: str, is_trusted: bool, answer: bytes | None
) -> None:
    server = Certified(tmp_path, name)
    trust = ssl.create_default_context(cafile=str(server.place) if is_trusted else None)

    async def ask() -> Answer:
        # The screening has its own tests; here the name leads to this machine.
        place = Base(scheme="https", host="export.arxiv.org", port=server.port)
        told = Upstream(place, resolver=resolver("127.0.0.1"), is_allowed=lambda _: True, trust=trust)
        return await told.ask(WANTED)

    try:
        if answer is None:
            assert refusal(ask).status == 502
            assert server.requests == []
        else:
            assert anyio.run(ask).body == answer
            assert b"\r\nHost: export.arxiv.org:" in server.requests[0]
        assert server.names == ["export.arxiv.org"]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("told", "expected"),
    [((404, {}, b"x"), 404), ((500, {}, b"x"), 502), ((403, {}, b"x"), 502), ((401, {}, b"x"), 502),
     ((429, {"Retry-After": "7"}, b""), 429), ((503, {"Retry-After": "7"}, b""), 429), ((204, {}, b""), 502),
     ((200, {"Content-Encoding": "gzip"}, b"x"), 502), ((200, {"Content-Length": str(10**9)}, b""), 502)],
)  # fmt: skip
def test_only_a_plain_whole_answer_is_one(
    double: Double, told: tuple[int, dict[str, str], bytes], expected: int
) -> None:
    double.answers = [told]
    error = refusal(lambda: Upstream(base(double)).ask(WANTED))
    assert error.status == expected
    if expected == 429:
        assert error.retry_after_s == 7


def test_a_key_goes_where_the_capability_says(double: Double) -> None:
    openalex = Wanted(capability=capabilities.OPENALEX, path="/works", query=())
    paper = Wanted(capability=SEMANTIC_SCHOLAR, path="/graph/v1/paper/search", query=())

    async def ask() -> None:
        await Upstream(base(double), key="secret").ask(openalex)
        await Upstream(base(double), key="secret").ask(paper)
        await Upstream(base(double)).ask(paper)

    anyio.run(ask)
    assert double.targets == ["/works?api_key=secret", "/graph/v1/paper/search", "/graph/v1/paper/search"]
    assert [headers.get("x-api-key") for _, headers in double.hits] == [None, "secret", None]


def test_an_upstream_that_is_not_there_is_told_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = Upstream(Base(scheme="http", host="127.0.0.1", port=port, is_double=True))
    assert refusal(lambda: told.ask(WANTED)).status == 502


def test_the_pace_is_kept_by_all_who_share_the_file(tmp_path: Path) -> None:
    async def turns() -> float:
        first, second = Pace(tmp_path / "pace", 0.1), Pace(tmp_path / "pace", 0.1)
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for one in (first, second) * 3:
                tasks.start_soon(one.turn)
        return time.monotonic() - begun

    # Six turns are five intervals.
    assert anyio.run(turns) >= 0.5


def test_a_turn_too_far_away_is_refused_and_not_taken(tmp_path: Path) -> None:
    async def ask() -> None:
        one = Pace(tmp_path / "pace", 0.0)
        await one.pause(pace.FURTHEST_S + 10)
        await one.turn()

    for _ in range(2):
        error = refusal(ask)
        assert error.status == 429
        assert pace.FURTHEST_S < error.retry_after_s <= pace.FURTHEST_S + 10


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e300", "-1e300", "\0" * 40])
def test_a_damaged_pace_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "pace").write_text(text, encoding="latin-1")
    begun = time.monotonic()
    anyio.run(Pace(tmp_path / "pace", 1.0).turn)
    assert time.monotonic() - begun < 5


def test_what_was_heard_is_found_by_others(tmp_path: Path) -> None:
    home = find(tmp_path / "state", tmp_path / "run")
    heard = cache.Heard(tmp_path / "heard")
    answer = Answer(body=bytes(range(256)), content_type="application/json")
    heard.add(WANTED, answer)
    heard.add(WANTED, Answer(body=b"newer", content_type="text/plain"))
    assert cache.take_in(home, tmp_path / "heard") == 2
    found = cache.Cache(cache.place(home)).find(WANTED)
    assert found is not None
    assert found.body == b"newer"
    assert cache.Cache(cache.place(home)).find(Wanted(capability=ARXIV, path="/api/query", query=())) is None
    (kept,) = cache.place(home).iterdir()
    head = json.loads(kept.read_bytes().splitlines()[0])
    assert (head["target"], head["capability"]) == ("/api/query?start=1", "arxiv")
    assert datetime.datetime.fromisoformat(head["recorded_at"])


@pytest.mark.parametrize("cut", [1, 5, 100, 200])
def test_an_answer_that_was_not_wholly_heard_is_left_out(tmp_path: Path, cut: int) -> None:
    home = find(tmp_path / "state", tmp_path / "run")
    heard = cache.Heard(tmp_path / "heard")
    heard.add(WANTED, Answer(body=b"whole", content_type="text/plain"))
    whole = (tmp_path / "heard").stat().st_size
    heard.add(WANTED, Answer(body=b"x" * 300, content_type="text/plain"))
    with (tmp_path / "heard").open("r+b") as file:
        file.truncate(whole + cut)
    assert cache.take_in(home, tmp_path / "heard") == 1


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Journal(tmp_path / "lines", tmp_path / "spent")
    first.spend()
    first.note(WANTED, 200, 5, cached=False)
    with (tmp_path / "lines").open("ab") as file:
        file.write(b'{"method": "G')
    again = Journal(tmp_path / "lines", tmp_path / "spent")
    assert again.spent == 1
    assert [one.path for one in journal.told(tmp_path / "lines")] == ["/api/query"]


def test_a_flood_of_refusals_does_not_fill_the_journal_nor_hide_a_request(tmp_path: Path) -> None:
    told = Journal(tmp_path / "lines", tmp_path / "spent")
    for _ in range(journal.MAX_REFUSED + 50):
        told.note_refused(method="X" * 100, capability="", path="\n" * 5000, status=403)
    told.note(WANTED, 200, 5, cached=False)
    found = journal.told(tmp_path / "lines")
    assert len(found) == journal.MAX_REFUSED + 1
    assert found[-1].status == 200
    assert (tmp_path / "lines").stat().st_size < journal.MAX_REFUSED * 1000


def test_an_upstream_that_asks_to_slow_down_is_asked_again(tmp_path: Path, double: Double) -> None:
    double.answers = [(429, {"Retry-After": "0"}, b"")] * 2
    desk = Desk(
        sources={"arxiv": Source(capability=ARXIV, upstream=Upstream(base(double)), pace=Pace(tmp_path / "pace", 0.0))},
        journal=Journal(tmp_path / "lines", tmp_path / "spent"),
        requests=10,
    )

    async def ask() -> Reply:
        return await desk.answer(b"GET", b"/arxiv/api/query?start=1", [(b"host", b"egress")], b"1.1")

    assert anyio.run(ask).status == 200
    assert [one.status for one in journal.told(tmp_path / "lines")] == [429, 429, 200]
    double.answers = [(429, {"Retry-After": "600"}, b"")]
    reply = anyio.run(ask)
    assert (reply.status, reply.retry_after_s) == (429, 600)


class Served:
    """The serving side on a socket of its own, for as long as a test's block."""

    def __init__(self, place: Path, head_s: float) -> None:
        self.place, self.head_s = place, head_s
        self.asked: list[bytes] = []

    async def answer(self, _method: bytes, target: bytes, *_: object) -> Reply:
        self.asked.append(target)
        return Reply(status=200, content_type="text/plain", body=b"yes" * 1000)

    async def during(self, act: Callable[[], Awaitable[bytes]]) -> bytes:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.place))
            listener.listen(128)
            listener.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: serving.serve(listener, self.answer, head_s=self.head_s))
                with anyio.fail_after(30):
                    said = await act()
                tasks.cancel_scope.cancel()
        return said

    async def talk(self, told: bytes, *, slowly: bool = False) -> bytes:
        said = b""
        async with await anyio.connect_unix(self.place) as stream:
            try:
                for part in [told[i : i + 1] for i in range(len(told))] if slowly else [told]:
                    await stream.send(part)
                    if slowly:
                        await anyio.sleep(0.01)
                while True:
                    said += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return said


ASKED = b"GET /x HTTP/1.1\r\nHost: egress\r\n\r\n"


def test_a_request_may_come_in_small_pieces(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", head_s=20)
    said = anyio.run(lambda: served.during(lambda: served.talk(ASKED, slowly=True)))
    assert said.endswith(b"yes" * 1000)
    assert served.asked == [b"/x"]


def test_who_says_nothing_is_hung_up_on_and_keeps_nobody_out(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", head_s=0.3)

    async def act() -> bytes:
        idle = [await anyio.connect_unix(tmp_path / "s") for _ in range(serving.MAX_CONNECTIONS + 10)]
        said = await served.talk(ASKED)
        for one in idle:
            await one.aclose()
        return said

    assert anyio.run(lambda: served.during(act)).startswith(b"HTTP/1.1 200 ")


def test_who_hangs_up_in_the_middle_harms_nobody(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", head_s=5)

    async def act() -> bytes:
        for cut in range(1, len(ASKED)):
            one = await anyio.connect_unix(tmp_path / "s")
            await one.send(ASKED[:cut])
            await one.aclose()
        return await served.talk(ASKED)

    assert anyio.run(lambda: served.during(act)).startswith(b"HTTP/1.1 200 ")
    assert served.asked == [b"/x"]


@pytest.mark.parametrize(
    "told",
    [
        ASKED[:-2] + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ASKED[:-2] + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n",
        b"GET  /x HTTP/1.1\r\nHost: egress\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost : egress\r\n\r\n",
        b"GET /x\x00 HTTP/1.1\r\nHost: egress\r\n\r\n",
    ],
)
def test_what_is_no_request_is_never_asked(tmp_path: Path, told: bytes) -> None:
    served = Served(tmp_path / "s", head_s=5)
    said = anyio.run(lambda: served.during(lambda: served.talk(told)))
    assert said[:10] in {b"HTTP/1.1 4", b""}
    assert served.asked == []


def test_the_tables_are_those_of_public_hosts() -> None:
    for one in capabilities.ALL.values():
        host = one.upstream.removeprefix("https://")
        assert one.upstream.startswith("https://")
        with pytest.raises(ValueError, match=host):
            ipaddress.ip_address(host)


def test_a_flood_of_what_is_refused_slows_down_and_an_answer_does_not(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", head_s=5)

    async def act() -> bytes:
        begun = time.monotonic()
        for _ in range(40):
            await served.talk(ASKED)
        answered = time.monotonic() - begun
        begun = time.monotonic()
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(serving.MAX_CONNECTIONS):
                    tasks.start_soon(served.talk, b"GET /x\r\n\r\n")
        return f"{answered} {time.monotonic() - begun}".encode()

    answered, refused = (float(word) for word in anyio.run(lambda: served.during(act)).split())
    # The last of them waited for the delays of all that came two rounds before it.
    assert refused > serving.MAX_CONNECTIONS * serving.DELAY_S
    assert answered < 40 * serving.MAX_CONNECTIONS * serving.DELAY_S
