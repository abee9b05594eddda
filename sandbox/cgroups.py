"""Control groups of both versions: made, limited, read and killed as `/fh/<installation>/<execution>`."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import limits as translate

ROOT = Path("/sys/fs/cgroup")
TOP = "fh"
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where this machine keeps its control groups, and which version they are."""

    version: int
    folders: Mapping[str, Path]
    """Controller to the top of its hierarchy; all the same in version 2."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """Each hierarchy's top, once."""
        return tuple(dict.fromkeys(self.folders.values()))


def find(root: Path = ROOT) -> Hierarchy | None:
    """Return the hierarchy that carries all controllers we need, or None."""
    if (root / "cgroup.controllers").exists():
        held = (root / "cgroup.controllers").read_text(encoding="ascii").split()
        if set(_V2_CONTROLLERS) <= set(held):
            return Hierarchy(2, dict.fromkeys(CONTROLLERS, root))
        return None
    folders = {}
    for name in CONTROLLERS:
        for folder in (root / name, root / "cpu,cpuacct", root / "cpuacct,cpu"):
            if name in folder.name.split(",") and (folder / "cgroup.procs").exists():
                folders[name] = folder.resolve()
                break
        else:
            return None
    return Hierarchy(1, folders)


def missing(hierarchy: Hierarchy | None) -> str:
    """Say why control groups cannot be used here, or return an empty string."""
    if hierarchy is None:
        return f"no memory, pids, cpu and cpuacct controllers below {ROOT}"
    try:
        for root in hierarchy.roots:
            (root / TOP).mkdir(exist_ok=True)
        if hierarchy.version == 2:
            _delegate(hierarchy.roots[0])
            _delegate(hierarchy.roots[0] / TOP)
        elif not (hierarchy.folders["memory"] / "memory.memsw.limit_in_bytes").exists() and _has_swap():
            return "this kernel does not count swap (boot it with swapaccount=1, or switch swap off)"
    except OSError as error:
        return f"{error.filename or hierarchy.roots[0]}: {error.strerror}"
    return ""


def make(hierarchy: Hierarchy, installation: str, name: str, limits: Limits) -> None:
    """Make the group of an execution and set every limit, or raise."""
    try:
        for root in hierarchy.roots:
            _make_folder(hierarchy, root, installation, name)
        for path, value in _settings(hierarchy, installation, name, limits):
            path.write_text(value, encoding="ascii")
    except OSError as error:
        remove(hierarchy, installation, name)
        raise SandboxUnavailableError(
            f"The limits on memory, processes and CPU cannot be set ({error.filename}: {error.strerror}).",
            remedy="Start it as root on a host whose control groups may be written.",
            reason="no_cgroup",
        ) from error


def gauges(hierarchy: Hierarchy, installation: str, name: str) -> dict[str, Any]:
    """Return, as plain data, the files to join by and to read; the shim needs nothing else."""
    at = {key: root / TOP / installation / name for key, root in hierarchy.folders.items()}
    join = [str(root / TOP / installation / name / "cgroup.procs") for root in hierarchy.roots]
    if hierarchy.version == 2:
        folder = at["memory"]
        return {
            "join": join,
            "kill": str(folder / "cgroup.kill"),
            "oom": [str(folder / "memory.events"), "oom_kill"],
            "forks": [str(folder / "pids.events"), "max"],
            "cpu": [str(folder / "cpu.stat"), "usage_usec", 1e-6],
            "memory": [str(folder / "memory.stat"), ["anon", "shmem"]],
            "peak": str(folder / "memory.peak"),
        }
    return {
        "join": join,
        "kill": "",
        "oom": [str(at["memory"] / "memory.oom_control"), "oom_kill"],
        "forks": [str(at["pids"] / "pids.events"), "max"],
        "cpu": [str(at["cpuacct"] / "cpuacct.usage"), "", 1e-9],
        "memory": [str(at["memory"] / "memory.stat"), ["total_rss", "total_shmem"]],
        "peak": str(at["memory"] / "memory.max_usage_in_bytes"),
    }


def members(hierarchy: Hierarchy, installation: str, name: str) -> list[int]:
    """Return the processes in the group."""
    found: set[int] = set()
    for root in hierarchy.roots:
        try:
            text = (root / TOP / installation / name / "cgroup.procs").read_text(encoding="ascii")
        except OSError as error:
            # A group that goes away between opening and reading is said to be no device.
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV}:
                raise
        else:
            found.update(int(word) for word in text.split())
    return sorted(found - {0})


def kill(hierarchy: Hierarchy, installation: str, name: str, patience_s: float = 5.0) -> bool:
    """Kill the whole tree and wait until it is gone; whether it is."""
    deadline = time.monotonic() + patience_s
    part = f"/{TOP}/{installation}/{name}"
    while pids := members(hierarchy, installation, name):
        if hierarchy.version == 2:
            with suppress(OSError):
                (hierarchy.roots[0] / TOP / installation / name / "cgroup.kill").write_text("1", encoding="ascii")
        for pid in pids:
            _kill_member(pid, part)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def remove(hierarchy: Hierarchy, installation: str, name: str, patience_s: float = 5.0) -> bool:
    """Remove the group, and the installation's own once it is empty; whether nothing is left of it."""
    deadline = time.monotonic() + patience_s
    for root in hierarchy.roots:
        folder = root / TOP / installation / name
        while folder.exists():
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                # A dead process leaves its group a moment after it was reaped.
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
        with suppress(OSError):
            folder.parent.rmdir()
    return True


def names(hierarchy: Hierarchy, installation: str) -> set[str]:
    """Return the executions of an installation that have a group."""
    found: set[str] = set()
    for root in hierarchy.roots:
        # It goes with its last execution, at any moment.
        with suppress(FileNotFoundError):
            found.update(path.name for path in (root / TOP / installation).iterdir() if path.is_dir())
    return found


def _make_folder(hierarchy: Hierarchy, root: Path, installation: str, name: str) -> None:
    top = root / TOP / installation
    for last in (False, False, True):
        try:
            top.mkdir(parents=True, exist_ok=True)
            if hierarchy.version == 2:
                for folder in (root, root / TOP, top):
                    _delegate(folder)
            (top / name).mkdir(exist_ok=True)
            return
        except FileNotFoundError:
            # The installation's last execution before this one was removed in between, and its folder with it.
            if last:
                raise


def _settings(hierarchy: Hierarchy, installation: str, name: str, limits: Limits) -> list[tuple[Path, str]]:
    at = {key: root / TOP / installation / name for key, root in hierarchy.folders.items()}
    memory, tasks = str(translate.memory_bytes(limits)), str(translate.tasks(limits))
    quota, period = str(translate.cpu_quota_us(limits)), str(translate.CPU_PERIOD_US)
    if hierarchy.version == 2:
        found = [
            (at["memory"] / "memory.max", memory),
            (at["pids"] / "pids.max", tasks),
            (at["cpu"] / "cpu.max", f"{quota} {period}"),
        ]
        if (at["memory"] / "memory.swap.max").exists():
            found.append((at["memory"] / "memory.swap.max", "0"))
        return found
    found = [(at["memory"] / "memory.limit_in_bytes", memory)]
    if (at["memory"] / "memory.memsw.limit_in_bytes").exists():
        # Memory with swap can never be below memory alone, so this comes second.
        found.append((at["memory"] / "memory.memsw.limit_in_bytes", memory))
    return [
        *found,
        (at["pids"] / "pids.max", tasks),
        (at["cpu"] / "cpu.cfs_period_us", period),
        (at["cpu"] / "cpu.cfs_quota_us", quota),
    ]


def _delegate(folder: Path) -> None:
    control = folder / "cgroup.subtree_control"
    lacking = set(_V2_CONTROLLERS) - set(control.read_text(encoding="ascii").split())
    if lacking:
        control.write_text(" ".join(f"+{name}" for name in sorted(lacking)), encoding="ascii")


def _has_swap() -> bool:
    return len(Path("/proc/swaps").read_text(encoding="ascii").splitlines()) > 1


def _kill_member(pid: int, part: str) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in {errno.ESRCH, errno.EINVAL}:
            return
        raise
    try:
        # The number may have passed to another process since it was read; the descriptor cannot.
        if part in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
    finally:
        os.close(descriptor)
