"""Carrying a direction from ideas to experiments, and closing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.domain.experiment import Arm, Experiment, ExperimentState
from fumehood.domain.idea import Decision, Idea
from fumehood.domain.ids import DirectionId, ExperimentId
from fumehood.domain.policy import PolicyVerdict, Subject
from fumehood.domain.step import Event, Step
from fumehood.domain.tenant import LOCAL_ACTOR
from fumehood.errors import ConflictError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit, confirmation_rule, screening, templates
from fumehood.services.change import Change, Next, happened
from fumehood.services.replies import Once, keep, made_by
from fumehood.services.submissions import ARM, SEEDS, first_step
from fumehood.services.world import WriteWorld


def begin(world: WriteWorld, step: Step) -> Change:
    """Open a direction: data first, so that a broken template shows before anything is spent on a model."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
    template, profile = templates.read(direction, world.artifacts)
    rule = confirmation_rule.rule_of(template, profile, direction.template_files, direction.ideas, world.confirm)
    opened = Change(
        directions=(direction.to(DirectionState.IDEATING, rule=direction.rule or rule),),
        steps=(
            Next(
                name="prepare",
                key=f"prepare:{direction.id}",
                direction_id=direction.id,
                payload={name: told for name, told in step.payload.items() if name in {ARM, SEEDS}},
            ),
        ),
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
        baselines = tx.runs.find(direction_id=direction.id, arm=Arm.SCREEN, index=0)
    chosen = [idea for idea in ideas if idea.goes_on]
    if waiting := [idea for idea in chosen if idea.awaits_admin]:
        return _wait(world, step, direction, Hold.POLICY, _waiting(waiting))
    if direction.approve is not Approve.AUTO and any(idea.decision is Decision.OPEN for idea in chosen):
        return _wait(world, step, direction, Hold.APPROVAL, "the ideas wait for a person's approval")

    def holds(tx: Transaction) -> bool:
        # Somebody may give, approve or reject an idea until this is committed.
        return tx.ideas.find(direction_id=direction.id) == ideas

    if not chosen:
        return Change(
            directions=(direction.to(DirectionState.DONE, ended_at=world.clock.now()),),
            events=(happened(world.clock, direction, "direction.done", "no idea was worth an experiment"),)
            if ideas
            else (),
            holds=holds,
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
        holds=holds,
    )


def _waiting(ideas: Sequence[Idea]) -> str:
    names = ", ".join(idea.name for idea in ideas)
    lacking = "; ".join(f"{idea.name}: {idea.lacks}" for idea in ideas if idea.lacks)
    if lacking:
        return f"held: an admin has to look at {names} ({lacking})"
    return f"held: the policy wants an admin to look at {names}"


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
    states = {one.id: one.state for one in experiments}

    def holds(tx: Transaction) -> bool:
        # Somebody may fork an experiment, give an idea or reject one until this is committed.
        return {one.id: one.state for one in tx.experiments.find(direction_id=direction.id)} == states

    waiting = [one for one in experiments if one.state is ExperimentState.QUEUED]
    if waiting:
        return dataclasses.replace(_start(world, direction, waiting[0]), holds=holds)
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
        holds=holds,
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
    asks = idea is not None and idea.requests and not started.added
    name = "begin_fork" if started.forked_from else "fetch_asked" if asks else "begin_experiment"
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
