"""What the weakened adapters are made of: looser filters, limits, rules of intake, and what is shown of the host."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fumehood.domain.execution import Spec
from sandbox import cgroups, intake, seccomp

if TYPE_CHECKING:
    from sandbox.cgroups import Hierarchy
    from tests.escape.weakened import Weakness

FOREIGN = "seccomp:foreign table"
_ALLOW_ALL = bytes([6, 0, 0, 0]) + (0x7FFF0000).to_bytes(4, "little")
"""One instruction: return SECCOMP_RET_ALLOW."""


class LooseRules(intake.Rules):
    """The rules of intake without some of them."""

    def __init__(self, off: set[str]) -> None:
        self._off = off

    def look(self, folder: int, raw: bytes) -> os.stat_result:
        """Follow links, where that rule is off."""
        if "links" not in self._off:
            return super().look(folder, raw)
        return os.stat(raw, dir_fd=folder)

    def open_folder(self, folder: int, raw: bytes) -> int:
        """Follow links, where that rule is off."""
        if "links" not in self._off:
            return super().open_folder(folder, raw)
        return os.open(raw, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)

    def open_file(self, folder: int, raw: bytes) -> int:
        """Follow links, where that rule is off."""
        if "links" not in self._off:
            return super().open_file(folder, raw)
        return os.open(raw, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)

    def bad_kind(self, found: os.stat_result) -> str:
        """Take pipes for files, where that rule is off."""
        return "" if "kinds" in self._off and stat.S_ISFIFO(found.st_mode) else super().bad_kind(found)

    def bad_place(self, found: os.stat_result, device: int) -> str:
        """Enter other file systems, where that rule is off."""
        return "" if "file systems" in self._off else super().bad_place(found, device)

    def bad_name(self, name: str, path: str, caps: intake.Caps) -> str:
        """Take any name, where that rule is off."""
        return "" if "names" in self._off else super().bad_name(name, path, caps)

    def bad_links(self, found: os.stat_result) -> str:
        """Take files with several names, where that rule is off."""
        return "" if "hard links" in self._off else super().bad_links(found)

    def bad_size(self, found: os.stat_result) -> str:
        """Take files full of holes, where that rule is off."""
        return "" if "sparse" in self._off else super().bad_size(found)

    def fold(self, path: str) -> str:
        """Tell upper from lower case, where that rule is off."""
        return path if "case" in self._off else super().fold(path)


def swap(told: Sequence[str], old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the arguments with one run of them replaced, or raise when it is not there."""
    words = list(old)
    for at in range(len(told) - len(words) + 1):
        if list(told[at : at + len(words)]) == words:
            return [*told[:at], *new, *told[at + len(words) :]]
    raise ValueError(f"no {' '.join(words)} among the arguments of bwrap")


def shown(weakness: Weakness) -> list[tuple[Path, str]]:
    """Return what of the host is visible inside, place on the host and place inside."""
    house = weakness.house
    found: list[tuple[Path, str]] = []
    if weakness.lacks("host folders"):
        found += [(folder, str(folder)) for folder in weakness.folders]
    if weakness.lacks("no engine socket"):
        # The image has /var/run as a link to /run.
        found.append((house / "engine", "/run"))
    if weakness.lacks("control groups"):
        found.append((cgroups.ROOT, str(cgroups.ROOT)))
    if weakness.lacks("no devices"):
        found += [(house / "device", place) for place in ("/dev/kvm", "/dev/nvidia0")]
    if weakness.lacks("read-only packages"):
        found.append((house / "packages", "/usr/lib/python3/dist-packages"))
    if weakness.lacks("packages of the image"):
        found.append((house / "foreign", "/lab/foreign"))
    return found


def environment(weakness: Weakness) -> dict[str, str]:
    """Return the variables that should not be there."""
    found = dict(weakness.environment) if weakness.lacks("environment") else {}
    if weakness.lacks("packages of the image"):
        found["PYTHONPATH"] = "/lab/foreign"
    return found


def unlimit(groups: Hierarchy, installation: str, spec: Spec, kind: str) -> None:
    """Take one kind of limit off an execution's control group."""
    # Memory with swap first, which can never be below memory alone.
    for path, value in reversed(cgroups._settings(groups, installation, spec.name, spec.limits)):
        if path.name.startswith(kind) and not path.name.endswith("period_us"):
            none = "max" if groups.version == 2 or kind == "pids." else "-1"
            path.write_text(" ".join([none, *value.split()[1:]]), encoding="ascii")


def own(folder: Path, user: int, group: int) -> None:
    """Give a folder and all in it to a user."""
    for place in (folder, *folder.rglob("*")):
        os.chown(place, user, group, follow_symlinks=False)


def program(rules: tuple[seccomp.Rule, ...], *, foreign: bool) -> bytes:
    """Return a filter of fewer rules; one that lets another architecture's table through lets all through."""
    return _ALLOW_ALL if foreign else seccomp.program(rules)


def profile(rules: tuple[seccomp.Rule, ...], *, foreign: bool) -> dict[str, Any]:
    """Return the same for container engines."""
    told = seccomp.docker_profile(rules)
    if foreign:
        told["archMap"] = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}]
    return told


class Segment:
    """Shared memory of System V on the host, which anybody may attach."""

    SIZE, CREATE, REMOVE = 4096, 0o1666, 0

    def __init__(self) -> None:
        self.key = secrets.randbits(30) + 1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.shmat.restype = ctypes.c_void_p
        self._number = self._libc.shmget(self.key, self.SIZE, self.CREATE)
        place = self._libc.shmat(self._number, None, 0)
        ctypes.memmove(place, b"canary", 6)
        self._libc.shmdt(ctypes.c_void_p(place))

    def close(self) -> None:
        """Remove it."""
        self._libc.shmctl(self._number, self.REMOVE, None)


def listen(place: Path) -> socket.socket:
    """Open a Unix socket where an engine's would be."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(place))
    place.chmod(0o666)
    made.listen()
    return made
