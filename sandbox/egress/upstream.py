"""The way to one upstream: its name resolved and screened, the address kept for the connection, TLS verified."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore

from sandbox.egress import addresses
from sandbox.egress.request import RefusedError, Wanted, within

MAX_BODY = 5 * 1024 * 1024
MAX_HOPS = 3
CONNECT_S, READ_S, WHOLE_S = 10.0, 20.0, 60.0
_AGENT = "fumehood"
_HTTPS, _HTTP = 443, 80
_PASSED_ON = {400, 404, 410, 422}
_MOVED = {301, 302, 303, 307, 308}

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: opaque bytes with their type."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Where a capability's upstream stands."""

    scheme: str
    host: str
    port: int
    is_double: bool = False
    """A stand-in on this machine, which only a setting can name: its loopback address is connected to as it is."""


async def resolve(host: str, port: int) -> list[str]:
    """Return every address of a name."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Upstream:
    """Asks one upstream; nothing that a program says decides where a connection leads."""

    def __init__(
        self,
        base: Base,
        *,
        key: str = "",
        resolver: Resolve = resolve,
        is_allowed: Callable[[str], bool] = addresses.is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._base = base
        self._key = key
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust or ssl.create_default_context(),
            network_backend=_Pinned(base, resolver, is_allowed),
            http1=True,
            http2=False,
            max_connections=4,
            # A fresh connection each time, so that a name is looked up and screened each time.
            max_keepalive_connections=0,
        )

    async def ask(self, wanted: Wanted) -> Answer:
        """Return the answer, or raise RefusedError with what the program may know of the failure."""
        try:
            with anyio.fail_after(WHOLE_S):
                for _ in range(MAX_HOPS + 1):
                    found = await self._once(wanted)
                    if isinstance(found, Answer):
                        return found
                    wanted = found
        except (TimeoutError, httpcore.TimeoutException):
            raise RefusedError(504, "The upstream did not answer in time.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise RefusedError(502, f"The upstream cannot be reached ({type(error).__name__}).") from None
        raise RefusedError(502, f"The upstream redirects more than {MAX_HOPS} times.")

    async def _once(self, wanted: Wanted) -> Answer | Wanted:
        capability = wanted.capability
        more = {capability.key_query: self._key} if self._key and capability.key_query else {}
        headers = [
            ("Host", self._host()), ("Accept", capability.accept), ("Accept-Encoding", "identity"),
            ("User-Agent", _AGENT), ("Connection", "close"),
        ]  # fmt: skip
        if self._key and capability.key_header:
            headers.append((capability.key_header, self._key))
        url = httpcore.URL(
            scheme=self._base.scheme, host=self._base.host, port=self._base.port, target=wanted.target(more)
        )
        times = {"connect": CONNECT_S, "read": READ_S, "write": READ_S, "pool": WHOLE_S}
        async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": times}) as response:
            told = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in _MOVED:
                return self._moved(wanted, told.get(b"location", ""))
            if response.status != 200:
                raise _failure(response.status, told)
            if told.get(b"content-encoding", "identity").lower() != "identity":
                raise RefusedError(502, "The upstream packs its answer, which was not asked for.")
            body = await _whole(response.aiter_stream(), told.get(b"content-length", ""))
        if self._key and self._key.encode() in body:
            raise RefusedError(502, "The upstream's answer quotes the platform's key, so it is not passed on.")
        return Answer(body=body, content_type=told.get(b"content-type", ""))

    def _moved(self, wanted: Wanted, location: str) -> Wanted:
        """Return where a redirect leads, if it is the same upstream and an allowed path."""
        try:
            to = urlsplit(location)
            port = to.port or (_HTTPS if (to.scheme or self._base.scheme) == "https" else _HTTP)
        except ValueError:
            raise RefusedError(502, "The upstream redirects to something that is no address.") from None
        is_same = not to.netloc and not to.scheme and location.startswith("/")
        if not is_same and (to.scheme, to.netloc.lower(), port) != (
            self._base.scheme, self._host().lower(), self._base.port
        ):  # fmt: skip
            raise RefusedError(502, "The upstream redirects to another host, which is not followed.")
        # Some upstreams repeat the whole address; the key in it is added anew.
        ours = f"{wanted.capability.key_query}="
        query = "&".join(part for part in to.query.split("&") if not (self._key and part.startswith(ours)))
        try:
            return within(wanted.capability, to.path, query)
        except RefusedError:
            raise RefusedError(502, "The upstream redirects to a path that is not allowed.") from None

    def _host(self) -> str:
        host = f"[{self._base.host}]" if ":" in self._base.host else self._base.host
        usual = _HTTPS if self._base.scheme == "https" else _HTTP
        return host if self._base.port == usual else f"{host}:{self._base.port}"


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to nothing but the addresses that a screened look-up just gave; TLS still checks the name."""

    def __init__(self, base: Base, resolver: Resolve, is_allowed: Callable[[str], bool]) -> None:
        self._base, self._resolver, self._is_allowed = base, resolver, is_allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, or raise RefusedError when any address of the name is not public."""
        if (host, port) != (self._base.host, self._base.port):
            raise RefusedError(502, "The connection would lead to another host.")
        for address in (places := await self._places(host, port)):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == places[-1]:
                    raise
        raise RefusedError(502, "The upstream's name has no address.")

    async def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no upstream is one."""
        raise RefusedError(502, "No upstream is a unix socket.")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks."""
        await anyio.sleep(seconds)

    async def _places(self, host: str, port: int) -> list[str]:
        if self._base.is_double:
            if not addresses.is_loopback(host):
                raise RefusedError(502, "A double must stand at a loopback address.")
            return [host]
        with anyio.fail_after(CONNECT_S):
            found = list(dict.fromkeys(await self._resolver(host, port)))
        # One bad address among good ones is how a name is made to point inside.
        if not all(self._is_allowed(address) for address in found):
            raise RefusedError(502, "The upstream's name leads to an address that is not public.")
        return found[:4]


async def _whole(stream: Any, announced: str) -> bytes:
    too_large = RefusedError(502, f"The upstream's answer is larger than {MAX_BODY} bytes.")
    if announced.isdecimal() and int(announced) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


def _failure(status: int, told: dict[bytes, str]) -> RefusedError:
    if status == 429 or (status == 503 and b"retry-after" in told):
        after = told.get(b"retry-after", "")
        seconds = float(after) if after.isdecimal() else 5.0
        return RefusedError(429, "The upstream asks to slow down.", retry_after_s=min(seconds, 3600.0))
    if status in _PASSED_ON:
        return RefusedError(status, f"The upstream answered {status}.")
    return RefusedError(502, f"The upstream answered {status}.")
