"""Traces over OpenTelemetry: a request, the steps that it led to, and their executions and model calls.

Off unless an endpoint is set; then nothing of OpenTelemetry is imported, and a span costs one comparison. What
carries a trace from process to process is its `traceparent` (W3C Trace Context), kept with the steps in the database.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from fumehood.errors import MachineUnfitError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

FLUSH_MS = 2_000
"""How long the last spans of a process may take to go out."""
Value = str | int | float | bool
_CARRIED = "traceparent"


class Span(Protocol):
    """A piece of work under way."""

    def set_attribute(self, key: str, value: Value) -> None:
        """Say something more of it."""


class _Nothing:
    def set_attribute(self, key: str, value: Value) -> None:
        """Do nothing."""


class _Tracing:
    """This process's way to tell spans; there is none until it is switched on."""

    tracer: Tracer | None = None
    provider: TracerProvider | None = None


_NOTHING = _Nothing()


def switch_on(endpoint: str, process: str) -> None:
    """Send the spans of this process to an OTLP/HTTP endpoint, such as `http://127.0.0.1:4318`."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MachineUnfitError(
            f"FUMEHOOD_OTEL_ENDPOINT is set, but {error.name} is not installed.",
            remedy="Install it with: pip install 'fumehood[otel]'; or leave FUMEHOOD_OTEL_ENDPOINT out.",
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"fumehood.{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    _Tracing.provider = provider
    _Tracing.tracer = provider.get_tracer("fumehood")


def _end(number: int, _: FrameType | None) -> None:
    # A process that a signal ends has no other last word; uvicorn too sends itself the signal in the end.
    flush()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def flush() -> None:
    """Send what is still here, before a process ends without a last word."""
    if _Tracing.provider is not None:
        _Tracing.provider.force_flush(FLUSH_MS)


def is_on() -> bool:
    """Tell whether this process tells spans."""
    return _Tracing.tracer is not None


@contextlib.contextmanager
def span(name: str, parent: str = "", **attributes: Value | None) -> Iterator[Span]:
    """Tell of the block as one span, below the one under way, or below `parent`, a `traceparent`."""
    if _Tracing.tracer is None:
        yield _NOTHING
        return
    given = {f"fumehood.{key}": value for key, value in attributes.items() if value is not None}
    # An error's text may hold what belongs to a caller; that one was raised is told by who catches it.
    with _Tracing.tracer.start_as_current_span(
        name, _context_of(parent), attributes=given, record_exception=False, set_status_on_exception=True
    ) as opened:
        yield opened


def ended(name: str, parent: str, began: float, ends: float, **attributes: Value | None) -> None:
    """Tell of work that went on outside of any process of ours, from Unix time `began` to `ends`."""
    if _Tracing.tracer is None:
        return
    given = {f"fumehood.{key}": value for key, value in attributes.items() if value is not None}
    told = _Tracing.tracer.start_span(name, _context_of(parent), attributes=given, start_time=_ns(began))
    told.end(_ns(max(ends, began)))


def carried() -> dict[str, str]:
    """Return what the payload of a step, or the head of a request, carries on; nothing where tracing is off."""
    if _Tracing.tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return {_CARRIED: found[_CARRIED]} if _CARRIED in found else {}


def carried_by(payload: object) -> str:
    """Return the `traceparent` that a payload carries, or nothing."""
    get = getattr(payload, "get", None)
    return str(get(_CARRIED) or "") if get else ""


def _context_of(parent: str) -> Context | None:
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # What is not well formed is no parent, and the span begins a trace of its own.
    return TraceContextTextMapPropagator().extract({_CARRIED: parent})


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
