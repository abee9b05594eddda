"""Measuring one version of the code: run it, ask its model, evaluate what it left, and have the platform sign.

The experiment's code never sees the evaluator, the answers or the key; the evaluator never sees the code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.execution import LLM, Device, Kind
from fumehood.domain.experiment import Execution, Experiment, Run, RunResult
from fumehood.domain.extra_packages import REQUEST
from fumehood.domain.ids import ExecutionId, RunId
from fumehood.domain.step import Step
from fumehood.domain.template import Profile, Template
from fumehood.errors import BadInputError
from fumehood.ports import Transaction
from fumehood.services import (
    counts,
    curves,
    final_info,
    foresight,
    held_out,
    independence,
    preparing,
    querying,
    retracing,
    templates,
    trials,
)
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_rule import baseline_seeds
from fumehood.services.trials import Trial
from fumehood.services.wanting import below, frozen, run_environment, threads, wanted, weights
from fumehood.services.world import WriteWorld

OURS = ("record.json", "self_reported.json", "log.txt", curves.CHECK, counts.COUNTED, held_out.FILE, independence.FILE)
"""Names in a run's folder that the platform writes; what an experiment leaves there under them is not kept."""


def has_evaluator(direction: Direction) -> bool:
    """Whether the platform, not the experiment, produces this template's numbers."""
    return "evaluate.py" in direction.template_files


def baseline(world: WriteWorld, step: Step) -> Change:
    """Measure the template as it is, or take over the same measurement of the same tenant.

    Where a run is there already, which asks for seeds of its own, it is that one that is measured. An experiment whose
    idea asked for data has a baseline of its own on these.
    """
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        experiment = tx.experiments.get(step.experiment_id) if step.experiment_id else None
        direction = experiment.seen(direction) if experiment else direction
        given = () if experiment else tx.runs.find(direction_id=direction.id, experiment_id=None, index=0)
        template, profile = templates.read(direction, world.artifacts)
        seeds = baseline_seeds(direction, profile)
        drawn = preparing.drawing_of(tx, direction)
        device = _device(drawn, profile)
        key = _cache_key(direction, drawn, seeds, device) if device else ""
        known = [run for run in tx.runs.find(cache_key=key) if _is_of(tx, run, device, profile)] if device else []
        jobs = tx.executions.find(run_id=known[0].id) if known else ()
    if given:
        return Change(steps=(measure_next(direction, None, given[0], 1),))
    run = Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=direction.id,
        experiment_id=None,
        index=0,
        title="Baseline",
        description="The parent's code as it is." if direction.parent else "The template as it is.",
        files=templates.start_of(direction),
        seeds=seeds,
        cache_key=key,
    )
    if experiment is not None:
        return _own_baseline(world, direction, experiment, run, known)
    if known:
        shared = dataclasses.replace(known[0], id=run.id, direction_id=direction.id)
        event = happened(world.clock, direction, "run.measured", "baseline: taken from the cache")
        info = final_info.read(world.artifacts.get(shared.final_info), "record")
        foreseen = foresight.of_baseline(world.clock, direction, template, shared, info, jobs)
        return Change(runs=(shared,), steps=(ideas_next(direction),), events=(event, *foreseen))
    return Change(runs=(run,), steps=(measure_next(direction, None, run, 1),))


def _own_baseline(
    world: WriteWorld, direction: Direction, experiment: Experiment, run: Run, known: Sequence[Run]
) -> Change:
    """Give an experiment its baseline on what its idea asked for, unless another of these data is there."""
    description = f"{run.description} Also on {', '.join(_asked(world, direction))} of the catalogue."
    run = dataclasses.replace(run, description=description)
    if not known:
        held = dataclasses.replace(experiment, baseline_id=run.id)
        return Change(experiments=(held,), runs=(run,), steps=(measure_next(direction, held, run, 1),))
    ours = next((one for one in known if one.direction_id == direction.id), None)
    shared = ours or dataclasses.replace(known[0], id=run.id, direction_id=direction.id)
    held = dataclasses.replace(experiment, baseline_id=shared.id)
    event = happened(world.clock, held, "run.measured", f"{held.name} run_0: taken from the cache")
    return Change(experiments=(held,), runs=() if ours else (shared,), steps=(begin_next(held),), events=(event,))


def _asked(world: WriteWorld, direction: Direction) -> tuple[str, ...]:
    return tuple(templates.read(direction, world.artifacts)[0].asked)


def begin_next(experiment: Experiment) -> Next:
    """Return the step that begins an experiment, when what it is measured against is there."""
    return Next(
        name="begin_experiment",
        key=f"begin_experiment:{experiment.id}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
    )


def measure_next(direction: Direction, experiment: Experiment | None, run: Run, attempt: int) -> Next:
    """Return the step that measures a run's files."""
    return Trial(direction=direction, experiment=experiment, run=run, attempt=attempt).next("measure")


def measure(world: WriteWorld, step: Step) -> Change:
    """Want the run itself."""
    trial = trials.read(world, step)
    direction, run = trial.direction, trial.run
    template, profile = templates.read(direction, world.artifacts)
    with world.store.begin(write=False) as tx:
        data = preparing.data_of(tx, direction, run.arm, run.seeds)
    environment = run_environment(profile.limits_of(Kind.RUN), data, run.seeds, template)
    seen = data.get("inputs", {}) if template.curve else {}
    models, told = weights(direction)
    environment |= told
    asking: dict[str, Any] = {}
    if template.llm:
        asking = {"network": f"allow:{LLM}", "llm_usd": template.llm.usd_per_run}
        environment["FUMEHOOD_LLM_MODEL"] = direction.model
    program, own = independence.program(world.artifacts, direction, template, run)
    execution = wanted(
        world.clock,
        direction,
        profile,
        Kind.RUN,
        experiment_id=trial.experiment.id if trial.experiment else None,
        run_id=run.id,
        command=(*program, *profile.arguments, *run.arguments),
        inputs={
            **own,
            **below("work", run.files),
            **below("in/data", data.get("train", {})),
            **below("in/inputs", seen),
            **models,
        },
        collect=(
            *(f"{run.folder}/{pattern}" for pattern in dict.fromkeys((*template.outputs, "final_info.json"))),
            *((independence.FILE,) if own else ()),
        ),
        limits=trial.limits(profile, Kind.RUN),
        environment=environment,
        alone=template.is_timed,
        **asking,
    )
    text = f"{trial.title}: attempt {trial.attempt} started"
    return Change(
        executions=(execution,),
        steps=(trial.next("ran", execution),),
        events=(happened(world.clock, trial.subject, "run.started", text),),
    )


def ran(world: WriteWorld, step: Step) -> Change:
    """Look at how the run ended, and ask its model or go straight to the numbers."""
    trial, execution = trials.read(world, step), trials.waited(world, step)
    if not execution.succeeded:
        return trials.ended(world, trial, execution)
    prefix = trial.run.folder + "/"
    left = _kept(execution, prefix)
    if independence.FILE in execution.artifacts:
        left[independence.FILE] = execution.artifacts[independence.FILE].sha256
    own = left.pop("final_info.json", "")
    if not own:
        reason = f"experiment.py ended well but wrote no {prefix}final_info.json"
        return trials.ended(world, trial, execution, reason)
    log = world.artifacts.put(execution.outcome.output_tail.encode() if execution.outcome else b"")
    trial = trial.having(outputs=left, self_reported=own, log=log)
    template, profile = templates.read(trial.direction, world.artifacts)
    artifacts = {path.removeprefix(prefix): item for path, item in execution.artifacts.items()}
    if template.curve and (why := curves.too_much(template.curve, artifacts)):
        return trials.ended(world, trial, execution, why)
    if why := querying.too_much(template, profile, trial.run, {path: artifacts[path] for path in left}):
        return trials.ended(world, trial, execution, why)
    if not has_evaluator(trial.direction):
        return Change(runs=(trial.run,), steps=(trial.next("record"),))
    return _evaluate(world, trial, {}) if template.query is None else _query(world, trial)


def _query(world: WriteWorld, trial: Trial) -> Change:
    template, profile = templates.read(trial.direction, world.artifacts)
    with world.store.begin(write=False) as tx:
        data = preparing.data_of(tx, trial.direction, trial.run.arm, trial.run.seeds)
    has_extra = REQUEST in trial.direction.template_files
    asking = querying.asking(world.artifacts, template, profile, trial.run, data, has_extra=has_extra)
    models, told = weights(trial.direction)
    execution = wanted(
        world.clock,
        trial.direction,
        profile,
        Kind.QUERY,
        experiment_id=trial.experiment.id if trial.experiment else None,
        run_id=trial.run.id,
        command=asking.command,
        inputs=below("in/code", trial.run.files) | asking.inputs | models,
        collect=("answers/*",),
        limits=trial.limits(profile, Kind.QUERY),
        environment=threads(profile.limits_of(Kind.QUERY)) | asking.environment | told,
        alone=template.is_timed,
    )
    return Change(runs=(trial.run,), executions=(execution,), steps=(trial.next("queried", execution),))


def queried(world: WriteWorld, step: Step) -> Change:
    """Hand the model's answers to the evaluator."""
    trial, execution = trials.read(world, step), trials.waited(world, step)
    if not execution.succeeded:
        return trials.ended(world, trial, execution)
    answers = _kept(execution, "answers/")
    answers.pop("final_info.json", None)
    counted = execution.artifacts.get(f"answers/{counts.COUNTED}")
    size = {counts.COUNTED: counted.sha256} if counted else {}
    trial = trial.having(outputs={**trial.run.outputs, **answers, **size})
    template, _ = templates.read(trial.direction, world.artifacts)
    return _evaluate(world, trial, answers | (curves.of_evaluator(trial.run.outputs) if template.curve else {}))


def _evaluate(world: WriteWorld, trial: Trial, answers: Mapping[str, str]) -> Change:
    template, profile = templates.read(trial.direction, world.artifacts)
    with world.store.begin(write=False) as tx:
        data = preparing.data_of(tx, trial.direction, trial.run.arm, trial.run.seeds)
    execution = wanted(
        world.clock,
        trial.direction,
        profile,
        Kind.EVALUATE,
        experiment_id=trial.experiment.id if trial.experiment else None,
        run_id=trial.run.id,
        command=(
            *("python", "/in/template/evaluate.py", "--outputs=/in/outputs", "--held_out=/in/held_out"),
            *("--train=/in/train", "--out_dir=/work", f"--seeds={','.join(map(str, trial.run.seeds))}"),
            *profile.evaluate_arguments,
        ),
        inputs=below("in/template", frozen(trial.direction, template.editable))
        | below("in/outputs", answers or trial.run.outputs)
        | below("in/held_out", data.get("answers", {}))
        | below("in/train", data.get("train", {})),
        collect=("metrics.json", "examples.npz"),
        limits=trial.limits(profile, Kind.EVALUATE),
        alone=template.is_timed,
    )
    return Change(runs=(trial.run,), executions=(execution,), steps=(trial.next("evaluated", execution),))


def evaluated(world: WriteWorld, step: Step) -> Change:
    """Have the result signed, or feed the evaluator's refusal back."""
    trial, execution = trials.read(world, step), trials.waited(world, step)
    if not execution.succeeded or "metrics.json" not in execution.artifacts:
        reason = f"the evaluator refused what the run left: {trials.tail_of(execution)}"
        return trials.ended(world, trial, execution, reason)
    template, _ = templates.read(trial.direction, world.artifacts)
    if template.held_out == "fixed":
        try:
            trial = _with_examples(world, trial, execution, template)
        except BadInputError as error:
            return trials.ended(world, trial, execution, f"the evaluator's examples cannot be used: {error}")
    if template.curve:
        return retracing.begin(world, trial, execution)
    return Change(runs=(trial.run,), steps=(trial.next("record"),))


def _with_examples(world: WriteWorld, trial: Trial, execution: Execution, template: Template) -> Trial:
    """Return a trial that keeps what each held-out example gave; `BadInputError` where these are not the metric's."""
    if held_out.FILE not in execution.artifacts:
        raise BadInputError(f"evaluate.py wrote no {held_out.FILE}, and held-out data that are fixed need one")
    sha = execution.artifacts[held_out.FILE].sha256
    info = final_info.read(world.artifacts.get(execution.artifacts["metrics.json"].sha256), "evaluator")
    primary = template.primary or ""
    metric = {name: metrics[primary].values for name, metrics in info.datasets.items() if primary in metrics}
    held_out.read(world.artifacts.get(sha), metric, trial.run.seeds)
    return trial.having(outputs={**trial.run.outputs, held_out.FILE: sha})


def no_result(world: WriteWorld, step: Step) -> Change:
    """Feed back that a run ended well but its numbers cannot be used."""
    with world.store.begin(write=False) as tx:
        execution = tx.executions.get(ExecutionId(str(step.payload["execution"])))
    return trials.ended(world, trials.read(world, step), execution, str(step.payload["reason"]))


def ideas_next(direction: Direction) -> Next:
    """Return the step after the baseline: the first idea, or the end of a direction that asked for none."""
    if direction.ideas == 0:
        return Next(name="schedule", key=f"schedule:{direction.id}", direction_id=direction.id)
    return Next(name="propose", key=f"propose:{direction.id}:0", direction_id=direction.id, payload={"index": 0})


def _kept(execution: Execution, prefix: str) -> dict[str, str]:
    left = {path.removeprefix(prefix): item.sha256 for path, item in execution.artifacts.items()}
    return {path: sha for path, sha in left.items() if path not in OURS}


def _device(drawn: Iterable[Execution], profile: Profile) -> Device | None:
    """Return what a baseline will be measured on, as far as it counts; None where nobody can say.

    The data were drawn a moment ago where it will run. Of several kinds of GPUs nobody knows which it will be given.
    """
    found = {one.outcome.device for one in drawn if one.outcome}
    device = found.pop() if len(found) == 1 else Device()
    if not device.processor or (profile.gpus and not device.has_one_kind):
        return None
    return device if profile.gpus else Device(processor=device.processor)


def _is_of(tx: Transaction, run: Run, device: Device, profile: Profile) -> bool:
    """Whether a run was measured, and that on this very device: where several workers are, it may have been another."""
    own = [one.outcome.device for one in tx.executions.find(run_id=run.id, kind=Kind.RUN) if one.outcome]
    there = own[-1:] if profile.gpus else [Device(processor=one.processor) for one in own[-1:]]
    return run.result is RunResult.MEASURED and there == [device]


def _cache_key(direction: Direction, drawn: Iterable[Execution], seeds: tuple[int, ...], device: Device) -> str:
    ends = [job.outcome for job in drawn if job.outcome]
    # With the data that were drawn: another secret of the installation makes others.
    data = sorted((one.path, one.sha256) for end in ends for one in end.artifacts)
    # With the tenant: a record names the direction that it was made for, and says that somebody measured this.
    # Limits and threads are the template's words, and torch's build is the image's.
    parts = [
        direction.tenant, sorted(direction.template_files.items()), direction.profile, direction.seed, seeds,
        sorted({end.image for end in ends}), data, direction.sandbox, device.processor, device.gpu,
    ]  # fmt: skip
    if direction.parent_files:
        parts.append(sorted(direction.parent_files.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
