"""The runtime that containers are started with: `runc`, or `runsc` of gVisor, and what becomes of the promises then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fumehood.errors import BadInputError, SandboxUnavailableError

RUNC, RUNSC = "runc", "runsc"
NAMES = (RUNC, RUNSC)
_GVISOR = {
    "S3": "memory cgroup around gVisor and the program, swap equal",
    "S4": "pids cgroup around gVisor and the host's tasks that it needs for each process inside",
    "S8": "gVisor's own kernel between the program and the host, of which runsc, as nobody, asks few calls; "
    "inside a uid without capabilities, no-new-privileges, a curated image without setuid programs",
    "S16": "a kernel of its own; own pid, ipc, net, uts, mount and cgroup namespaces",
}
_BESIDE, _EACH = 32, 6
"""Tasks of the host that gVisor takes for itself, and for each process inside; 25 and 5.3 were seen."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that the engine has, and how the engine starts it."""

    name: str
    arguments: tuple[str, ...] = ()

    @property
    def passes_sockets(self) -> bool:
        """Whether a program may connect to a unix socket in a mounted folder, which is how a gateway is reached."""
        return self.name == RUNC or any(
            word.startswith(("--host-uds=open", "--host-uds=all", "--fsgofer-host-uds")) for word in self.arguments
        )

    def tasks(self, processes: int) -> int:
        """Return what the control group may hold: the program's processes, and what stands above or beside them."""
        return processes + 1 if self.name == RUNC else _EACH * processes + _BESIDE

    def mechanisms(self, of_runc: Mapping[str, str]) -> dict[str, str]:
        """Return what holds each promise under it; it says its own name where privilege is spoken of."""
        told = {**of_runc, **(_GVISOR if self.name == RUNSC else {})}
        return {**told, "S8": f"{told['S8']}; runtime {self.name}"}


DEFAULT = Runtime(RUNC)


def find(wanted: str, told: Mapping[str, Any]) -> Runtime:
    """Return the runtime of that name, of those that the engine reports, or raise with the way to get it."""
    name = wanted or RUNC
    if name not in NAMES:
        raise BadInputError(f"The runtime of containers is {' or '.join(NAMES)}, not {wanted!r}.")
    if name not in told:
        raise SandboxUnavailableError(
            f"The Docker engine has no runtime {name}; it has {', '.join(sorted(told)) or 'none'}.",
            remedy="Install gVisor, run: runsc install; start the engine again; or unset FUMEHOOD_DOCKER_RUNTIME."
            if name == RUNSC
            else "Install runc, or name the engine's runtime so in /etc/docker/daemon.json.",
            reason="runtime_missing",
        )
    arguments = tuple(str(word) for word in (told[name] or {}).get("runtimeArgs") or ())
    if name == RUNSC and any(word.startswith("--ignore-cgroups") and word[-6:] != "=false" for word in arguments):
        raise SandboxUnavailableError(
            "The Docker engine starts runsc with --ignore-cgroups, so that neither memory nor processes are limited.",
            remedy="Take that argument out of /etc/docker/daemon.json, with a runsc of 2023 or newer.",
            reason="runtime_unfit",
        )
    return Runtime(name, arguments)


def require_sockets(runtime: Runtime) -> None:
    """Raise where no gateway could be reached from inside."""
    if not runtime.passes_sockets:
        raise SandboxUnavailableError(
            f"Under the runtime {runtime.name} no program reaches the gateway of network capabilities.",
            remedy="Add --host-uds=open to its runtimeArgs in /etc/docker/daemon.json, or use the runtime runc.",
            reason="network_unsupported",
        )
