"""Which specs the local adapter takes: everything that it cannot hold is refused before anything is made."""

from __future__ import annotations

import re

from fumehood.domain.execution import Spec
from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox import cgroups, globs, machine
from sandbox.limits import Ceilings

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def check_text(spec: Spec) -> None:
    """Refuse globs, variables and words that could not mean what they say."""
    globs.check_patterns(spec.collect)
    for name, value in spec.environment.items():
        if not _VARIABLE.match(name) or "\0" in value:
            raise BadInputError(f"The environment variable {name!r} cannot be set.")
    if any("\0" in word for word in spec.command):
        raise BadInputError("A command's words cannot hold the null character.")


def check(spec: Spec, ceilings: Ceilings, groups: cgroups.Hierarchy | None) -> cgroups.Hierarchy:
    """Refuse a spec that asks too much, or something that is not to be had here; the control groups to use."""
    check_text(spec)
    ceilings.check(spec)
    if spec.gpus:
        raise SandboxUnavailableError(
            "The local sandbox passes no GPU in.",
            remedy="Use --adapter docker with the NVIDIA container toolkit.",
            reason="gpu_runtime_missing",
        )
    return machine.require(groups)
