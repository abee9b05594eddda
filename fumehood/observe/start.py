"""Begins what a process says of itself."""

from __future__ import annotations

from fumehood.observe import logs, metrics, traces
from fumehood.settings import Settings


def start(process: str, settings: Settings) -> None:
    """Set up the logs of a process, and its figures and traces where they are asked for; called once, first of all."""
    logs.set_up(settings)
    if settings.metrics_port:
        metrics.serve(settings.metrics_port)
    if settings.otel_endpoint:
        traces.switch_on(settings.otel_endpoint, process)
