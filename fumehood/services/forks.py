"""Forking an experiment that has ended: its earlier steps are shared by hash, its later ones are done again.

The fork is a new experiment of the same direction, so that baseline, data, budget and finished folder stay one. A
direction that was done, or failed, is open again until the fork has ended too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Arm, Experiment, ExperimentState, Run, RunResult
from fumehood.domain.ids import ExperimentId, RunId
from fumehood.domain.policy import PolicyVerdict, Screening, strictest
from fumehood.domain.step import Side, Step, StepState
from fumehood.errors import BadInputError, ConflictError
from fumehood.ports import Artifacts, Clock, Store, Transaction
from fumehood.services import (
    audit,
    auditing,
    confirmation_report,
    directions,
    drawings,
    experiments,
    fidelity,
    ideas,
    log,
    measuring,
    plots,
    registering,
    screening,
    templates,
    tenants,
)
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_rule import screen_seeds
from fumehood.services.queueing import enqueue
from fumehood.services.replies import Once, keep, made_by
from fumehood.services.screening import Text
from fumehood.services.world import WriteWorld

MOST_EXPERIMENTS = 500
"""Of one direction."""
MOST_FILE_BYTES = 512 * 1024
"""As of a file that a coder edits."""
PLOTTING, WRITING, REVIEWING = "plotting", "writing", "reviewing"
_RUN = re.compile(r"run_([1-9]\d?)\Z")
_REVIEWS = ("review.json", "review_revised.json", "rebuttal.json", "paper_revised.pdf", "verification.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What a person changes before the later steps are done again."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Path to the text of an editable file."""
    notes: str | None = None
    plan: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is changed, as the fork shows it."""
        given = (("notes", self.notes), ("plan", self.plan))
        return (*sorted(self.files), *(name for name, text in given if text is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a fork is made of."""

    direction: Direction
    experiment: Experiment
    runs: tuple[Run, ...]
    """Those that came to their end, without the baseline, in order."""
    confirming: tuple[Run, ...]
    """What its confirmation measured of the chosen one."""
    stages: tuple[str, ...]
    """Where a fork of it may begin."""

    @property
    def measured(self) -> list[Run]:
        return [run for run in self.runs if run.result is RunResult.MEASURED]

    def code_before(self, number: int) -> Mapping[str, str]:
        """Return the code that a run's edit begins from."""
        earlier = [run.files for run in self.runs if run.index < number]
        return earlier[-1] if earlier else templates.start_of(self.direction)


def fork(
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
    actor: str,
    source_id: ExperimentId,
    stage: str,
    edits: Edits,
    once: Once | None = None,
) -> Experiment:
    """Make a new experiment that shares what came before a stage, and does that stage and the later ones again.

    `stage` is `run_K`, `plotting`, `writing` or `reviewing`. With edited files, run K measures those; without, the
    coder is asked anew. Raises `ConflictError` for an experiment that has not ended or a direction that was cancelled,
    `BadInputError` for a stage that it did not come to or an edit that cannot be used, and `OverBudgetError` where the
    tenant has as many directions as it may.
    """
    with store.begin(write=False) as tx:
        source = _source(tx, source_id)
    if stage not in source.stages:
        raise BadInputError(f"This experiment can be forked from {', '.join(source.stages)}, not from {stage!r}.")
    # Files are kept before the transaction, which then waits for the database alone; an experiment that has ended
    # stays as it was read.
    files = _files(artifacts, source, stage, edits)
    seeds = screen_seeds(source.direction, templates.read(source.direction, artifacts)[1])
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.experiments.get(known)
        direction = tx.directions.get(source.direction.id)
        if direction.is_final:
            direction = _reopened(tx, direction)
        known_ones = tx.experiments.find(direction_id=direction.id)
        if len(known_ones) >= MOST_EXPERIMENTS:
            raise ConflictError(f"This direction has {len(known_ones)} experiments, and no more are taken.")
        made = _made(tx, clock, source, known_ones, stage, edits, files)
        tx.experiments.save(made)
        log.keep(tx, clock, _shared(clock, source, made, stage, seeds), shared=True)
        if all(one.is_final for one in known_ones):
            # Nothing else would look for it; where one is under way, its end does.
            key = f"next_experiment:{direction.id}:fork:{made.id}"
            enqueue(tx, clock, (Next(name="next_experiment", key=key, direction_id=direction.id),))
        keep(tx, clock, once, made.id)
        text = f"{made.name}: forked from {source.experiment.name} at {stage} by a person"
        tx.events.append(happened(clock, made, "experiment.forked", text))
        told = {"source": source_id, "from": stage, "edits": ", ".join(edits.names)}
        audit.note(tx, clock, actor, "experiment.forked", tenant=direction.tenant, subject=made.id, **told)
    return made


def _source(tx: Transaction, key: ExperimentId) -> _Source:
    experiment = tx.experiments.get(key)
    if not experiment.is_final:
        raise ConflictError(f"The experiment is {experiment.state}; it can be forked when it has ended.")
    if experiment.baseline_id is None or registering.REGISTRATION not in experiment.products:
        raise ConflictError("The experiment ended before its first step, so there is nothing to share.")
    direction = experiment.seen(tx.directions.get(experiment.direction_id))
    settled = [run for run in tx.runs.find(experiment_id=key, arm=Arm.SCREEN) if run.result is not RunResult.PENDING]
    runs = tuple(sorted(settled, key=lambda run: run.index))
    last = runs[-1].index if runs else 0
    stages = [f"run_{number}" for number in range(1, min(last + 1, direction.runs) + 1)]
    if any(run.result is RunResult.MEASURED for run in runs):
        stages.append(PLOTTING)
    if tx.steps.find(key=plots.write_next(experiment).key):
        stages.append(WRITING)
    if tx.steps.find(key=f"review:{key}") and "paper.pdf" in experiment.products:
        stages.append(REVIEWING)
    confirming = tx.runs.find(experiment_id=key, arm=Arm.CONFIRM) if experiment.outcome else ()
    return _Source(direction=direction, experiment=experiment, runs=runs, confirming=confirming, stages=tuple(stages))


def _files(artifacts: Artifacts, source: _Source, stage: str, edits: Edits) -> dict[str, str]:
    """Return the working copy that the fork begins with, its edits checked as a coder's would be."""
    number = _RUN.match(stage)
    if stage == REVIEWING and edits.names:
        raise BadInputError("Reviewing reads the paper alone, so no edit would change anything; fork from writing.")
    if stage == WRITING and edits.files:
        raise BadInputError("Writing changes no code: fork from plotting or from a run to edit files.")
    if number:
        before = source.code_before(int(number[1]))
    else:
        told = experiments.told_of(artifacts, source.experiment, source.measured) if stage == PLOTTING else None
        before = told.files if told else source.experiment.files
    template, _ = templates.read(source.direction, artifacts)
    added = [path for path in before if path.endswith(".py") and path not in source.direction.template_files]
    editable = ["plot.py"] if stage == PLOTTING else [*(path for path in template.editable if path in before), *added]
    changed = dict(before)
    for path, text in edits.files.items():
        if path not in editable:
            raise BadInputError(f"From {stage} on, {', '.join(editable)} can be edited, not {path!r}.")
        data = text.encode(errors="replace")
        if len(data) > MOST_FILE_BYTES:
            raise BadInputError(f"{path} is longer than {MOST_FILE_BYTES // 1024} KiB.")
        changed[path] = artifacts.put(data)
    return changed


def _reopened(tx: Transaction, direction: Direction) -> Direction:
    """Open a direction that has ended; what was left to do when it ended stays undone."""
    opened = direction.reopened()
    tenants.room(tx, direction.tenant).take()
    for state in (StepState.DUE, StepState.WAITING):
        for step in tx.steps.find(direction_id=direction.id, side=Side.WRITE, state=state):
            tx.steps.finish(dataclasses.replace(step, state=StepState.FAILED, error="its direction had ended"))
    tx.directions.save(opened)
    return opened


def _made(
    tx: Transaction,
    clock: Clock,
    source: _Source,
    known: tuple[Experiment, ...],
    stage: str,
    edits: Edits,
    files: Mapping[str, str],
) -> Experiment:
    old = source.experiment
    taken = {one.name for one in known} | {one.name for one in tx.ideas.find(direction_id=old.direction_id)}
    is_run = _RUN.match(stage)
    shared: dict[str, object] = {"products": _products(old, stage)}
    if stage in {WRITING, REVIEWING}:
        shared["limitations"] = old.limitations
    if not is_run and source.confirming:
        shared |= {"outcome": old.outcome, "label": old.label}
    if stage == REVIEWING:
        shared |= {"draft": old.draft, "outcome": old.outcome, "label": old.label}
    notes = _notes_before(source, int(is_run[1])) if is_run else old.notes
    return Experiment(
        id=ExperimentId(clock.new_id("exp")),
        direction_id=old.direction_id,
        idea_id=old.idea_id,
        name=ideas.free_name(tx.ideas.get(old.idea_id).name, taken),
        index=max(one.index for one in known) + 1,
        files=files,
        added=old.added,
        baseline_id=old.baseline_id,
        notes=notes if edits.notes is None else edits.notes,
        plan=old.plan if edits.plan is None else edits.plan.strip(),
        forked_from=old.id,
        from_step=stage,
        edited=edits.names,
        created_at=clock.now(),
        **shared,  # type: ignore[arg-type]
    )


def _products(old: Experiment, stage: str) -> dict[str, str]:
    if stage == REVIEWING:
        return {path: sha for path, sha in old.products.items() if path not in _REVIEWS}
    figures, run = stage == WRITING, _RUN.match(stage)
    shared = {auditing.FINDINGS, fidelity.FIDELITY, *(() if run else (confirmation_report.PRODUCT,))}
    return registering.shared(old.products, int(run[1]) if run else None) | {
        path: sha for path, sha in old.products.items() if path in shared or (figures and _is_of_figures(path))
    }


def _is_of_figures(path: str) -> bool:
    return path.endswith(".png") or path == drawings.PRODUCT or drawings.KEPT.fullmatch(path) is not None


def _notes_before(source: _Source, number: int) -> str:
    """Return the notes as they were before a run; what a model wrote in them cannot end them early."""
    notes = source.experiment.notes
    for run in source.runs:
        if run.index >= number:
            notes = notes.partition(f"\n## Run {run.index}: {run.title}\n")[0]
    return notes


def _shared(clock: Clock, source: _Source, made: Experiment, stage: str, seeds: tuple[int, ...]) -> list[Run]:
    """Return the earlier runs as the fork's own, by the same hashes, and the run that a person's edit makes."""
    number = _RUN.match(stage)
    kept = [run for run in source.runs if number is None or run.index < int(number[1])]
    kept += source.confirming if number is None else ()
    shared = [dataclasses.replace(run, id=RunId(clock.new_id("run")), experiment_id=made.id) for run in kept]
    by_hand = [path for path in made.edited if path in made.files]
    if number and by_hand:
        shared.append(
            Run(
                id=RunId(clock.new_id("run")),
                direction_id=made.direction_id,
                experiment_id=made.id,
                index=int(number[1]),
                title=f"Variant {number[1]} by hand",
                description=f"A person's own edit of {', '.join(by_hand)}.",
                files=made.files,
                seeds=seeds,
            )
        )
    return shared


def begin(world: WriteWorld, step: Step) -> Change:
    """Go on with a fork at its stage, unless the policy has something against what a person edited."""
    with world.store.begin(write=False) as tx:
        made = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        direction = made.seen(tx.directions.get(made.direction_id))
        idea = tx.ideas.get(made.idea_id)
    told = _by_hand(world, direction, made)
    found = screening.screen(world, direction, told, experiment=made) if made.edited else Screening()
    if "plan" in made.edited:
        # It takes the place of the idea's own, so what the policy says of ideas holds for it.
        planned = screening.of_idea(made.planned(idea))
        found = strictest((found, screening.screen(world, direction, planned, experiment=made)))
    entries = screening.entry(world.clock, world.policy, direction, told, found)
    seen = screening.events(world.clock, world.policy, made, found, made.name)
    if found.verdict is PolicyVerdict.REFUSED:
        return screening.added(directions.refuse_experiment(world.clock, made, found.sentence), entries, seen)
    if found.verdict is PolicyVerdict.NEEDS_A_PERSON:
        made = dataclasses.replace(made, hold=Hold.POLICY)
    return screening.added(_go_on(world, direction, made), entries, seen)


def _by_hand(world: WriteWorld, direction: Direction, made: Experiment) -> Text:
    """Return what the policy looks at of a fork: its code as it differs from the template's, and a person's words."""
    as_shipped = dataclasses.replace(made, files=templates.start_of(direction))
    told = screening.of_diff(world, as_shipped, made.files)
    given = (("plan", made.plan), ("notes", made.notes))
    words = "".join(f"\n{text}" for name, text in given if name in made.edited)
    return dataclasses.replace(told, text=told.text + words, shown=told.shown + words)


def _go_on(world: WriteWorld, direction: Direction, made: Experiment) -> Change:
    with world.store.begin(write=False) as tx:
        runs = tx.runs.find(experiment_id=made.id, arm=Arm.SCREEN, result=RunResult.PENDING)
        reviewed = tx.steps.find(key=f"review:{made.forked_from}")
    number = _RUN.match(made.from_step)
    if number and runs:
        started = made.to(ExperimentState.RUNNING)
        return Change(experiments=(started,), steps=(measuring.measure_next(direction, started, runs[0], 1),))
    if number:
        started = made.to(ExperimentState.CODING)
        return Change(experiments=(started,), steps=(experiments.code_next(started, int(number[1]), 1),))
    started = made.to(ExperimentState(made.from_step))
    if made.from_step == PLOTTING:
        following = experiments.plot_next(started, as_given="plot.py" in made.edited)
    elif made.from_step == WRITING:
        following = plots.write_next(started)
    else:
        following = Next(
            name="review",
            key=f"review:{made.id}",
            direction_id=made.direction_id,
            experiment_id=made.id,
            payload={"pages": reviewed[0].payload.get("pages", 0)},
        )
    return Change(experiments=(started,), steps=(following,))
