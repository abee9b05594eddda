"""One edit: asked for, screened, audited, read beside its plan, and sent to be measured or back to the coder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Experiment, ExperimentState, Run
from fumehood.domain.finding import Finding
from fumehood.domain.idea import Idea
from fumehood.domain.ids import RunId
from fumehood.domain.policy import PolicyVerdict
from fumehood.domain.step import Step
from fumehood.ports import Edit
from fumehood.services import (
    auditing,
    experiments,
    feedback,
    fidelity,
    measuring,
    reading,
    registering,
    replication,
    screening,
    templates,
)
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, happened
from fumehood.services.confirmation_rule import screen_seeds
from fumehood.services.fidelity import Stage
from fumehood.services.world import WriteWorld

HEADING = re.compile(r"^RUN:\s*(?P<title>[^|\n]{1,120})(?:\|\s*(?P<description>[^\n]{1,600}))?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an edit is asked for."""

    direction: Direction
    experiment: Experiment
    idea: Idea
    run: Run | None
    """None before its first edit."""
    index: int
    attempt: int
    is_mending: bool
    """Whether the edit of this attempt is in the files already, and open points of it went back."""

    @property
    def title(self) -> str:
        """What people read it by."""
        return f"{self.experiment.name} run_{self.index}"

    def having(self, **changes: object) -> Asked:
        """Return it with something changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def code(world: WriteWorld, step: Step) -> Change:
    """Ask the coder for an edit, look at it from each side, and have the result measured."""
    direction, experiment, idea = experiments.subject(world, step)
    index = int(step.payload["index"])
    asked = Asked(
        direction=direction,
        experiment=experiment,
        idea=idea,
        run=experiments.run_of(world, experiment, index),
        index=index,
        attempt=int(step.payload["attempt"]),
        is_mending=bool(step.payload.get("mending")),
    )
    edit = _edit(world, asked)
    if not edit.changed:
        return _no_edit(world, asked, edit)
    files = {**experiment.files, **{path: world.artifacts.put(data) for path, data in edit.files.items()}}
    told = screening.of_diff(world, experiment, files)
    found = screening.screen(world, direction, told, experiment=experiment, run=index)
    entries = screening.entry(world.clock, world.policy, direction, told, found)
    seen = screening.events(world.clock, world.policy, experiment, found, asked.title)
    if found.verdict is PolicyVerdict.REFUSED:
        return screening.added(_refused(world, asked, found.sentence), entries, seen)
    brought = auditing.look(world, direction, experiment, files)
    asked = asked.having(experiment=auditing.kept(world, experiment, f"run_{index}", asked.attempt, files, brought))
    if auditing.refused(brought):
        return screening.added(_audited(world, asked, brought), entries)
    needs_person = found.verdict is PolicyVerdict.NEEDS_A_PERSON
    change = _read(world, asked, edit, files, needs_person=needs_person)
    if needs_person:
        held = tuple(dataclasses.replace(one, hold=Hold.POLICY) for one in change.experiments)
        change = dataclasses.replace(change, experiments=held, events=(*change.events, *seen))
    return screening.added(change, entries)


def _no_edit(world: WriteWorld, asked: Asked, edit: Edit) -> Change:
    if asked.is_mending:
        return _as_it_was(world, asked, "the coder changed nothing")
    return experiments.no_edit(world, asked.direction, asked.experiment, asked.run, asked.index, asked.attempt, edit)


def _refused(world: WriteWorld, asked: Asked, reason: str) -> Change:
    """Turn an edit down that must not run; the working copy stays as it was, so that the next one has nothing of it."""
    if asked.is_mending:
        return _as_it_was(world, asked, reason)
    return experiments.not_run(
        world, asked.direction, asked.experiment, asked.run, asked.index, asked.attempt, "refused", reason
    )


def _audited(world: WriteWorld, asked: Asked, brought: tuple[Finding, ...]) -> Change:
    told = auditing.sentences(brought)
    change = _refused(world, asked, told)
    text = f"{asked.title}: the edit was refused before it ran: {told.splitlines()[0]}"
    event = happened(world.clock, asked.experiment, "edit.refused", text)
    kept = change.experiments or (asked.experiment,)
    return dataclasses.replace(change, experiments=kept, events=(event, *change.events))


def _read(world: WriteWorld, asked: Asked, edit: Edit, files: Mapping[str, str], *, needs_person: bool) -> Change:
    """Have an edit read beside its plan; what is open goes back to the coder once, and else is measured as it is.

    An edit that a person is to look at does not go back: it would be another one when they do.
    """
    run = asked.run or _new_run(world, asked, edit)
    stage = Stage.MENDED if asked.is_mending else Stage.EDIT
    found = reading.read(
        world,
        asked.direction,
        asked.experiment,
        asked.idea,
        files,
        run=asked.index,
        attempt=asked.attempt,
        plan=": ".join(filter(None, (run.title, run.description))),
        stage=stage,
    )
    goes_back = bool(found.open) and not asked.is_mending and not needs_person
    experiment = fidelity.kept(
        world.artifacts, asked.experiment, run.folder, asked.attempt, stage, files, found, went_back=goes_back
    )
    if not goes_back:
        asked = asked.having(experiment=registering.amended(world, experiment, run, asked.attempt, found))
        text = f"{asked.title}: {world.coder.name} changed {', '.join(edit.changed)}"
        return _measured_next(world, asked, run, files, "code.edited", text)
    count, first = len(found.open), fidelity.sentences(found.open).splitlines()[0]
    text = f"{asked.title}: {count} open point{'s' if count > 1 else ''} went back to the coder: {first}"
    return Change(
        experiments=(dataclasses.replace(experiment, files=files),),
        runs=(dataclasses.replace(run, files=files),),
        steps=(experiments.code_next(experiment, asked.index, asked.attempt, mending=True),),
        events=(happened(world.clock, experiment, "edit.went_back", text),),
    )


def _as_it_was(world: WriteWorld, asked: Asked, why: str) -> Change:
    """Measure the edit whose open points went back, where nothing that can run came of it."""
    run = asked.run
    assert run is not None, "saved when its edit went back"  # noqa: S101 - narrows the type
    found = fidelity.last(world.artifacts, asked.experiment, run.folder, run.files, *fidelity.BEFORE)
    asked = asked.having(experiment=registering.amended(world, asked.experiment, run, asked.attempt, found))
    text = f"{asked.title}: its open points stay open: {why.splitlines()[0]}"
    return _measured_next(world, asked, run, run.files, "edit.stayed", text)


def _measured_next(world: WriteWorld, asked: Asked, run: Run, files: Mapping[str, str], kind: str, text: str) -> Change:
    run = dataclasses.replace(run, files=files)
    experiment = dataclasses.replace(asked.experiment, files=files)
    if experiment.state is ExperimentState.CODING:
        experiment = experiment.to(ExperimentState.RUNNING)
    return Change(
        experiments=(experiment,),
        runs=(run,),
        steps=(measuring.measure_next(asked.direction, experiment, run, asked.attempt),),
        events=(happened(world.clock, experiment, kind, text),),
    )


def _new_run(world: WriteWorld, asked: Asked, edit: Edit) -> Run:
    """Return the run that an edit is for, named by the first that was made for it."""
    heading = HEADING.search(edit.reply)
    return Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=asked.direction.id,
        experiment_id=asked.experiment.id,
        index=asked.index,
        title=heading["title"].strip() if heading else f"Variant {asked.index}",
        description=(heading["description"] or "").strip() if heading else "",
        seeds=screen_seeds(asked.direction, templates.read(asked.direction, world.artifacts)[1]),
    )


def _edit(world: WriteWorld, asked: Asked) -> Edit:
    direction, experiment, idea = asked.direction, asked.experiment, asked.idea
    template, _ = templates.read(direction, world.artifacts)
    system, task = words_of(world, direction)
    sources = {path: world.artifacts.get(sha) for path, sha in experiment.files.items() if path.endswith(".py")}
    added = [path for path in sources if path not in direction.template_files]
    editable = [*(path for path in template.editable if path in sources), *added]
    with world.store.begin(write=False) as tx:
        guidance = "" if experiment.replicates else feedback.said(tx, direction.id, experiment.id)
    # What was registered is the study's, of which a replication's coder knows the method section alone.
    changes = () if experiment.replicates else idea.changes
    prompt = world.prompts.render(
        "coder",
        task=task,
        guidance=guidance,
        title=replication.TITLE if experiment.replicates else idea.title,
        experiment=idea.experiment,
        may_change=", ".join(changes or template.comparison.may_change) or "what the plan needs",
        run=str(asked.index),
        runs=str(replication.runs_of(direction, experiment)),
        editable=", ".join(editable),
        history=_chapters(experiment.notes),
        failure=_failure(world, asked),
    )
    claims = claims_for(
        world,
        direction,
        "coder",
        experiment=experiment,
        idea=idea.name,
        index=idea.index,
        run=asked.index,
        attempt=asked.attempt,
        subject=Stage.MENDED.value if asked.is_mending else "",
        prompt=prompt,
    )
    files = {path: sources.pop(path) for path in editable}
    return world.coder.edit(question(world, claims, prompt, system=system), files, editable, sources)


def _failure(world: WriteWorld, asked: Asked) -> str:
    """Return what the coder has to mend: the open points of the edit in its files, or how the last attempt ended."""
    run, most = asked.run, experiments.ATTEMPTS
    if run and asked.is_mending:
        found = fidelity.last(world.artifacts, asked.experiment, run.folder, run.files, *fidelity.BEFORE)
        told = fidelity.sentences(found.open)
        return f"the edit of attempt {asked.attempt} of {most} did not run yet; beside its plan it leaves open:\n{told}"
    last = run.attempts[-1] if run and run.attempts else None
    return f"attempt {last.number} of {most} ended {last.verdict}\n{last.error_tail}" if last else ""


def _chapters(notes: str) -> tuple[str, ...]:
    """Return a notebook in pieces; each run adds one, and those before stay as they were."""
    return tuple(re.split(r"\n(?=## Run )", notes))
