"""People's comments, kept and read by the next step that asks a model for an idea or for code."""

from __future__ import annotations

from fumehood.domain.feedback import LONGEST, Feedback
from fumehood.domain.ids import DirectionId, ExperimentId
from fumehood.errors import BadInputError, ConflictError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit
from fumehood.services.change import happened
from fumehood.services.replies import Once, keep, made_by

MOST = 500
"""Comments of one direction; every prompt holds all of them."""


def comment(
    store: Store,
    clock: Clock,
    author: str,
    direction: DirectionId,
    experiment: ExperimentId | None,
    text: str,
    once: Once | None = None,
) -> Feedback:
    """Keep a person's comment; the next step that asks a model for code or an idea reads it."""
    text = text.strip()
    if not 1 <= len(text) <= LONGEST:
        raise BadInputError(f"A comment has 1 to {LONGEST} characters.")
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.feedback.get(known)
        owner = tx.directions.get(direction)
        if owner.is_final:
            raise ConflictError(f"The direction is {owner.state}, so nobody would read it.")
        if len(tx.feedback.find(direction_id=direction)) >= MOST:
            raise ConflictError(f"The direction has {MOST} comments, which is as many as it may have.")
        made = Feedback(
            id=clock.new_id("evt"),
            direction_id=direction,
            experiment_id=experiment,
            author=author,
            text=text,
            at=clock.now(),
        )
        tx.feedback.save(made)
        keep(tx, clock, once, made.id)
        about = tx.experiments.get(experiment) if experiment else owner
        tx.events.append(happened(clock, about, "feedback.given", f"a person said: {text[:200]}"))
        audit.note(tx, clock, author, "feedback.given", tenant=owner.tenant, subject=experiment or direction)
    return made


def said(tx: Transaction, direction: DirectionId, experiment: ExperimentId | None = None) -> str:
    """Return what people said of a direction, and of one of its experiments, the oldest first."""
    found = tx.feedback.find(direction_id=direction)
    return "\n".join(f"- {one.text}" for one in found if one.experiment_id in {None, experiment})
