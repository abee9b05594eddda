"""A receiver of traces: takes OTLP over HTTP as a collector does, and keeps what it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One span, in plain words."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    attributes: dict[str, str | int | float | bool]


@dataclass(slots=True)
class Collector:
    """What has come in so far."""

    url: str = ""
    spans: list[Told] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def named(self, name: str) -> list[Told]:
        with self._lock:
            return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        asked = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in asked.resource_spans:
                service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_told(service, span) for span in scope.spans]


def _told(service: str, span: object) -> Told:
    return Told(
        service=service,
        name=span.name,  # type: ignore[attr-defined]
        trace=span.trace_id.hex(),  # type: ignore[attr-defined]
        id=span.span_id.hex(),  # type: ignore[attr-defined]
        parent=span.parent_span_id.hex(),  # type: ignore[attr-defined]
        began=span.start_time_unix_nano / 1e9,  # type: ignore[attr-defined]
        ended=span.end_time_unix_nano / 1e9,  # type: ignore[attr-defined]
        attributes={
            one.key: getattr(one.value, one.value.WhichOneof("value"))
            for one in span.attributes  # type: ignore[attr-defined]
        },
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """Take spans for as long as the block goes on."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") or self.headers["Content-Type"] != "application/x-protobuf":
                self.send_error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
                return
            if self.path != "/v1/traces":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            collector.take(body)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
