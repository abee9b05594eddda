"""Confirming the best of an idea's runs: its code once more, on fresh seeds and sealed data, until the rule decides.

Nothing of what is measured here is shown to the coder, and each code is confirmed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain.confirmation import DISCOVERIES, Reason
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, ExperimentOutcome, Run, RunResult, settled
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ExperimentId, RunId
from fumehood.domain.step import Step
from fumehood.domain.template import Template
from fumehood.services import (
    confirmation_choice,
    confirmation_report,
    confirming,
    curves,
    experiments,
    facts,
    held_out,
    measuring,
    numbers,
    preparing,
    protocol,
    replication,
    templates,
    trials,
)
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_report import PRODUCT, Plan
from fumehood.services.confirmation_rule import fresh_seeds, measure_of, run_seeds
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
    if why := preparing.undrawn(parts):
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
    baseline = experiments.baseline(world, experiment)
    base = _record(world, baseline)
    pool = confirmation_choice.cells(base, name)
    choice = confirmation_choice.choose(
        [(run, _record(world, run)) for run in runs],
        (baseline, base),
        metric=name,
        measure=measure,
        rule=rule,
        comparison=template.comparison,
    )
    chosen = next((run for run in runs if run.folder == choice.run), None)
    if chosen is None:
        return None, choice.reason
    scale = confirming.freeze(measure, {dataset: seeds[: rule.screen_baseline] for dataset, seeds in pool.items()})
    index, discoveries = _before(world, direction, experiment)
    plan = Plan(
        run=chosen.folder,
        code=templates.template_hash(chosen.files),
        metric=name,
        measure=measure,
        rule=rule,
        kind=idea.kind,
        expected=idea.expected if idea.metric in {"", name} else "",
        datasets=tuple(pool),
        held_out=template.held_out,
        scale=dict(scale.values),
        left_out=dict(scale.left_out),
        screened=len(runs),
        screen_contrast=choice.contrast,
        index=index,
        discoveries=discoveries,
        baseline_seeds=fresh_seeds(direction.id, templates.start_of(direction), rule.confirm_baseline),
        seeds=run_seeds(direction.id, chosen.files, idea.kind, rule.looks[-1]),
        comparison=template.comparison,
        arguments=confirmation_choice.arguments_for(choice.matched, template.comparison),
        each_alone=True,
    )
    return plan, Reason.SCREEN_ONLY


def _before(world: WriteWorld, direction: Direction, experiment: Experiment) -> tuple[int, int]:
    """Return how many confirmations of the direction ended in this epoch of its rule, and how many found something.

    What was measured on the same seeds counts once: of forks that share a confirmation, and of ideas that came to the
    same code.
    """
    with world.store.begin(write=False) as tx:
        others = [one for one in tx.experiments.find(direction_id=direction.id) if one.id != experiment.id]
    ended = {}
    for one in others:
        if PRODUCT in one.products and one.label:
            ended[confirmation_report.read(world.artifacts.get(one.products[PRODUCT]))[0].seeds] = one.label
    labels = list(ended.values())
    index = len(labels) % direction.rule.ideas if direction.rule else 0
    return index, sum(label in DISCOVERIES for label in labels[len(labels) - index :])


def _go_on(world: WriteWorld, direction: Direction, experiment: Experiment) -> Change:
    plan, _ = confirmation_report.read(world.artifacts.get(experiment.products[PRODUCT]))
    with world.store.begin(write=False) as tx:
        pools = tx.runs.find(direction_id=direction.id, arm=Arm.CONFIRM, index=0)
        ours = tx.runs.find(experiment_id=experiment.id, arm=Arm.CONFIRM)
        screened = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN)
    whose = _pool_owner(experiment, plan)
    pool = settled(run for run in pools if run.experiment_id == whose)
    ours = settled(run for run in ours if run.index > 0)
    looks = sorted((run for run in ours if not run.alone), key=lambda run: run.index)
    if not pool:
        return _measure(direction, experiment, _pool(world, direction, experiment, plan))
    runs = (*pool, *ours)
    for whole in (*(run for run in pool if not run.alone), *looks):
        seed = _next_alone(world, plan, whole, runs)
        if seed is not None:
            return _alone(world, direction, experiment, whole, seed)
    records = {run.folder: _record(world, run) for run in (*runs, *screened) if run.record}
    base = confirmation_report.cells_of_look("confirm_0", plan.baseline_seeds, records, plan)
    if not any(name.startswith("confirm_0") for name in records):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.MISSING_CELLS), plan)
    baseline = _record(world, experiments.baseline(world, experiment))
    if any(protocol.changed(of, baseline) for of in records.values()):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.PROTOCOL_CHANGED), plan)
    if not confirmation_choice.is_matched(plan, records):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.BUDGET_MISMATCH), plan)
    chosen = next(run for run in screened if run.folder == plan.run)
    if not looks:
        return _measure(direction, experiment, _look(world, experiment, plan, chosen, 1))
    sealed = [records[run.folder] for run in runs if run.record]
    if why := numbers.incomparable(plan.metric, baseline, *sealed):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason(why)), plan)
    if any(curves.is_own_word(of, plan.metric) for of in sealed):
        return _ended(world, experiment, confirmation_report.unconfirmed(Reason.STEP_AXIS), plan)
    found = [confirmation_report.cells_of_look(run.folder, run.seeds, records, plan) for run in looks]
    errors = confirmation_report.held_out_errors(
        plan,
        _examples(world, plan, pool),
        [one for look in looks for one in _examples(world, plan, _parts(look, ours))],
    )
    said = confirmation_report.decide(plan, base, found, errors)
    if said.label is None:
        return _measure(direction, experiment, _look(world, experiment, plan, chosen, len(looks) + 1))
    failed = {run.folder for run in runs if run.result is RunResult.FAILED}
    alone = confirmation_report.alone(plan, failed, len(looks))
    return _ended(world, experiment, confirmation_report.result(plan, said, alone), plan)


def _next_alone(world: WriteWorld, plan: Plan, whole: Run, runs: Sequence[Run]) -> Run | None:
    """Return the next seed of a look that failed, to be run alone: each of them once, in their order."""
    if not plan.each_alone or whole.result is not RunResult.FAILED:
        return None
    done = {run.alone for run in runs if run.index == whole.index and run.alone}
    place = next((place for place in range(1, len(whole.seeds) + 1) if place not in done), None)
    if place is None:
        return None
    return Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=whole.direction_id,
        experiment_id=whole.experiment_id,
        index=whole.index,
        arm=whole.arm,
        confirms=whole.confirms,
        alone=place,
        title=whole.title,
        description=f"{whole.description} One of its seeds alone, since {whole.folder} failed.",
        files=whole.files,
        seeds=(whole.seeds[place - 1],),
        arguments=whole.arguments,
    )


def _alone(world: WriteWorld, direction: Direction, experiment: Experiment, whole: Run, seed: Run) -> Change:
    change = _measure(direction, experiment, seed)
    if seed.alone > 1:
        return change
    text = f"{experiment.name}: {whole.folder} failed, so each of its {len(whole.seeds)} seeds is run alone"
    return dataclasses.replace(change, events=(happened(world.clock, experiment, "confirmation.alone", text),))


def _pool_owner(experiment: Experiment, plan: Plan) -> ExperimentId | None:
    """Return whose baseline of a confirmation is: of an experiment that has another budget or other data, its own."""
    return experiment.id if plan.arguments or experiment.added else None


def _pool(world: WriteWorld, direction: Direction, experiment: Experiment, plan: Plan) -> Run:
    whose = "all confirmations of the direction" if _pool_owner(experiment, plan) is None else "this confirmation"
    whose += ", with the run's budget" if plan.arguments else ""
    return Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=direction.id,
        experiment_id=_pool_owner(experiment, plan),
        index=0,
        arm=Arm.CONFIRM,
        title="Baseline, sealed",
        description=f"The baseline on other seeds and on sealed data, for {whose}.",
        files=templates.start_of(direction),
        seeds=plan.baseline_seeds,
        arguments=plan.arguments,
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


def _parts(look: Run, ours: Sequence[Run]) -> list[Run]:
    """Return a look, or its seeds that were run alone, in their order."""
    return sorted((run for run in ours if run.index == look.index), key=_place)


def _place(run: Run) -> int:
    return run.alone


def _examples(world: WriteWorld, plan: Plan, parts: Sequence[Run]) -> list[confirmation_report.Measured]:
    """Return what each held-out example gave in runs that gave numbers; none where each seed draws its own."""
    if plan.held_out == "drawn":
        return []
    return [(_record(world, run), world.artifacts.get(run.outputs[held_out.FILE])) for run in parts if run.record]


STEPS = {"confirm": confirm, "confirm_drawn": drawn, "confirm_measured": measured}
