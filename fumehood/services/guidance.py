"""What people decide about work under way: ideas of their own, approval, pausing and going on."""

from __future__ import annotations

import dataclasses

from pydantic import BaseModel, Field

from fumehood.domain.direction import Direction, DirectionState, Hold
from fumehood.domain.experiment import Arm, Experiment, ExperimentState
from fumehood.domain.idea import Decision, Idea, IdeaKind, Score
from fumehood.domain.ids import DirectionId, ExperimentId, IdeaId
from fumehood.domain.policy import Policy, PolicyVerdict
from fumehood.domain.step import Event
from fumehood.errors import ConflictError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit, directions, ideas, screening, submissions, templates
from fumehood.services.change import Next, happened
from fumehood.services.queueing import enqueue
from fumehood.services.replies import Once, keep, made_by

MOST_IDEAS = 500


class OwnIdea(BaseModel):
    """An idea as a person gives it."""

    name: str = Field(default="", max_length=40)
    title: str = Field(min_length=1, max_length=300)
    experiment: str = Field(min_length=1, max_length=8000)
    kind: IdeaKind = IdeaKind.IMPROVEMENT
    hypothesis: str = Field(default="", max_length=2000)
    metric: str = Field(default="", max_length=200)
    expected: str = Field(default="", pattern="^(lower|higher|)$")


def add_idea(
    store: Store,
    clock: Clock,
    author: str,
    direction_id: DirectionId,
    given: OwnIdea,
    once: Once | None = None,
    policy: Policy = screening.NO_POLICY,
) -> Idea:
    """Add a person's own idea; it is carried out after those that are there.

    What a rule of the policy refuses is a `PolicyError`, and of it only the audit tells. The judge is asked by the
    worker before the experiment begins.
    """
    idea = _own(clock, direction_id, given)
    told = screening.of_idea(idea)
    with store.begin(write=False) as tx:
        asked = tx.directions.get(direction_id)
    # A rule may search for seconds, and everybody else would wait for a transaction that long.
    found = screening.by_rules(policy, asked, told)
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.ideas.get(known)
        direction = directions.live(tx, direction_id)
        archive = tx.ideas.find(direction_id=direction_id)
        if len(archive) >= MOST_IDEAS:
            raise ConflictError(f"This direction has {len(archive)} ideas, and no more are taken.")
        names = {one.name for one in archive}
        names |= {one.name for one in tx.experiments.find(direction_id=direction_id)}
        number = max((one.index for one in archive), default=-1) + 1
        idea = dataclasses.replace(idea, index=number, name=ideas.free_name(idea.name, names))
        screening.note(tx, clock, policy, direction, told, found, author)
        if found.verdict is not PolicyVerdict.REFUSED:
            if found.verdict is PolicyVerdict.NEEDS_A_PERSON:
                idea = idea.screened(found)
            _store_own(tx, clock, direction, idea, author)
            keep(tx, clock, once, idea.id)
            tx.events.append(*screening.events(clock, policy, direction, found, idea.name))
    if found.verdict is PolicyVerdict.REFUSED:
        raise screening.refusal(found)
    return idea


def _store_own(tx: Transaction, clock: Clock, direction: Direction, idea: Idea, author: str) -> None:
    tx.ideas.save(idea)
    if direction.state is DirectionState.RUNNING:
        _begin_later(tx, clock, direction, idea)
    tx.events.append(happened(clock, direction, "idea.given", f"{idea.name}: {idea.title} (by a person)"))
    audit.note(tx, clock, author, "idea.given", tenant=direction.tenant, subject=idea.id)


def decide(store: Store, clock: Clock, actor: str, idea_id: str, *, approve: bool, once: Once | None = None) -> Idea:
    """Say whether an idea is carried out; when the last is decided, a direction that waits for it goes on."""
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.ideas.get(known)
        idea = tx.ideas.get(idea_id)
        direction = directions.live(tx, idea.direction_id)
        keep(tx, clock, once, idea.id)
        word = Decision.APPROVED if approve else Decision.REJECTED
        if idea.decision is word:
            return idea
        if approve and idea.is_refused:
            raise ConflictError(f"The idea cannot be approved: {idea.screening.sentence}.")
        if direction.state is DirectionState.RUNNING and not approve:
            _reject_later(tx, clock, idea)
        elif direction.state is DirectionState.RUNNING and idea.decision is Decision.REJECTED:
            raise ConflictError("The idea was rejected before the experiments began; give it anew.")
        idea = dataclasses.replace(idea, decision=word)
        tx.ideas.save(idea)
        tx.events.append(happened(clock, direction, f"idea.{word}", f"{idea.name}: {word} by a person"))
        audit.note(tx, clock, actor, f"idea.{word}", tenant=direction.tenant, subject=idea.id)
        waits = direction.hold is Hold.APPROVAL and direction.state is DirectionState.IDEATING
        if waits and not undecided(tx, direction.id):
            tx.directions.save(dataclasses.replace(direction, hold=Hold.NONE))
        let_go_on(tx, direction)
    return idea


def let_go_on(tx: Transaction, direction: Direction) -> None:
    """Lift the policy's hold on a direction's ideas, once none of them waits for an admin any more."""
    is_held = direction.hold is Hold.POLICY and direction.state is DirectionState.IDEATING
    if is_held and not any(idea.awaits_admin for idea in tx.ideas.find(direction_id=direction.id)):
        tx.directions.save(dataclasses.replace(direction, hold=Hold.NONE))


def undecided(tx: Transaction, direction: DirectionId) -> list[Idea]:
    """Return the ideas that would go on and that nobody has approved or rejected."""
    return [idea for idea in tx.ideas.find(direction_id=direction) if idea.goes_on and idea.decision is Decision.OPEN]


def set_budget(
    store: Store,
    clock: Clock,
    actor: str,
    direction_id: DirectionId,
    *,
    usd: float | None,
    gpu_s: float | None,
    wall_s: float | None,
    usd_per_experiment: float | None = None,
    usd_per_call: float | None = None,
) -> Direction:
    """Give a direction another budget (None: no limit) and let go on what one held; too little holds it again.

    Raises `BadInputError` for what is no budget, and `ConflictError` for a direction that has ended.
    """
    submissions.check_budget(usd, gpu_s, wall_s, usd_per_experiment, usd_per_call)
    with store.begin() as tx:
        direction = directions.live(tx, direction_id)
        hold = Hold.NONE if direction.hold is Hold.OVER_BUDGET else direction.hold
        changed = dataclasses.replace(
            direction,
            budget_usd=usd,
            budget_usd_per_experiment=usd_per_experiment,
            budget_usd_per_call=usd_per_call,
            budget_gpu_s=gpu_s,
            budget_wall_s=wall_s,
            hold=hold,
        )
        tx.directions.save(changed)
        for experiment in tx.experiments.find(direction_id=direction_id, hold=Hold.OVER_BUDGET):
            if not experiment.is_final:
                tx.experiments.save(dataclasses.replace(experiment, hold=Hold.NONE))
        tx.events.append(happened(clock, changed, "direction.budget", "a person set the budget"))
        told = {"usd": usd, "usd_per_experiment": usd_per_experiment, "usd_per_call": usd_per_call}
        told |= {"gpu_seconds": gpu_s, "wall_s": wall_s}
        audit.note(tx, clock, actor, "direction.budget", tenant=changed.tenant, subject=changed.id, **told)
    return changed


def pause_direction(
    store: Store, clock: Clock, actor: str, direction_id: DirectionId, once: Once | None = None
) -> Direction:
    """Begin nothing more of a direction; what runs goes on."""
    return _hold_direction(store, clock, actor, direction_id, Hold.PAUSED, once)


def resume_direction(
    store: Store, clock: Clock, actor: str, direction_id: DirectionId, once: Once | None = None
) -> Direction:
    """Let a held direction go on where it stood."""
    return _hold_direction(store, clock, actor, direction_id, Hold.NONE, once)


def pause_experiment(
    store: Store, clock: Clock, actor: str, experiment_id: ExperimentId, once: Once | None = None
) -> Experiment:
    """Begin nothing more of an experiment; what runs goes on."""
    return _hold_experiment(store, clock, actor, experiment_id, Hold.PAUSED, once)


def resume_experiment(
    store: Store, clock: Clock, actor: str, experiment_id: ExperimentId, once: Once | None = None
) -> Experiment:
    """Let a held experiment go on where it stood; where each step is approved, this approves the next."""
    return _hold_experiment(store, clock, actor, experiment_id, Hold.NONE, once)


def _hold_direction(
    store: Store, clock: Clock, actor: str, key: DirectionId, hold: Hold, once: Once | None
) -> Direction:
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.directions.get(known)
        direction = directions.live(tx, key)
        keep(tx, clock, once, direction.id)
        if direction.hold is hold:
            return direction
        _leave_to_admin(direction)
        held = dataclasses.replace(direction, hold=hold)
        tx.directions.save(held)
        _tell(tx, clock, actor, held, held.tenant, hold)
    return held


def _hold_experiment(
    store: Store, clock: Clock, actor: str, key: ExperimentId, hold: Hold, once: Once | None
) -> Experiment:
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.experiments.get(known)
        experiment = tx.experiments.get(key)
        direction = tx.directions.get(experiment.direction_id)
        if experiment.is_final:
            raise ConflictError(f"The experiment is {experiment.state}, so there is nothing to pause or to resume.")
        keep(tx, clock, once, experiment.id)
        if experiment.hold is hold:
            return experiment
        _leave_to_admin(experiment)
        held = dataclasses.replace(experiment, hold=hold)
        tx.experiments.save(held)
        _tell(tx, clock, actor, held, direction.tenant, hold)
    return held


def _leave_to_admin(of: Direction | Experiment) -> None:
    """Refuse to change the policy's hold: whoever could pause it could resume it then."""
    if of.hold is Hold.POLICY:
        raise ConflictError("The policy holds it until an admin has looked at it; cancelling is all that you can do.")


def _tell(tx: Transaction, clock: Clock, actor: str, of: Direction | Experiment, tenant: str, hold: Hold) -> None:
    noun = "direction" if isinstance(of, Direction) else "experiment"
    word = "resumed" if hold is Hold.NONE else "paused"
    event: Event = happened(clock, of, f"{noun}.{word}", f"{word} by a person")
    tx.events.append(event)
    audit.note(tx, clock, actor, f"{noun}.{word}", tenant=tenant, subject=of.id)


def _own(clock: Clock, direction_id: DirectionId, given: OwnIdea) -> Idea:
    nobody = Score(value=0, reason="given by a person, and not scored")
    return Idea(
        id=IdeaId(clock.new_id("idea")),
        direction_id=direction_id,
        index=0,
        name=ideas.free_name(given.name or given.title, ()),
        title=given.title.strip(),
        experiment=given.experiment.strip(),
        interestingness=nobody,
        feasibility=nobody,
        novelty_score=nobody,
        scored_by="person",
        kind=given.kind,
        hypothesis=given.hypothesis,
        metric=given.metric,
        expected=given.expected,
        created_at=clock.now(),
        decision=Decision.APPROVED,
    )


def _begin_later(tx: Transaction, clock: Clock, direction: Direction, idea: Idea) -> None:
    known = tx.experiments.find(direction_id=direction.id)
    baselines = tx.runs.find(direction_id=direction.id, arm=Arm.SCREEN, index=0)
    number = max((one.index for one in known), default=-1) + 1
    tx.experiments.save(
        Experiment(
            id=ExperimentId(clock.new_id("exp")),
            direction_id=direction.id,
            idea_id=idea.id,
            name=idea.name,
            index=number,
            files=templates.start_of(direction),
            baseline_id=baselines[0].id if baselines else None,
            created_at=clock.now(),
        )
    )
    # Where the others have ended meanwhile, nothing else would look for it.
    if all(one.is_final for one in known):
        key = f"next_experiment:{direction.id}:own:{number}"
        enqueue(tx, clock, (Next(name="next_experiment", key=key, direction_id=direction.id),))


def _reject_later(tx: Transaction, clock: Clock, idea: Idea) -> None:
    for experiment in tx.experiments.find(idea_id=idea.id):
        if experiment.state is not ExperimentState.QUEUED:
            raise ConflictError(f"The idea's experiment is {experiment.state} already; cancel or pause that.")
        tx.experiments.save(experiment.to(ExperimentState.CANCELLED, ended_at=clock.now()))
