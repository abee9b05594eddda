"""The signed record of a run: what was run, on what, within which limits, and what the platform measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fumehood import __version__
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Arm, Execution, Experiment, Run, RunResult
from fumehood.domain.step import Event, Step
from fumehood.domain.template import Template
from fumehood.errors import BadInputError
from fumehood.ports import Transaction
from fumehood.services import (
    counts,
    curves,
    final_info,
    foresight,
    independence,
    measuring,
    neighbours,
    preparing,
    public_data,
    templates,
    trials,
)
from fumehood.services.change import Change, Next, happened
from fumehood.services.curves import Axis, AxisCheck
from fumehood.services.final_info import FinalInfo, Series
from fumehood.services.world import RunWorld

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:fumehood:run:v1"
FINGERPRINT = "fingerprint"
"""What the installation's secret is asked to sign, so that a record can name it without telling it."""
SAME = 0.01
"""What a run says of a metric and what its evaluator says may be apart by this share of it, or by its resolution."""


def record(world: RunWorld, step: Step) -> Change:
    """Merge the evaluator's numbers with the experiment's own, and sign what was measured."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        run = tx.runs.get(str(step.payload["run"]))
        experiment = tx.experiments.get(step.experiment_id) if step.experiment_id else None
        direction = experiment.seen(direction) if experiment else direction
        jobs = _jobs(tx, run)
        data = preparing.data_of(tx, direction, run.arm, run.seeds)
        drawn = preparing.drawn_seeds(tx, direction, run.arm, run.seeds)
        template = templates.load(direction.template_files, world.artifacts, direction.template)
        opened = _opened(tx, run, template, jobs)
        placed = neighbours.placements(tx, jobs)
    attempt = int(step.payload["attempt"])
    try:
        own = final_info.read(world.artifacts.get(run.self_reported), "self")
        judged = jobs.get(Kind.EVALUATE)
        metrics = judged.artifacts["metrics.json"].sha256 if judged else ""
        evaluated = final_info.read(world.artifacts.get(metrics), "evaluator") if metrics else None
        info = final_info.merge(own, evaluated)
    except BadInputError as error:
        return _no_result(direction, experiment, run, attempt, jobs, str(error))
    written = info.to_json()
    predicate = _predicate(world, direction, template, run, attempt, jobs, data, info, placed)
    predicate["opened"] = opened
    predicate["drawn_seeds"] = list(drawn)
    predicate["disagreements"] = _disagreements(template, own, evaluated)
    predicate["registration"] = (
        experiment.products.get("registration.json") if experiment and run.experiment_id else None
    )
    statement = {
        "_type": STATEMENT,
        "subject": [
            {"name": f"{run.folder}/{path}", "digest": {"sha256": sha}}
            for path, sha in sorted(
                {
                    **run.outputs,
                    "final_info.json": hashlib.sha256(written).hexdigest(),
                    "self_reported.json": run.self_reported,
                    "log.txt": run.log,
                }.items()
            )
        ],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    envelope = world.signer.sign(json.dumps(statement, sort_keys=True).encode(), PAYLOAD_TYPE)
    run = dataclasses.replace(
        run,
        result=RunResult.MEASURED,
        final_info=world.artifacts.put(written),
        record=world.artifacts.put(envelope),
    )
    return Change(
        runs=(run,),
        steps=(_following(direction, experiment, run),),
        events=(
            _event(world, direction, experiment, run, template, info),
            *(
                foresight.of_baseline(world.clock, direction, template, run, info, jobs.values())
                if not experiment
                else ()
            ),
        ),
    )


def outputs_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run left, as its record signs it: path below its folder to SHA-256."""
    signed = {one["name"].partition("/")[2]: one["digest"]["sha256"] for one in statement["subject"]}
    return {path: sha for path, sha in signed.items() if path not in {*measuring.OURS, "final_info.json"}}


def _opened(tx: Transaction, run: Run, template: Template, jobs: Mapping[Kind, Execution]) -> dict[str, int]:
    """Return how often each arm's held-out data had been read in this direction before, also for what was refused."""
    # Each attempt reads them once, and a text that is scored by the character is read while the model is asked.
    reader = Kind.QUERY if template.query and template.query.kind == "characters" else Kind.EVALUATE
    arms = {one.id: one.arm.value for one in tx.runs.find(direction_id=run.direction_id)}
    own = jobs[reader].id if reader in jobs else None
    began = (
        one for one in tx.executions.find(direction_id=run.direction_id, kind=reader) if one.launched_at is not None
    )
    counted = Counter(arms[one.run_id] for one in began if one.run_id in arms and one.id != own)
    return {arm.value: counted[arm.value] for arm in Arm}


def _jobs(tx: Transaction, run: Run) -> dict[Kind, Execution]:
    jobs: dict[Kind, Execution] = {}
    for one in tx.executions.find(run_id=run.id):
        if one.kind is Kind.RUN:
            jobs = {}  # what follows belongs to this attempt
        if one.outcome is not None:
            jobs[one.kind] = one
    return jobs


def _no_result(
    direction: Direction,
    experiment: Experiment | None,
    run: Run,
    attempt: int,
    jobs: dict[Kind, Execution],
    reason: str,
) -> Change:
    return Change(
        steps=(
            Next(
                name="no_result",
                key=f"no_result:{run.id}:{attempt}",
                direction_id=direction.id,
                experiment_id=experiment.id if experiment else None,
                payload={"run": run.id, "attempt": attempt, "reason": reason, "execution": jobs[Kind.RUN].id},
            ),
        )
    )


def _predicate(
    world: RunWorld,
    direction: Direction,
    template: Template,
    run: Run,
    attempt: int,
    jobs: dict[Kind, Execution],
    data: dict[str, dict[str, str]],
    info: FinalInfo,
    placed: dict[str, dict[str, Any]],
) -> dict[str, object]:
    main = jobs[Kind.RUN]
    outcome = main.outcome
    profile = templates.profile_of(template, direction.profile)
    axis = _axis(world, template, run)
    return {
        "run": {
            "index": run.index,
            "title": run.title,
            "kind": "baseline" if run.index == 0 else "run",
            "arm": run.arm.value,
            **({"alone": run.alone} if run.alone else {}),
            "attempt": attempt,
        },
        "direction": direction.id,
        "experiment": run.experiment_id,
        "platform": __version__,
        "secret": hashlib.sha256(world.derive_key(FINGERPRINT)).hexdigest(),
        "device": "gpu" if main.gpus else "cpu",
        "processor": outcome.device.processor if outcome else "",
        "gpu": outcome.device.gpu if outcome and main.gpus else "",
        "placement": placed,
        "code": dict(sorted(run.files.items())),
        "template": {"name": direction.template, "hash": templates.template_hash(direction.template_files)},
        "evaluator": direction.template_files.get("evaluate.py"),
        "image": outcome.image if outcome else "",
        "sources": public_data.origins(template, direction.template_files),
        "data": {part: templates.template_hash(files) for part, files in sorted(data.items())},
        "profile": direction.profile,
        "arguments": [*profile.arguments, *run.arguments],
        "evaluate_arguments": list(profile.evaluate_arguments),
        "prepare_arguments": [*template.prepare.arguments, *profile.prepare_arguments],
        "query_count": profile.query_count,
        "limits": {kind.value: dataclasses.asdict(job.limits) for kind, job in sorted(jobs.items())},
        "seeds": list(run.seeds) or "uncontrolled",
        "verdicts": {kind.value: job.outcome.verdict.value for kind, job in sorted(jobs.items()) if job.outcome},
        "usage": {
            kind.value: dataclasses.asdict(job.outcome.usage) for kind, job in sorted(jobs.items()) if job.outcome
        },
        "metrics": {name: _metric(template, info, name, axis, placed) for name in _metric_names(info)},
        "curve": axis.model_dump(mode="json", exclude_none=True) if axis else None,
        "counts": _size(world, run, counts.PARAMETERS, counts.SELF),
        "counted": _size(world, run, counts.COUNTED, counts.PLATFORM),
        **_together(world, run),
        "isolation": dict(outcome.isolation) if outcome else {},
        "storage": outcome.storage if outcome else "",
        "started_at": main.launched_at,
        "signed_at": world.clock.now(),
        "self_reported": run.self_reported,
    }


def _together(world: RunWorld, run: Run) -> dict[str, object]:
    """Return whether its seeds were independent, where that was looked at."""
    kept = run.outputs.get(independence.FILE)
    return {"together": independence.told(world.artifacts.get(kept))} if kept else {}


def _metric_names(info: FinalInfo) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for metrics in info.datasets.values() for name in metrics))


def _axis(world: RunWorld, template: Template, run: Run) -> AxisCheck | None:
    """Return what became of the run's curve; None where the template asks for none."""
    kept = run.outputs.get(curves.CHECK)
    return curves.read(world.artifacts.get(kept) if kept else None) if template.curve else None


def _metric(
    template: Template, info: FinalInfo, name: str, axis: AxisCheck | None, placed: dict[str, dict[str, Any]]
) -> dict[str, object]:
    words = template.metrics.get(name)
    series = {dataset: metrics[name] for dataset, metrics in info.datasets.items() if name in metrics}
    over = final_info.overall(info, name)
    source = "evaluator" if all(one.source == "evaluator" for one in series.values()) else "self"
    of_curve = {}
    if axis and template.curve and name in template.curve.metrics:
        # Marked by the evaluator, at a step that may be the run's own word.
        source = source if axis.axis is Axis.PLATFORM else "self"
        of_curve = {"axis": axis.axis.value, "axis_reason": axis.reason}
    counted = {"source": source, "is_time": bool(words and words.is_time)}
    return {
        **counted,
        **of_curve,
        "not_comparable": neighbours.incomparable(counted, placed),
        "direction": words.direction if words else None,
        "unit": words.unit if words else "",
        "primary": bool(words and words.primary),
        "resolution": words.resolution if words else 0.0,
        "cap": words.cap if words else None,
        "transform": words.transform if words else "none",
        "datasets": {dataset: _numbers(one) for dataset, one in series.items()},
        **(_numbers(over) if over else {"mean": None, "stderr": None, "seeds": []}),
    }


def _disagreements(template: Template, own: FinalInfo, evaluated: FinalInfo | None) -> list[dict[str, object]]:
    """Return the metrics that the run tells otherwise than its evaluator; both are kept, and the evaluator's counts."""
    found: list[dict[str, object]] = []
    for dataset, metrics in (evaluated.datasets if evaluated else {}).items():
        for name, series in metrics.items():
            told = own.datasets.get(dataset, {}).get(name)
            words = template.metrics.get(name)
            allowed = max(words.resolution if words else 0.0, SAME * abs(series.mean))
            if told is not None and abs(told.mean - series.mean) > allowed:
                found.append({"metric": name, "dataset": dataset, "self": told.mean, "evaluator": series.mean})
    return found


def _numbers(series: Series) -> dict[str, object]:
    return {"mean": series.mean, "stderr": series.stderr, "seeds": list(series.values)}


def _size(world: RunWorld, run: Run, path: str, names: tuple[str, ...]) -> dict[str, float | None]:
    return counts.told(world.artifacts.get(run.outputs[path]) if path in run.outputs else b"", names)


def _following(direction: Direction, experiment: Experiment | None, run: Run) -> Next:
    if experiment is not None and run.arm is Arm.CONFIRM:
        return trials.confirm_measured(experiment, run)
    if experiment is None:
        return measuring.ideas_next(direction)
    if run.index == 0:
        return measuring.begin_next(experiment)
    return Next(
        name="run_done",
        key=f"run_done:{run.id}",
        direction_id=direction.id,
        experiment_id=experiment.id,
        payload={"run": run.id},
    )


def _event(
    world: RunWorld, direction: Direction, experiment: Experiment | None, run: Run, template: Template, info: FinalInfo
) -> Event:
    who = f"{experiment.name} {run.folder}" if experiment else "baseline"
    primary = template.primary
    over = final_info.overall(info, primary) if primary else None
    spread = f" ± {over.stderr:.2g}" if over and over.stderr is not None else ""
    figure = f": {primary} {over.mean:.4g}{spread}" if over else ""
    return happened(world.clock, experiment or direction, "run.measured", f"{who}: measured and signed{figure}")
