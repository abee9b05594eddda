"""What waits for an admin because the policy wants a person, and what the admin says of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.domain.experiment import Experiment
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ULID, DirectionId
from fumehood.domain.policy import ADMIN, PolicyVerdict, Screening
from fumehood.domain.step import CLEARING, StepState
from fumehood.errors import ConflictError, NotFoundError
from fumehood.ports import Artifacts, Clock, Store, Transaction
from fumehood.services import audit, browsing, catalogue, directions, screening
from fumehood.services.change import happened
from fumehood.services.guidance import let_go_on
from fumehood.services.queueing import enqueue
from fumehood.services.replies import Once, keep, made_by

MOST_SHOWN = 20_000
"""Characters of a text that an admin is shown."""
_ID = re.compile(rf"(dir|idea|exp)_{ULID}\Z")
_LIVE = (DirectionState.QUEUED, DirectionState.IDEATING, DirectionState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A direction, an idea or an experiment's edit that waits for an admin."""

    id: str
    kind: str
    """`direction`, `idea` or `diff`."""
    tenant: str
    direction_id: DirectionId
    why: str
    text: str
    """What the policy spoke of, which an admin sees of nobody's research otherwise."""


def waiting(store: Store, artifacts: Artifacts, only: DirectionId | None = None) -> tuple[Waiting, ...]:
    """Return what waits, of one direction or of all, in the order of ids."""
    with store.begin(write=False) as tx:
        live = (
            [tx.directions.get(only)] if only else [one for state in _LIVE for one in tx.directions.find(state=state)]
        )
        found = [told for direction in live if not direction.is_final for told in _of(tx, artifacts, direction)]
    return tuple(sorted(found, key=lambda one: one.id))


def _of(tx: Transaction, artifacts: Artifacts, direction: Direction) -> list[Waiting]:
    found = []
    if direction.hold is Hold.POLICY and direction.state is DirectionState.QUEUED:
        why = _told(tx, direction.id, None)
        found.append(_waiting(direction, direction.id, "direction", why, direction.text))
    for idea in tx.ideas.find(direction_id=direction.id):
        if idea.awaits_admin:
            text = screening.of_idea(idea).text
            found.append(_waiting(direction, idea.id, "idea", idea.waits_for, text))
    for experiment in tx.experiments.find(direction_id=direction.id, hold=Hold.POLICY):
        if not experiment.is_final and not tx.ideas.get(experiment.idea_id).awaits_admin:
            changed = browsing.changes(artifacts, direction, experiment)
            text = "\n".join(one.diff or f"{one.path}: {one.kind}, and too long to be shown" for one in changed)
            found.append(_waiting(direction, experiment.id, "diff", _told(tx, direction.id, experiment.id), text))
    return found


def _waiting(direction: Direction, key: str, kind: str, why: str, text: str) -> Waiting:
    cut = f"\n(cut here, of {len(text)} characters)" if len(text) > MOST_SHOWN else ""
    return Waiting(
        id=key,
        kind=kind,
        tenant=direction.tenant,
        direction_id=direction.id,
        why=why,
        text=text[:MOST_SHOWN] + cut,
    )


def _told(tx: Transaction, direction_id: DirectionId, experiment_id: str | None) -> str:
    past = tx.events.since(direction_id, 0, 1_000_000)
    told = [one.text for one in past if one.kind == Hold.POLICY and one.experiment_id == experiment_id]
    return told[-1].removeprefix("held: ") if told else ""


def approve(store: Store, clock: Clock, actor: str, key: str, once: Once | None = None) -> None:
    """Let go on what waits: a direction with all its ideas, an idea, or an experiment with its edit."""
    with store.begin() as tx:
        if made_by(tx, clock, once):
            return
        direction, of = _subject(tx, key)
        if isinstance(of, Idea):
            _allow(tx, direction, of)
        elif isinstance(of, Experiment):
            _lift(tx, direction, of)
        else:
            after = Hold.PAUSED if _is_paused(tx, of) else Hold.NONE
            tx.directions.save(dataclasses.replace(of, hold=after))
            for idea in tx.ideas.find(direction_id=of.id):
                if idea.awaits_admin:
                    tx.ideas.save(_allowed(idea))
        keep(tx, clock, once, key)
        _tell(tx, clock, actor, direction, of, "approved")


def refuse(store: Store, clock: Clock, actor: str, key: str, once: Once | None = None) -> None:
    """End what waits; of an idea, its experiment too."""
    with store.begin() as tx:
        if made_by(tx, clock, once):
            return
        direction, of = _subject(tx, key)
        if isinstance(of, Idea):
            idea = of.screened(_said(PolicyVerdict.REFUSED, of))
            tx.ideas.save(idea)
            for experiment in tx.experiments.find(idea_id=idea.id):
                if not experiment.is_final:
                    _end(tx, clock, experiment, idea.screening.sentence)
            let_go_on(tx, direction)
        elif isinstance(of, Experiment):
            _end(tx, clock, of, f"an admin refuses this: {_told(tx, direction.id, of.id)}")
        else:
            error = f"an admin refuses this: {_told(tx, direction.id, None)}"
            ended = dataclasses.replace(directions.failed(direction, error, clock.now()), hold=Hold.NONE)
            tx.directions.save(ended)
        keep(tx, clock, once, key)
        _tell(tx, clock, actor, direction, of, "refused")


def _subject(tx: Transaction, key: str) -> tuple[Direction, Direction | Idea | Experiment]:
    """Return what waits under this id, and its direction; whatever does not wait is refused."""
    kind = _ID.match(key)
    found: Sequence[Direction | Idea | Experiment] = ()
    if kind and kind[1] == "dir":
        found = tx.directions.find(id=key)
    elif kind and kind[1] == "idea":
        found = tx.ideas.find(id=key)
    elif kind:
        found = tx.experiments.find(id=key)
    if not found:
        raise NotFoundError("There is no direction, idea or experiment with this id.")
    of = found[0]
    direction = of if isinstance(of, Direction) else directions.live(tx, of.direction_id)
    waits = of.awaits_admin if isinstance(of, Idea) else of.hold is Hold.POLICY and not of.is_final
    if not waits:
        raise ConflictError("It does not wait for an admin.")
    return direction, of


def _said(verdict: PolicyVerdict, idea: Idea) -> Screening:
    return Screening(verdict=verdict, rule=ADMIN, reason=idea.screening.reason or idea.lacks)


def _allowed(idea: Idea) -> Idea:
    """Return an idea that the policy wanted a person for; what it lacks of the catalogue is another matter."""
    return idea.screened(_said(PolicyVerdict.ALLOWED, idea)) if idea.needs_a_person else idea


def _allow(tx: Transaction, direction: Direction, idea: Idea) -> None:
    tx.ideas.save(_supplied(tx, direction, _allowed(idea)))
    let_go_on(tx, direction)
    for experiment in tx.experiments.find(idea_id=idea.id, hold=Hold.POLICY):
        tx.experiments.save(dataclasses.replace(experiment, hold=_after(tx, direction, experiment)))


def _lift(tx: Transaction, direction: Direction, experiment: Experiment) -> None:
    tx.experiments.save(dataclasses.replace(experiment, hold=_after(tx, direction, experiment)))
    idea = tx.ideas.get(experiment.idea_id)
    if idea.awaits_admin:
        tx.ideas.save(_supplied(tx, direction, _allowed(idea)))


def _supplied(tx: Transaction, direction: Direction, idea: Idea) -> Idea:
    """Return an idea that looks for what it asks for once more; `ConflictError` while that is not in the catalogue."""
    if not idea.lacks:
        return idea
    if missing := catalogue.missing(tx, direction, idea.requests):
        raise ConflictError(f"Nothing can be approved yet: {missing}. Add it to the catalogue first, or refuse.")
    return idea.lacking("")


def _is_paused(tx: Transaction, direction: Direction, experiment_id: str | None = None) -> bool:
    """Whether a person's pause stands behind the policy's hold, which took its place: only a person lets go on."""
    past = tx.events.since(direction.id, 0, 1_000_000)
    noun = "experiment" if experiment_id else "direction"
    words = {f"{noun}.paused": True, f"{noun}.resumed": False}
    told = [words[one.kind] for one in past if one.kind in words and one.experiment_id == experiment_id]
    return bool(told) and told[-1]


def _after(tx: Transaction, direction: Direction, experiment: Experiment) -> Hold:
    """Return what still holds an experiment: who approves each step is asked besides the admin, not in their place."""
    if _is_paused(tx, direction, experiment.id):
        return Hold.PAUSED
    return Hold.APPROVAL if direction.approve is Approve.EVERY_STEP else Hold.NONE


def _end(tx: Transaction, clock: Clock, experiment: Experiment, why: str) -> None:
    change = directions.refuse_experiment(clock, experiment, why)
    tx.experiments.save(*change.experiments)
    for step in tx.steps.find(experiment_id=experiment.id):
        # Nothing else keeps the refused edit from being run.
        if step.state in {StepState.DUE, StepState.CLAIMED, StepState.WAITING} and step.name not in CLEARING:
            tx.steps.finish(dataclasses.replace(step, state=StepState.FAILED, error=why, lease_until=0.0))
    enqueue(tx, clock, change.steps)
    tx.events.append(*change.events)


def _tell(
    tx: Transaction, clock: Clock, actor: str, direction: Direction, of: Direction | Idea | Experiment, word: str
) -> None:
    subject = direction if isinstance(of, Idea) else of
    name = of.name if isinstance(of, Idea | Experiment) else "the direction"
    tx.events.append(happened(clock, subject, f"policy.{word}_by_admin", f"{name}: {word} by an admin"))
    audit.note(tx, clock, actor, f"policy.{word}", tenant=direction.tenant, subject=of.id, direction=direction.id)
