"""Directions: submitted, read, cancelled, and followed as they go on."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.context import GUARDED, AskedBy, AskedOnce, AskedPage, Context, errors, say_replayed
from api.schemas import Budget, DirectionCreate, DirectionRead, FeedbackCreate, FeedbackRead, IdeaCreate
from api.streams import AskedPlace, events_of, followed
from api.views import ExperimentRead, IdeaRead, Page
from fumehood.domain.direction import DirectionState, Reviewing
from fumehood.domain.step import Side
from fumehood.services import directions, feedback, guidance, submissions
from fumehood.services.keys import Caller
from fumehood.services.replies import Once
from fumehood.services.submissions import Checked
from fumehood.serving import Threads

CHECKING = 40
"""So many directions are checked at once whose template was not read lately; others wait for them."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events",
        "content": events_of('id: 7\ndata: {"seq": 7, "kind": "run.measured", "text": "run_1: measured"}\n\n'),
    }
}


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/directions", tags=["directions"], dependencies=GUARDED)
    _changing(routes, context)
    _reading(routes, context)
    _following(routes, context)
    return routes


def _changing(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock
    checking = Threads(CHECKING, "checking")

    @routes.post("", summary="Submit a direction", status_code=202, responses=errors(400, 402, 404, 409, 413))
    async def submit(asked: DirectionCreate, by: AskedBy, once: AskedOnce, response: Response) -> DirectionRead:
        """Submit a research direction; the work is done by the workers.

        What the admin's policy refuses is answered with `refused-by-policy` and the rule's name. What it wants a person
        for is held (`policy`) until an admin has looked at it. A model must be one of `GET /v1/models`; where its
        provider has no key, the direction is held later (`no_model`).
        """
        check = partial(copy_context().run, _check, context, asked, by, once)
        if asked.parent is not None or not context.known_templates.knows(context.shipped / asked.template):
            # It asks the database or the artifacts: nobody else waits for that.
            checked = await checking.do(check)
            check = partial(_itself, checked)
        direction = await context.accept(check)
        context.queue.hint(Side.WRITE)
        say_replayed(response, once)
        return DirectionRead.of(direction)

    @routes.post("/{direction_id}/cancel", summary="Cancel a direction", responses=errors(404))
    def cancel(direction_id: str, by: AskedBy, once: AskedOnce, response: Response) -> DirectionRead:
        """Cancel a direction; what runs is stopped. One that has ended stays as it is."""
        known = context.shelf(by).direction(direction_id)
        cancelled = directions.cancel(store, clock, known.id, by.key, once)
        say_replayed(response, once)
        context.queue.hint(Side.RUN)
        return DirectionRead.of(cancelled)

    @routes.put("/{direction_id}/budget", summary="Set a direction's budget", responses=errors(400, 404, 409, 413))
    def set_direction_budget(direction_id: str, given: Budget, by: AskedBy) -> DirectionRead:
        """Put a budget in the place of the one that was; what that one held goes on."""
        known = context.shelf(by).direction(direction_id)
        changed = guidance.set_budget(
            store,
            clock,
            by.key,
            known.id,
            usd=given.usd,
            gpu_s=given.gpu_seconds,
            wall_s=given.wall_s,
            usd_per_experiment=given.usd_per_experiment,
            usd_per_call=given.usd_per_call,
        )
        _hint_both(context)
        return DirectionRead.of(changed)

    @routes.post("/{direction_id}/pause", summary="Pause a direction", responses=errors(404, 409))
    def pause_direction(direction_id: str, by: AskedBy, once: AskedOnce, response: Response) -> DirectionRead:
        """Begin nothing more of a direction; what runs goes on."""
        known = context.shelf(by).direction(direction_id)
        paused = guidance.pause_direction(store, clock, by.key, known.id, once)
        say_replayed(response, once)
        return DirectionRead.of(paused)

    @routes.post("/{direction_id}/resume", summary="Let a direction go on", responses=errors(404, 409))
    def resume_direction(direction_id: str, by: AskedBy, once: AskedOnce, response: Response) -> DirectionRead:
        """Lift whatever holds the direction; it goes on where it stood."""
        known = context.shelf(by).direction(direction_id)
        resumed = guidance.resume_direction(store, clock, by.key, known.id, once)
        say_replayed(response, once)
        _hint_both(context)
        return DirectionRead.of(resumed)

    @routes.post(
        "/{direction_id}/feedback",
        summary="Comment on a direction",
        status_code=201,
        responses=errors(400, 404, 409, 413),
    )
    def comment_on_direction(
        direction_id: str, given: FeedbackCreate, by: AskedBy, once: AskedOnce, response: Response
    ) -> FeedbackRead:
        """Leave a comment; the next step that asks a model for an idea or for code reads it."""
        known = context.shelf(by).direction(direction_id)
        made = feedback.comment(store, clock, by.key, known.id, None, given.text, once)
        say_replayed(response, once)
        return FeedbackRead.model_validate(made)

    @routes.post(
        "/{direction_id}/ideas",
        summary="Add an idea of one's own",
        status_code=201,
        responses=errors(400, 404, 409, 413),
    )
    def add_idea(direction_id: str, given: IdeaCreate, by: AskedBy, once: AskedOnce, response: Response) -> IdeaRead:
        """Add a person's idea; it is carried out after those that are there, and needs no approval."""
        known = context.shelf(by).direction(direction_id)
        own = guidance.OwnIdea.model_validate(given.model_dump())
        made = guidance.add_idea(store, clock, by.key, known.id, own, once, context.policy)
        say_replayed(response, once)
        context.queue.hint(Side.WRITE)
        return IdeaRead.model_validate(made)


def _itself(checked: Checked) -> Checked:
    return checked


def _check(context: Context, asked: DirectionCreate, by: Caller, once: Once | None) -> Checked:
    for model in (asked.model, asked.review_model or asked.review.model or asked.model):
        context.models.of(model)
    submission = submissions.Submission(
        template=asked.template,
        text=asked.text,
        model=asked.model,
        review_model=asked.review_model or asked.review.model,
        profile=asked.profile,
        ideas=asked.ideas,
        runs=asked.runs,
        novelty=asked.novelty,
        seed=asked.seed,
        sandbox=asked.sandbox,
        budget_usd=asked.budget.usd,
        budget_usd_per_experiment=asked.budget.usd_per_experiment,
        budget_usd_per_call=asked.budget.usd_per_call,
        budget_gpu_s=asked.budget.gpu_seconds,
        budget_wall_s=asked.budget.wall_s,
        priority=asked.priority,
        parent=None if asked.parent is None else context.shelf(by).experiment(asked.parent).id,
        strategy=asked.strategy,
        reviewing=Reviewing(
            reflections=asked.review.reflections, ensemble=asked.review.ensemble, fewshot=asked.review.fewshot
        ),
        approve=asked.approve,
        tenant=by.tenant,
        actor=by.key,
    )
    return submissions.check(
        context.store,
        context.artifacts,
        context.clock,
        submission,
        context.shipped,
        shipped_only=True,
        once=once,
        policy=context.policy,
        known_templates=context.known_templates,
    )


def _hint_both(context: Context) -> None:
    for side in Side:
        context.queue.hint(side)


def _reading(routes: APIRouter, context: Context) -> None:
    @routes.get("", summary="List the directions", responses=errors())
    def list_directions(asked: AskedPage, by: AskedBy, state: DirectionState | None = None) -> Page[DirectionRead]:
        """Return the directions, oldest first."""
        return asked.page(
            context,
            lambda after, limit: context.shelf(by).directions(state, after, limit),
            lambda one: one.id,
            DirectionRead.of,
        )

    @routes.get("/{direction_id}", summary="Read a direction", responses=errors(404))
    def read_direction(direction_id: str, by: AskedBy) -> DirectionRead:
        """Return a direction and where it stands."""
        return DirectionRead.of(context.shelf(by).direction(direction_id))

    @routes.get("/{direction_id}/ideas", summary="List a direction's ideas", responses=errors(404))
    def list_ideas(direction_id: str, asked: AskedPage, by: AskedBy) -> Page[IdeaRead]:
        """Return a direction's ideas, in the order they were proposed."""
        return asked.page(
            context,
            lambda after, limit: context.shelf(by).ideas(direction_id, after, limit),
            lambda one: one.id,
            IdeaRead.model_validate,
        )

    @routes.get("/{direction_id}/experiments", summary="List a direction's experiments", responses=errors(404))
    def list_experiments(direction_id: str, asked: AskedPage, by: AskedBy) -> Page[ExperimentRead]:
        """Return a direction's experiments, in the order they are carried out."""
        return asked.page(
            context,
            lambda after, limit: context.shelf(by).experiments(direction_id, after, limit),
            lambda one: one.id,
            ExperimentRead.of,
        )


def _following(routes: APIRouter, context: Context) -> None:
    @routes.get(
        "/{direction_id}/events",
        summary="Follow a direction's events",
        response_class=StreamingResponse,
        responses={**STREAM, **errors(404)},
    )
    async def follow_events(
        direction_id: str,
        by: AskedBy,
        follow: Annotated[bool, Query(description="False: what there is, and no more.")] = True,
        last_event_id: AskedPlace = 0,
    ) -> Response:
        """Return what happened as server-sent events, and go on until the direction has ended (`event: end`).

        `id` is the event's number: a client that was cut off resumes with `Last-Event-ID`.
        """
        await run_in_threadpool(context.shelf(by).direction, direction_id)
        events = context.feed.read(direction_id, last_event_id, follow=follow)
        return followed(context.feed, context.still_opens(by), events)
