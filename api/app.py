"""The routes: HTTP in, one service called, HTTP out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from api import problem
from api.door import Door
from api.schemas import DirectionCreate, DirectionRead, Health, Problem
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Side
from fumehood.ports import Artifacts, Clock, Queue, Store
from fumehood.services import directions

PROBLEM = {"application/problem+json": {"schema": Problem.model_json_schema()}}
ERRORS = {
    400: "A body that cannot be read",
    401: "No key, or a wrong one",
    404: "No such direction",
    413: "A body that is too long",
    422: "Input that cannot be used",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how an operation's errors are documented."""
    return {status: {"description": ERRORS[status], "content": PROBLEM} for status in statuses}


def create_app(
    store: Store, artifacts: Artifacts, clock: Clock, queue: Queue, *, shipped: Path, api_key: str
) -> FastAPI:
    """Return the application; every route but `/healthz` and the documentation asks for the key."""
    app = FastAPI(title="Fumehood", version="1", redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    problem.install(app)
    app.add_middleware(Door, api_key=api_key)
    # The door has asked already; this only writes it into the documentation.
    guarded = [Depends(HTTPBearer(auto_error=False))]

    @app.get("/healthz")
    def healthz() -> Health:
        """Say that the process answers."""
        return Health()

    @app.post("/v1/directions", status_code=202, responses=errors(400, 401, 413, 422), dependencies=guarded)
    def submit(asked: DirectionCreate) -> DirectionRead:
        """Submit a research direction; the work is done by the workers."""
        submission = directions.Submission(
            template=asked.template,
            text=asked.text,
            model=asked.model,
            review_model=asked.review_model,
            profile=asked.profile,
            ideas=asked.ideas,
            runs=asked.runs,
            novelty=asked.novelty,
            seed=asked.seed,
            sandbox=asked.sandbox,
            budget_usd=asked.budget.usd,
        )
        direction = directions.submit(store, artifacts, clock, submission, shipped, shipped_only=True)
        queue.hint(Side.WRITE)
        return DirectionRead.of(direction)

    @app.get("/v1/directions/{direction_id}", responses=errors(401, 404, 422), dependencies=guarded)
    def read(direction_id: str) -> DirectionRead:
        """Return a direction and where it stands."""
        with store.begin(write=False) as tx:
            return DirectionRead.of(tx.directions.get(DirectionId(direction_id)))

    return app
