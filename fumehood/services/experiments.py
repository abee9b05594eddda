"""Carrying out one idea: edit the code, measure it, feed errors back, keep notes, go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Attempt, Experiment, ExperimentState, Run, RunResult
from fumehood.domain.fidelity import Point
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ExperimentId, RunId
from fumehood.domain.step import Step
from fumehood.ports import Artifacts, Edit
from fumehood.services import (
    auditing,
    confirmation_report,
    directions,
    facts,
    fidelity,
    final_info,
    numbers,
    registering,
    replication,
    templates,
)
from fumehood.services.calls import claims_for, question
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_rule import screen_seeds
from fumehood.services.world import WriteWorld

ATTEMPTS = 4
LONGEST_NOTE = 4000
"""Characters of a notebook's entry that a model writes; more is cut off."""
COMPLETED = "ALL_COMPLETED"


def begin_experiment(world: WriteWorld, step: Step) -> Change:
    """Write down what the idea promises before its first run, and open the notes with the baseline."""
    direction, experiment, idea = subject(world, step)
    registration = registering.registered(world, direction, idea)
    first = results_line(world, baseline(world, experiment))
    title = replication.TITLE if experiment.replicates else idea.title
    notes = f"# {title}\n\n{idea.experiment}\n\n## Run 0: Baseline\n{first}\n"
    experiment = experiment.to(
        ExperimentState.CODING,
        notes=notes,
        products={
            **experiment.products,
            registering.REGISTRATION: world.artifacts.put(json.dumps(registration, indent=2).encode()),
        },
    )
    return Change(experiments=(experiment,), steps=(code_next(experiment, 1, 1),))


def code_next(experiment: Experiment, run: int, attempt: int, *, mending: bool = False) -> Next:
    """Return the step that asks for the edit of a run's attempt; mending, for what one that did not run yet lacks."""
    return Next(
        name="code",
        key=f"code:{experiment.id}:{run}:{attempt}{':mending' if mending else ''}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        payload={"index": run, "attempt": attempt, **({"mending": True} if mending else {})},
    )


def no_edit(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    edit: Edit,
) -> Change:
    """Keep an answer without an edit as an attempt, or go on to the plots where it says that the plan is completed."""
    reason = "; ".join(edit.problems) or "the reply held no edit"
    finished = COMPLETED in edit.reply and (run is None or not run.attempts)
    if finished and measured_runs(world, experiment):
        return _screened(world, direction, experiment, "the plan is completed")
    change = not_run(world, direction, experiment, run, index, attempt, "no_edit", reason)
    event = happened(
        world.clock, experiment, "attempt.failed", f"{experiment.name} run_{index}: no edit was made: {reason}"
    )
    return dataclasses.replace(change, events=(event,)) if attempt < ATTEMPTS else change


def not_run(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    verdict: str,
    reason: str,
) -> Change:
    """Keep an attempt that ended before anything ran, and ask again or give the run up."""
    kept = _kept_attempt(world, direction, experiment, run, index, attempt, verdict, reason)
    if attempt < ATTEMPTS:
        return Change(runs=(kept,), steps=(code_next(experiment, index, attempt + 1),))
    return _run_given_up(world, direction, experiment, kept)


def _kept_attempt(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    verdict: str,
    reason: str,
) -> Run:
    if run is None:
        run = Run(
            id=RunId(world.clock.new_id("run")),
            direction_id=direction.id,
            experiment_id=experiment.id,
            index=index,
            title=f"Variant {index}",
            files=experiment.files,
            seeds=screen_seeds(direction, templates.read(direction, world.artifacts)[1]),
        )
    return dataclasses.replace(
        run, attempts=(*run.attempts, Attempt(number=attempt, verdict=verdict, error_tail=reason))
    )


def attempt_failed(world: WriteWorld, step: Step) -> Change:
    """Try again with the error in sight, or give the run up; the idea goes on if any run succeeded."""
    direction, experiment, _ = subject(world, step)
    with world.store.begin(write=False) as tx:
        run = tx.runs.get(str(step.payload["run"]))
    attempt = int(step.payload["attempt"])
    if attempt < ATTEMPTS:
        back = experiment.to(ExperimentState.CODING) if experiment.state is ExperimentState.RUNNING else experiment
        return Change(experiments=(back,), steps=(code_next(experiment, run.index, attempt + 1),))
    return _run_given_up(world, direction, experiment, run)


def _run_given_up(world: WriteWorld, direction: Direction, experiment: Experiment, run: Run) -> Change:
    all_refused = all(one.verdict == "refused" for one in run.attempts)
    given_up = dataclasses.replace(run, result=RunResult.REFUSED if all_refused else RunResult.FAILED)
    return dataclasses.replace(_without(world, direction, experiment, run, all_refused=all_refused), runs=(given_up,))


def _without(world: WriteWorld, direction: Direction, experiment: Experiment, run: Run, *, all_refused: bool) -> Change:
    """Go on without a run that was given up, or end the experiment where it has no other."""
    if measured_runs(world, experiment):
        return _screened(world, direction, experiment, f"run_{run.index} used up its attempts")
    last = run.attempts[-1]
    if all_refused:
        why = f"every edit of run_{run.index} was refused, last: {last.error_tail}"
        return directions.refuse_experiment(world.clock, experiment, why)
    error = f"run_{run.index} failed {len(run.attempts)} times, last {last.verdict}: {last.error_tail.strip()[-200:]}"
    ended = experiment.to(ExperimentState.FAILED, error=error, ended_at=world.clock.now())
    event = happened(world.clock, experiment, "experiment.failed", f"{experiment.name}: {error}")
    return Change(experiments=(ended,), steps=(directions.close_experiment(ended),), events=(event,))


def run_done(world: WriteWorld, step: Step) -> Change:
    """Add the run to the notes and go on to the next, or to the plots."""
    direction, experiment, idea = subject(world, step)
    with world.store.begin(write=False) as tx:
        run = tx.runs.get(str(step.payload["run"]))
    line = results_line(world, run)
    prompt = world.prompts.render(
        "notes",
        run=str(run.index),
        output=f"{run.description}\n{line}\n{world.artifacts.get(run.log).decode(errors='replace')[-2000:]}",
        facts=json.dumps(_note_facts(world, direction, experiment, run)),
    )
    claims = claims_for(
        world,
        direction,
        "notes",
        experiment=experiment,
        idea=idea.name,
        run=run.index,
        prompt=prompt,
    )
    said = world.model.text(question(world, claims, prompt, system="You keep a laboratory notebook.", max_tokens=1000))
    said = said.strip()[:LONGEST_NOTE]
    flagged = "".join(f"Flagged: {one['sentence']}\n" for one in auditing.flags(world.artifacts, experiment, run.files))
    experiment, left_open = _results_read(world, experiment, run)
    flagged += fidelity.noted(left_open)
    notes = f"{experiment.notes}\n## Run {run.index}: {run.title}\n{run.description}\n{line}\n{flagged}{said}\n"
    experiment = dataclasses.replace(experiment, notes=notes)
    if run.index >= replication.runs_of(direction, experiment):
        return _screened(world, direction, experiment, "all runs are done")
    if experiment.state is ExperimentState.RUNNING:
        experiment = experiment.to(ExperimentState.CODING)
    return Change(experiments=(experiment,), steps=(code_next(experiment, run.index + 1, 1),))


def _results_read(world: WriteWorld, experiment: Experiment, run: Run) -> tuple[Experiment, tuple[Point, ...]]:
    """Return the experiment with what a run's results say of its edit, and all that is open of the run."""
    runs = [one for one in measured_runs(world, experiment) if one.index < run.index]
    found = fidelity.of_results(world.artifacts, run, baseline(world, experiment), runs)
    attempt, stage = len(run.attempts) + 1, fidelity.Stage.RESULTS
    experiment = fidelity.kept(world.artifacts, experiment, run.folder, attempt, stage, run.files, found)
    return experiment, fidelity.open_points(world.artifacts, experiment, run)


def _note_facts(world: WriteWorld, direction: Direction, experiment: Experiment, run: Run) -> dict[str, object]:
    template, _ = templates.read(direction, world.artifacts)
    told: dict[str, object] = {"run": run.index, "title": run.title}
    runs = (run, baseline(world, experiment))
    records = (facts.predicate(world.artifacts.get(one.record)) for one in runs if one.record)
    if template.primary and not numbers.incomparable(template.primary, *records):
        infos = [final_info.read(world.artifacts.get(one.final_info), "") for one in runs]
        ours, theirs = (final_info.overall(info, template.primary) for info in infos)
        if ours and theirs:
            told |= {"metric": template.primary, "value": ours.mean, "baseline": theirs.mean}
    return told


def _screened(world: WriteWorld, direction: Direction, experiment: Experiment, why: str) -> Change:
    """Go on to the confirmation of a run, or to the plots where nothing is confirmed."""
    if direction.rule is None:
        return to_plots(world, experiment, why)
    confirming = experiment.to(ExperimentState.CONFIRMING)
    step = Next(
        name="confirm",
        key=f"confirm:{experiment.id}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
    )
    event = happened(world.clock, confirming, "experiment.confirming", f"{experiment.name}: {why}; confirming")
    return Change(experiments=(confirming,), steps=(step,), events=(event,))


def to_plots(world: WriteWorld, experiment: Experiment, why: str) -> Change:
    """Go on to the figures."""
    told = told_of(world.artifacts, experiment, measured_runs(world, experiment))
    experiment = experiment.to(ExperimentState.PLOTTING, files=told.files if told else experiment.files)
    return Change(
        experiments=(experiment,),
        steps=(plot_next(experiment),),
        events=(happened(world.clock, experiment, "experiment.plotting", f"{experiment.name}: {why}; plotting"),),
    )


def told_of(artifacts: Artifacts, experiment: Experiment, measured: Sequence[Run]) -> Run | None:
    """Return the run whose code a paper tells of: the one that was confirmed, or else the last; None without any."""
    product = experiment.products.get(confirmation_report.PRODUCT)
    confirmed = confirmation_report.read(artifacts.get(product))[0].run if product else ""
    return next((run for run in measured if run.folder == confirmed), measured[-1] if measured else None)


def plot_next(experiment: Experiment, *, as_given: bool = False) -> Next:
    """Return the step that first draws the figures; as given, `plot.py` is not fitted to the runs before."""
    return Next(
        name="plot",
        key=f"plot:{experiment.id}:1",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        payload={"attempt": 1, "as_given": True} if as_given else {"attempt": 1},
    )


def measured_runs(world: WriteWorld, experiment: Experiment) -> tuple[Run, ...]:
    """Return the idea's runs that gave numbers, in order."""
    with world.store.begin(write=False) as tx:
        runs = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN)
    return tuple(sorted((run for run in runs if run.result is RunResult.MEASURED), key=lambda run: run.index))


def results_line(world: WriteWorld, run: Run) -> str:
    """Return a run's means as one line of JSON, as notes and models read them."""
    info = json.loads(world.artifacts.get(run.final_info)) if run.final_info else {}
    return "Results: " + json.dumps({dataset: values["means"] for dataset, values in info.items()})


def baseline(world: WriteWorld, experiment: Experiment) -> Run:
    """Return the baseline that an experiment is screened against."""
    with world.store.begin(write=False) as tx:
        return tx.runs.get(str(experiment.baseline_id))


def run_of(world: WriteWorld, experiment: Experiment, index: int) -> Run | None:
    """Return the experiment's run of this number, if it has one."""
    with world.store.begin(write=False) as tx:
        found = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN, index=index)
    return found[0] if found else None


def subject(world: WriteWorld, step: Step) -> tuple[Direction, Experiment, Idea]:
    """Return what a step of an experiment is about."""
    with world.store.begin(write=False) as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        idea = experiment.planned(tx.ideas.get(experiment.idea_id))
        return experiment.seen(tx.directions.get(experiment.direction_id)), experiment, idea
