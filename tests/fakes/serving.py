"""Applications served on a loopback port, and a way to them that cuts connections as a test says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve an ASGI application from a thread, and yield its port."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Recorder:
    """An application that answers as it is told, and remembers what it was asked."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path with query, and body."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    body: Any = None
    answers: dict[str, Any] = field(default_factory=dict)
    """By path; `body` where it has none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        given = b""
        more = True
        while more:
            message = await receive()
            given += message.get("body", b"")
            more = message.get("more_body", False)
        query = scope["query_string"].decode()
        path = scope["path"] + (f"?{query}" if query else "")
        self.asked.append((scope["method"], path, json.loads(given) if given else None))
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        told = self.answers.get(scope["path"], self.body)
        body = told if isinstance(told, bytes) else json.dumps({} if told is None else told).encode()
        await send({"type": "http.response.body", "body": body})


class Cutter:
    """A relay to a port of this machine that hangs up in the middle of answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cuts: list[int] = []
        """After how many bytes of its answer each next connection is cut; later ones are not."""
        self.requests: list[bytes] = []
        """What each connection sent."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Take no more connections, and wait for those there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                number = len(self.requests)
                self.requests.append(b"")
                left = self.cuts.pop(0) if self.cuts else None
                thread = threading.Thread(target=self._relay, args=(caller, number, left))
                self._threads.append(thread)
                thread.start()

    def _relay(self, caller: socket.socket, number: int, left: int | None) -> None:
        with caller, socket.create_connection(("127.0.0.1", self._port)) as server:
            asking = threading.Thread(target=self._ask, args=(caller, server, number))
            asking.start()
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    caller.sendall(data if left is None else data[:left])
                    if left is not None and (left := left - len(data)) <= 0:
                        break
            for one in (caller, server):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _ask(self, caller: socket.socket, server: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := caller.recv(65536):
                self.requests[number] += data
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
