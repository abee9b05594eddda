"""Connections to a provider, before a server that says on the wire whatever a test wants."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from fumehood.errors import MachineUnfitError
from fumehood.gateway.upstreams.connections import Answer, BrokenError, Connections

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
PIECES = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
PATIENCE_S = 10.0


@dataclass
class Server:
    """Takes connections, and says to each request the next of its lines; nothing means it hangs up."""

    lines: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(stream,), daemon=True).start()

    def talk(self, stream: socket.socket) -> None:
        # Whoever asks may hang up.
        with stream, suppress(OSError):
            asked = b""
            while self.lines:
                data = stream.recv(65536)
                if not data:
                    return
                asked += data
                if not asked.endswith(b"{}") and not asked.startswith(b"CONNECT"):
                    continue
                self.heads.append(asked)
                asked = b""
                said = self.lines.pop(0)
                if not said:
                    return
                stream.sendall(said)
                if b"close" in said or b"HTTP/1.0" in said:
                    return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


@pytest.fixture
def connections(server: Server) -> Iterator[Connections]:
    made = Connections(server.url)
    yield made
    made.close()


def post(connections: Connections, silence_s: float = PATIENCE_S) -> Answer:
    return connections.post("/v1/x", b"{}", {"x-api-key": "k"}, connect_s=PATIENCE_S, silence_s=silence_s)


def whole(connections: Connections) -> tuple[int, bytes]:
    answer = post(connections)
    try:
        return answer.status, b"".join(answer.parts())
    finally:
        answer.close()


@pytest.mark.parametrize("said", [LENGTH, PIECES], ids=["by its length", "in pieces"])
def test_a_connection_is_kept_whose_answer_was_read(server: Server, connections: Connections, said: bytes) -> None:
    server.lines = [said, said]
    assert [whole(connections), whole(connections)] == [(200, b"hi")] * 2
    assert server.connections == 1
    head = server.heads[0].decode()
    assert head.startswith(f"POST /v1/x HTTP/1.1\r\nhost: {server.url[7:]}\r\nx-api-key: k\r\n")
    assert head.endswith("content-length: 2\r\n\r\n{}")


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\n\r\nhi",
    ],
    ids=["closed", "closed at its end", "older"],
)
def test_one_that_the_provider_closes_is_not(server: Server, connections: Connections, said: bytes) -> None:
    server.lines = [said, LENGTH]
    assert [whole(connections), whole(connections)] == [(200, b"hi")] * 2
    assert server.connections == 2


def test_one_whose_answer_was_left_is_not(server: Server, connections: Connections) -> None:
    server.lines = [PIECES[:-5], LENGTH]
    post(connections).close()
    assert whole(connections) == (200, b"hi")
    assert server.connections == 2


def test_one_that_was_closed_meanwhile_is_not_asked(server: Server, connections: Connections) -> None:
    server.lines = [LENGTH]
    assert whole(connections) == (200, b"hi")
    # It had no more to say, and hung up.
    ((kept, _),) = connections._idle
    assert kept.sock.recv(1, socket.MSG_PEEK) == b""
    server.lines = [LENGTH]
    assert whole(connections) == (200, b"hi")
    assert server.connections == 2


def test_what_is_said_before_an_answer_is_passed_over(server: Server, connections: Connections) -> None:
    server.lines = [b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n" + LENGTH]
    assert whole(connections) == (200, b"hi")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhi",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n",
        b"no HTTP, close\r\n\r\n",
    ],
    ids=["nothing", "too short", "a piece too short", "no piece", "no HTTP"],
)
def test_what_breaks_off_may_have_been_paid_for(server: Server, connections: Connections, said: bytes) -> None:
    server.lines = [said]
    with pytest.raises(BrokenError) as caught:
        whole(connections)
    assert caught.value.was_sent
    assert connections._idle == []


def test_silence_ends_it(server: Server, connections: Connections) -> None:
    server.lines = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", LENGTH]
    answer = post(connections, silence_s=0.2)
    with pytest.raises(BrokenError, match="TimeoutError") as caught:
        list(answer.parts())
    answer.close()
    assert caught.value.was_sent
    assert connections._idle == []


def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BrokenError, match="ConnectionRefusedError") as caught:
        post(Connections(f"http://127.0.0.1:{port}"))
    assert not caught.value.was_sent


Proxied = Callable[[str, str], None]


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Proxied:
    def set_one(scheme: str, url: str) -> None:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{scheme}_proxy", url)

    return set_one


def test_a_proxy_is_asked_with_the_whole_address(server: Server, proxied: Proxied) -> None:
    proxied("http", server.url.replace("//", "//me:pass%20word@"))
    server.lines = [LENGTH]
    connections = Connections("http://provider.example/base")
    assert whole(connections) == (200, b"hi")
    connections.close()
    head = server.heads[0].decode()
    assert head.startswith("POST http://provider.example/base/v1/x HTTP/1.1\r\nhost: provider.example\r\n")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:pass word').decode()}\r\n" in head


def test_a_proxy_that_leads_nowhere_was_sent_nothing(server: Server, proxied: Proxied) -> None:
    proxied("https", server.url.replace("//", "//me:word@"))
    server.lines = [b"HTTP/1.1 407 Who are you?\r\nconnection: close\r\n\r\n"]
    with pytest.raises(BrokenError) as caught:
        post(Connections("https://provider.example"))
    assert not caught.value.was_sent
    (head,) = server.heads
    assert head.startswith(b"CONNECT provider.example:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic " in head
    assert b"x-api-key" not in head


def test_a_proxy_of_another_kind_is_named(proxied: Proxied) -> None:
    proxied("https", "socks5://127.0.0.1:1")
    with pytest.raises(MachineUnfitError, match="asked by socks5"):
        post(Connections("https://provider.example"))
