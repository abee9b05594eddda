"""Which sandbox is used: the one asked for, or with `auto` Docker where its engine answers, else the local one."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, cast

from fumehood.errors import BadInputError, MachineUnfitError, SandboxUnavailableError
from sandbox import lab, limits
from sandbox.egress import rules
from sandbox.local import LocalSandbox
from sandbox.storage.choose import wanted

if TYPE_CHECKING:
    from fumehood.ports import Sandbox
    from fumehood.settings import Settings

ADAPTERS = ("auto", "docker", "local")


def choose(adapter: str, settings: Settings) -> Sandbox:
    """Return the sandbox, or raise with what is missing; a named adapter never becomes another one."""
    if adapter not in ADAPTERS:
        raise BadInputError(f"The adapter is one of {', '.join(ADAPTERS)}, not {adapter!r}.")
    if adapter == "local":
        return _local(settings)
    try:
        return _docker(settings)
    except MachineUnfitError:
        if adapter == "docker" or settings.docker_runtime:
            # Whoever names a runtime is not given something weaker.
            raise
        return _local(settings)


def _local(settings: Settings) -> LocalSandbox:
    found = lab.find(settings.state_dir, settings.lab_dir)
    return LocalSandbox(
        settings.state_dir,
        settings.run_dir,
        found,
        ceilings=limits.of(settings),
        egress=rules.of(settings),
        storage=wanted(settings),
        labs=settings.derived_labs,
    )


def _docker(settings: Settings) -> Sandbox:
    # Looked up by name: the engine's client is an extra, and the local adapter must not need it.
    if importlib.util.find_spec("sandbox.docker") is None or importlib.util.find_spec("docker") is None:
        raise SandboxUnavailableError(
            "The Docker adapter is not installed.",
            remedy="Install it with: pip install 'fumehood[docker]'; or use --adapter local.",
            reason="no_docker",
        )
    module = importlib.import_module("sandbox.docker")
    return cast("Sandbox", module.DockerSandbox.connect(settings))
