"""Submitting a direction, carrying it from ideas to experiments, and closing it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.domain.experiment import Experiment, ExperimentState
from fumehood.domain.idea import Decision
from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.domain.step import Event, Step
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import BadInputError, ConflictError
from fumehood.observe import traces
from fumehood.ports import Artifacts, Clock, Store, Transaction
from fumehood.services import audit, templates, tenants
from fumehood.services.change import Change, Next, happened
from fumehood.services.queueing import enqueue
from fumehood.services.replies import Once, keep, made_by
from fumehood.services.world import WriteWorld

LOCAL_ACTOR = "local"
"""Whoever types a command on this machine."""
MAX_TEXT = 20_000
MAX_IDEAS = 500
MAX_RUNS = 20
MAX_SEED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a researcher asks for."""

    template: str
    text: str | None = None
    """None means the template's own task; an empty text is an error."""
    model: str = "offline"
    review_model: str | None = None
    profile: str = "cpu"
    ideas: int = 50
    runs: int = 5
    novelty: bool = True
    seed: int = 0
    sandbox: str = "auto"
    budget_usd: float | None = None
    approve: Approve = Approve.AUTO
    tenant: TenantId = LOCAL_TENANT
    actor: str = LOCAL_ACTOR
    """Whose key it came with."""


def submit(
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
    asked: Submission,
    shipped: Path,
    *,
    baseline_only: bool = False,
    shipped_only: bool = False,
    once: Once | None = None,
) -> Direction:
    """Check what is asked, keep a snapshot of the template, and make the first step due.

    With `shipped_only` a template is a shipped one's name and never a path, as for callers on the network.
    """
    if shipped_only and asked.template not in templates.names(shipped):
        raise BadInputError(f"There is no template {asked.template!r}.")
    direction = draft(artifacts, clock, asked, shipped)
    if baseline_only:
        direction = dataclasses.replace(direction, ideas=0)
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.directions.get(known)
        tenants.admit(tx, direction.tenant)
        tx.directions.save(direction)
        keep(tx, clock, once, direction.id)
        audit.note(tx, clock, asked.actor, "direction.submitted", tenant=direction.tenant, subject=direction.id)
        enqueue(tx, clock, (first_step(direction.id),))
        tx.events.append(
            Event(
                direction_id=direction.id,
                kind="direction.submitted",
                text=f"{direction.template} ({direction.profile}): {direction.ideas} ideas, {direction.runs} runs each",
                at=clock.now(),
            )
        )
    return direction


def first_step(direction_id: DirectionId) -> Next:
    """Return the step that a direction begins with; it carries the trace that all others join."""
    return Next(name="begin", key=f"begin:{direction_id}", direction_id=direction_id, payload=traces.carried())


def draft(artifacts: Artifacts, clock: Clock, asked: Submission, shipped: Path) -> Direction:
    """Return the direction that a submission means, or refuse it in one sentence."""
    if asked.text is not None and not asked.text.strip():
        raise BadInputError("The direction's text is empty: say in a sentence or two what to look into.")
    if asked.text is not None and len(asked.text) > MAX_TEXT:
        raise BadInputError(f"The direction's text is longer than {MAX_TEXT} characters.")
    for name, value, most in (("ideas", asked.ideas, MAX_IDEAS), ("runs", asked.runs, MAX_RUNS)):
        if not 1 <= value <= most:
            raise BadInputError(f"The number of {name} must be from 1 to {most}, not {value}.")
    if not 0 <= asked.seed <= MAX_SEED:
        raise BadInputError(f"The seed must be from 0 to {MAX_SEED}, not {asked.seed}.")
    if not asked.model.strip() or (asked.review_model is not None and not asked.review_model.strip()):
        raise BadInputError("A model's name is needed, such as `offline`.")
    if asked.budget_usd is not None and not (math.isfinite(asked.budget_usd) and asked.budget_usd >= 0):
        raise BadInputError("The budget must be a number of US dollars that is not negative.")
    folder = templates.find(asked.template, shipped)
    files = templates.snapshot(folder, artifacts)
    problems = templates.check(files, artifacts, folder.name)
    if problems:
        raise BadInputError(f"The template {folder.name} does not keep the contract: {problems[0]}")
    template = templates.load(files, artifacts, folder.name)
    templates.profile_of(template, asked.profile)
    _, task = templates.prompt_of(files, artifacts)
    return Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=asked.tenant,
        template=folder.name,
        text=asked.text.strip() if asked.text else task,
        model=asked.model,
        review_model=asked.review_model or asked.model,
        profile=asked.profile,
        ideas=asked.ideas,
        runs=asked.runs,
        novelty=asked.novelty,
        seed=asked.seed,
        sandbox=asked.sandbox,
        budget_usd=asked.budget_usd,
        approve=asked.approve,
        template_files=files,
        created_at=clock.now(),
    )


def begin(world: WriteWorld, step: Step) -> Change:
    """Open a direction: data first, so that a broken template shows before anything is spent on a model."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
    return Change(
        directions=(direction.to(DirectionState.IDEATING),),
        steps=(Next(name="prepare", key=f"prepare:{direction.id}", direction_id=direction.id),),
    )


def schedule(world: WriteWorld, step: Step) -> Change:
    """Turn the ideas that go on into experiments and start the first; close the direction when none does."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        ideas = tx.ideas.find(direction_id=direction.id)
        baselines = tx.runs.find(direction_id=direction.id, index=0)
    chosen = [idea for idea in ideas if idea.goes_on]
    if direction.approve is not Approve.AUTO and any(idea.decision is Decision.OPEN for idea in chosen):
        waiting = dataclasses.replace(direction, hold=Hold.APPROVAL)
        again = Next(name="schedule", key=f"schedule:{direction.id}:{step.id}", direction_id=direction.id)
        said = happened(world.clock, direction, "approval", "the ideas wait for a person's approval")
        return Change(directions=(waiting,), steps=(again,), events=(said,))
    if not chosen:
        return Change(
            directions=(direction.to(DirectionState.DONE, ended_at=world.clock.now()),),
            events=(happened(world.clock, direction, "direction.done", "no idea was worth an experiment"),)
            if ideas
            else (),
        )
    now = world.clock.now()
    experiments = tuple(
        Experiment(
            id=ExperimentId(world.clock.new_id("exp")),
            direction_id=direction.id,
            idea_id=idea.id,
            name=idea.name,
            index=number,
            files=templates.workspace(direction.template_files),
            baseline_id=baselines[0].id if baselines else None,
            created_at=now,
        )
        for number, idea in enumerate(chosen)
    )
    return Change(
        directions=(direction.to(DirectionState.RUNNING),),
        experiments=experiments,
        steps=(Next(name="next_experiment", key=f"next_experiment:{direction.id}:0", direction_id=direction.id),),
    )


def next_experiment(world: WriteWorld, step: Step) -> Change:
    """Start the first experiment that has not begun, or close the direction when all have ended."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        experiments = sorted(tx.experiments.find(direction_id=direction.id), key=lambda one: one.index)
    if direction.is_final:
        return Change()
    waiting = [one for one in experiments if one.state is ExperimentState.QUEUED]
    if waiting:
        started = waiting[0].to(ExperimentState.BASELINE)
        return Change(
            experiments=(started,),
            steps=(
                Next(
                    name="begin_experiment",
                    key=f"begin_experiment:{started.id}",
                    direction_id=direction.id,
                    experiment_id=started.id,
                ),
            ),
            events=(happened(world.clock, started, "experiment.started", f"{started.name}: started"),),
        )
    if not all(one.is_final for one in experiments):
        return Change()
    done = sum(one.state is ExperimentState.DONE for one in experiments)
    state = DirectionState.DONE if done else DirectionState.FAILED
    error = "" if done else "every experiment failed: " + "; ".join(f"{one.name}: {one.error}" for one in experiments)
    return Change(
        directions=(direction.to(state, ended_at=world.clock.now(), error=error),),
        events=(
            happened(
                world.clock, direction, f"direction.{state}", f"{done} of {len(experiments)} experiments finished"
            ),
        ),
    )


def close_experiment(experiment: Experiment) -> Next:
    """Return the step that follows an experiment's end, however it ended."""
    return Next(
        name="next_experiment",
        key=f"next_experiment:{experiment.direction_id}:{experiment.index + 1}",
        direction_id=experiment.direction_id,
    )


def live(tx: Transaction, key: DirectionId) -> Direction:
    """Return a direction that has not ended; `ConflictError` when it has."""
    direction = tx.directions.get(key)
    if direction.is_final:
        raise ConflictError(f"The direction is {direction.state}, so nothing of it can be changed.")
    return direction


def cancel(
    store: Store, clock: Clock, direction_id: DirectionId, actor: str = LOCAL_ACTOR, once: Once | None = None
) -> Direction:
    """Cancel a direction; what runs is stopped by the watcher. Cancelling twice is the same as once."""
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.directions.get(known)
        direction = tx.directions.get(direction_id)
        keep(tx, clock, once, direction.id)
        if direction.is_final:
            return direction
        now = clock.now()
        direction = direction.to(DirectionState.CANCELLED, ended_at=now)
        tx.directions.save(direction)
        for experiment in tx.experiments.find(direction_id=direction_id):
            if not experiment.is_final:
                tx.experiments.save(experiment.to(ExperimentState.CANCELLED, ended_at=now))
        tx.events.append(
            Event(direction_id=direction_id, kind="direction.cancelled", text="cancelled on request", at=now)
        )
        audit.note(tx, clock, actor, "direction.cancelled", tenant=direction.tenant, subject=direction.id)
    return direction


def failed(direction: Direction, error: str, now: float) -> Direction:
    """Return the direction ended badly, with the sentence that a person reads."""
    return dataclasses.replace(direction.to(DirectionState.FAILED), error=error, ended_at=now)
