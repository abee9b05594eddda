"""The positive control of the ways round a gateway: without our rules each of them gets somewhere."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import anyio
import anyio.abc
import pytest

from sandbox.egress import serving as ours
from sandbox.egress.capabilities import SEMANTIC_SCHOLAR
from sandbox.egress.desk import Desk, Source
from sandbox.egress.journal import Journal
from sandbox.egress.pace import Pace
from sandbox.egress.upstream import Base, Upstream
from tests.fakes.upstream import Double, serving
from tests.fakes.ways_round import NOISE, WAYS_ROUND, ways


def loose(told: bytes, canary: Double, double: Double) -> None:
    """Carry a request as gateways do that trust what a program says: by its method, address and headers."""
    head, _, rest = told.partition(b"\r\n\r\n")
    lines = re.sub(rb"\r\n[ \t]+", b"\r\n", head).split(b"\r\n")
    method, target, _ = lines[0].split(b" ", 2) if lines[0].count(b" ") > 1 else (b"", b"", b"")
    hosts = [line.partition(b":")[2].strip() for line in lines[1:] if line.lower().startswith(b"host:")]
    place, path = ("127.0.0.1", double.port), target.decode("latin-1").replace("\\", "/")
    path = re.sub("^/semantic-scholar", "", path)
    named = re.search(r"(?:https?:)?//(?:[^/@]*@)?([^/]+)|^@([^/]+)", path)
    host = target if method == b"CONNECT" else hosts[-1] if hosts else b"egress"
    if named:
        host, path = (named[1] or named[2]).encode(), "/"
    elif "/.." in unquote(path) and "127.0.0.1" in path:
        host = path.rpartition("../")[2].encode()
    if b"canary" in host:
        place = ("127.0.0.1", canary.port)
    elif (port := host.rpartition(b":")[2]).isdigit():
        place = ("127.0.0.1", int(port))
    with socket.create_connection(place, 10) as stream:
        stream.settimeout(10)
        body = b"GET / HTTP/1.0\r\n\r\n" if method == b"CONNECT" else b""
        stream.sendall(body or method + b" " + path.encode("latin-1")[:60_000] + b" HTTP/1.0\r\n\r\n" + rest)
        # That it was reached is all that counts.
        with suppress(OSError):
            stream.recv(4096)


@pytest.mark.parametrize("name", sorted(WAYS_ROUND))
def test_each_trick_gets_somewhere_without_the_rules_and_nowhere_with_them(name: str, tmp_path: Path) -> None:
    with serving() as canary, serving() as double:
        told = ways(canary.port, double.port)[name]
        if name not in NOISE:
            loose(told, canary, double)
            assert canary.connections + double.connections == 1
        base = Base(scheme="http", host="127.0.0.1", port=double.port, is_double=True)
        desk = Desk(
            sources={
                "semantic-scholar": Source(
                    capability=SEMANTIC_SCHOLAR, upstream=Upstream(base), pace=Pace(tmp_path / "pace", 0.0)
                )
            },
            journal=Journal(tmp_path / "lines", tmp_path / "spent"),
            requests=10,
        )
        before = canary.connections + double.connections
        status = anyio.run(strict, desk, told)
        assert status == 0 or 400 <= status < 600
        assert canary.connections + double.connections == before


async def strict(desk: Desk, told: bytes) -> int:
    """Put the same bytes through the real gateway; the status it answers."""
    near, far = socket.socketpair(socket.AF_UNIX)
    found = 0
    async with await anyio.abc.UNIXSocketStream.from_socket(near) as program, anyio.create_task_group() as tasks:
        far.setblocking(False)
        stream = await anyio.abc.UNIXSocketStream.from_socket(far)
        server = ours._Server(far, desk.answer, 1.0)

        async def serve() -> None:
            async with stream:
                await server._talk(stream)

        tasks.start_soon(serve)
        try:
            await program.send(told)
            said = await program.receive()
            found = int(said.split()[1])
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return found
