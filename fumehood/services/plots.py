"""Drawing the figures: the experiment's own `plot.py`, in a container that has the runs' outputs and nothing else."""

from __future__ import annotations

import dataclasses
import json

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Execution, Experiment, ExperimentState, Run
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ExperimentId
from fumehood.domain.policy import PolicyVerdict
from fumehood.domain.step import Step
from fumehood.services import (
    auditing,
    confirmation_report,
    drawing_notes,
    drawings,
    experiments,
    fidelity,
    public_data,
    registering,
    screening,
    templates,
    trials,
)
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, Next, Payload, happened
from fumehood.services.drawings import Drawn
from fumehood.services.plot_driver import DRIVER
from fumehood.services.wanting import wanted
from fumehood.services.world import WriteWorld

ATTEMPTS = 4
FIRST_SECTION = "introduction"
COMMAND = ("python", "/in/driver.py")


def plot(world: WriteWorld, step: Step) -> Change:
    """Have `plot.py` fitted to the runs, then drawn; after the last attempt the template's own is used."""
    direction, experiment, idea = _subject(world, step)
    attempt = int(step.payload["attempt"])
    runs = _runs(world, experiment)
    if step.payload.get("is_screened") or (attempt <= ATTEMPTS and step.payload.get("as_given")):
        return _drawn_of_runs(world, direction, experiment, runs, attempt)
    if attempt > ATTEMPTS:
        own = {**experiment.files, "plot.py": direction.template_files["plot.py"]}
        return _draw(world, direction, dataclasses.replace(experiment, files=own), runs, attempt)
    fitted = _fitted(world, direction, experiment, idea, runs, attempt, str(step.payload.get("error", "")))
    told = screening.of_diff(world, experiment, fitted.files)
    found = screening.screen(world, direction, told, experiment=experiment)
    if found.verdict is PolicyVerdict.REFUSED:
        change = Change(steps=(_plot_next(experiment, attempt + 1, {"error": found.sentence}),))
    elif found.verdict is PolicyVerdict.NEEDS_A_PERSON:
        held = dataclasses.replace(fitted, hold=Hold.POLICY)
        change = Change(experiments=(held,), steps=(_plot_next(experiment, attempt, {"is_screened": True}),))
    else:
        change = _drawn_of_runs(world, direction, fitted, runs, attempt)
    if found.verdict is not PolicyVerdict.REFUSED:
        change = _audited(world, direction, experiment, fitted, attempt, change)
    return screening.added(
        change,
        screening.entry(world.clock, world.policy, direction, told, found),
        screening.events(world.clock, world.policy, experiment, found, f"{experiment.name} plot.py"),
    )


def _audited(
    world: WriteWorld, direction: Direction, experiment: Experiment, fitted: Experiment, attempt: int, change: Change
) -> Change:
    """Keep what an edit of `plot.py` brings, and ask again in the place of a change that would draw a refused one."""
    brought = auditing.look(world, direction, experiment, fitted.files, only="plot.py")
    if auditing.refused(brought):
        kept = auditing.kept(world, experiment, "plot", attempt, fitted.files, brought)
        told = auditing.sentences(brought)
        event = happened(world.clock, experiment, "edit.refused", f"{experiment.name} plot.py: {told.splitlines()[0]}")
        step = _plot_next(experiment, attempt + 1, {"error": told})
        return Change(experiments=(kept,), steps=(step,), events=(event,))
    kept_ones = tuple(auditing.kept(world, one, "plot", attempt, fitted.files, brought) for one in change.experiments)
    return dataclasses.replace(change, experiments=kept_ones)


def _plot_next(experiment: Experiment, attempt: int, more: Payload) -> Next:
    held = ":held" if more.get("is_screened") else ""
    return Next(
        name="plot",
        key=f"plot:{experiment.id}:{attempt}{held}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        payload={"attempt": attempt, **more},
    )


def _drawn_of_runs(
    world: WriteWorld, direction: Direction, experiment: Experiment, runs: tuple[Run, ...], attempt: int
) -> Change:
    """Have the figures drawn, or ask again where the program names a run that there is not."""
    titles = drawings.titles_of(runs)
    strays = drawings.strays_of_program(world.artifacts.get(experiment.files[drawings.PROGRAM]), titles)
    if strays:
        return _not_drawn(world, experiment, attempt, drawings.refusal(strays, titles))
    return _draw(world, direction, experiment, runs, attempt)


def _not_drawn(world: WriteWorld, experiment: Experiment, attempt: int, why: str) -> Change:
    event = happened(world.clock, experiment, "plot.refused", f"{experiment.name}: {why}")
    return Change(
        experiments=(experiment,), steps=(_plot_next(experiment, attempt + 1, {"error": why}),), events=(event,)
    )


def _draw(
    world: WriteWorld, direction: Direction, experiment: Experiment, runs: tuple[Run, ...], attempt: int
) -> Change:
    template, profile = templates.read(direction, world.artifacts)
    inputs = {f"work/{path}": sha for path, sha in experiment.files.items()}
    inputs[COMMAND[1].removeprefix("/")] = world.artifacts.put(DRIVER.read_bytes())
    for run in runs:
        inputs |= {f"work/{run.folder}/{path}": sha for path, sha in run.outputs.items()}
        inputs[f"work/{run.folder}/final_info.json"] = run.final_info
    drawing = wanted(
        world.clock,
        direction,
        profile,
        Kind.PLOT,
        experiment_id=experiment.id,
        command=COMMAND,
        inputs=inputs,
        collect=(*template.plots, "*.csv", f"{drawings.FOLDER}/*.json"),
        environment={"MPLBACKEND": "Agg"},
    )
    following = Next(
        name="plotted",
        key=f"plotted:{experiment.id}:{attempt}",
        direction_id=direction.id,
        experiment_id=experiment.id,
        payload={"attempt": attempt},
        waits_for=(drawing.id,),
    )
    return Change(experiments=(experiment,), executions=(drawing,), steps=(following,))


def _fitted(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    idea: Idea,
    runs: tuple[Run, ...],
    attempt: int,
    error: str,
) -> Experiment:
    system, _ = words_of(world, direction)
    prompt = world.prompts.render(
        "plot",
        title=idea.title,
        experiment=idea.experiment,
        runs="\n".join(f"{run.folder}: {run.title}. {run.description}" for run in runs),
        failure=error,
        facts=json.dumps({"runs": [run.folder for run in runs]}),
    )
    claims = claims_for(
        world,
        direction,
        "plot",
        experiment=experiment,
        idea=idea.name,
        index=idea.index,
        attempt=attempt,
        prompt=prompt,
    )
    files = {path: world.artifacts.get(sha) for path, sha in experiment.files.items() if path.endswith(".py")}
    shown = {"plot.py": files.pop("plot.py")}
    edit = world.coder.edit(question(world, claims, prompt, system=system), shown, ["plot.py"], files)
    changed = {path: world.artifacts.put(edit.files[path]) for path in edit.changed if path == "plot.py"}
    return dataclasses.replace(experiment, files={**experiment.files, **changed})


def plotted(world: WriteWorld, step: Step) -> Change:
    """Keep the figures with what they were drawn from and start writing, or try again with the error in sight."""
    direction, experiment, idea = _subject(world, step)
    template, _ = templates.read(direction, world.artifacts)
    runs = _runs(world, experiment)
    titles = drawings.titles_of(runs)
    with world.store.begin(write=False) as tx:
        execution = tx.executions.get(step.waits_for[0])
    attempt = int(step.payload["attempt"])
    told = _told(world, execution)
    if attempt <= ATTEMPTS:
        if not execution.succeeded or not told:
            error = trials.tail_of(execution) or "plot.py ended well but drew no figure"
            return Change(steps=(_plot_next(experiment, attempt + 1, {"error": error}),))
        strays = sorted({stray for one in told.values() for stray in drawings.strays(one, titles)})
        if strays:
            return _not_drawn(world, experiment, attempt, drawings.refusal(strays, titles))
    told = {picture: one for picture, one in told.items() if not drawings.strays(one, titles)}
    versions = (*(run.files for run in runs), experiment.files)
    confirmed = experiment.products.get(confirmation_report.PRODUCT)
    limitations = (
        *experiment.limitations,
        *(confirmation_report.limitations(world.artifacts.get(confirmed)) if confirmed else ()),
        *auditing.limitations(world.artifacts, experiment, versions),
        *registering.limitations(world.artifacts, experiment),
        *fidelity.limitations(world.artifacts, experiment, runs),
        *public_data.limitations(template, direction.template_files),
    )
    products = dict(experiment.products)
    notes = experiment.notes
    if told:
        kept = drawings.told(execution, told, titles)
        products |= drawings.products(kept) | {drawings.PRODUCT: world.artifacts.put(kept.to_json())}
        notes = drawing_notes.added(notes, drawing_notes.ask(world, direction, experiment, idea, kept, told))
    else:
        limitations = (*limitations, "No figure could be drawn: plot.py failed on every attempt.")
    experiment = experiment.to(ExperimentState.WRITING, products=products, limitations=limitations, notes=notes)
    event = happened(world.clock, experiment, "plots.drawn", f"{experiment.name}: {len(told)} figures drawn; writing")
    return Change(experiments=(experiment,), steps=(write_next(experiment),), events=(event,))


def _told(world: WriteWorld, execution: Execution) -> dict[str, Drawn | None]:
    """Return each figure that was drawn, with what is told of it."""
    found: dict[str, Drawn | None] = {}
    for picture in drawings.pictures_of(execution):
        data = execution.artifacts.get(drawings.place_of(picture))
        found[picture] = drawings.drawn_of(world.artifacts.get(data.sha256)) if data else None
    return found


def write_next(experiment: Experiment) -> Next:
    """Return the step that writes the paper's first section."""
    return Next(
        name="write_section",
        key=f"write:{experiment.id}:{FIRST_SECTION}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
        payload={"section": FIRST_SECTION},
    )


def _runs(world: WriteWorld, experiment: Experiment) -> tuple[Run, ...]:
    with world.store.begin(write=False) as tx:
        baseline = tx.runs.get(str(experiment.baseline_id))
    return (baseline, *experiments.measured_runs(world, experiment))


def _subject(world: WriteWorld, step: Step) -> tuple[Direction, Experiment, Idea]:
    with world.store.begin(write=False) as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        idea = experiment.planned(tx.ideas.get(experiment.idea_id))
        return experiment.seen(tx.directions.get(experiment.direction_id)), experiment, idea
