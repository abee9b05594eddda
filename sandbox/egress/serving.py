"""HTTP/1.1 towards the program inside: one request a connection, read by h11, answered and closed."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import h11

from sandbox.egress.desk import Reply, problem
from sandbox.egress.request import RefusedError

MAX_HEAD = 8 * 1024
MAX_CONNECTIONS, MAX_ANSWERS = 32, 8
"""At once; more of them wait. An answer may be large, and is held until it is taken."""
DELAY_S, MAX_DELAY_S = 0.002, 1.0
"""By so much each connection that brought no answer makes the next such one slower: work here is no program's own."""
HEAD_S, ANSWER_S, SEND_S = 10.0, 200.0, 60.0

Answer = Callable[[bytes, bytes, list[tuple[bytes, bytes]], bytes], Awaitable[Reply]]
_PHRASES = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 410: "Gone",
    413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


async def serve(listener: socket.socket, answer: Answer, *, head_s: float = HEAD_S) -> None:
    """Take connections until cancelled; no program can hold more than its share, or hold one for long."""
    await _Server(listener, answer, head_s).serve()


class _Server:
    def __init__(self, listener: socket.socket, answer: Answer, head_s: float) -> None:
        self._listener, self._answer, self._head_s = listener, answer, head_s
        self._free = anyio.Semaphore(MAX_CONNECTIONS)
        self._answers = anyio.CapacityLimiter(MAX_ANSWERS)
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
                asked = await _read(stream)
        except h11.RemoteProtocolError as error:
            told = RefusedError(error.error_status_hint, "This is no request of HTTP/1.1 as it is spoken here.")
            await _send(stream, problem(told))
            return False
        except TimeoutError:
            return False
        if asked is None:
            return False
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


async def _read(stream: anyio.abc.ByteStream) -> h11.Request | None:
    """Return the head of the first request; None when the other side hung up before that."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            connection.receive_data(await stream.receive(4096))
        except anyio.EndOfStream:
            return None
    return event if isinstance(event, h11.Request) else None


def _head(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Refused')}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if reply.status == 405:
        lines.append("Allow: GET")
    if reply.retry_after_s:
        lines.append(f"Retry-After: {max(1, round(reply.retry_after_s))}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
