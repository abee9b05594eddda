"""Seeing to the axis of a run's curve: its program does some stretches again, and a program of ours compares.

Nothing here fails a run. What cannot be shown leaves the axis, and so every metric read off it, the run's own word.
"""

from __future__ import annotations

import json

from fumehood.domain.execution import Kind, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.step import Step
from fumehood.errors import BadInputError
from fumehood.services import curves, final_info, preparing, templates, trials
from fumehood.services.change import Change
from fumehood.services.curves import Axis, AxisCheck, Stretch
from fumehood.services.query_driver import COMPARE, RESUME
from fumehood.services.trials import Trial
from fumehood.services.wanting import below, run_environment, wanted, weights
from fumehood.services.world import WriteWorld

_STRETCHES = "stretches.json"


def begin(world: WriteWorld, trial: Trial, evaluation: Execution) -> Change:
    """Want the stretches that the evaluator's numbers are read off, once more."""
    direction, run = trial.direction, trial.run
    template, profile = templates.read(direction, world.artifacts)
    metrics = world.artifacts.get(evaluation.artifacts["metrics.json"].sha256)
    try:
        judged = final_info.read(metrics, "evaluator")
        # Made when the run had ended, so that it could not know which of its stretches are looked at.
        again = curves.stretches(template, run.seeds, run.outputs, judged, evaluation.id)
    except BadInputError as error:
        return _recorded(world, trial, AxisCheck(axis=Axis.SELF, reason=str(error)))
    with world.store.begin(write=False) as tx:
        data = preparing.data_of(tx, direction, run.arm, run.seeds)
    models, where = weights(direction)
    starts = {f"{place}.{one.checkpoint.rpartition('.')[2]}": one for place, one in enumerate(again)}
    told = [one.model_dump() | {"checkpoint": name if one.checkpoint else ""} for name, one in starts.items()]
    programs = {f"in/driver/{path.name}": world.artifacts.put(path.read_bytes()) for path in RESUME}
    execution = wanted(
        world.clock,
        direction,
        profile,
        Kind.RESUME,
        experiment_id=trial.experiment.id if trial.experiment else None,
        run_id=run.id,
        command=(
            *("python", f"/in/driver/{RESUME[0].name}", f"--stretches=/in/driver/{_STRETCHES}"),
            *("--", *profile.arguments, *run.arguments),
        ),
        inputs=programs
        | {f"in/driver/{_STRETCHES}": world.artifacts.put(json.dumps(told, indent=2).encode())}
        | {f"work/starts/{name}": run.outputs[one.checkpoint] for name, one in starts.items() if one.checkpoint}
        | below("work", run.files)
        | below("in/data", data.get("train", {}))
        | below("in/inputs", data.get("inputs", {}))
        | models,
        collect=("stretches/*.npz", "stretches/updates.json"),
        limits=trial.limits(profile, Kind.RESUME),
        environment=run_environment(profile.limits_of(Kind.RESUME), data, run.seeds, template) | where,
    )
    kept = world.artifacts.put(json.dumps([one.model_dump() for one in again]).encode())
    following = trial.next("resumed", execution, stretches=kept)
    return Change(runs=(run,), executions=(execution,), steps=(following,))


def resumed(world: WriteWorld, step: Step) -> Change:
    """Compare what came of it, or keep that the run's own program could not do it again."""
    trial, execution = trials.read(world, step), trials.waited(world, step)
    if not execution.succeeded:
        return _not_done(world, trial, execution, "its program did not do a stretch again")
    template, profile = templates.read(trial.direction, world.artifacts)
    again = _again(world, step)
    with world.store.begin(write=False) as tx:
        queries = tx.executions.find(run_id=trial.run.id, kind=Kind.QUERY)
    recalled = {
        path.removeprefix("answers/"): item.sha256
        for path, item in queries[-1].artifacts.items()
        if path.startswith("answers/recalled_")
    }
    comparing = wanted(
        world.clock,
        trial.direction,
        profile,
        Kind.COMPARE,
        experiment_id=trial.experiment.id if trial.experiment else None,
        run_id=trial.run.id,
        command=(
            *("python", f"/in/driver/{COMPARE.name}", "--plan=/in/driver/plan.json", "--curves=/in/curves"),
            *("--recalled=/in/recalled", "--stretches=/in/stretches", "--out=compared.json"),
        ),
        inputs={
            f"in/driver/{COMPARE.name}": world.artifacts.put(COMPARE.read_bytes()),
            "in/driver/plan.json": world.artifacts.put(curves.plan(template, trial.run.outputs, again)),
        }
        | below("in/curves", curves.of_evaluator(trial.run.outputs))
        | below("in/recalled", recalled)
        | below("in", {path: item.sha256 for path, item in execution.artifacts.items()}),
        collect=("compared.json",),
        limits=trial.limits(profile, Kind.COMPARE),
    )
    took = execution.outcome.usage.wall_s if execution.outcome else 0.0
    following = trial.next("compared", comparing, stretches=str(step.payload["stretches"]), resumed_s=took)
    return Change(executions=(comparing,), steps=(following,))


def compared(world: WriteWorld, step: Step) -> Change:
    """Keep what was found with the run, and have the result signed."""
    trial, execution = trials.read(world, step), trials.waited(world, step)
    if not execution.succeeded or "compared.json" not in execution.artifacts:
        return _not_done(world, trial, execution, "its curve could not be compared")
    data = world.artifacts.get(execution.artifacts["compared.json"].sha256)
    return _recorded(world, trial, curves.checked(data, _again(world, step), float(step.payload["resumed_s"])))


def _not_done(world: WriteWorld, trial: Trial, execution: Execution, what: str) -> Change:
    if execution.outcome and execution.outcome.verdict is Verdict.LOST:
        return trials.ended(world, trial, execution)
    last = " ".join(trials.tail_of(execution).split())[-300:]
    reason = f"{what} ({trials.verdict_of(execution)}{': ' if last else ''}{last})"
    return _recorded(world, trial, AxisCheck(axis=Axis.SELF, reason=reason))


def _recorded(world: WriteWorld, trial: Trial, check: AxisCheck) -> Change:
    kept = trial.having(outputs={**trial.run.outputs, curves.CHECK: world.artifacts.put(check.to_json())})
    return Change(runs=(kept.run,), steps=(kept.next("record"),))


def _again(world: WriteWorld, step: Step) -> list[Stretch]:
    told = json.loads(world.artifacts.get(str(step.payload["stretches"])))
    return [Stretch.model_validate(one) for one in told]


STEPS = {"resumed": resumed, "compared": compared}
