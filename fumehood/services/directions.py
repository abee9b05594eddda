"""Submitting a direction, carrying it from ideas to experiments, and closing it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.direction import (
    LEAST_PRIORITY,
    MOST_PRIORITY,
    STRATEGIES,
    Approve,
    Direction,
    DirectionState,
    Hold,
    Reviewing,
)
from fumehood.domain.experiment import Experiment, ExperimentState
from fumehood.domain.idea import Decision, Idea
from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.domain.policy import Policy, PolicyVerdict, Subject
from fumehood.domain.step import Event, Step
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import BadInputError, ConflictError
from fumehood.observe import traces
from fumehood.ports import Artifacts, Clock, Store, Transaction
from fumehood.services import audit, lineage, screening, templates, tenants
from fumehood.services.change import Change, Next, happened
from fumehood.services.known_templates import KnownTemplates, Read
from fumehood.services.lineage import Parent
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
    budget_gpu_s: float | None = None
    budget_wall_s: float | None = None
    priority: int = 0
    parent: str | None = None
    """The id of a confirmed experiment whose code is the new baseline."""
    strategy: str = "list"
    reviewing: Reviewing = field(default_factory=Reviewing)
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
    policy: Policy = screening.NO_POLICY,
    known_templates: KnownTemplates | None = None,
) -> Direction:
    """Check what is asked, keep a snapshot of the template, and make the first step due.

    What a rule of the policy refuses is a `PolicyError`, and of it only the audit tells; what a rule wants a person for
    is held. The worker screens again, with the judge, so a door that was given no policy lets nothing through.
    With `shipped_only` a template is a shipped one's name and never a path, as for callers on the network. What is
    known of templates is not read again.
    """
    if shipped_only and asked.template not in templates.names(shipped):
        raise BadInputError(f"There is no template {asked.template!r}.")
    parent = None
    if asked.parent is not None:
        with store.begin(write=False) as tx:
            parent = lineage.parent_of(tx, asked.tenant, ExperimentId(asked.parent))
    direction = draft(artifacts, clock, asked, shipped, parent, known_templates)
    if baseline_only:
        direction = dataclasses.replace(direction, ideas=0)
    told = screening.of_direction(direction)
    found = screening.by_rules(policy, direction, told)
    is_held = found.verdict is PolicyVerdict.NEEDS_A_PERSON
    if is_held:
        direction = dataclasses.replace(direction, hold=Hold.POLICY)
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.directions.get(known)
        screening.note(tx, clock, policy, direction, told, found, asked.actor)
        if found.verdict is not PolicyVerdict.REFUSED:
            _store(tx, clock, direction, asked.actor, once, is_screened=is_held)
            for event in screening.events(clock, policy, direction, found):
                tx.events.append(event)
    if found.verdict is PolicyVerdict.REFUSED:
        raise screening.refusal(found)
    return direction


def _store(
    tx: Transaction, clock: Clock, direction: Direction, actor: str, once: Once | None, *, is_screened: bool
) -> None:
    tenants.admit(tx, direction.tenant)
    tx.directions.save(direction)
    keep(tx, clock, once, direction.id)
    audit.note(tx, clock, actor, "direction.submitted", tenant=direction.tenant, subject=direction.id)
    enqueue(tx, clock, (first_step(direction.id, is_screened=is_screened),))
    text = f"{direction.template} ({direction.profile}): {direction.ideas} ideas, {direction.runs} runs each"
    tx.events.append(happened(clock, direction, "direction.submitted", text))


def first_step(direction_id: DirectionId, *, is_screened: bool = False) -> Next:
    """Return the step that a direction begins with; it carries the trace that all others join.

    One that is screened waits for an admin, and goes on without being asked about again.
    """
    payload: dict[str, str | int | float | bool] = {**traces.carried()}
    if is_screened:
        payload["is_screened"] = True
    return Next(name="begin", key=f"begin:{direction_id}", direction_id=direction_id, payload=payload)


def draft(
    artifacts: Artifacts,
    clock: Clock,
    asked: Submission,
    shipped: Path,
    parent: Parent | None = None,
    known_templates: KnownTemplates | None = None,
) -> Direction:
    """Return the direction that a submission means, or refuse it in one sentence."""
    _check(asked)
    read = _inherited(artifacts, asked, parent) if parent else _shipped(artifacts, asked, shipped, known_templates)
    templates.profile_of(read.template, asked.profile)
    return Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=asked.tenant,
        template=read.name,
        text=asked.text.strip() if asked.text else read.task,
        model=asked.model,
        review_model=asked.review_model or asked.model,
        profile=asked.profile,
        ideas=asked.ideas,
        runs=asked.runs,
        novelty=asked.novelty,
        seed=asked.seed,
        sandbox=asked.sandbox,
        budget_usd=asked.budget_usd,
        budget_gpu_s=asked.budget_gpu_s,
        budget_wall_s=asked.budget_wall_s,
        priority=asked.priority,
        parent=parent.experiment.id if parent else None,
        parent_files=parent.code if parent else {},
        strategy=asked.strategy,
        reviewing=asked.reviewing,
        approve=asked.approve,
        template_files=read.files,
        created_at=clock.now(),
    )


def _check(asked: Submission) -> None:
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
    if asked.strategy not in STRATEGIES:
        raise BadInputError(f"There is no strategy {asked.strategy!r} yet; there is {', '.join(STRATEGIES)}.")
    if not LEAST_PRIORITY <= asked.priority <= MOST_PRIORITY:
        raise BadInputError(f"The priority must be from {LEAST_PRIORITY} to {MOST_PRIORITY}, not {asked.priority}.")
    check_budget(asked.budget_usd, asked.budget_gpu_s, asked.budget_wall_s)


def check_budget(usd: float | None, gpu_s: float | None, wall_s: float | None) -> None:
    """Refuse a budget that is no finite number from zero on."""
    for amount, of in ((usd, "US dollars"), (gpu_s, "GPU-seconds"), (wall_s, "seconds")):
        if amount is not None and not (math.isfinite(amount) and amount >= 0):
            raise BadInputError(f"The budget must be a number of {of} that is not negative.")


def _shipped(artifacts: Artifacts, asked: Submission, shipped: Path, known_templates: KnownTemplates | None) -> Read:
    """Return what a template says as it is now."""
    folder = templates.find(asked.template, shipped)
    return (known_templates or KnownTemplates()).read(folder, artifacts)


def _inherited(artifacts: Artifacts, asked: Submission, parent: Parent) -> Read:
    """Return the template that the parent began with, as it was then."""
    if asked.template != parent.direction.template:
        raise BadInputError(f"The parent's template is {parent.direction.template}, so {asked.template!r} cannot be.")
    files = dict(parent.direction.template_files)
    _, task = templates.prompt_of(files, artifacts)
    template = templates.load(files, artifacts, asked.template)
    return Read(name=asked.template, files=files, template=template, task=task)


def begin(world: WriteWorld, step: Step) -> Change:
    """Open a direction: data first, so that a broken template shows before anything is spent on a model."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
    opened = Change(
        directions=(direction.to(DirectionState.IDEATING),),
        steps=(Next(name="prepare", key=f"prepare:{direction.id}", direction_id=direction.id),),
    )
    if step.payload.get("is_screened"):
        return opened
    told = screening.of_direction(direction)
    found = screening.screen(world, direction, told)
    if found.verdict is PolicyVerdict.REFUSED:
        opened = Change(directions=(failed(direction, found.sentence, world.clock.now()),))
    elif found.verdict is PolicyVerdict.NEEDS_A_PERSON:
        again = dataclasses.replace(first_step(direction.id, is_screened=True), key=f"begin:{direction.id}:{step.id}")
        opened = Change(directions=(dataclasses.replace(direction, hold=Hold.POLICY),), steps=(again,))
    return screening.added(
        opened,
        screening.entry(world.clock, world.policy, direction, told, found),
        screening.events(world.clock, world.policy, direction, found),
    )


def schedule(world: WriteWorld, step: Step) -> Change:
    """Turn the ideas that go on into experiments and start the first; close the direction when none does."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        ideas = tx.ideas.find(direction_id=direction.id)
        baselines = tx.runs.find(direction_id=direction.id, index=0)
    chosen = [idea for idea in ideas if idea.goes_on]
    if waiting := [idea for idea in chosen if idea.awaits_admin]:
        names = ", ".join(idea.name for idea in waiting)
        return _wait(world, step, direction, Hold.POLICY, f"held: the policy wants an admin to look at {names}")
    if direction.approve is not Approve.AUTO and any(idea.decision is Decision.OPEN for idea in chosen):
        return _wait(world, step, direction, Hold.APPROVAL, "the ideas wait for a person's approval")
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
            files=templates.start_of(direction),
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


def _wait(world: WriteWorld, step: Step, direction: Direction, hold: Hold, text: str) -> Change:
    """Hold a direction before its experiments; the same step looks again once the hold is lifted."""
    again = Next(name="schedule", key=f"schedule:{direction.id}:{step.id}", direction_id=direction.id)
    return Change(
        directions=(dataclasses.replace(direction, hold=hold),),
        steps=(again,),
        events=(happened(world.clock, direction, hold.value, text),),
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
        return _start(world, direction, waiting[0])
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


def _start(world: WriteWorld, direction: Direction, experiment: Experiment) -> Change:
    """Start an experiment, held or ended where the policy has something against its idea."""
    change, hold = Change(), experiment.hold
    with world.store.begin(write=False) as tx:
        ideas = tx.ideas.find(id=experiment.idea_id)
    idea = ideas[0] if ideas else None
    if idea is not None:
        if world.policy.asks(Subject.IDEA) and not idea.is_screened:
            # A person's own idea, which only the rules have seen, or one that is older than the policy.
            change = _screen_late(world, direction, experiment, idea)
            (idea,) = change.ideas
        if idea.is_refused:
            refused = refuse_experiment(world.clock, experiment, idea.screening.sentence)
            return dataclasses.replace(screening.added(refused, change.audit, change.events), ideas=change.ideas)
        hold = Hold.POLICY if idea.awaits_admin else hold
    started = dataclasses.replace(experiment.to(ExperimentState.BASELINE), hold=hold)
    name = "begin_fork" if started.forked_from else "begin_experiment"
    begun = Next(
        name=name,
        key=f"{name}:{started.id}",
        direction_id=direction.id,
        experiment_id=started.id,
    )
    return dataclasses.replace(
        change,
        experiments=(started,),
        steps=(begun,),
        events=(*change.events, happened(world.clock, started, "experiment.started", f"{started.name}: started")),
    )


def _screen_late(world: WriteWorld, direction: Direction, experiment: Experiment, idea: Idea) -> Change:
    told = screening.of_idea(idea)
    found = screening.screen(world, direction, told)
    return Change(
        ideas=(screening.marked(world.policy, idea, found),),
        events=screening.events(world.clock, world.policy, experiment, found, experiment.name),
        audit=screening.entry(world.clock, world.policy, direction, told, found),
    )


def refuse_experiment(clock: Clock, experiment: Experiment, why: str) -> Change:
    """End an experiment because the policy or an admin refuses it, and go on with the next."""
    ended = dataclasses.replace(experiment.to(ExperimentState.REFUSED, error=why, ended_at=clock.now()), hold=Hold.NONE)
    event = happened(clock, ended, "experiment.refused", f"{ended.name}: {why}")
    return Change(experiments=(ended,), steps=(close_experiment(ended),), events=(event,))


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
