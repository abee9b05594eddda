"""Requests that try to reach more than a network capability grants, as bytes on the gateway's socket.

`tests/unit/test_egress_tricks.py` shows that through a gateway without our rules each of the tricks gets somewhere.
"""

from __future__ import annotations

ALLOWED = "/semantic-scholar/graph/v1/paper/search?query=diffusion&limit=1"
NOISE = frozenset({"tls", "socks", "nothing", "http/2 at once", "http/0.9", "null", "bare line feed"})
"""Not tricks but garbage, which must do no harm; no gateway that reads HTTP would carry it."""

WAYS_ROUND = {
    "connect": b"CONNECT {canary} HTTP/1.1\r\nHost: {canary}\r\n\r\n",
    "absolute address": b"GET http://{canary}/ HTTP/1.1\r\nHost: {canary}\r\n\r\n",
    "absolute address of the upstream": b"GET http://{double}/graph/v1/paper/search HTTP/1.1\r\nHost: egress\r\n\r\n",
    "address in the path": b"GET /http://{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "address behind the capability": b"GET /semantic-scholar/http://{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "no scheme": b"GET //{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "no scheme behind the capability": b"GET /semantic-scholar//{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "user part": b"GET /semantic-scholar@{canary}/graph/v1/paper/search HTTP/1.1\r\nHost: egress\r\n\r\n",
    "another host": b"GET {allowed} HTTP/1.1\r\nHost: canary.example\r\n\r\n",
    "another port": b"GET {allowed} HTTP/1.1\r\nHost: {canary}@127.0.0.1\r\n\r\n",
    "two hosts": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nHost: {canary}\r\n\r\n",
    "no host": b"GET {allowed} HTTP/1.1\r\n\r\n",
    "dot segments": b"GET /semantic-scholar/graph/v1/paper/search/../../../../x HTTP/1.1\r\nHost: egress\r\n\r\n",
    "encoded dots": b"GET /semantic-scholar/graph/v1/paper/%2e%2e/%2e%2e/x HTTP/1.1\r\nHost: egress\r\n\r\n",
    "encoded slash": b"GET /semantic-scholar/graph%2fv1/paper/search HTTP/1.1\r\nHost: egress\r\n\r\n",
    "encoded twice": b"GET /semantic-scholar/graph/v1/%252e%252e/x HTTP/1.1\r\nHost: egress\r\n\r\n",
    "backslashes": b"GET /semantic-scholar\\..\\{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "null": b"GET /semantic-scholar/graph/v1/paper/search\0/x HTTP/1.1\r\nHost: egress\r\n\r\n",
    "encoded line break": b"GET {allowed}%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: egress\r\n\r\n",
    "bare line feed": b"GET /semantic-scholar/graph/v1/paper/search\nX: y HTTP/1.1\r\nHost: egress\r\n\r\n",
    "another capability": b"GET /openalex/works HTTP/1.1\r\nHost: egress\r\n\r\n",
    "another path": b"GET /semantic-scholar/graph/v1/paper/batch HTTP/1.1\r\nHost: egress\r\n\r\n",
    "another query": b"GET {allowed}&callback=http://{canary}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a query twice": b"GET {allowed}&query=b HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a long query": b"GET /semantic-scholar/graph/v1/paper/search?query="
    + b"a" * 600
    + b" HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a long address": b"GET /semantic-scholar/" + b"a" * 3000 + b" HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a huge address": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a flood of headers": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "post": b"POST {allowed} HTTP/1.1\r\nHost: egress\r\nContent-Length: 3\r\n\r\nabc",
    "put": b"PUT {allowed} HTTP/1.1\r\nHost: egress\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nHost: egress\r\n\r\n",
    "trace": b"TRACE {allowed} HTTP/1.1\r\nHost: egress\r\n\r\n",
    "head": b"HEAD {allowed} HTTP/1.1\r\nHost: egress\r\n\r\n",
    "a body": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nContent-Length: 3\r\n\r\nabc",
    "a chunked body": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "length and chunks": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://{canary}/ HTTP/1.1\r\n\r\n",
    "a folded header": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nX: a\r\n Host: {canary}\r\nUpgrade: x\r\n\r\n",
    "websocket": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "http/2 by upgrade": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "http/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET {allowed}\r\n\r\n",
    "http/3.0": b"GET {allowed} HTTP/3.0\r\nHost: egress\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n",
    "proxy headers": b"GET {allowed} HTTP/1.1\r\nHost: egress\r\nProxy-Connection: keep-alive\r\n\r\n",
    "socks": b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50\r\n\r\n",
    "nothing": b"\r\n\r\n\r\n\r\n",
}


def ways(canary: int, double: int) -> dict[str, bytes]:
    """Return every case with the ports of the canary and of the upstream's double filled in."""
    marks = {b"{canary}": f"127.0.0.1:{canary}", b"{double}": f"127.0.0.1:{double}", b"{allowed}": ALLOWED}
    found = {}
    for name, way in WAYS_ROUND.items():
        told = way
        for mark, text in marks.items():
            told = told.replace(mark, text.encode())
        found[name] = told
    return found
