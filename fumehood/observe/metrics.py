"""What a worker or a gateway knows that the database does not, for Prometheus, on a port of this machine alone."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

REGISTRY = CollectorRegistry()
LOOPBACK = "127.0.0.1"
_LOG = logging.getLogger("fumehood.metrics")
_LONG_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

STEP_SECONDS = Histogram(
    "fumehood_step_seconds", "How long a worker had a step.", ["name", "outcome"], buckets=_LONG_S, registry=REGISTRY
)
MODEL_CALL_SECONDS = Histogram(
    "fumehood_model_call_seconds",
    "From a call's reservation to its end.",
    ["upstream", "role", "status"],
    buckets=_LONG_S,
    registry=REGISTRY,
)
UPSTREAM_ERRORS = Counter(
    "fumehood_upstream_errors", "Attempts that a provider did not answer well.", ["upstream", "kind"], registry=REGISTRY
)
UPSTREAM_RETRIES = Counter("fumehood_upstream_retries", "Attempts after a first one.", ["upstream"], registry=REGISTRY)
WATCHER_LAG = Gauge(
    "fumehood_watcher_lag_seconds", "How long ago the watcher last looked at all containers.", registry=REGISTRY
)
REAPED = Counter("fumehood_reaped", "Things removed from this machine that no row spoke of.", registry=REGISTRY)
ProcessCollector(registry=REGISTRY)


def serve(port: int) -> None:
    """Answer on a port; a process whose port is taken does its work all the same, and says so."""
    try:
        start_http_server(port, addr=LOOPBACK, registry=REGISTRY)
    except OSError as error:
        _LOG.warning("no figures of this process can be read on port %d: %s", port, error.strerror)
