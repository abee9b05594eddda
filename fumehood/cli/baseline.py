"""Measuring a template's `run_0`, and how small a difference it could show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fumehood.cli import checks
from fumehood.cli.children import check_machine
from fumehood.cli.output import Progress
from fumehood.cli.run import follow, raise_for
from fumehood.domain.experiment import Run
from fumehood.errors import BadInputError
from fumehood.ports import Artifacts
from fumehood.services import facts, final_info, screening, submissions, templates
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

SEEDS_OF_A_CONFIRMATION = 9


def measure(
    settings: Settings, folder: str, profile: str, sandbox: str, out: Path | None, progress: Progress
) -> dict[str, Any]:
    """Run a template's baseline in the sandbox and return its results, its noise and its smallest detectable effect."""
    policy = screening.load(settings.policy)
    asked = submissions.Submission(template=folder, profile=profile, sandbox=sandbox, ideas=1)
    if out is not None and not checks.is_new(out):
        raise BadInputError(f"--out {out} is not an empty folder.")
    checks.draft(asked)
    if out is not None:
        checks.writable(out)
    checks.no_gpu(profile)
    checks.room(settings)
    try:
        told = check_machine(settings, sandbox, progress.say)
        worlds.prepare_state(settings)
        store, artifacts = worlds.store_of(settings), worlds.artifacts_of(settings)
        direction = submissions.submit(
            store, artifacts, SystemClock(), asked, worlds.SHIPPED, baseline_only=True, policy=policy
        )
        progress.start(f"measuring the baseline of {direction.template}")
        follow(settings, store, direction, str(told["adapter"]), progress)
        with store.begin(write=False) as tx:
            direction = tx.directions.get(direction.id)
            run = tx.runs.find(direction_id=direction.id, index=0)[0]
        raise_for(direction, store, artifacts)
    finally:
        progress.stop()
    template = templates.load(direction.template_files, artifacts, direction.template)
    if out is not None:
        _write(run, artifacts, out)
    record = facts.predicate(artifacts.get(run.record))
    info = final_info.read(artifacts.get(run.final_info), "record")
    noise = {
        name: _noise(info, name)
        for name in ([template.primary] if template.primary else sorted(next(iter(info.datasets.values()))))
        if run.seeds
    }
    return {
        "template": direction.template,
        "profile": direction.profile,
        "seeds": list(run.seeds) or "uncontrolled",
        "final_info": json.loads(artifacts.get(run.final_info)),
        "sources": {name: metric["source"] for name, metric in record["metrics"].items()},
        "noise": noise,
        "out": str(out / "run_0") if out else None,
    }


def _noise(info: final_info.FinalInfo, metric: str) -> dict[str, float | None]:
    """Return the seed-to-seed spread of a metric's mean over data sets, and what a confirmation could just detect.

    The smallest detectable effect is 2.8 standard errors of a difference (80 % power at 5 %, two-sided) between the
    baseline's seeds and nine of a run's, the first look of the rule in `statistics.md`.
    """
    over = final_info.overall(info, metric)
    if over is None or len(over.values) < 2:
        return {"sd": None, "smallest_detectable": None}
    effect = 2.8 * over.sd * (1 / len(over.values) + 1 / SEEDS_OF_A_CONFIRMATION) ** 0.5
    return {"sd": over.sd, "smallest_detectable": effect}


def _write(run: Run, artifacts: Artifacts, out: Path) -> None:
    target = out / "run_0"
    named = {"final_info.json": run.final_info, "self_reported.json": run.self_reported, "record.json": run.record}
    for path, sha in {**run.outputs, **named, "log.txt": run.log}.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(artifacts.get(sha))
