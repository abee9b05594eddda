"""Measuring one version of the code: run it, ask its model, evaluate what it left, and have the platform sign.

The experiment's code never sees the evaluator, the answers or the key; the evaluator never sees the code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind, Verdict
from fumehood.domain.experiment import Attempt, Execution, Experiment, ExperimentState, Run, RunResult
from fumehood.domain.ids import ExecutionId, RunId
from fumehood.domain.step import Event, Step
from fumehood.domain.template import Profile, Template
from fumehood.errors import BadInputError
from fumehood.ports import Transaction
from fumehood.services import directions, templates
from fumehood.services.change import Change, Next
from fumehood.services.query_driver import DRIVER
from fumehood.services.world import WriteWorld

ERROR_TAIL = 1500
"""Characters of a failed attempt's output that are fed back, as in the original system."""
PARTS = ("train", "answers")
OURS = ("record.json", "self_reported.json", "log.txt")
"""Names in a run's folder that the platform writes; what an experiment leaves there under them is not kept."""


def has_evaluator(direction: Direction) -> bool:
    """Whether the platform, not the experiment, produces this template's numbers."""
    return "evaluate.py" in direction.template_files


def read(world: WriteWorld, direction: Direction) -> tuple[Template, Profile]:
    """Return the template's words and the direction's profile."""
    template = templates.load(direction.template_files, world.artifacts, direction.template)
    return template, templates.profile_of(template, direction.profile)


def seeds_of(direction: Direction, profile: Profile) -> tuple[int, ...]:
    """Return the seeds of a direction's runs: the profile's, moved on by the direction's own."""
    return tuple(seed + 1000 * direction.seed for seed in profile.seeds)


def prepare(world: WriteWorld, step: Step) -> Change:
    """Have the data drawn: what the runs train on, and the answers that only the evaluator sees."""
    direction = _direction(world, step)
    if "prepare.py" not in direction.template_files:
        return Change(steps=(_baseline_next(direction),))
    template, profile = read(world, direction)
    frozen = {path: sha for path, sha in direction.template_files.items() if not path.endswith((".md", ".tex"))}
    seeds = ",".join(map(str, seeds_of(direction, profile))) or "0"
    wanted = tuple(
        Execution(
            id=ExecutionId(world.clock.new_id("exec")),
            direction_id=direction.id,
            kind=Kind.PREPARE,
            image="lab",
            command=(
                *("python", "/in/template/prepare.py", "--arm=screen", f"--part={part}", "--key=/in/key"),
                *(f"--seeds={seeds}", "--out_dir=/work", *template.prepare.arguments, *profile.prepare_arguments),
            ),
            inputs={f"in/template/{path}": sha for path, sha in frozen.items() if path not in template.editable},
            key_context=f"{templates.template_hash(direction.template_files)}:screen",
            collect=("**",),
            limits=profile.limits_of(Kind.PREPARE),
            sandbox=direction.sandbox,
            created_at=world.clock.now(),
        )
        for part in PARTS
    )
    return Change(
        executions=wanted,
        steps=(
            Next(
                name="prepared",
                key=f"prepared:{direction.id}",
                direction_id=direction.id,
                waits_for=tuple(one.id for one in wanted),
            ),
        ),
    )


def prepared(world: WriteWorld, step: Step) -> Change:
    """Go on to the baseline, or end the direction when the data could not be drawn."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        parts = [tx.executions.get(one) for one in step.waits_for]
    for part in parts:
        if not part.succeeded:
            return _broken(world, direction, f"prepare.py ended {_verdict(part)}: {tail_of(part)}")
    event = Event(
        direction_id=direction.id, kind="data.prepared", text="data drawn and held back", at=world.clock.now()
    )
    return Change(steps=(_baseline_next(direction),), events=(event,))


def data_of(tx: Transaction, direction: Direction) -> dict[str, dict[str, str]]:
    """Return the prepared data: part to path to SHA-256; empty for a template that prepares nothing."""
    found: dict[str, dict[str, str]] = {}
    for one in tx.executions.find(direction_id=direction.id, kind=Kind.PREPARE):
        for part in PARTS:
            if f"--part={part}" in one.command and one.succeeded:
                found[part] = {path: item.sha256 for path, item in one.artifacts.items()}
    return found


def baseline(world: WriteWorld, step: Step) -> Change:
    """Measure the template as it is, or take over the same measurement of an earlier direction."""
    direction = _direction(world, step)
    _, profile = read(world, direction)
    with world.store.begin(write=False) as tx:
        drawn = tx.executions.find(direction_id=direction.id, kind=Kind.PREPARE)
        image = drawn[0].outcome.image if drawn and drawn[0].outcome else ""
        key = _cache_key(direction, image)
        known = [run for run in tx.runs.find(cache_key=key) if run.result is RunResult.MEASURED] if image else []
    run = Run(
        id=RunId(world.clock.new_id("run")),
        direction_id=direction.id,
        experiment_id=None,
        index=0,
        title="Baseline",
        description="The template as it is.",
        files=templates.workspace(direction.template_files),
        seeds=seeds_of(direction, profile),
        cache_key=key,
    )
    if known:
        shared = dataclasses.replace(known[0], id=run.id, direction_id=direction.id)
        event = Event(
            direction_id=direction.id, kind="run.measured", text="baseline: taken from the cache", at=world.clock.now()
        )
        return Change(runs=(shared,), steps=(ideas_next(direction),), events=(event,))
    return Change(runs=(run,), steps=(measure_next(direction, None, run, 1),))


def measure_next(direction: Direction, experiment: Experiment | None, run: Run, attempt: int) -> Next:
    """Return the step that measures a run's files."""
    return _next("measure", direction, experiment, run, attempt)


def measure(world: WriteWorld, step: Step) -> Change:
    """Want the run itself."""
    direction, experiment, run, attempt = _subject(world, step)
    template, profile = read(world, direction)
    with world.store.begin(write=False) as tx:
        train = data_of(tx, direction).get("train", {})
    folder = run.folder
    environment = {"OMP_NUM_THREADS": str(max(1, int(profile.limits_of(Kind.RUN).cpus))), "MPLBACKEND": "Agg"}
    if train:
        environment["FUMEHOOD_DATA"] = "/in/data"
    if run.seeds:
        environment["FUMEHOOD_SEEDS"] = ",".join(map(str, run.seeds))
    wanted = Execution(
        id=ExecutionId(world.clock.new_id("exec")),
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        run_id=run.id,
        kind=Kind.RUN,
        image="lab",
        command=("python", "experiment.py", f"--out_dir={folder}", *profile.arguments),
        inputs=_below("work", run.files) | _below("in/data", train),
        collect=tuple(f"{folder}/{pattern}" for pattern in dict.fromkeys((*template.outputs, "final_info.json"))),
        environment=environment,
        limits=profile.limits_of(Kind.RUN),
        sandbox=direction.sandbox,
        created_at=world.clock.now(),
    )
    who = f"{experiment.name} {folder}" if experiment else "baseline"
    return Change(
        executions=(wanted,),
        steps=(_next("ran", direction, experiment, run, attempt, wanted),),
        events=(_event(world, direction, experiment, "run.started", f"{who}: attempt {attempt} started"),),
    )


def ran(world: WriteWorld, step: Step) -> Change:
    """Look at how the run ended, and ask its model or go straight to the numbers."""
    direction, experiment, run, attempt = _subject(world, step)
    execution = _waited(world, step)
    if not execution.succeeded:
        return attempt_ended(world, direction, experiment, run, attempt, execution)
    prefix = run.folder + "/"
    left = _kept(execution, prefix)
    own = left.pop("final_info.json", "")
    if not own:
        reason = f"experiment.py ended well but wrote no {prefix}final_info.json"
        return attempt_ended(world, direction, experiment, run, attempt, execution, reason)
    log = world.artifacts.put(execution.outcome.output_tail.encode() if execution.outcome else b"")
    run = dataclasses.replace(run, outputs=left, self_reported=own, log=log)
    template, profile = read(world, direction)
    if not has_evaluator(direction):
        return Change(runs=(run,), steps=(_next("record", direction, experiment, run, attempt),))
    if template.query is None:
        return _evaluate(world, direction, experiment, run, attempt, {})
    wanted = Execution(
        id=ExecutionId(world.clock.new_id("exec")),
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        run_id=run.id,
        kind=Kind.QUERY,
        image="lab",
        command=(
            *("python", "/in/driver.py", f"--kind={template.query.kind}", f"--count={profile.query_count}"),
            *(f"--datasets={','.join(template.datasets)}", f"--seeds={','.join(map(str, run.seeds))}"),
            *profile.query_arguments,
        ),
        inputs=_below("in/code", run.files)
        | _below("in/outputs", left)
        | {"in/driver.py": world.artifacts.put(DRIVER.read_bytes())},
        collect=("answers/*",),
        environment={"OMP_NUM_THREADS": str(max(1, int(profile.limits_of(Kind.QUERY).cpus)))},
        limits=profile.limits_of(Kind.QUERY),
        sandbox=direction.sandbox,
        created_at=world.clock.now(),
    )
    return Change(
        runs=(run,), executions=(wanted,), steps=(_next("queried", direction, experiment, run, attempt, wanted),)
    )


def queried(world: WriteWorld, step: Step) -> Change:
    """Hand the model's answers to the evaluator."""
    direction, experiment, run, attempt = _subject(world, step)
    execution = _waited(world, step)
    if not execution.succeeded:
        return attempt_ended(world, direction, experiment, run, attempt, execution)
    answers = _kept(execution, "answers/")
    answers.pop("final_info.json", None)
    run = dataclasses.replace(run, outputs={**run.outputs, **answers})
    return _evaluate(world, direction, experiment, run, attempt, answers)


def _evaluate(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment | None,
    run: Run,
    attempt: int,
    answers: Mapping[str, str],
) -> Change:
    template, profile = read(world, direction)
    with world.store.begin(write=False) as tx:
        data = data_of(tx, direction)
    frozen = {
        path: sha
        for path, sha in direction.template_files.items()
        if path not in template.editable and not path.endswith((".md", ".tex"))
    }
    wanted = Execution(
        id=ExecutionId(world.clock.new_id("exec")),
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        run_id=run.id,
        kind=Kind.EVALUATE,
        image="lab",
        command=(
            *("python", "/in/template/evaluate.py", "--outputs=/in/outputs", "--held_out=/in/held_out"),
            *("--train=/in/train", "--out_dir=/work", f"--seeds={','.join(map(str, run.seeds))}"),
            *profile.evaluate_arguments,
        ),
        inputs=_below("in/template", frozen)
        | _below("in/outputs", answers or run.outputs)
        | _below("in/held_out", data.get("answers", {}))
        | _below("in/train", data.get("train", {})),
        collect=("metrics.json", "examples.npz"),
        limits=profile.limits_of(Kind.EVALUATE),
        sandbox=direction.sandbox,
        created_at=world.clock.now(),
    )
    return Change(
        runs=(run,), executions=(wanted,), steps=(_next("evaluated", direction, experiment, run, attempt, wanted),)
    )


def evaluated(world: WriteWorld, step: Step) -> Change:
    """Have the result signed, or feed the evaluator's refusal back."""
    direction, experiment, run, attempt = _subject(world, step)
    execution = _waited(world, step)
    if not execution.succeeded or "metrics.json" not in execution.artifacts:
        reason = f"the evaluator refused what the run left: {tail_of(execution)}"
        return attempt_ended(world, direction, experiment, run, attempt, execution, reason)
    return Change(steps=(_next("record", direction, experiment, run, attempt),))


def no_result(world: WriteWorld, step: Step) -> Change:
    """Feed back that a run ended well but its numbers cannot be used."""
    direction, experiment, run, attempt = _subject(world, step)
    with world.store.begin(write=False) as tx:
        execution = tx.executions.get(ExecutionId(str(step.payload["execution"])))
    return attempt_ended(world, direction, experiment, run, attempt, execution, str(step.payload["reason"]))


def attempt_ended(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment | None,
    run: Run,
    attempt: int,
    execution: Execution,
    reason: str = "",
) -> Change:
    """Keep a failed attempt and ask for the next; a baseline that fails ends the direction."""
    error = (reason or tail_of(execution))[-ERROR_TAIL:]
    verdict = _verdict(execution) if not reason else RunResult.NO_RESULT.value
    run = dataclasses.replace(
        run,
        attempts=(
            *run.attempts,
            Attempt(number=attempt, verdict=verdict, error_tail=error, execution_id=execution.id),
        ),
        outputs={},
    )
    if execution.outcome and execution.outcome.verdict is Verdict.LOST:
        return _broken(world, direction, f"the platform could not run an execution: {execution.outcome.detail}")
    if experiment is None:
        change = _broken(world, direction, f"the template's own {_ended_how(execution, verdict, error)}")
        return dataclasses.replace(change, runs=(run,))
    text = f"{experiment.name} {run.folder}: attempt {attempt} ended {verdict}{_limit_passed(execution, verdict)}"
    return Change(
        runs=(run,),
        steps=(
            Next(
                name="attempt_failed",
                key=f"attempt_failed:{run.id}:{attempt}",
                direction_id=direction.id,
                experiment_id=experiment.id,
                payload={"run": run.id, "attempt": attempt},
            ),
        ),
        events=(_event(world, direction, experiment, "attempt.failed", text),),
    )


PROGRAMS = {Kind.RUN: "experiment.py", Kind.QUERY: "serve.py", Kind.EVALUATE: "evaluate.py"}


def _ended_how(execution: Execution, verdict: str, error: str) -> str:
    """Name the program, its verdict, and the limit it passed, or else the last it said."""
    program = PROGRAMS.get(execution.kind, execution.kind.value)
    limit = _limit_passed(execution, verdict)
    said = "" if limit or not error.strip() else f": {error.strip()}"
    return f"{program} ended {verdict}{limit}{said}"


def _limit_passed(execution: Execution, verdict: str) -> str:
    limits = execution.limits
    passed = {
        Verdict.TIMED_OUT: f"it may take {limits.wall_s:g} s",
        Verdict.OUT_OF_MEMORY: f"it may use {limits.memory_mib} MiB",
        Verdict.OUT_OF_STORAGE: f"it may store {limits.storage_mib} MiB",
        Verdict.TOO_MANY_PROCESSES: f"it may start {limits.processes} processes",
        Verdict.TOO_MUCH_OUTPUT: f"it may print {limits.output_bytes} bytes",
    }
    return next((f" ({words})" for kind, words in passed.items() if kind.value == verdict), "")


def tail_of(execution: Execution) -> str:
    """Return the end of what an execution printed, or why it never began."""
    if execution.outcome is None:
        return ""
    return (execution.outcome.output_tail or execution.outcome.detail)[-ERROR_TAIL:]


def _kept(execution: Execution, prefix: str) -> dict[str, str]:
    left = {path.removeprefix(prefix): item.sha256 for path, item in execution.artifacts.items()}
    return {path: sha for path, sha in left.items() if path not in OURS}


def _verdict(execution: Execution) -> str:
    return execution.outcome.verdict.value if execution.outcome else Verdict.LOST.value


def _broken(world: WriteWorld, direction: Direction, error: str) -> Change:
    with world.store.begin(write=False) as tx:
        open_experiments = [one for one in tx.experiments.find(direction_id=direction.id) if not one.is_final]
    now = world.clock.now()
    return Change(
        directions=(directions.failed(direction, error, now),),
        experiments=tuple(one.to(ExperimentState.FAILED, error=error, ended_at=now) for one in open_experiments),
        events=(_event(world, direction, None, "direction.failed", error),),
    )


def _cache_key(direction: Direction, image: str) -> str:
    parts = [sorted(direction.template_files.items()), direction.profile, direction.seed, image, direction.sandbox]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _baseline_next(direction: Direction) -> Next:
    return Next(name="baseline", key=f"baseline:{direction.id}", direction_id=direction.id)


def ideas_next(direction: Direction) -> Next:
    """Return the step after the baseline: the first idea, or the end of a direction that asked for none."""
    if direction.ideas == 0:
        return Next(name="schedule", key=f"schedule:{direction.id}", direction_id=direction.id)
    return Next(name="propose", key=f"propose:{direction.id}:0", direction_id=direction.id, payload={"index": 0})


def _next(
    name: str,
    direction: Direction,
    experiment: Experiment | None,
    run: Run,
    attempt: int,
    waits_for: Execution | None = None,
) -> Next:
    return Next(
        name=name,
        key=f"{name}:{run.id}:{attempt}",
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        payload={"run": run.id, "attempt": attempt},
        waits_for=(waits_for.id,) if waits_for else (),
    )


def _below(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{path}": sha for path, sha in files.items()}


def _direction(world: WriteWorld, step: Step) -> Direction:
    with world.store.begin(write=False) as tx:
        return tx.directions.get(step.direction_id)


def _subject(world: WriteWorld, step: Step) -> tuple[Direction, Experiment | None, Run, int]:
    with world.store.begin(write=False) as tx:
        run = tx.runs.get(str(step.payload["run"]))
        experiment = tx.experiments.get(step.experiment_id) if step.experiment_id else None
        return tx.directions.get(step.direction_id), experiment, run, int(step.payload["attempt"])


def _waited(world: WriteWorld, step: Step) -> Execution:
    if len(step.waits_for) != 1:
        raise BadInputError(f"The step {step.name} waits for exactly one execution.")
    with world.store.begin(write=False) as tx:
        return tx.executions.get(step.waits_for[0])


def _event(world: WriteWorld, direction: Direction, experiment: Experiment | None, kind: str, text: str) -> Event:
    return Event(
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        kind=kind,
        text=text,
        at=world.clock.now(),
    )
