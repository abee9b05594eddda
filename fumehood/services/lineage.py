"""Starting a direction from an experiment that was confirmed: its code is the baseline, its questions are asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, ExperimentOutcome
from fumehood.domain.ids import ExperimentId, TenantId
from fumehood.errors import ConflictError, NotFoundError
from fumehood.ports import Artifacts, Transaction

MOST_QUESTIONS = 20
LONGEST_QUESTION = 500
_REVIEWS = ("review_revised.json", "review.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a direction takes over from its parent."""

    direction: Direction
    experiment: Experiment
    files: Mapping[str, str]
    """What was confirmed: path to SHA-256. It need not be what the experiment came to last."""

    @property
    def code(self) -> Mapping[str, str]:
        """The code that takes the template's place; the figures are drawn by the template's own program again."""
        return {path: sha for path, sha in self.files.items() if path.endswith(".py") and path != "plot.py"}


def parent_of(tx: Transaction, tenant: TenantId, key: ExperimentId) -> Parent:
    """Return a confirmed experiment of a tenant.

    Raises `NotFoundError` for one that is not there or another's, and `ConflictError` for one that was not confirmed.
    """
    found = tx.experiments.find(id=key)
    direction = tx.directions.get(found[0].direction_id) if found else None
    if direction is None or direction.tenant != tenant:
        raise NotFoundError("There is no experiment with this id.")
    outcome = found[0].outcome
    if outcome is not ExperimentOutcome.CONFIRMED:
        said = f"is {outcome}" if outcome else "is not known yet"
        raise ConflictError(f"A parent's outcome must be confirmed; that of {found[0].name} {said}.")
    looks = [run for run in tx.runs.find(experiment_id=key, arm=Arm.CONFIRM) if run.index > 0]
    return Parent(direction=direction, experiment=found[0], files=looks[0].files if looks else found[0].files)


def told(tx: Transaction, artifacts: Artifacts, direction: Direction) -> str:
    """Return what a direction's parent found and left open, a line for each; empty without a parent."""
    if direction.parent is None:
        return ""
    parent = tx.experiments.get(direction.parent)
    idea = parent.planned(tx.ideas.get(parent.idea_id))
    lines = [f"Title: {idea.title}", f"Plan: {idea.experiment}", f"Outcome: {parent.outcome}"]
    asked = [*parent.limitations, *_questions(artifacts, parent)]
    return "\n".join([*lines, *(f"Open: {one[:LONGEST_QUESTION]}" for one in asked[:MOST_QUESTIONS])])


def _questions(artifacts: Artifacts, parent: Experiment) -> list[str]:
    sha = next((parent.products[path] for path in _REVIEWS if path in parent.products), None)
    review = json.loads(artifacts.get(sha)) if sha else {}
    return [str(one) for name in ("Questions", "Limitations") for one in review.get(name) or ()]
