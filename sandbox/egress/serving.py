"""HTTP/1.1 towards the program inside: one request a connection, read by h11, answered and closed."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import anyio
import anyio.abc
import h11

from fumehood.domain.execution import LLM
from sandbox.egress.desk import Reply, problem
from sandbox.egress.request import RefusedError

MAX_HEAD = 8 * 1024
MAX_CONNECTIONS, MAX_ANSWERS = 32, 8
"""At once; more of them wait. An answer may be large, and is held until it is taken."""
DELAY_S, MAX_DELAY_S = 0.002, 1.0
"""By so much each connection that brought no answer makes the next such one slower: work here is no program's own."""
HEAD_S, ANSWER_S, SEND_S = 10.0, 200.0, 60.0
BODY_S = 30.0
_MODELS = f"/{LLM}/".encode()
_MOST_LEFT, _LEFT_S = 32 << 20, 1.0
"""Of a body that is refused, so much is taken in, for so long."""

Answer = Callable[[bytes, bytes, list[tuple[bytes, bytes]], bytes], Awaitable[Reply]]
PassOn = Callable[["Talk"], Awaitable[bool]]
"""Answers a request as its answer comes; whether that was one from outside."""
_PHRASES = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 410: "Gone", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 422: "Unprocessable Content", 424: "Failed Dependency", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


async def serve(
    listener: socket.socket, answer: Answer, *, pass_on: PassOn | None = None, head_s: float = HEAD_S
) -> None:
    """Take connections until cancelled; no program can hold more than its share, or hold one for long.

    `pass_on` is set where the execution may ask the gateway of models, and gets what is for that.
    """
    await _Server(listener, answer, head_s, pass_on).serve()


class Talk:
    """One request for the gateway of models, with its body, and the way back to the program."""

    def __init__(self, stream: anyio.abc.ByteStream, connection: h11.Connection, asked: h11.Request) -> None:
        self._stream, self._connection, self.asked = stream, connection, asked

    async def body(self, most: int) -> bytes:
        """Return the body, at most so many bytes; RefusedError for a longer one, or one that does not come."""
        try:
            with anyio.fail_after(BODY_S):
                return await self._body(most)
        except TimeoutError:
            raise RefusedError(408, "The body did not come in time.") from None
        except anyio.EndOfStream:
            raise RefusedError(400, "The body ended early.") from None
        except h11.RemoteProtocolError as error:
            raise RefusedError(error.error_status_hint, "This is no body as HTTP/1.1 has it.") from None

    async def _body(self, most: int) -> bytes:
        if self._connection.they_are_waiting_for_100_continue:
            await self._stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        while not isinstance(event := self._connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > most:
                    raise RefusedError(413, f"The body is larger than {most} bytes.")
            else:
                await _more(self._stream, self._connection)
        return bytes(body)

    async def send(self, data: bytes) -> None:
        """Send to the program; raises when it does not take it in time."""
        with anyio.fail_after(SEND_S):
            await self._stream.send(data)

    async def refuse(self, reply: Reply) -> None:
        """Send a refusal, and take in what is still on its way, or its program would see a broken pipe in its place."""
        await _send(self._stream, reply)
        await self._stream.send_eof()
        left = _MOST_LEFT
        with anyio.move_on_after(_LEFT_S), suppress(anyio.EndOfStream):
            while left > 0:
                left -= len(await self._stream.receive())


class _Server:
    def __init__(self, listener: socket.socket, answer: Answer, head_s: float, pass_on: PassOn | None = None) -> None:
        self._listener, self._answer, self._head_s, self._pass_on = listener, answer, head_s, pass_on
        self._free = anyio.Semaphore(MAX_CONNECTIONS)
        self._answers = anyio.CapacityLimiter(MAX_ANSWERS)
        self._calls = anyio.CapacityLimiter(MAX_ANSWERS)
        self._vain = 0

    async def serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await self._free.acquire()
                await anyio.wait_readable(self._listener)
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    # It was gone before it was taken, or there are no descriptors left for a moment.
                    self._free.release()
                    await anyio.sleep(0.01)
                    continue
                tasks.start_soon(self._take, connection)

    async def _take(self, connection: socket.socket) -> None:
        is_answered = False
        try:
            async with await anyio.abc.UNIXSocketStream.from_socket(connection) as stream:
                is_answered = await self._talk(stream)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            # The program hung up.
            pass
        finally:
            connection.close()
            if not is_answered:
                self._vain += 1
                await anyio.sleep(min(MAX_DELAY_S, self._vain * DELAY_S))
            self._free.release()

    async def _talk(self, stream: anyio.abc.ByteStream) -> bool:
        """Answer one request; whether the answer was one from outside."""
        try:
            with anyio.fail_after(self._head_s):
                connection, asked = await _read(stream)
        except h11.RemoteProtocolError as error:
            told = RefusedError(error.error_status_hint, "This is no request of HTTP/1.1 as it is spoken here.")
            await _send(stream, problem(told))
            return False
        except TimeoutError:
            return False
        if asked is None:
            return False
        if self._pass_on is not None and asked.target.startswith(_MODELS):
            async with self._calls:
                return await self._pass_on(Talk(stream, connection, asked))
        async with self._answers:
            try:
                with anyio.fail_after(ANSWER_S):
                    reply = await self._answer(asked.method, asked.target, list(asked.headers), asked.http_version)
            except TimeoutError:
                reply = problem(RefusedError(504, "It took too long."))
            await _send(stream, reply)
        return reply.status == 200


async def _send(stream: anyio.abc.ByteStream, reply: Reply) -> None:
    with anyio.move_on_after(SEND_S):
        await stream.send(_head(reply))
        await stream.send(reply.body)


async def _read(stream: anyio.abc.ByteStream) -> tuple[h11.Connection, h11.Request | None]:
    """Return the head of the first request; None when the other side hung up before that."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            await _more(stream, connection)
        except anyio.EndOfStream:
            return connection, None
    return connection, event if isinstance(event, h11.Request) else None


async def _more(stream: anyio.abc.ByteStream, connection: h11.Connection) -> None:
    connection.receive_data(await stream.receive(4096))


def _head(reply: Reply) -> bytes:
    more = {"Content-Length": str(len(reply.body))}
    if reply.status == 405:
        more["Allow"] = reply.allow
    if reply.retry_after_s:
        more["Retry-After"] = str(max(1, round(reply.retry_after_s)))
    return head(reply.status, reply.content_type, more)


def head(status: int, content_type: str, more: Mapping[str, str]) -> bytes:
    """Return the head of an answer, of which nothing is a program's words or an upstream's, but the type."""
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Refused')}",
        f"Content-Type: {content_type}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in more.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
