"""What people decide about ideas and experiments under way."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.context import GUARDED, AskedBy, AskedOnce, Context, errors, say_replayed
from api.schemas import FeedbackCreate, FeedbackRead, ForkCreate
from api.views import ExperimentRead, IdeaRead
from fumehood.domain.step import Side
from fumehood.services import feedback, forks, guidance


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["decisions"], dependencies=GUARDED)
    store, clock = context.store, context.clock

    @routes.post("/ideas/{idea_id}/approve", summary="Approve an idea", responses=errors(404, 409))
    def approve_idea(idea_id: str, by: AskedBy, once: AskedOnce, response: Response) -> IdeaRead:
        """Have an idea carried out; when the last one is decided, a direction that waits goes on."""
        known = context.shelf(by).idea(idea_id)
        decided = guidance.decide(store, clock, by.key, known.id, approve=True, once=once)
        say_replayed(response, once)
        context.queue.hint(Side.WRITE)
        return IdeaRead.model_validate(decided)

    @routes.post("/ideas/{idea_id}/reject", summary="Reject an idea", responses=errors(404, 409))
    def reject_idea(idea_id: str, by: AskedBy, once: AskedOnce, response: Response) -> IdeaRead:
        """Have an idea not carried out, unless its experiment has begun."""
        known = context.shelf(by).idea(idea_id)
        decided = guidance.decide(store, clock, by.key, known.id, approve=False, once=once)
        say_replayed(response, once)
        context.queue.hint(Side.WRITE)
        return IdeaRead.model_validate(decided)

    @routes.post("/experiments/{experiment_id}/pause", summary="Pause an experiment", responses=errors(404, 409))
    def pause_experiment(experiment_id: str, by: AskedBy, once: AskedOnce, response: Response) -> ExperimentRead:
        """Begin nothing more of an experiment; what runs goes on."""
        known = context.shelf(by).experiment(experiment_id)
        paused = guidance.pause_experiment(store, clock, by.key, known.id, once)
        say_replayed(response, once)
        return ExperimentRead.of(paused)

    @routes.post("/experiments/{experiment_id}/resume", summary="Let an experiment go on", responses=errors(404, 409))
    def resume_experiment(experiment_id: str, by: AskedBy, once: AskedOnce, response: Response) -> ExperimentRead:
        """Lift whatever holds the experiment; where each step is approved, this approves the next."""
        known = context.shelf(by).experiment(experiment_id)
        resumed = guidance.resume_experiment(store, clock, by.key, known.id, once)
        say_replayed(response, once)
        for side in Side:
            context.queue.hint(side)
        return ExperimentRead.of(resumed)

    @routes.post(
        "/experiments/{experiment_id}/fork",
        summary="Fork an experiment",
        status_code=202,
        responses=errors(400, 402, 404, 409, 413),
    )
    def fork_experiment(
        experiment_id: str, asked: ForkCreate, by: AskedBy, once: AskedOnce, response: Response
    ) -> ExperimentRead:
        """Do an ended experiment again from a step on: `run_K`, `plotting`, `writing` or `reviewing`.

        The fork is a new experiment of the same direction. What came before the step is shared by hash; that step and
        the later ones are done again, and paid for as any work. Edited files of a run are measured as they are; without
        any, the coder is asked anew. A direction that was done or failed goes on until the fork has ended.
        """
        known = context.shelf(by).experiment(experiment_id)
        edits = forks.Edits(files=asked.edits.files, notes=asked.edits.notes, plan=asked.edits.plan)
        made = forks.fork(store, context.artifacts, clock, by.key, known.id, asked.from_step, edits, once)
        say_replayed(response, once)
        context.queue.hint(Side.WRITE)
        return ExperimentRead.of(made)

    @routes.post(
        "/experiments/{experiment_id}/feedback",
        summary="Comment on an experiment",
        status_code=201,
        responses=errors(400, 404, 409, 413),
    )
    def comment_on_experiment(
        experiment_id: str, given: FeedbackCreate, by: AskedBy, once: AskedOnce, response: Response
    ) -> FeedbackRead:
        """Leave a comment; the next step that asks a model for code reads it."""
        known = context.shelf(by).experiment(experiment_id)
        made = feedback.comment(store, clock, by.key, known.direction_id, known.id, given.text, once)
        say_replayed(response, once)
        return FeedbackRead.model_validate(made)

    return routes
