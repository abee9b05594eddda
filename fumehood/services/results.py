"""The results table: what a direction came to."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, ExperimentState
from fumehood.domain.idea import Idea, Novelty
from fumehood.ports import Artifacts, Transaction
from fumehood.services import confirmation_report, confirming, replication, usage


def summary(tx: Transaction, artifacts: Artifacts, direction: Direction) -> dict[str, object]:
    """Return a direction's row of the results table and a line for each experiment."""
    ideas = tx.ideas.find(direction_id=direction.id)
    experiments = sorted(tx.experiments.find(direction_id=direction.id), key=lambda one: one.index)
    papers = [one for one in experiments if "paper.pdf" in one.products]
    lines = [_line(tx, artifacts, experiment) for experiment in experiments]
    for line, stands_out in zip(lines, _together(artifacts, direction, experiments), strict=True):
        line["stands_out"] = stands_out
    scores = [line["score"] for line in lines if isinstance(line["score"], (int, float))]
    return {
        "direction": direction.id,
        "state": direction.state,
        "model": direction.model,
        "template": direction.template,
        "profile": direction.profile,
        "ideas": len(ideas),
        "novel": sum(idea.novelty is Novelty.NOVEL for idea in ideas),
        "novelty_unknown": sum(idea.novelty in {Novelty.UNKNOWN, Novelty.UNCHECKED} for idea in ideas),
        "refused": [
            _refused(idea)
            for idea in ideas
            if idea.is_refused or idea.novelty in {Novelty.NEAR_DUPLICATE, Novelty.NOT_NOVEL}
        ],
        "experiments_passed": sum(one.state is ExperimentState.DONE for one in experiments),
        "papers": len(papers),
        "mean_score": sum(scores) / len(scores) if scores else None,
        "max_score": max(scores, default=None),
        "cost_usd": round(tx.ledger.spent_usd(direction.id), 6),
        "usage": usage.by_stage(tx, direction.id),
        "experiments": lines,
        "error": direction.error,
    }


def _together(artifacts: Artifacts, direction: Direction, experiments: Sequence[Experiment]) -> list[bool | None]:
    """Return whether each confirmation stands out among all of the direction's; None where none came to a p-value.

    What was measured on the same seeds, as a fork's is, counts once. No label changes by it.
    """
    found: list[tuple[tuple[int, ...], float | None]] = []
    for experiment in experiments:
        told = experiment.products.get(confirmation_report.PRODUCT)
        plan, end = confirmation_report.read(artifacts.get(told)) if told else (None, None)
        found.append((plan.seeds if plan else (), (end or {}).get("p")))
    if direction.rule is None:
        return [None] * len(found)
    kept = confirming.summary(direction.rule, {seeds: p for seeds, p in found if seeds})
    return [None if p is None else seeds in kept for seeds, p in found]


def _refused(idea: Idea) -> dict[str, object]:
    if idea.is_refused:
        return {"name": idea.name, "verdict": "refused", "reason": idea.screening.sentence}
    return {"name": idea.name, "verdict": idea.novelty, "reason": idea.novelty_reason}


def _line(tx: Transaction, artifacts: Artifacts, experiment: Experiment) -> dict[str, object]:
    idea: Idea = tx.ideas.get(experiment.idea_id)
    review = _product(artifacts, experiment, "review.json")
    verification = _product(artifacts, experiment, "verification.json")
    runs = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN)
    return {
        "name": experiment.name,
        "title": idea.title,
        "state": experiment.state,
        "novelty": idea.novelty,
        "outcome": experiment.outcome,
        "label": experiment.label,
        "runs": {run.folder: run.result for run in sorted(runs, key=lambda run: run.index)},
        "attempts": sum(len(run.attempts) + (run.result == "measured") for run in runs),
        "paper": f"experiments/{experiment.name}/paper.pdf" if "paper.pdf" in experiment.products else None,
        "score": review.get("Overall"),
        "decision": review.get("Decision"),
        "reviewed": _names(review.get("checks")),
        "checks": verification.get("checks", []),
        "replication": replication.of(experiment, tx.experiments.find(direction_id=experiment.direction_id)),
        "error": experiment.error,
    }


def _names(checks: object) -> list[str]:
    found = checks if isinstance(checks, list) else []
    return [str(check["name"]) for check in found if isinstance(check, dict) and "name" in check]


def _product(artifacts: Artifacts, experiment: Experiment, path: str) -> dict[str, object]:
    if path not in experiment.products:
        return {}
    found = json.loads(artifacts.get(experiment.products[path]))
    return found if isinstance(found, dict) else {}
