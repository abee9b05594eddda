"""Measuring a template's `run_0`, and how small a difference it could show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.cli import checks, lacking, left_behind
from fumehood.cli.children import check_machine
from fumehood.cli.output import Progress
from fumehood.cli.run import follow, raise_for
from fumehood.domain.confirmation import rule_for
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Run
from fumehood.domain.template import Template
from fumehood.errors import BadInputError, WorkFailedError
from fumehood.ports import Artifacts
from fumehood.services import (
    confirmation_rule,
    confirming,
    directions,
    facts,
    final_info,
    foresight,
    screening,
    submissions,
    templates,
)
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What measuring a baseline came to."""

    direction: Direction
    """As it ended, well or badly."""
    run: Run | None
    """None where the data could not be drawn."""
    sandbox: str
    """The adapter that it ran in."""


def measure(
    settings: Settings,
    folder: str,
    profile: str,
    sandbox: str,
    out: Path | None,
    progress: Progress,
    packages: Sequence[str] = (),
    wheels: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run a template's baseline in the sandbox and return its results, its noise and its smallest detectable effect."""
    asked = submissions.Submission(
        template=folder, profile=profile, sandbox=sandbox, ideas=1, packages=tuple(packages), wheels=tuple(wheels)
    )
    if out is not None and not checks.is_new(out):
        raise BadInputError(f"--out {out} is not an empty folder.")
    planned = checks.draft(asked)
    if said := lacking.brought_along(templates.find(folder, worlds.SHIPPED), planned.template_files):
        progress.say(said)
    if out is not None:
        checks.writable(out)
    done = carry_out(settings, asked, progress)
    store, artifacts = worlds.store_of(settings), worlds.artifacts_of(settings)
    raise_for(done.direction, store, artifacts)
    told = told_of(done, artifacts)
    if out is not None and done.run is not None:
        _write(done.run, artifacts, out)
    return told | {"out": str(out / "run_0") if out else None}


def carry_out(settings: Settings, asked: submissions.Submission, progress: Progress) -> Measured:
    """Measure a template's baseline; that the template's own programs failed is no error here, but the machine's is."""
    policy = screening.load(settings.policy)
    checks.gpus(settings, asked.template, asked.profile, asked.sandbox)
    checks.room(settings)
    checks.lab(settings, asked, progress.say)
    try:
        told = check_machine(settings, asked.sandbox, progress.say)
        checks.gpus(settings, asked.template, asked.profile, str(told["adapter"]))
        worlds.prepare_state(settings)
        left_behind.end(settings)
        store, artifacts = worlds.store_of(settings), worlds.artifacts_of(settings)
        direction = submissions.submit(
            *(store, artifacts, SystemClock(), asked, worlds.SHIPPED),
            baseline_only=True,
            policy=policy,
            known_templates=worlds.known_templates(settings),
        )
        progress.start(f"measuring the baseline of {direction.template}")
        try:
            follow(settings, store, direction, str(told["adapter"]), progress)
        except KeyboardInterrupt:
            # No command can go on with a baseline's direction: the next one measures it anew.
            directions.cancel(store, SystemClock(), direction.id)
            raise
        with store.begin(write=False) as tx:
            direction = tx.directions.get(direction.id)
            # There is none where the data could not be drawn.
            runs = tx.runs.find(direction_id=direction.id, arm=Arm.SCREEN, index=0)
    finally:
        progress.stop()
    return Measured(direction=direction, run=runs[0] if runs else None, sandbox=str(told["adapter"]))


def told_of(done: Measured, artifacts: Artifacts) -> dict[str, Any]:
    """Return a measured baseline's results, its noise and its smallest detectable effect."""
    direction, run = done.direction, done.run
    if run is None or not run.record:
        raise WorkFailedError(f"The baseline of {direction.template} has no record.")
    template = templates.load(direction.template_files, artifacts, direction.template)
    record = facts.predicate(artifacts.get(run.record))
    info = final_info.read(artifacts.get(run.final_info), "record")
    return {
        "template": direction.template,
        "profile": direction.profile,
        "seeds": list(run.seeds) or "uncontrolled",
        "final_info": json.loads(artifacts.get(run.final_info)),
        "sources": {name: metric["source"] for name, metric in record["metrics"].items()},
        "noise": _noise(direction, template, info) if run.seeds else {},
    }


def _noise(direction: Direction, template: Template, info: final_info.FinalInfo) -> dict[str, Any]:
    """Return the primary metric's spread over seeds, by data set, and what a confirmation could just detect.

    Looks are those of the profile's rule, or of the rule for so many data sets where it does not confirm; both of their
    figures are in units of that spread, and `smallest_detectable` is found in 80 % of cases.
    """
    name = template.primary
    metric = template.metrics.get(name or "")
    if name is None or metric is None or metric.direction is None:
        return {}
    pool = {dataset: metrics[name].values for dataset, metrics in info.datasets.items() if name in metrics}
    scale = confirming.freeze(confirmation_rule.measure_of(metric), pool)
    if not scale.values:
        return {"metric": name, "left_out": dict(scale.left_out)}
    rule = direction.rule or rule_for(len(scale.values))
    return {
        "metric": name,
        "transform": metric.transform,
        "sd": dict(scale.values),
        "left_out": dict(scale.left_out),
        "looks": [
            {
                "seeds": one.seeds,
                "baseline_seeds": rule.confirm_baseline,
                "noise_floor": one.noise_floor,
                "smallest_detectable": one.smallest_effect,
            }
            for one in foresight.looks(rule, len(scale.values))
        ],
    }


def _write(run: Run, artifacts: Artifacts, out: Path) -> None:
    target = out / "run_0"
    named = {"final_info.json": run.final_info, "self_reported.json": run.self_reported, "record.json": run.record}
    for path, sha in {**run.outputs, **named, "log.txt": run.log}.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(artifacts.get(sha))
