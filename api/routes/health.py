"""Whether the process answers, whether the installation can work, and its figures; machines ask, without a key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.context import OPEN, errors
from api.meters import Meters
from api.problem import problem
from api.readiness import Readiness
from api.schemas import CheckRead, Health, NotReady, Ready

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Something that the work needs is away",
        "content": {"application/problem+json": {"schema": NotReady.model_json_schema(ref_template="#/$defs/{model}")}},
    }
}
FIGURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text format",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "fumehood_database_up 1.0\n"}},
    }
}


def router(meters: Meters, readiness: Readiness) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["health"], dependencies=OPEN)

    @routes.get("/healthz", summary="Ask whether the process answers", responses=errors(422, guarded=False))
    def healthz() -> Health:
        """Say that the process answers."""
        return Health()

    @routes.get(
        "/readyz",
        summary="Ask whether the work can be done",
        response_model=Ready,
        responses=errors(422, guarded=False) | NOT_READY,
    )
    def readyz() -> Ready | Response:
        """Ask the database, the artifacts, the broker and the workers, each for two seconds at most."""
        checks = [CheckRead(name=one.name, ok=one.ok, why=one.why) for one in readiness.ask()]
        away = [one.name for one in checks if not one.ok]
        if not away:
            return Ready(checks=checks)
        detail = f"Not ready: {', '.join(away)}."
        return problem(503, "not-ready", detail, {"Retry-After": "5"}, checks=[one.model_dump() for one in checks])

    @routes.get(
        "/metrics", summary="Read the figures", response_class=Response, responses=errors(422, guarded=False) | FIGURES
    )
    def metrics() -> Response:
        """Return the figures of this process and of the installation."""
        return Response(meters.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
