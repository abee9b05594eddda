"""Carrying out one idea: edit the code, measure it, feed errors back, keep notes, go on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Arm, Attempt, Experiment, ExperimentState, Run, RunResult
from fumehood.domain.fidelity import Point
from fumehood.domain.finding import Finding
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ExperimentId, RunId
from fumehood.domain.policy import PolicyVerdict
from fumehood.domain.step import Step
from fumehood.ports import Edit
from fumehood.services import auditing, directions, feedback, fidelity, final_info, measuring, screening, templates
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_rule import screen_seeds
from fumehood.services.world import WriteWorld

ATTEMPTS = 4
LONGEST_NOTE = 4000
"""Characters of a notebook's entry that a model writes; more is cut off."""
COMPLETED = "ALL_COMPLETED"
HEADING = re.compile(r"^RUN:\s*(?P<title>[^|\n]{1,120})(?:\|\s*(?P<description>[^\n]{1,600}))?", re.MULTILINE)


def begin_experiment(world: WriteWorld, step: Step) -> Change:
    """Write down what the idea promises before its first run, and open the notes with the baseline."""
    _, experiment, idea = subject(world, step)
    registration = {
        "kind": idea.kind,
        "hypothesis": idea.hypothesis,
        "metric": idea.metric,
        "expected": idea.expected,
        "changes": list(idea.changes),
        "comparison": "run_0",
        "registered_at": world.clock.now(),
    }
    first = results_line(world, baseline(world, experiment))
    notes = f"# {idea.title}\n\n{idea.experiment}\n\n## Run 0: Baseline\n{first}\n"
    experiment = experiment.to(
        ExperimentState.CODING,
        notes=notes,
        products={
            **experiment.products,
            "registration.json": world.artifacts.put(json.dumps(registration, indent=2).encode()),
        },
    )
    return Change(experiments=(experiment,), steps=(code_next(experiment, 1, 1),))


def code_next(experiment: Experiment, run: int, attempt: int) -> Next:
    """Return the step that asks for the edit of a run's attempt."""
    return Next(
        name="code",
        key=f"code:{experiment.id}:{run}:{attempt}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        payload={"index": run, "attempt": attempt},
    )


def code(world: WriteWorld, step: Step) -> Change:
    """Ask the coder for an edit and have the result measured."""
    direction, experiment, idea = subject(world, step)
    index, attempt = int(step.payload["index"]), int(step.payload["attempt"])
    run = _run(world, experiment, index)
    edit = _edit(world, direction, experiment, idea, run, index, attempt)
    if not edit.changed:
        return _no_edit(world, direction, experiment, run, index, attempt, edit)
    files = {**experiment.files, **{path: world.artifacts.put(data) for path, data in edit.files.items()}}
    told = screening.of_diff(world, experiment, files)
    found = screening.screen(world, direction, told, experiment=experiment, run=index)
    entries = screening.entry(world.clock, world.policy, direction, told, found)
    if found.verdict is PolicyVerdict.REFUSED:
        # The working copy stays as it was, so that nothing of a refused edit is part of the next one.
        refused = _not_run(world, direction, experiment, run, index, attempt, "refused", found.sentence)
        seen = screening.events(world.clock, world.policy, experiment, found, f"{experiment.name} run_{index}")
        return screening.added(refused, entries, seen)
    brought = auditing.look(world, direction, experiment, files)
    experiment = auditing.kept(world, experiment, f"run_{index}", attempt, files, brought)
    if auditing.refused(brought):
        return screening.added(_audited(world, direction, experiment, run, index, attempt, brought), entries)
    change = _edited(world, direction, experiment, run, index, attempt, edit, files)
    if found.verdict is PolicyVerdict.NEEDS_A_PERSON:
        held = tuple(dataclasses.replace(one, hold=Hold.POLICY) for one in change.experiments)
        seen = screening.events(world.clock, world.policy, experiment, found, f"{experiment.name} run_{index}")
        change = dataclasses.replace(change, experiments=held, events=(*change.events, *seen))
    return screening.added(change, entries)


def _audited(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    brought: tuple[Finding, ...],
) -> Change:
    """Turn an edit down that must not run; the working copy stays as it was."""
    told = auditing.sentences(brought)
    change = _not_run(world, direction, experiment, run, index, attempt, "refused", told)
    text = f"{experiment.name} run_{index}: the edit was refused before it ran: {told.splitlines()[0]}"
    event = happened(world.clock, experiment, "edit.refused", text)
    return dataclasses.replace(change, experiments=change.experiments or (experiment,), events=(event, *change.events))


def _edited(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    edit: Edit,
    files: Mapping[str, str],
) -> Change:
    heading = HEADING.search(edit.reply)
    if run is None:
        run = Run(
            id=RunId(world.clock.new_id("run")),
            direction_id=direction.id,
            experiment_id=experiment.id,
            index=index,
            title=heading["title"].strip() if heading else f"Variant {index}",
            description=(heading["description"] or "").strip() if heading else "",
            seeds=screen_seeds(direction, templates.read(direction, world.artifacts)[1]),
        )
    run = dataclasses.replace(run, files=files)
    experiment = dataclasses.replace(experiment, files=files)
    if experiment.state is ExperimentState.CODING:
        experiment = experiment.to(ExperimentState.RUNNING)
    changed = ", ".join(edit.changed)
    return Change(
        experiments=(experiment,),
        runs=(run,),
        steps=(measuring.measure_next(direction, experiment, run, attempt),),
        events=(
            happened(
                world.clock,
                experiment,
                "code.edited",
                f"{experiment.name} run_{index}: {world.coder.name} changed {changed}",
            ),
        ),
    )


def _edit(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    idea: Idea,
    run: Run | None,
    index: int,
    attempt: int,
) -> Edit:
    template, _ = templates.read(direction, world.artifacts)
    system, task = words_of(world, direction)
    sources = {path: world.artifacts.get(sha) for path, sha in experiment.files.items() if path.endswith(".py")}
    added = [path for path in sources if path not in direction.template_files]
    editable = [*(path for path in template.editable if path in sources), *added]
    last = run.attempts[-1] if run and run.attempts else None
    with world.store.begin(write=False) as tx:
        guidance = feedback.said(tx, direction.id, experiment.id)
    prompt = world.prompts.render(
        "coder",
        task=task,
        guidance=guidance,
        title=idea.title,
        experiment=idea.experiment,
        may_change=", ".join(idea.changes or template.comparison.may_change) or "what the plan needs",
        run=str(index),
        runs=str(direction.runs),
        editable=", ".join(editable),
        history=_chapters(experiment.notes),
        failure=f"attempt {last.number} of {ATTEMPTS} ended {last.verdict}\n{last.error_tail}" if last else "",
    )
    claims = claims_for(
        world,
        direction,
        "coder",
        experiment=experiment,
        idea=idea.name,
        index=idea.index,
        run=index,
        attempt=attempt,
        prompt=prompt,
    )
    files = {path: sources.pop(path) for path in editable}
    return world.coder.edit(question(world, claims, prompt, system=system), files, editable, sources)


def _chapters(notes: str) -> tuple[str, ...]:
    """Return a notebook in pieces; each run adds one, and those before stay as they were."""
    return tuple(re.split(r"\n(?=## Run )", notes))


def _no_edit(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    run: Run | None,
    index: int,
    attempt: int,
    edit: Edit,
) -> Change:
    reason = "; ".join(edit.problems) or "the reply held no edit"
    finished = COMPLETED in edit.reply and (run is None or not run.attempts)
    if finished and measured_runs(world, experiment):
        return _screened(world, direction, experiment, "the plan is completed")
    change = _not_run(world, direction, experiment, run, index, attempt, "no_edit", reason)
    event = happened(
        world.clock, experiment, "attempt.failed", f"{experiment.name} run_{index}: no edit was made: {reason}"
    )
    return dataclasses.replace(change, events=(event,)) if attempt < ATTEMPTS else change


def _not_run(
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
    if run.index >= direction.runs:
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
    facts: dict[str, object] = {"run": run.index, "title": run.title}
    if template.primary:
        infos = [final_info.read(world.artifacts.get(one.final_info), "") for one in (run, baseline(world, experiment))]
        ours, theirs = (final_info.overall(info, template.primary) for info in infos)
        if ours and theirs:
            facts |= {"metric": template.primary, "value": ours.mean, "baseline": theirs.mean}
    return facts


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
    good = measured_runs(world, experiment)[-1:]
    files = good[0].files if good else experiment.files
    experiment = experiment.to(ExperimentState.PLOTTING, files=files)
    return Change(
        experiments=(experiment,),
        steps=(plot_next(experiment),),
        events=(happened(world.clock, experiment, "experiment.plotting", f"{experiment.name}: {why}; plotting"),),
    )


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


def _run(world: WriteWorld, experiment: Experiment, index: int) -> Run | None:
    with world.store.begin(write=False) as tx:
        found = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN, index=index)
    return found[0] if found else None


def subject(world: WriteWorld, step: Step) -> tuple[Direction, Experiment, Idea]:
    """Return what a step of an experiment is about."""
    with world.store.begin(write=False) as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        idea = experiment.planned(tx.ideas.get(experiment.idea_id))
        return tx.directions.get(experiment.direction_id), experiment, idea
