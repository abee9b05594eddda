"""Directions: submitted, read, cancelled, and followed as they go on."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.context import GUARDED, AskedPage, Context, errors
from api.problem import problem
from api.schemas import DirectionCreate, DirectionRead
from api.streams import EventStream
from api.views import ExperimentRead, IdeaRead, Page
from fumehood.domain.direction import DirectionState
from fumehood.domain.step import Side
from fumehood.services import browsing, directions

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'id: 7\ndata: {"seq": 7, "kind": "run.measured", "text": "run_1: measured"}\n\n',
            }
        },
    }
}
RETRY_S = "5"
LAST_SEQ = 2**63 - 1


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/directions", tags=["directions"], dependencies=GUARDED)
    _changing(routes, context)
    _reading(routes, context)
    _following(routes, context)
    return routes


def _changing(routes: APIRouter, context: Context) -> None:
    @routes.post("", summary="Submit a direction", status_code=202, responses=errors(400, 401, 413, 422))
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
        store, artifacts, clock = context.store, context.artifacts, context.clock
        direction = directions.submit(store, artifacts, clock, submission, context.shipped, shipped_only=True)
        context.queue.hint(Side.WRITE)
        return DirectionRead.of(direction)

    @routes.post("/{direction_id}/cancel", summary="Cancel a direction", responses=errors(401, 404, 422))
    def cancel(direction_id: str) -> DirectionRead:
        """Cancel a direction; what runs is stopped. One that has ended stays as it is."""
        known = browsing.direction(context.store, direction_id)
        cancelled = directions.cancel(context.store, context.clock, known.id)
        context.queue.hint(Side.RUN)
        return DirectionRead.of(cancelled)


def _reading(routes: APIRouter, context: Context) -> None:
    @routes.get("", summary="List the directions", responses=errors(401, 422))
    def list_directions(asked: AskedPage, state: DirectionState | None = None) -> Page[DirectionRead]:
        """Return the directions, oldest first."""
        return asked.page(
            context,
            lambda after, limit: browsing.directions(context.store, state, after, limit),
            lambda one: one.id,
            DirectionRead.of,
        )

    @routes.get("/{direction_id}", summary="Read a direction", responses=errors(401, 404, 422))
    def read_direction(direction_id: str) -> DirectionRead:
        """Return a direction and where it stands."""
        return DirectionRead.of(browsing.direction(context.store, direction_id))

    @routes.get("/{direction_id}/ideas", summary="List a direction's ideas", responses=errors(401, 404, 422))
    def list_ideas(direction_id: str, asked: AskedPage) -> Page[IdeaRead]:
        """Return a direction's ideas, in the order they were proposed."""
        return asked.page(
            context,
            lambda after, limit: browsing.ideas(context.store, direction_id, after, limit),
            lambda one: one.id,
            IdeaRead.model_validate,
        )

    @routes.get(
        "/{direction_id}/experiments", summary="List a direction's experiments", responses=errors(401, 404, 422)
    )
    def list_experiments(direction_id: str, asked: AskedPage) -> Page[ExperimentRead]:
        """Return a direction's experiments, in the order they are carried out."""
        return asked.page(
            context,
            lambda after, limit: browsing.experiments(context.store, direction_id, after, limit),
            lambda one: one.id,
            ExperimentRead.of,
        )


def _following(routes: APIRouter, context: Context) -> None:
    @routes.get(
        "/{direction_id}/events",
        summary="Follow a direction's events",
        response_class=StreamingResponse,
        responses={**STREAM, **errors(401, 404, 422, 429)},
    )
    async def follow_events(
        direction_id: str,
        follow: Annotated[bool, Query(description="False: what there is, and no more.")] = True,
        last_event_id: Annotated[int, Header(ge=0, le=LAST_SEQ, description="Events after this one.")] = 0,
    ) -> Response:
        """Return what happened as server-sent events, and go on until the direction has ended (`event: end`).

        `id` is the event's number: a client that was cut off resumes with `Last-Event-ID`.
        """
        await run_in_threadpool(browsing.direction, context.store, direction_id)
        if context.feed.is_full:
            detail = "As many streams are open as this server holds; close one, or try again."
            return problem(429, "too-many-streams", detail, {"Retry-After": RETRY_S})
        events = context.feed.read(direction_id, last_event_id, follow=follow)
        return EventStream(events, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
