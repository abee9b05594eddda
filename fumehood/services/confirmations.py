"""Confirming the best of an idea's runs: its code once more, on fresh seeds and sealed data, until the rule decides.

Nothing of what is measured here is shown to the coder, and each code is confirmed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain.confirmation import DISCOVERIES, Reason
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, ExperimentOutcome, Run, RunResult
from fumehood.domain.idea import Idea
from fumehood.domain.ids import RunId
from fumehood.domain.step import Step
from fumehood.domain.template import Template
from fumehood.ports import Transaction
from fumehood.services import (
    confirmation_report,
    confirming,
    experiments,
    facts,
    measuring,
    numbers,
    preparing,
    replication,
    statistics,
    templates,
    trials,
)
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_report import PRODUCT, Plan
from fumehood.services.confirmation_rule import fresh_seeds, measure_of
from fumehood.services.edit_effects import Measured, compared
from fumehood.services.world import WriteWorld


def confirm(world: WriteWorld, step: Step) -> Change:
    """Choose the run to confirm, write down how, and have the sealed data drawn."""
    direction, experiment, idea = experiments.subject(world, step)
    template, _ = templates.read(direction, world.artifacts)
    plan, reason = _planned(world, direction, experiment, idea, template)
    if plan is None:
        return _ended(world, experiment, confirmation_report.unconfirmed(reason))
    planned = _with_product(world, experiment, confirmation_report.to_json(plan))
    with world.store.begin(write=False) as tx:
        is_first = not preparing.data_of(tx, direction, Arm.CONFIRM, plan.baseline_seeds)
    seeds = (*(plan.baseline_seeds if is_first else ()), *plan.seeds)
    drawing = tuple(
        preparing.drawn(world, direction, Arm.CONFIRM, part, seeds, experiment.id)
        for part in preparing.parts_of(template)
    )
    following = Next(
        name="confirm_drawn",
        key=f"confirm_drawn:{experiment.id}",
        direction_id=direction.id,
        experiment_id=experiment.id,
        waits_for=tuple(one.id for one in drawing),
    )
    text = f"{experiment.name}: {plan.run} is confirmed on fresh seeds and sealed data"
    event = happened(world.clock, experiment, "confirmation.started", text)
    return Change(experiments=(planned,), executions=drawing, steps=(following,), events=(event,))


def drawn(world: WriteWorld, step: Step) -> Change:
    """Go on to what is measured first, or end the direction when the sealed data could not be drawn."""
    direction, experiment, _ = experiments.subject(world, step)
    with world.store.begin(write=False) as tx:
        parts = [tx.executions.get(one) for one in step.waits_for]
    for part in parts:
        if not part.succeeded:
            why = f"prepare.py ended {trials.verdict_of(part)}: {trials.tail_of(part)}"
            return trials.broken(world, direction, why)
    return _go_on(world, direction, experiment)


def measured(world: WriteWorld, step: Step) -> Change:
    """Look at what is measured by now: decide, or have more measured."""
    direction, experiment, _ = experiments.subject(world, step)
    return _go_on(world, direction, experiment)


def _planned(
    world: WriteWorld, direction: Direction, experiment: Experiment, idea: Idea, template: Template
) -> tuple[Plan | None, Reason]:
    """Return how the experiment's best run is confirmed, or None and why none is."""
    rule, name = direction.rule, template.primary
    runs = experiments.measured_runs(world, experiment)
    if rule is None or name is None or not runs:
        return None, Reason.MISSING_CELLS
    metric = template.metrics[name]
    measure = measure_of(metric)
    base = _record(world, experiments.baseline(world, experiment))
    pool = _cells(base, name)
    records = {run.folder: _record(world, run) for run in runs}
    equal = [
        run
        for run in runs
        if not facts.budget(records[run.folder].get("counts") or {}, base.get("counts") or {}, template)
    ]
    if not equal:
        return None, Reason.BUDGET_MISMATCH
    equal = [run for run in equal if not numbers.incomparable(name, records[run.folder], base)]
    if not equal:
        return None, Reason.SHARED_DEVICE
    equal = [run for run in equal if not _is_idle(world, experiment, run, records[run.folder], base)]
    contrasts = [confirming.screen(measure, pool, _cells(records[run.folder], name)) for run in equal]
    place = statistics.select(contrasts, rule.gate)
    if place is None:
        return None, Reason.SCREEN_ONLY
    chosen, contrast = equal[place], contrasts[place]
    scale = confirming.freeze(measure, {dataset: seeds[: rule.screen_baseline] for dataset, seeds in pool.items()})
    with world.store.begin(write=False) as tx:
        index, discoveries = _before(tx, direction, experiment)
    plan = Plan(
        run=chosen.folder,
        code=templates.template_hash(chosen.files),
        metric=name,
        measure=measure,
        rule=rule,
        kind=idea.kind,
        expected=idea.expected if idea.metric in {"", name} else "",
        datasets=tuple(pool),
        scale=dict(scale.values),
        left_out=dict(scale.left_out),
        screened=len(runs),
        screen_contrast=contrast.value if contrast else 0.0,
        index=index,
        discoveries=discoveries,
        baseline_seeds=fresh_seeds(direction.id, templates.start_of(direction), rule.confirm_baseline),
        seeds=fresh_seeds(direction.id, chosen.files, rule.looks[-1]),
    )
    return plan, Reason.SCREEN_ONLY


def _is_idle(
    world: WriteWorld, experiment: Experiment, run: Run, record: Mapping[str, Any], base: Mapping[str, Any]
) -> bool:
    """Whether a run did what the baseline did: on fresh seeds it would differ by chance alone."""
    baseline = experiments.baseline(world, experiment)
    measured = Measured(run=baseline, metrics=base["metrics"])
    return bool(compared(Measured(run=run, metrics=record["metrics"]), [measured]))


def _before(tx: Transaction, direction: Direction, experiment: Experiment) -> tuple[int, int]:
    """Return how many confirmations of the direction ended in this epoch of its rule, and how many found something.

    Forks that share a confirmation count it once.
    """
    others = [one for one in tx.experiments.find(direction_id=direction.id) if one.id != experiment.id]
    ended = {one.products[PRODUCT]: one.label for one in others if PRODUCT in one.products and one.label}
    labels = list(ended.values())
    index = len(labels) % direction.rule.ideas if direction.rule else 0
    return index, sum(label in DISCOVERIES for label in labels[len(labels) - index :])


def _go_on(world: WriteWorld, direction: Direction, experiment: Experiment) -> Change:
    plan, _ = confirmation_report.read(world.artifacts.get(experiment.products[PRODUCT]))
    with world.store.begin(write=False) as tx:
        pool = tx.runs.find(direction_id=direction.id, arm=Arm.CONFIRM, index=0)
        looks = sorted(tx.runs.find(experiment_id=experiment.id, arm=Arm.CONFIRM), key=lambda run: run.index)
        screened = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN)
    if not pool:
        return _measure(direction, experiment, _pool(world, direction, plan))
    if pool[0].result is RunResult.FAILED:
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.MISSING_CELLS), plan)
    chosen = next(run for run in screened if run.folder == plan.run)
    if not looks:
        return _measure(direction, experiment, _look(world, experiment, plan, chosen, 1))
    records = [_record(world, run) if run.record else None for run in (pool[0], *looks)]
    if numbers.incomparable(plan.metric, *records):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.SHARED_DEVICE), plan)
    base = confirmation_report.cells_of(records[0], plan, len(plan.baseline_seeds))
    found = [
        confirmation_report.cells_of(record, plan, len(run.seeds))
        for record, run in zip(records[1:], looks, strict=True)
    ]
    said = confirmation_report.decide(plan, base, found)
    if said.label is None:
        return _measure(direction, experiment, _look(world, experiment, plan, chosen, len(looks) + 1))
    return _ended(world, experiment, confirmation_report.result(plan, said), plan)


def _pool(world: WriteWorld, direction: Direction, plan: Plan) -> Run:
    return Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=direction.id,
        experiment_id=None,
        index=0,
        arm=Arm.CONFIRM,
        title="Baseline, sealed",
        description="The baseline on other seeds and on sealed data, for all confirmations of the direction.",
        files=templates.start_of(direction),
        seeds=plan.baseline_seeds,
    )


def _look(world: WriteWorld, experiment: Experiment, plan: Plan, chosen: Run, look: int) -> Run:
    return Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        index=look,
        arm=Arm.CONFIRM,
        confirms=chosen.id,
        title=chosen.title,
        description=f"The code of {chosen.folder} on fresh seeds and sealed data.",
        files=chosen.files,
        seeds=plan.look_seeds(look),
    )


def _measure(direction: Direction, experiment: Experiment, run: Run) -> Change:
    return Change(runs=(run,), steps=(measuring.measure_next(direction, experiment, run, 1),))


def _ended(world: WriteWorld, experiment: Experiment, result: Mapping[str, Any], plan: Plan | None = None) -> Change:
    """Give the experiment its label and its outcome, and go on to the figures."""
    if plan is not None:
        experiment = _with_product(world, experiment, confirmation_report.to_json(plan, result))
    labelled = dataclasses.replace(
        experiment, label=str(result["label"]), outcome=ExperimentOutcome(str(result["outcome"]))
    )
    change = experiments.to_plots(world, labelled, f"{labelled.label}, {labelled.outcome}")
    text = f"{experiment.name}: {labelled.label}; the outcome is {labelled.outcome}"
    events = [happened(world.clock, experiment, "confirmation.ended", text)]
    if experiment.replicates:
        told = replication.RESULTS[ExperimentOutcome(str(result["outcome"]))]
        events.append(happened(world.clock, experiment, "replication.ended", f"{experiment.name}: {told}"))
    return dataclasses.replace(change, events=(*events, *change.events))


def _with_product(world: WriteWorld, experiment: Experiment, data: bytes) -> Experiment:
    return dataclasses.replace(experiment, products={**experiment.products, PRODUCT: world.artifacts.put(data)})


def _record(world: WriteWorld, run: Run) -> dict[str, Any]:
    return facts.predicate(world.artifacts.get(run.record))


def _cells(record: Mapping[str, Any], metric: str) -> dict[str, Sequence[float]]:
    datasets = record["metrics"].get(metric, {}).get("datasets", {})
    return {name: [float(one) for one in entry["seeds"]] for name, entry in datasets.items()}


STEPS = {"confirm": confirm, "confirm_drawn": drawn, "confirm_measured": measured}
