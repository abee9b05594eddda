"""A server that writes down every hit: the upstream of a network capability, or a canary that nothing may reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Double:
    """A server at a loopback address; what it answers is set by the test."""

    hits: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The target and the headers of every request."""
    connections: int = 0
    body: bytes = b'{"total": 1}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Taken first, one for each request."""
    quotes: str = ""
    """A header of the request whose value is added to each answer."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [target for target, _ in self.hits]


@contextmanager
def serving() -> Iterator[Double]:
    """Yield a double that answers until the end."""
    double = Double()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            double.hits.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            told = (double.status, double.headers, double.body)
            status, headers, body = double.answers.pop(0) if double.answers else told
            body += self.headers.get(double.quotes, "").encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = do_CONNECT = do_TRACE = answer  # noqa: N815

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def process_request(self, request: object, client_address: object) -> None:
            double.connections += 1
            super().process_request(request, client_address)  # type: ignore[arg-type]

        def handle_error(self, request: object, client_address: object) -> None:
            # Whoever asked hung up, which tests do on purpose.
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        double.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield double
        finally:
            server.shutdown()
            thread.join()
