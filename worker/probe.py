"""Whether this machine can do the work: one small execution of each image, tried for real."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Kind, Limits, Spec, Verdict
from fumehood.domain.ids import ExecutionId, container_name
from fumehood.errors import FumehoodError, MachineUnfitError, SandboxUnavailableError
from fumehood.ports import Sandbox
from fumehood.services.setup_facts import PROMISES
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from sandbox.choose import choose
from sandbox.execute import execute

PROBES = {"lab": ("python", "-c", "import numpy"), "latex": ("pdflatex", "--version")}
NAMES = {"lab": "The lab", "latex": "LaTeX"}
REMEDIES = {
    "lab": "Run `make setup`, which builds the lab.",
    "latex": (
        "Install LaTeX: apt-get install -y --no-install-recommends "
        "texlive-latex-base texlive-latex-recommended texlive-fonts-recommended lmodern"
    ),
}
NO_VOLUME = frozenset({"no_loop", "no_storage"})
"""Why an execution was refused, where its workspace could not be made with a hard size."""
PROBE_LIMITS = Limits(wall_s=60, memory_mib=512, storage_mib=16, processes=64, cpus=1.0, output_bytes=64 * 1024)


def probe(settings: Settings, adapter: str) -> dict[str, object]:
    """Try one small execution of each image; the answer holds `error` where this machine cannot do the work.

    Needs root's rights where the adapter does, so commands ask for it in a process of its own.
    """
    name = adapter
    promises: list[dict[str, Any]] = []
    try:
        sandbox = choose(adapter, settings)
        name = type(sandbox).__name__.removesuffix("Sandbox").lower()
        promises = [dataclasses.asdict(one) for one in sandbox.capabilities()]
        for image, command in PROBES.items():
            _try(sandbox, image, command)
    except FumehoodError as error:
        nothing = [{"promise": one, "held": False, "mechanism": str(error)} for one in PROMISES]
        if isinstance(error, SandboxUnavailableError) and error.reason in NO_VOLUME:
            # It held when it was proved, and does not hold now.
            promises = [
                one if one["promise"] != "S5" else one | {"held": False, "mechanism": str(error)} for one in promises
            ]
        return {"error": str(error), "adapter": name, "promises": promises or nothing}
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
            f"{NAMES[image]} does not answer in the sandbox ({outcome.verdict}: {last}).", remedy=REMEDIES[image]
        )
