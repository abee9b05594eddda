"""The driver `xfs`: a folder on the state's own XFS for each execution, limited by project quota.

The project's number is the execution's host user, which no other execution of this host has.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Input, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import kernel
from sandbox import limits as translate
from sandbox.storage import disk, layout, plain
from sandbox.storage.driver import Home, Volume
from sandbox.storage.loop import statvfs_gauge

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_INHERIT = 0x200
_PROJECT = 2
_SET_LIMIT = (0x5804 << 8) | _PROJECT
_HARD = 2 | 8
_SECTOR = 512
_SLACK = 64 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Xfs:
    """One folder with a project of its own for each workspace."""

    name = "xfs"
    mechanism = "xfs: project quota on bytes and files"
    enforces = True

    def __init__(self, home: Home) -> None:
        self._home = home

    def missing(self) -> str:
        """Say why the state folder's disk has no project quota."""
        kind, options = kernel.file_system(self._home.folder.parent)
        if kind != "xfs":
            return f"the state folder lies on {kind}, not on xfs"
        if not {"prjquota", "pquota"} & set(options):
            return "the state folder's xfs is not mounted with prjquota"
        return ""

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:
        """Make the folder, give it its project and limit, show it and fill it."""
        sizes = layout.sizes(inputs)
        size = translate.storage_bytes(limits) + layout.held(sizes) + _SLACK
        folder = self._folder(volume.name)
        with disk.locked(self._home.folder / disk.LOCK):
            self._find_room(size)
            self._note(volume.name).write_text(json.dumps({"bytes": size, "project": volume.uid}), encoding="ascii")
        folder.mkdir(mode=0o711)
        try:
            set_project(folder, volume.uid)
            self._limit(volume.uid, size, translate.inodes(limits) + 2 * len(inputs))
        except OSError as error:
            raise SandboxUnavailableError(
                f"No project quota can be set on {self._home.folder} ({error.strerror}).",
                remedy="Mount it with prjquota on a kernel that has XFS quota, or set FUMEHOOD_STORAGE=loop.",
                reason="no_storage",
            ) from error
        kernel.bind(folder, volume.target, kernel.NOSUID | kernel.NODEV)
        layout.lay_out(volume.target, inputs, volume.uid)

    def gauge(self, volume: Volume) -> dict[str, Any]:
        """Under a project, `statvfs` tells of the quota."""
        return statvfs_gauge(volume.target)

    def on_disk(self, name: str) -> int:
        """Count what lies in the folder."""
        return plain.tree_bytes(self._folder(name))

    def remove(self, name: str) -> None:
        """Delete the folder, and lift the project's limit for whoever has its number next."""
        shutil.rmtree(self._folder(name), ignore_errors=True)
        # A limit that stays keeps nobody out: the number's next owner sets its own.
        with suppress(OSError):
            self._limit(int(self._told(name)["project"]), 0, 0)
        self._note(name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Every workspace has a note beside its folder."""
        return {path.stem for path in self._home.folder.glob("*.xfs")}

    def clear(self) -> None:
        """Workspaces share nothing."""

    def _folder(self, name: str) -> Path:
        return self._home.folder / f"{name}.project"

    def _note(self, name: str) -> Path:
        return self._home.folder / f"{name}.xfs"

    def _told(self, name: str) -> dict[str, int]:
        told: dict[str, int] = json.loads(self._note(name).read_text(encoding="ascii"))
        return told

    def _find_room(self, size: int) -> None:
        """Keep the sum of all limits below the disk: what others may yet take is not free."""
        free, names = disk.room(self._home.folder), self.names()
        for name in names:
            with suppress(FileNotFoundError):
                free -= max(0, self._told(name)["bytes"] - self.on_disk(name))
        if size > free:
            raise disk.no_room(size, free, disk.whole(self._home.folder), len(names), self._home.folder)

    def _limit(self, project: int, size: int, files: int) -> None:
        # struct fs_disk_quota: of all its fields only the two hard limits, in sectors and in files, are set.
        quota = struct.pack("=bbHIQQQQ", 1, _PROJECT, _HARD, project, size // _SECTOR, 0, files, 0).ljust(112, b"\0")
        device = kernel.device(self._home.folder)
        if _libc.quotactl(_SET_LIMIT, os.fsencode(device), project, quota):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(device))


def set_project(folder: Path, project: int) -> None:
    """Give a folder, and all that will be made in it, a project."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        told = bytearray(28)
        fcntl.ioctl(descriptor, _GET_ATTRIBUTES, told)
        flags, *rest, _, extent = struct.unpack_from("=5I", told)
        struct.pack_into("=5I", told, 0, flags | _INHERIT, *rest, project, extent)
        fcntl.ioctl(descriptor, _SET_ATTRIBUTES, told)
    finally:
        os.close(descriptor)


def project_of(path: Path) -> int:
    """Return the project of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = bytearray(28)
        fcntl.ioctl(descriptor, _GET_ATTRIBUTES, told)
        return int(struct.unpack_from("=5I", told)[3])
    finally:
        os.close(descriptor)
