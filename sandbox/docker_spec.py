"""A spec as the container engine reads it: every limit and every lock, from plain values only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Limits, Spec
from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox import docker_runtime, seccomp
from sandbox import limits as translate
from sandbox.bubblewrap import PATH
from sandbox.docker_runtime import Runtime
from sandbox.egress import inside

LABEL = "fumehood"
GROUP = "box"
"""Between the control group that holds the limits and the engine's own one. A fork that is refused above counts here
for a moment, so this group's peak says, also after the end, whether any was refused."""
_GPU_VARIABLES = "NVIDIA_"
_MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug")),
    *(f"/proc/{name}" for name in ("scsi", "timer_list", "timer_stats")),
    "/sys",
)
_READ_ONLY = ("/proc", *(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")))
"""The whole of it: among a process's own files there is how willingly the kernel kills it when memory runs short."""
_ETC = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nexp:x:{uid}:{uid}:exp:/work:/bin/sh\n",
    "group": "root:x:0:\nexp:x:{uid}:\n",
    "resolv.conf": "# no network\n",
    "hosts": "127.0.0.1 localhost exp\n::1 localhost\n",
    "hostname": "exp\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What an execution gets from this machine: a user, a volume, an image, a control group."""

    installation: str
    image: str
    """The engine's id of the image."""
    uid: int
    volume: Path
    etc: Path
    cgroup_parent: str
    digest: str
    """Of the spec."""
    launched_at: float
    environment: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Made at the start, for places such as `/tmp` that an image cannot hold."""
    runtime: Runtime = docker_runtime.DEFAULT
    egress: Path | None = None
    """The folder of sockets, for those that have a way out."""


def check(spec: Spec) -> None:
    """Refuse what this adapter cannot hold."""
    if spec.limits.processes < translate.FEWEST_IN_CONTAINER:
        raise SandboxUnavailableError(
            f"The Docker sandbox cannot start a program inside a limit of {spec.limits.processes} processes.",
            remedy=f"Give it {translate.FEWEST_IN_CONTAINER} or more, or use --adapter local.",
            reason="too_few_processes",
        )
    if names := sorted(name for name in spec.environment if name.startswith(_GPU_VARIABLES)):
        # The GPU runtime reads them, and would pass in more than what is leased.
        raise BadInputError(f"The environment variable {names[0]} cannot be set; GPUs are asked for by their ids.")


def write_etc(folder: Path, uid: int) -> None:
    """Write the files of `/etc` that an execution sees."""
    for name, text in _ETC.items():
        place = folder / name
        place.write_text(text.format(uid=uid), encoding="utf-8")
        place.chmod(0o644)


def create(spec: Spec, place: Place) -> dict[str, Any]:
    """Return the body of the engine's call that creates the container."""
    return {
        "Image": place.image,
        "Entrypoint": [],
        "Cmd": command(spec, place.links),
        "Env": environment(spec, place.environment),
        "User": f"{place.uid}:{place.uid}",
        "Hostname": "exp",
        "WorkingDir": "/work",
        "Labels": labels(spec, place),
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": {
            **_isolation(place),
            **_limits(spec.limits, place.runtime),
            **_devices(spec),
            "Mounts": _mounts(spec, place),
        },
    }


def command(spec: Spec, links: Mapping[str, str]) -> list[str]:
    """Return the command in a shell: a missing program then fails as it does anywhere, and all output is one stream.

    A shell, and no Python: each start pays for it, about 1 ms instead of 10, and it is the image's own either way.
    """
    made = "".join(
        f"mkdir -p {shlex.quote(str(Path(link).parent))} && ln -s {shlex.quote(target)} {shlex.quote(link)}; "
        for link, target in sorted(links.items())
    )
    return ["/bin/sh", "-c", made + 'exec "$@" 2>&1', "sandbox", *inside.command(spec)]


def environment(spec: Spec, of_image: Mapping[str, str]) -> list[str]:
    """Return the whole environment; a name alone takes away what the engine would add."""
    told = {
        "PATH": PATH,
        "HOME": "/work",
        "LANG": "C.UTF-8",
        **of_image,
        **spec.environment,
        **inside.environment(spec),
    }
    return [*(f"{name}={value}" for name, value in told.items()), *(() if "HOSTNAME" in told else ("HOSTNAME",))]


def labels(spec: Spec, place: Place) -> dict[str, str]:
    """Return what the reaper and a person know a container by."""
    deadline = datetime.fromtimestamp(place.launched_at + spec.limits.wall_s, tz=UTC).isoformat(timespec="seconds")
    return {
        **{f"{LABEL}.{name}": value for name, value in spec.labels.items()},
        f"{LABEL}.installation": place.installation,
        f"{LABEL}.name": spec.name,
        f"{LABEL}.kind": str(spec.kind),
        f"{LABEL}.fence": str(spec.fence),
        f"{LABEL}.deadline": deadline,
        f"{LABEL}.spec": place.digest,
    }


@cache
def seccomp_profile() -> str:
    """Return our system call filter as the engine takes it."""
    return json.dumps(seccomp.docker_profile())


def _isolation(place: Place) -> dict[str, Any]:
    return {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "CgroupParent": place.cgroup_parent,
        "MaskedPaths": list(_MASKED),
        "ReadonlyPaths": list(_READ_ONLY),
        "Init": True,
        # What came of it must outlast the container's end, and a restart would be a second execution.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "OomScoreAdj": translate.OOM_SCORE,
        "Runtime": place.runtime.name,
    }


def _limits(limits: Limits, runtime: Runtime) -> dict[str, Any]:
    memory, tmp = translate.memory_bytes(limits), translate.tmp_bytes(limits)
    sizes = {name.lower(): value for name, value in translate.rlimits(limits).items()}
    return {
        "Memory": memory,
        "MemorySwap": memory,
        # The hard limit stands two control groups further up, where its events can be seen.
        "PidsLimit": runtime.tasks(limits.processes) + translate.SPARE_TASKS,
        "CpuPeriod": translate.CPU_PERIOD_US,
        "CpuQuota": translate.cpu_quota_us(limits),
        "ShmSize": translate.shared_memory_bytes(limits),
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,size={tmp},mode=1777"},  # noqa: S108 - the execution's own
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in sizes.items()],
        # `json-file` would replace every byte that is not UTF-8.
        "LogConfig": {
            "Type": "local",
            # The first bytes are copied while it runs, so what rotates away was read long before.
            "Config": {"max-size": f"{translate.log_mib(limits)}m", "max-file": "2", "compress": "false"},
        },
    }


def _mounts(spec: Spec, place: Place) -> list[dict[str, Any]]:
    shown = [(place.volume / "work", "/work", False), (place.volume / "in", "/in", True)]
    shown += [(place.etc / name, f"/etc/{name}", True) for name in _ETC]
    if spec.has_data:
        # A bind and no link: the image is read-only, and has no such place.
        shown.append((place.volume / "work" / "data", "/data", False))
    if place.egress:
        shown.append((place.egress, inside.FOLDER, True))
    return [
        {
            "Type": "bind",
            "Source": str(source),
            "Target": target,
            "ReadOnly": read_only,
            "BindOptions": {"Propagation": "rprivate"},
        }
        for source, target, read_only in shown
    ]


def _devices(spec: Spec) -> dict[str, Any]:
    if not spec.gpus:
        return {}
    # Always by id: a count would also take what is leased to others.
    request = {"Driver": "", "Count": 0, "DeviceIDs": list(spec.gpus), "Capabilities": [["gpu"]], "Options": {}}
    return {"DeviceRequests": [request]}
