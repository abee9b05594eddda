"""The figures of this process and of the database, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meters:
    """What the API counts, and what it reads of the database whenever it is asked; no label is an id."""

    def __init__(self, figures: Collector, streams: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fumehood_http_requests", "Requests that were answered.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "fumehood_http_request_seconds", "Until an answer begins.", ["route", "method"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        Gauge("fumehood_event_streams", "Event streams that are open.", registry=self._registry).set_function(streams)
        ProcessCollector(registry=self._registry)
        self._registry.register(figures)

    def answered(self, route: str, method: str, status: int, waited_s: float) -> None:
        """Count a request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(waited_s)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self._registry)
