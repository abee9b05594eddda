"""What this machine can do: the sandbox tried for real, LaTeX, the lab, keys."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fumehood.cli import worlds
from fumehood.cli.children import check_machine
from fumehood.domain.execution import Kind, Limits, Spec, Verdict
from fumehood.domain.ids import ExecutionId, container_name
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.gateway.keys import Keys
from fumehood.ports import Sandbox
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from sandbox.choose import choose
from sandbox.execute import execute

PROBES = {"lab": ("python", "-c", "import numpy"), "latex": ("pdflatex", "--version")}
REMEDIES = {
    "lab": "Run `make setup`, which builds the lab.",
    "latex": (
        "Install LaTeX: apt-get install -y --no-install-recommends "
        "texlive-latex-base texlive-latex-recommended texlive-fonts-recommended lmodern"
    ),
}
PROBE_LIMITS = Limits(wall_s=60, memory_mib=512, storage_mib=16, processes=64, cpus=1.0, output_bytes=64 * 1024)


def probe(settings: Settings, adapter: str) -> dict[str, object]:
    """Try one small execution of each image; the answer holds `error` where this machine cannot do the work.

    Needs root's rights where the adapter does, so commands ask for it in a process of its own.
    """
    try:
        sandbox = choose(adapter, settings)
        name = type(sandbox).__name__.removesuffix("Sandbox").lower()
        for image, command in PROBES.items():
            _try(sandbox, image, command)
        promises = [dataclasses.asdict(one) for one in sandbox.capabilities()]
    except FumehoodError as error:
        return {"error": str(error), "adapter": adapter, "promises": []}
    held = sum(bool(one["held"]) for one in promises)
    return {
        "adapter": name,
        "promises": promises,
        "text": f"sandbox: {name}, {held} of {len(promises)} promises held here; the lab and LaTeX answer",
    }


def _try(sandbox: Sandbox, image: str, command: tuple[str, ...]) -> None:
    spec = Spec(
        name=container_name(ExecutionId(SystemClock().new_id("exec"))),
        kind=Kind.RUN,
        command=command,
        image=image,
        limits=PROBE_LIMITS,
    )
    with tempfile.TemporaryDirectory(prefix="fumehood-probe-") as folder:
        outcome = execute(sandbox, spec, Path(folder))
    if outcome.verdict is not Verdict.SUCCEEDED:
        last = (outcome.output_tail.strip().splitlines() or [outcome.detail])[-1]
        raise MachineUnfitError(
            f"The {image} does not answer in the sandbox ({outcome.verdict}: {last}).", remedy=REMEDIES[image]
        )


def examine(settings: Settings, adapter: str) -> dict[str, Any]:
    """Return what `fumehood doctor` says."""
    try:
        told = check_machine(settings, adapter)
        error = ""
    except FumehoodError as failure:
        told, error = {"promises": [], "adapter": adapter}, str(failure)
    coder = settings.coder_python
    return {
        "ready": not error,
        "error": error,
        "adapter": told["adapter"],
        "promises": told["promises"],
        "state_dir": str(settings.state_dir),
        "root": os.geteuid() == 0,
        "lab": str(worlds.lab_folder(settings).resolve()) if worlds.lab_packages(settings) else None,
        "coder": "aider" if coder and coder.is_file() else "search_replace",
        "keys": list(Keys(settings.state_dir).list()),
        "gpus": [str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*"))],
    }


def describe(told: Mapping[str, Any]) -> Iterable[str]:
    """Return `fumehood doctor` as lines."""
    yield f"sandbox: {told['adapter']}"
    for one in told["promises"]:
        yield f"  {one['promise']:>3} {'held' if one['held'] else 'NOT HELD'}: {one['mechanism']}"
    yield f"state: {told['state_dir']}"
    yield f"lab: {told['lab'] or 'not built; run `make setup`'}"
    yield f"coder: {told['coder']}"
    yield f"keys: {', '.join(told['keys']) or 'none; the offline model needs none'}"
    yield f"GPUs: {', '.join(told['gpus']) or 'none'}"
    yield f"not ready: {told['error']}" if told["error"] else "ready"
