"""Reading an edit beside its plan before it runs: by the platform's checks, and by a model that did not write it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment
from fumehood.domain.fidelity import Axis, Finder, Point, PointKind, Reading, Term
from fumehood.domain.idea import Idea
from fumehood.services import browsing, registering, templates
from fumehood.services.calls import claims_for, question
from fumehood.services.edit_effects import unreached
from fumehood.services.fidelity import Stage
from fumehood.services.world import WriteWorld

ROLE = "fidelity"
SYSTEM = "You check whether code does what its plan says. You look at what it does, not at what it is called."
MOST_POINTS = 20
_NO_HEADING = "(nothing)"


class PointAnswer(BaseModel):
    """One point as a model gives it."""

    kind: Literal[PointKind.IMPLEMENTED, PointKind.MISSING, PointKind.EXTRA, PointKind.WITHOUT_EFFECT]
    file: str = Field(max_length=200)
    sentence: str = Field(min_length=1, max_length=400)


class ReadingAnswer(BaseModel):
    """A reading as a model gives it."""

    points: list[PointAnswer] = Field(max_length=MOST_POINTS)
    changes: list[Axis] = Field(default_factory=list, max_length=len(Axis))
    departs: list[Term] = Field(default_factory=list, max_length=len(Term))
    reason: str = Field(default="", max_length=400)


def form_for(paths: Sequence[str]) -> type[ReadingAnswer]:
    """Return the form of an answer whose points concern these files and no others."""
    file: Any = Literal[tuple(paths)]
    point: Any = create_model("PointAnswer", __base__=PointAnswer, file=(file, ...))
    points: Any = Annotated[list[point], Field(max_length=MOST_POINTS)]
    return create_model("ReadingAnswer", __base__=ReadingAnswer, points=(points, ...))


def read(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    idea: Idea,
    files: Mapping[str, str],
    *,
    run: int,
    attempt: int,
    plan: str,
    stage: Stage,
) -> Reading:
    """Return what an edit's version of the code does of its plan. Code that is as it was at the start has no effect.

    Args:
        world: What models are asked with.
        direction: Whose template and profile say what the run is started with.
        experiment: As it was before the edit.
        idea: As it is carried out.
        files: The whole working copy after the edit, path to SHA-256.
        run: From 1.
        attempt: From 1.
        plan: What the coder says that this run changes; empty where it says nothing.
        stage: `edit`, or `mended` when open points had gone back to the coder.
    """
    start = templates.start_of(direction)
    changed = [path for path in sorted(files) if path.endswith(".py") and files[path] != start.get(path)]
    if not changed:
        told = "The code is the one that every run starts from, unchanged."
        return Reading(points=(Point(kind=PointKind.WITHOUT_EFFECT, path="experiment.py", sentence=told),))
    answer = _asked(world, direction, experiment, idea, files, changed, run, attempt, plan, stage)
    said = tuple(
        Point(kind=one.kind, path=one.file, sentence=" ".join(one.sentence.split()), found_by=Finder.CALL)
        for one in answer.points
    )
    return Reading(
        points=(*_unreached(world, direction, experiment, files, run), *said),
        changes=tuple(dict.fromkeys(answer.changes)),
        departs=tuple(dict.fromkeys(answer.departs)),
        reason=" ".join(answer.reason.split()),
    )


def _unreached(
    world: WriteWorld, direction: Direction, experiment: Experiment, files: Mapping[str, str], run: int
) -> tuple[Point, ...]:
    """Look at what this run brings over the one before it: what that left unused was told then."""
    with world.store.begin(write=False) as tx:
        earlier = [one for one in tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN) if one.index < run]
    before = max(earlier, key=lambda one: one.index).files if earlier else templates.start_of(direction)
    _, profile = templates.read(direction, world.artifacts)
    return unreached(_sources(world, before), _sources(world, files), profile.arguments)


def _sources(world: WriteWorld, files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: world.artifacts.get(sha) for path, sha in files.items() if path.endswith(".py")}


def _asked(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    idea: Idea,
    files: Mapping[str, str],
    changed: Sequence[str],
    run: int,
    attempt: int,
    plan: str,
    stage: Stage,
) -> ReadingAnswer:
    prompt = world.prompts.render(
        "fidelity",
        title=idea.title,
        experiment=idea.experiment,
        registered=registering.told(world.artifacts, experiment),
        code=_code(world, direction),
        run=str(run),
        plan=plan or _NO_HEADING,
        diff=_diff(world, direction, experiment, files, changed),
        facts=json.dumps({"files": list(changed)}),
    )
    claims = claims_for(
        world,
        direction,
        ROLE,
        experiment=experiment,
        idea=idea.name,
        index=idea.index,
        run=run,
        attempt=attempt,
        subject=stage.value,
        prompt=prompt,
    )
    call = question(world, claims, prompt, system=SYSTEM, max_tokens=3000, temperature=0.0)
    return world.model.answer(call, form_for(changed))


def _code(world: WriteWorld, direction: Direction) -> str:
    """Return the editable programs as every run starts from them: the same text for all readings of a direction."""
    template, _ = templates.read(direction, world.artifacts)
    start = templates.start_of(direction)
    shown = [path for path in template.editable if path in start and path.endswith(".py") and path != "plot.py"]
    return "\n\n".join(f"{path}\n{world.artifacts.get(start[path]).decode(errors='replace')}" for path in shown)


def _diff(
    world: WriteWorld, direction: Direction, experiment: Experiment, files: Mapping[str, str], changed: Sequence[str]
) -> str:
    after = dataclasses.replace(experiment, files=files)
    shown = [one for one in browsing.changes(world.artifacts, direction, after) if one.path in changed]
    return "\n".join(one.diff or f"{one.path}: too long to be shown" for one in shown)
