"""What the Docker adapter holds here, promise by promise, and which engines it refuses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fumehood.domain.execution import Capability
from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, docker_runtime, machine, uids
from sandbox.docker_runtime import Runtime

MECHANISMS = {
    "S1": "--network none: an empty network namespace, own resolv.conf",
    "S2": "a gateway for each execution, on a unix socket in a folder mounted read-only; named capabilities, "
    "paths and queries from a list, GET only",
    "S3": "memory cgroup, swap equal",
    "S4": "pids cgroup",
    "S5": "read-only root; RLIMIT_FSIZE",
    "S6": "deadline in a detached supervisor; SIGKILL of the pid namespace's first process",
    "S7": "rotated log of the engine; the supervisor's capped copy, read without ever blocking",
    "S8": "an unused host uid for each execution; no capabilities, no-new-privileges, own seccomp profile, a curated "
    "image without setuid programs, /sys masked",
    "S9": "environment from an allow-list; nothing of the host but five files of /etc written for the execution",
    "S10": "volume remounted ro,nosymfollow after exit; walked with O_NOFOLLOW; regular files under globs, capped",
    "S11": "/in is read-only and root's; its hashes are checked again after the run",
    "S12": "no GPU device but those leased, asked for by device id; refused where the engine has no GPU runtime",
    "S13": "labelled with the installation and the execution; reaper",
    "S14": "intent stored, supervisor woken, first process killed",
    "S15": "no network, read-only root",
    "S16": "own pid, ipc, net, uts, mount and cgroup namespaces; a uid of its own",
}
NOT_HELD: dict[str, str] = {}


def check_engine(info: Mapping[str, Any]) -> None:
    """Refuse an engine under which our promises would not hold."""
    options = " ".join(str(option) for option in info.get("SecurityOptions") or ())
    if "rootless" in options or "name=userns" in options:
        raise SandboxUnavailableError(
            "The Docker engine runs in a user namespace, where the host users of our executions do not exist.",
            remedy="Use an engine without rootless mode and userns-remap, or --adapter local.",
            reason="engine_unfit",
        )
    if info.get("CgroupDriver") != "cgroupfs":
        raise SandboxUnavailableError(
            f"The Docker engine keeps its control groups by {info.get('CgroupDriver')}, and ours are not its to use.",
            remedy='Set "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json, or use '
            "--adapter local.",
            reason="engine_unfit",
        )
    if "seccomp" not in options:
        raise SandboxUnavailableError(
            "The Docker engine filters no system calls.", remedy="Use --adapter local.", reason="engine_unfit"
        )


def lacks(hierarchy: cgroups.Hierarchy | None) -> list[machine.Lack]:
    """Return what keeps the Docker adapter from holding its promises here; empty on a fit machine."""
    if os.geteuid() != 0:
        why = "Volumes and control groups need root."
        return [machine.Lack("no_root", why, "Run it with sudo.", tuple(MECHANISMS))]
    found = []
    if why := uids.missing():
        sentence = f"No unused host user can be taken on: {why}."
        found.append(machine.Lack("no_uid", sentence, "Start it outside that namespace.", ("S8", "S16")))
    if why := cgroups.missing(hierarchy):
        remedy = "Start it where root may write control groups (in a container: --cgroupns host, /sys/fs/cgroup rw)."
        sentence = f"Control groups cannot be used: {why}."
        found.append(machine.Lack("no_cgroup", sentence, remedy, ("S3", "S4", "S6", "S14")))
    return found


def require(hierarchy: cgroups.Hierarchy | None) -> cgroups.Hierarchy:
    """Raise for the first thing that is missing; the control groups to use."""
    for lack in lacks(hierarchy):
        raise SandboxUnavailableError(lack.sentence, remedy=lack.remedy, reason=lack.reason)
    assert hierarchy is not None, "its absence is a lack"  # noqa: S101 - narrows the type
    return hierarchy


def capabilities(
    hierarchy: cgroups.Hierarchy | None, runtime: Runtime = docker_runtime.DEFAULT
) -> tuple[Capability, ...]:
    """Return every promise with what holds it here, or why nothing does."""
    mechanisms, missing = runtime.mechanisms(MECHANISMS), dict(NOT_HELD)
    for lack in lacks(hierarchy):
        for promise in lack.promises:
            missing.setdefault(promise, f"{lack.sentence} {lack.remedy}".strip())
    version = f" (v{hierarchy.version})" if hierarchy else ""
    found = []
    for promise in sorted({*MECHANISMS, *NOT_HELD}, key=lambda name: int(name[1:])):
        mechanism = mechanisms.get(promise, "") + (version if promise in {"S3", "S4"} else "")
        told = missing.get(promise, mechanism)
        found.append(Capability(promise=promise, held=promise not in missing, mechanism=told))
    return tuple(found)
