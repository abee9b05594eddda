"""Public data of templates are got whole, checked, and in their place or not at all; a run never gets them itself."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts import fetching
from fumehood.domain.template import PublicData
from fumehood.errors import BadInputError, ConflictError, MachineUnfitError, TamperedError
from fumehood.services.public_data import FetchedData

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server:
    """A server on loopback that has one file, and whatever faults it is told to have."""

    def __init__(self) -> None:
        self.body = DATA
        self.breaks_at: list[int] = []
        """So many bytes are sent of each of the next answers, and then the connection ends."""
        self.takes_ranges = True
        self.moved = ""
        self.status = 200
        self.seen: list[tuple[str, str]] = []
        """Path and range of each request."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                outer.seen.append((self.path, asked))
                if outer.moved and not self.path.startswith("/moved"):
                    self.send_response(302)
                    self.send_header("Location", outer.moved)
                    self.end_headers()
                    return
                if outer.status != 200:
                    self.send_response(outer.status)
                    self.end_headers()
                    return
                begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.takes_ranges else 0
                self.send_response(206 if begin else 200)
                if begin:
                    whole = len(outer.body)
                    self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
                self.send_header("Content-Length", str(len(outer.body) - begin))
                self.end_headers()
                rest = outer.body[begin:]
                self.wfile.write(rest[: outer.breaks_at.pop(0)] if outer.breaks_at else rest)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def into(tmp_path: Path) -> FetchedData:
    return FetchedData(tmp_path / "data")


Make = Callable[..., PublicData]


@pytest.fixture
def make_source(server: Server) -> Make:
    def make(**changed: object) -> PublicData:
        asked = {"url": f"{server.address}/plays.txt", "sha256": SHA256, "bytes": len(DATA), "licence": "public domain"}
        return PublicData.model_validate({**asked, **changed})

    return make


def fetch(source: PublicData, into: FetchedData, **asked: object) -> fetching.Fetched:
    return fetching.fetch("plays", source, into, wait_s=0.0, **asked)  # type: ignore[arg-type]


def left(into: FetchedData) -> set[str]:
    return {path.name for path in into.folder.iterdir()}


def test_a_file_is_here_read_only_under_its_hash_with_a_note(
    server: Server, into: FetchedData, make_source: Make
) -> None:
    source = make_source()
    assert not into.has(source)
    got = fetch(source, into)
    assert (got.sha256, got.was_here) == (SHA256, False)
    assert got.path.read_bytes() == DATA
    assert stat.S_IMODE(got.path.stat().st_mode) == 0o444
    assert stat.S_IMODE(into.folder.stat().st_mode) == 0o700
    note = json.loads(into.note(SHA256).read_text())
    assert (note["url"], note["sha256"], note["vouched_by"]) == (source.url, SHA256, "template")
    assert left(into) == {SHA256, f"{SHA256}.json"}
    assert fetch(source, into).was_here
    assert len(server.seen) == 1


def test_a_cut_connection_is_gone_on_with_where_it_broke(server: Server, into: FetchedData, make_source: Make) -> None:
    server.breaks_at = [300_000, 200_000]
    said: list[str] = []
    assert fetch(make_source(), into, say=said.append).path.read_bytes() == DATA
    begins = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in server.seen[1:]]
    assert 0 < begins[0] <= 300_000 < begins[1] <= 500_000
    assert len(said) == 2


def test_what_came_before_the_command_gave_up_is_not_asked_for_again(
    server: Server, into: FetchedData, make_source: Make
) -> None:
    server.breaks_at = [100_000, *[0] * (fetching.TRIES - 1)]
    with pytest.raises(MachineUnfitError, match=r"could not be fetched.*Try again"):
        fetch(make_source(), into)
    assert not into.has(make_source())
    assert fetch(make_source(), into).path.read_bytes() == DATA
    assert server.seen[-1][1].startswith("bytes=")


def test_a_server_without_ranges_is_asked_from_the_beginning(
    server: Server, into: FetchedData, make_source: Make
) -> None:
    server.takes_ranges, server.breaks_at = False, [400_000]
    assert fetch(make_source(), into).path.read_bytes() == DATA


def test_bytes_with_another_hash_are_thrown_away(server: Server, into: FetchedData, make_source: Make) -> None:
    server.body = DATA[:-1] + b"!"
    with pytest.raises(TamperedError, match="is expected; it is not kept"):
        fetch(make_source(), into)
    assert left(into) == set()


def test_a_file_that_is_larger_than_was_said_is_cut_off(server: Server, into: FetchedData, make_source: Make) -> None:
    server.body = DATA * 8
    with pytest.raises(TamperedError, match="more than the 1,048,576 bytes"):
        fetch(make_source(), into)
    (part,) = into.folder.iterdir()
    assert part.stat().st_size == 0


def test_a_server_that_sends_a_few_bytes_now_and_then_is_left(
    into: FetchedData, make_source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.0)
    monkeypatch.setattr(fetching, "LEAST_BYTES_S", 10**15)
    with pytest.raises(MachineUnfitError, match="bytes a second came"):
        fetch(make_source(), into)
    monkeypatch.undo()
    assert fetch(make_source(), into).path.read_bytes() == DATA


def test_a_file_that_is_smaller_than_was_said_is_none(server: Server, into: FetchedData, make_source: Make) -> None:
    server.body = DATA[:1000]
    with pytest.raises(MachineUnfitError, match="could not be fetched"):
        fetch(make_source(), into)
    assert not into.has(make_source())


@pytest.mark.parametrize(
    "place", ["http://127.0.0.2:9/plays.txt", "https://elsewhere.example/plays.txt", "file:///etc/passwd", ""]
)
def test_a_redirect_to_elsewhere_is_not_followed(
    server: Server, into: FetchedData, make_source: Make, place: str
) -> None:
    server.moved = place or "\t"
    with pytest.raises(MachineUnfitError, match=r"which is not followed.*FUMEHOOD_DATA_MIRROR"):
        fetch(make_source(), into)
    assert not into.has(make_source())


def test_a_redirect_within_the_host_is_followed(server: Server, into: FetchedData, make_source: Make) -> None:
    server.moved = "/moved/plays.txt"
    assert fetch(make_source(), into).path.read_bytes() == DATA
    assert [path for path, _ in server.seen] == ["/plays.txt", "/moved/plays.txt"]


def test_a_redirect_that_never_ends_is_left(server: Server, into: FetchedData, make_source: Make) -> None:
    server.moved = "/again"
    with pytest.raises(MachineUnfitError, match="again and again"):
        fetch(make_source(), into)


def test_from_https_nothing_leads_to_http() -> None:
    with pytest.raises(MachineUnfitError, match="not followed"):
        fetching._followed("https://here.example/a", "http://here.example/a")
    assert fetching._followed("http://here.example/a", "https://here.example/b") == "https://here.example/b"


def test_a_mirror_is_asked_by_the_name_and_held_to_the_same_hash(
    server: Server, into: FetchedData, make_source: Make
) -> None:
    source = make_source(url="https://far.example/plays.txt")
    fetch(source, into, mirror=f"{server.address}/mirror/")
    assert server.seen[0][0] == "/mirror/plays"
    assert json.loads(into.note(SHA256).read_text())["from"] == f"{server.address}/mirror/plays"


def test_an_error_of_the_server_is_told(server: Server, into: FetchedData, make_source: Make) -> None:
    server.status = 404
    with pytest.raises(MachineUnfitError, match="answers with status 404"):
        fetch(make_source(), into)


def test_without_a_hash_nothing_is_used_until_an_admin_vouches(
    server: Server, into: FetchedData, make_source: Make
) -> None:
    source = make_source(sha256="")
    with pytest.raises(BadInputError, match=f"--sha256 {SHA256}"):
        fetch(source, into)
    assert not into.has(source)
    with pytest.raises(TamperedError):
        fetch(source, into, sha256="0" * 64)
    assert not into.has(source)
    fetch(source, into, sha256=SHA256)
    assert into.has(source)
    assert json.loads(into.note(SHA256).read_text())["vouched_by"] == "admin"
    assert not into.has(make_source(sha256="", url=f"{server.address}/other.txt"))


def test_an_admin_cannot_vouch_against_the_template(server: Server, into: FetchedData, make_source: Make) -> None:
    with pytest.raises(BadInputError, match="is to be"):
        fetch(make_source(), into, sha256="0" * 64)
    assert server.seen == []


def test_what_is_damaged_here_is_told(into: FetchedData, make_source: Make) -> None:
    got = fetch(make_source(), into)
    got.path.chmod(0o644)
    got.path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(TamperedError, match="remove it, and fetch it again"):
        fetch(make_source(), into)


def test_without_room_nothing_is_asked_for(server: Server, into: FetchedData, make_source: Make) -> None:
    with pytest.raises(MachineUnfitError, match="no room for 1,048,576 bytes"):
        fetch(make_source(), into, free=lambda _: len(DATA))
    assert server.seen == []


def test_a_disk_that_fills_up_is_told_and_the_rest_is_fetched_later(into: FetchedData, make_source: Make) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(MachineUnfitError, match=r"could not be written.*Make room"):
            fetch(make_source(), into)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert not into.has(make_source())
    assert fetch(make_source(), into).path.read_bytes() == DATA


def test_two_commands_do_not_write_one_file(server: Server, into: FetchedData, make_source: Make) -> None:
    met: list[str] = []

    def meanwhile(_: str) -> None:
        with pytest.raises(ConflictError) as refused:
            fetch(make_source(), into)
        met.append(str(refused.value))

    server.breaks_at = [1000]
    assert fetch(make_source(), into, say=meanwhile).path.read_bytes() == DATA
    assert met == [f"Another command is fetching {server.address}/plays.txt."]


def test_no_command_takes_a_whole_file_from_another_that_is_checking_it(
    server: Server, into: FetchedData, make_source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = fetching._write_note

    def meanwhile(*told: Any) -> None:
        with pytest.raises(ConflictError):
            fetch(make_source(), into)
        usual(*told)

    monkeypatch.setattr(fetching, "_write_note", meanwhile)
    assert fetch(make_source(), into).path.read_bytes() == DATA
    assert len(server.seen) == 1


def test_what_another_command_has_just_finished_is_not_got_again(
    server: Server, into: FetchedData, make_source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = fetching._lock

    def late(*asked: Any) -> None:
        monkeypatch.setattr(fetching, "_lock", usual)
        fetch(make_source(), into)
        usual(*asked)

    monkeypatch.setattr(fetching, "_lock", late)
    got = fetch(make_source(), into)
    assert (got.was_here, got.path.read_bytes()) == (True, DATA)
    assert left(into) == {SHA256, f"{SHA256}.json"}
    assert len(server.seen) == 1


def test_a_disk_that_is_full_at_the_last_is_told(
    into: FetchedData, make_source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(fetching, "_write_note", fails)
        with pytest.raises(MachineUnfitError, match="No space left on device"):
            fetch(make_source(), into)
    assert not into.has(make_source())
    assert fetch(make_source(), into).path.read_bytes() == DATA
