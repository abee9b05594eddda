"""The routes: HTTP in, one service called, HTTP out."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from api import problem
from api.schemas import DirectionCreate, DirectionRead, Health
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Side
from fumehood.ports import Artifacts, Clock, Queue, Store
from fumehood.services import directions

Given = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
"""Stands here and not where it is used: FastAPI looks annotations up among a module's names."""
PROBLEM: dict[str, Any] = {"content": {"application/problem+json": {}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No key, or a wrong one", **PROBLEM},
    404: {"description": "No such direction", **PROBLEM},
    422: {"description": "Input that cannot be used", **PROBLEM},
}


def create_app(
    store: Store, artifacts: Artifacts, clock: Clock, queue: Queue, *, shipped: Path, api_key: str
) -> FastAPI:
    """Return the application; every route but `/healthz` and the documentation asks for the key."""
    app = FastAPI(title="Fumehood", version="1", docs_url="/docs", redoc_url=None)
    problem.install(app)

    def authorised(given: Given) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), api_key.encode()):
            told = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "A valid key is needed: Authorization: Bearer <key>.", told)

    guarded = [Depends(authorised)]

    @app.get("/healthz")
    def healthz() -> Health:
        """Say that the process answers."""
        return Health()

    @app.post("/v1/directions", status_code=202, responses=ERRORS, dependencies=guarded)
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

    @app.get("/v1/directions/{direction_id}", responses=ERRORS, dependencies=guarded)
    def read(direction_id: str) -> DirectionRead:
        """Return a direction and where it stands."""
        with store.begin(write=False) as tx:
            return DirectionRead.of(tx.directions.get(DirectionId(direction_id)))

    return app
