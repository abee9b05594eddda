"""The container engine of this machine: reached, found fit, and what it leaves behind in the control groups."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import requests  # deptry: ignore[DEP003]

from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, docker_promises

CONNECT_S, HASTY_S, ANSWER_S, CALL_S, IMPORT_S = 2, 5, 20, 120, 1800
"""A busy engine takes a connection at once, and its time over an answer."""
OLDEST_API = "1.41"
ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException)
"""Everything that a call to the engine raises."""
_UNKNOWN_GPU = ("device error", "unresolvable CDI devices")
"""How NVIDIA's toolkit, which is there then, says that it knows no device of that name."""
_NO_GPU = ("could not select device driver", "Unknown runtime specified nvidia", "nvidia-container-cli", *_UNKNOWN_GPU)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answered: its client, and the socket that supervisors speak to."""

    client: Any
    socket: str
    runtimes: Mapping[str, Any] = field(default_factory=dict)
    """Those that it reports, with their arguments."""

    @property
    def version(self) -> str:
        """The version of its interface that is spoken."""
        return str(self.client.api_version)

    def hasty(self) -> Any:
        """Return a client that waits only as long as an engine that is well needs."""
        return _client(f"unix://{self.socket}", self.version, HASTY_S)

    def require(self) -> None:
        """Return where the engine answers; else raise that, which may be the reason of what failed just now."""
        try:
            self.hasty().ping()
        except ERRORS as error:
            raise unavailable(error) from error

    def patient(self) -> Any:
        """Return a client that waits as long as an import takes."""
        return _client(f"unix://{self.socket}", self.version, IMPORT_S)


def connect() -> Engine:
    """Return the engine of this machine, or raise with what is missing."""
    place = str(docker.utils.kwargs_from_env().get("base_url") or "unix:///var/run/docker.sock")
    if not place.startswith(("unix://", "http+unix://")):
        raise SandboxUnavailableError(
            f"The Docker engine at {place} is not on this machine, where the volumes are.",
            remedy="Unset DOCKER_HOST, or use --adapter local.",
            reason="no_docker",
        )
    path = "/" + place.partition("://")[2].lstrip("/")
    try:
        # Tried by hand first: the client leaves its socket open when nobody listens.
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(CONNECT_S)
            attempt.connect(path)
        client = _client(place, "auto", ANSWER_S)
        info = client.info()
    except (OSError, *ERRORS) as error:
        raise SandboxUnavailableError(
            "The Docker engine does not answer.",
            remedy="Install it with: apt-get install docker.io; start it; or use --adapter local.",
            reason="no_docker",
        ) from error
    if docker.utils.version_lt(client.api_version, OLDEST_API):
        raise SandboxUnavailableError(
            f"The Docker engine is too old: it speaks version {client.api_version}, and {OLDEST_API} is needed.",
            remedy="Install Docker 20.10 or newer.",
            reason="engine_unfit",
        )
    docker_promises.check_engine(info)
    client.timeout = CALL_S
    return Engine(client, path, dict(info.get("Runtimes") or {}))


def _client(place: str, version: str, timeout_s: float) -> Any:
    client = docker.APIClient(base_url=place, version=version, timeout=timeout_s)
    # A connection that is kept would be a dead one after the engine was restarted, and costs nothing to make anew.
    client.headers["Connection"] = "close"
    return client


def unavailable(error: Exception) -> SandboxUnavailableError:
    """Return our own error for one of the engine's."""
    if isinstance(error, docker.errors.APIError):
        said = str(error.explanation or error)
        if is_no_gpu(said):
            return no_gpu(said)
        # It says so of what it cannot do at all, too, but also of all that comes while it starts or stops.
        reason = "engine_failed" if error.is_server_error() else "engine_refused"
        return SandboxUnavailableError(f"The Docker engine refused: {said}", reason=reason)
    return SandboxUnavailableError(
        "The Docker engine does not answer.", remedy="Look into its log, and start it again.", reason="no_docker"
    )


def is_no_gpu(said: str) -> bool:
    """Tell whether the engine says that it has no way to pass a GPU."""
    return any(sign in said for sign in _NO_GPU)


def no_gpu(said: str) -> SandboxUnavailableError:
    """Return the error for an engine that cannot pass a GPU, or not the one that was asked for."""
    if any(sign in said for sign in _UNKNOWN_GPU):
        return SandboxUnavailableError(
            "The Docker engine has no GPU of a name that FUMEHOOD_GPUS gives: it was never there, or is there no more.",
            remedy="Name those that `nvidia-smi -L` lists.",
            reason="gpu_missing",
        )
    return SandboxUnavailableError(
        "The Docker engine cannot pass a GPU into a container.",
        remedy="Install the NVIDIA container toolkit and run: nvidia-ctk runtime configure --runtime=docker",
        reason="gpu_runtime_missing",
    )


def every_hierarchy(groups: cgroups.Hierarchy | None) -> cgroups.Hierarchy | None:
    """Return all control group hierarchies of this machine: the engine leaves folders in each of them."""
    if groups is None or groups.version == 2:
        return groups
    folders = [path for path in cgroups.ROOT.iterdir() if (path / "cgroup.procs").exists()]
    return cgroups.Hierarchy(1, {**groups.folders, **{path.name: path.resolve() for path in folders}})


def make_below(groups: cgroups.Hierarchy, installation: str, name: str, child: str) -> None:
    """Make a control group without limits of its own inside an execution's, in each hierarchy."""
    for root in groups.roots:
        (root / cgroups.TOP / installation / name / child).mkdir(exist_ok=True)


def remove_below(groups: cgroups.Hierarchy, installation: str, name: str, patience_s: float = 5.0) -> None:
    """Remove the control groups inside an execution's, deepest first, as the processes in them die."""
    deadline = time.monotonic() + patience_s
    for root in groups.roots:
        found = [Path(parent) for parent, _, _ in os.walk(root / cgroups.TOP / installation / name)]
        for group in sorted(found[1:], key=lambda path: -len(path.parts)):
            _remove(group, deadline)


def _remove(group: Path, deadline: float) -> None:
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return
