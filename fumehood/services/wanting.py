"""Wanting an execution: what every container job of a direction has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain import extra_packages
from fumehood.domain.catalogue import MODELS
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind, Limits
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import ExecutionId
from fumehood.domain.template import Profile, Template
from fumehood.ports import Clock
from fumehood.services import templates

WITH_GPU = frozenset({Kind.RUN, Kind.QUERY, Kind.RESUME})
"""What trains or asks the model; the platform's own programs need none."""
OF_EXPERIMENTS = frozenset({Kind.RUN, Kind.QUERY, Kind.RESUME, Kind.PLOT})
"""What starts code of an experiment, and finds extra packages; what draws data and evaluates has the lab alone."""


def wanted(clock: Clock, direction: Direction, profile: Profile, kind: Kind, **asked: Any) -> Execution:
    """Return an execution to be launched, inside the profile's limits of its kind; `asked` are its further fields."""
    return Execution(
        **{
            "id": ExecutionId(clock.new_id("exec")),
            "direction_id": direction.id,
            "kind": kind,
            "image": extra_packages.image_of(direction.template_files)
            if kind in OF_EXPERIMENTS
            else extra_packages.LAB,
            "limits": profile.limits_of(kind),
            "sandbox": direction.sandbox,
            "gpus": profile.gpus if kind in WITH_GPU else 0,
            "gpu_memory_mib": profile.gpu_memory_mib if kind in WITH_GPU else None,
            "measured_as": measured_as(direction, kind),
            "created_at": clock.now(),
            **asked,
        }
    )


def measured_as(direction: Direction, kind: Kind) -> str:
    """Return what executions have in common whose peaks tell of each other: tenant, kind, profile, and code.

    The code is the template's, and the parent's over it, not an idea's: its first run is to be placed by something.
    """
    code = templates.template_hash({**direction.template_files, **direction.parent_files})
    return f"{direction.tenant}/{kind}/{direction.profile}/{code}"


def below(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return files as they lie below a folder of the sandbox."""
    return {f"{folder}/{path}": sha for path, sha in files.items()}


def threads(limits: Limits) -> dict[str, str]:
    """Return how many threads libraries take, which would else count the machine's processors."""
    return {"OMP_NUM_THREADS": str(max(1, int(limits.cpus)))}


def run_environment(
    limits: Limits, data: Mapping[str, Mapping[str, str]], seeds: Sequence[int], template: Template
) -> dict[str, str]:
    """Return what the experiment's own program finds in its environment; without data and seeds it makes its own."""
    found = {**threads(limits), "MPLBACKEND": "Agg"}
    if data.get("train"):
        found["FUMEHOOD_DATA"] = "/in/data"
    if template.curve and data.get("inputs"):
        found["FUMEHOOD_INPUTS"] = "/in/inputs"
    if seeds:
        found["FUMEHOOD_SEEDS"] = ",".join(map(str, seeds))
    return found


def weights(direction: Direction) -> tuple[dict[str, str], dict[str, str]]:
    """Return the models that an idea was given as they lie in the sandbox, and what tells its program where."""
    given = {f"in/{path}": sha for path, sha in direction.template_files.items() if path.startswith(MODELS)}
    return given, {"FUMEHOOD_MODELS": f"/in/{MODELS.rstrip('/')}"} if given else {}


def frozen(direction: Direction, editable: tuple[str, ...]) -> dict[str, str]:
    """Return the template's files that no experiment may change and an execution may need."""
    return {
        path: sha
        for path, sha in direction.template_files.items()
        if path not in editable and not path.endswith((".md", ".tex", ".whl")) and not path.startswith(MODELS)
    }
