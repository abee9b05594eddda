"""HTTP connections to one provider, kept between requests.

The standard library opens them and httptools reads them, since what httpx and h11 do for a request takes longer than
all that the gateway asks its database for a call.
"""

from __future__ import annotations

import base64
import functools
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from httptools import HttpParserError, HttpResponseParser

from fumehood.errors import MachineUnfitError

KEPT_S = 5.0
"""For so long a connection is kept that nobody uses; the provider may close it at any time after that."""
MOST_KEPT = 20
_PIECE = 64 * 1024
_LENGTHS = {"content-length", "transfer-encoding"}
"""Where none of them is said, a body ends with its connection."""


class BrokenError(Exception):
    """A request that got no whole answer; only the cause's class is told, since its text may hold credentials."""

    def __init__(self, cause: BaseException, *, was_sent: bool) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause
        self.was_sent = was_sent
        """Whether the provider may have answered, and takes its money."""


class Connections:
    """Connections to whoever listens at one address, directly or by the proxy that the environment names for it."""

    def __init__(self, base_url: str) -> None:
        self._origin = urlsplit(base_url.rstrip("/"))
        self._lock = threading.Lock()
        self._idle: list[tuple[HTTPConnection, float]] = []

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, connect_s: float, silence_s: float) -> Answer:
        """Return the answer to a request once it has begun; `BrokenError` where it does not in time.

        No redirect is followed, and nothing is asked again by itself.
        """
        connection = self._taken() or self._new(connect_s)
        try:
            _send(connection, self._head(path, headers) + b"content-length: %d\r\n\r\n" % len(body) + body, silence_s)
            return Answer(self, connection)
        except BaseException:
            connection.close()
            raise

    def keep(self, connection: HTTPConnection) -> None:
        """Take a connection whose answer was read to its end, for the next request."""
        with self._lock:
            if len(self._idle) < MOST_KEPT:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def close(self) -> None:
        """Close those that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _taken(self) -> HTTPConnection | None:
        """Return one that is still good; where the last one used is not, none is."""
        with self._lock:
            connection, since = self._idle.pop() if self._idle else (None, 0.0)
        if connection is None or (time.monotonic() - since < KEPT_S and not _has_ended(connection.sock)):
            return connection
        connection.close()
        self.close()
        return None

    @functools.cached_property
    def _proxy(self) -> SplitResult | None:
        origin = self._origin
        proxies = {} if proxy_bypass(origin.hostname or "") else getproxies()
        named = proxies.get(origin.scheme) or proxies.get("all")
        if not named:
            return None
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        if proxy.scheme != "http":
            told = f"The proxy for {origin.scheme} in the environment is asked by {proxy.scheme}, which is not spoken."
            raise MachineUnfitError(told, remedy="Name one that begins with http://.")
        return proxy

    def _head(self, path: str, headers: Mapping[str, str]) -> bytes:
        origin, proxy = self._origin, self._proxy
        named = {"host": origin.netloc.rpartition("@")[2], **headers}
        target = origin.path + path
        if proxy is not None and origin.scheme == "http":
            named |= _proved(proxy)
            target = f"http://{named['host']}{target}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        return f"POST {target} HTTP/1.1\r\n{lines}".encode("latin-1")

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        import httpx  # its authorities, and what the environment says of them

        context = httpx.create_ssl_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _new(self, connect_s: float) -> HTTPConnection:
        origin, at = self._origin, self._proxy or self._origin
        host = at.hostname or ""
        if origin.scheme == "https":
            made: HTTPConnection = HTTPSConnection(host, at.port or 443, timeout=connect_s, context=self._context)
        else:
            made = HTTPConnection(host, at.port or 80, timeout=connect_s)
        if origin.scheme == "https" and self._proxy is not None:
            made.set_tunnel(origin.hostname or "", origin.port or 443, _proved(self._proxy))
        try:
            made.connect()
        except OSError as error:
            made.close()
            # Frames of a tunnel that came to nothing hold its answer, and with it the descriptor.
            raise BrokenError(error.with_traceback(None), was_sent=False) from error
        return made


class Answer:
    """An answer whose head has come; its connection is kept when it was read to its end, and closed otherwise.

    Read by httptools, as what comes to the gateway is; its `on_...` are httptools' to call.
    """

    def __init__(self, connections: Connections, connection: HTTPConnection) -> None:
        self._connections = connections
        self._connection = connection
        self._parser = HttpResponseParser(self)
        self._come: list[bytes] = []
        self._is_whole = False
        self._stays = False
        self.wire: socket.socket = connection.sock
        """Whoever shuts it down has who reads find the end."""
        self.status = 0
        self.headers: dict[str, str] = {}
        """What the head says, by names in small letters."""
        while not self.status:
            self._read()

    def parts(self) -> Iterator[bytes]:
        """Return the body as it comes; `BrokenError` where it breaks off, or pauses for too long."""
        while True:
            come, self._come = self._come, []
            yield from come
            if self._is_whole:
                return
            self._read()

    def close(self) -> None:
        """Let go of it."""
        if self._stays:
            self._connections.keep(self._connection)
        else:
            self._connection.close()

    def _read(self) -> None:
        try:
            data = self.wire.recv(_PIECE)
            if data:
                self._parser.feed_data(data)
            elif self.status and not self.headers.keys() & _LENGTHS:
                self._is_whole = True
            else:
                raise ConnectionResetError
        except (OSError, HttpParserError) as error:
            raise BrokenError(error, was_sent=True) from error

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the status, but for those that come before the answer."""
        status = self._parser.get_status_code()
        if status >= HTTPStatus.OK:
            self.status = status

    def on_body(self, data: bytes) -> None:
        """Take what has come."""
        self._come.append(data)

    def on_message_complete(self) -> None:
        """Note the end, and whether more may be asked by the same connection."""
        self._is_whole = bool(self.status)
        self._stays = self._is_whole and self._parser.should_keep_alive()


def _proved(proxy: SplitResult) -> dict[str, str]:
    """Return what says to a proxy who asks."""
    if proxy.username is None:
        return {}
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}


def _send(connection: HTTPConnection, data: bytes, silence_s: float) -> None:
    try:
        connection.sock.settimeout(silence_s)
        connection.sock.sendall(data)
    except OSError as error:
        raise BrokenError(error, was_sent=False) from error


def _has_ended(wire: socket.socket) -> bool:
    """Whether the other side has closed it; before a request there is nothing else to read."""
    waiting = select.poll()
    waiting.register(wire, select.POLLIN)
    return bool(waiting.poll(0))
