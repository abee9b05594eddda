"""What an installation has on this machine, seen from outside: the leak counter of a test and of the whole session."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, docker_engine, docker_spec, kernel, uids

RUN_DIR = Path("/run/fumehood")
PATIENCE_S = 30.0


def identity(state_dir: Path) -> str:
    """Return the id that everything of an installation carries."""
    return (state_dir / "installation").read_text(encoding="ascii").strip()


def left(state_dir: Path) -> dict[str, list[str]]:
    """Return everything of an installation that is outside its state folder, by kind; nothing when all is gone."""
    name, groups = identity(state_dir), cgroups.find()
    folder = RUN_DIR / name
    found = {
        "run": [str(path) for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else [],
        "mounts": [str(mount.target) for mount in kernel.mounts(folder)],
        "loops": [str(device) for device in kernel.loops(state_dir)],
        "cgroups": sorted(cgroups.names(groups, name)) if groups else [],
        "uids": sorted(uids.claims(RUN_DIR, name)),
        "processes": _processes(state_dir),
        "containers": _containers(name),
    }
    return {kind: things for kind, things in found.items() if things}


def recorded(state_dir: Path) -> dict[str, list[str]]:
    """Return what stands of executions inside the state folder."""
    folders = [state_dir / "executions", state_dir / "volumes"]
    found = [str(path) for place in folders if place.is_dir() for path in place.iterdir() if path.name != ".lock"]
    return {"state": found} if found else {}


def left_by_all(below: Path, patience_s: float = PATIENCE_S) -> dict[str, dict[str, list[str]]]:
    """Return what the installations with their state below a folder have left, once the dying had time to die."""
    states = [place.parent for place in below.rglob("installation") if place.is_file()]
    _settle(lambda: not any(left(state) for state in states), patience_s)
    return {str(state): found for state in states if (found := left(state))}


def remove_empty_run_folders(below: Path) -> None:
    """Take away the folders under /run that installations keep as long as they live."""
    for place in below.rglob("installation"):
        with suppress(OSError):
            (RUN_DIR / identity(place.parent)).rmdir()


def processes_of(uid: int) -> list[str]:
    """Return the living processes that a host user has, by number and name."""
    found = []
    for entry in _numbers():
        with suppress(OSError):
            if entry.stat().st_uid == uid:
                name, _, rest = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
                # A dead one is listed until whoever adopted it has asked for its end.
                if rest.split()[0] not in {"Z", "X"}:
                    found.append(f"{name})")
    return found


def _settle(holds: Callable[[], bool], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def _numbers() -> Iterable[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _processes(state_dir: Path) -> list[str]:
    found = []
    for entry in _numbers():
        if int(entry.name) != os.getpid():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(state_dir) in line:
                    found.append(line)
    return found


_clients: list[Any] = []


def _containers(name: str) -> list[str]:
    if not _clients:
        try:
            _clients.append(docker_engine.connect().client)
        except SandboxUnavailableError:
            return []
    chosen = {"label": f"{docker_spec.LABEL}.installation={name}"}
    try:
        return [str(one["Names"][0]) for one in _clients[0].containers(all=True, filters=chosen)]
    except docker_engine.ERRORS:
        _clients.clear()
        raise
