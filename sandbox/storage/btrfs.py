"""The driver `btrfs`: one preallocated pool, and in it a subvolume with a quota group for each execution."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fumehood.domain.execution import MIB, Input, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import kernel
from sandbox import limits as translate
from sandbox.storage import btrfs_calls, disk, layout, mounts
from sandbox.storage.driver import Home, Volume
from sandbox.storage.loop import NO_LOOPS, PROGRAMS, attach_and_mount, make_file_system

SMALLEST_MIB = 128
_OPTIONS = "nodiscard,nodatacow,nobarrier,commit=5"
"""`nodiscard` keeps the pool preallocated; `nodatacow` lets a large file be overwritten in place."""
_SLACK = 64 * 1024
"""What an empty workspace takes, and the last piece that the kernel never hands out."""
_PATIENCE_S = 3.0
_COUNTERS = ("referenced", "rsv_data", "rsv_meta_pertrans", "rsv_meta_prealloc")
"""Together exact at once; the first alone lags by seconds."""
_TOP = "0_5"
"""The group of the pool's own top."""
_DEEPEST = 8
"""No tree is deeper. The kernel stops counting when one as deep as its threshold is dropped."""


class Btrfs:
    """One subvolume for each workspace."""

    name = "btrfs"
    mechanism = "btrfs: a subvolume with a quota group, in a preallocated pool"
    enforces = True

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file = home.folder / "pool.img"

    def missing(self) -> str:
        """Say why a pool cannot be made and mounted."""
        if shutil.which("mkfs.btrfs", path=PROGRAMS) is None:
            return "mkfs.btrfs is not installed (apt-get install btrfs-progs)"
        if "\tbtrfs\n" not in Path("/proc/filesystems").read_text(encoding="ascii"):
            return "this kernel has no btrfs (modprobe btrfs)"
        return "" if Path("/dev/loop-control").exists() else NO_LOOPS

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:
        """Make the subvolume and its limit, show it and fill it."""
        size = translate.storage_bytes(limits) + layout.held(layout.sizes(inputs)) + _SLACK
        with disk.locked(self._home.folder / disk.LOCK):
            self._open_pool()
            self._find_room(size)
            # Written first, so that whoever cleans up after a crash knows the name.
            self._note(volume.name).write_text(json.dumps({"bytes": size}), encoding="ascii")
            number = btrfs_calls.make_subvolume(self._home.pool, volume.name)
            btrfs_calls.limit(self._home.pool, number, size)
            self._check_counting()
        kernel.bind(self._home.pool / volume.name, volume.target, kernel.NOSUID | kernel.NODEV)
        layout.lay_out(volume.target, inputs, volume.uid)

    def gauge(self, volume: Volume) -> dict[str, Any]:
        """`statvfs` would tell of the whole pool; the quota group's own counters are exact at once."""
        size = int(json.loads(self._note(volume.name).read_text(encoding="ascii"))["bytes"])
        group = self._groups() / f"0_{btrfs_calls.number(volume.target)}"
        files = [str(group / name) for name in _COUNTERS]
        return {"kind": "counters", "files": files, "bytes": size, "free": size - _used(group)}

    def on_disk(self, name: str) -> int:  # noqa: ARG002 - all workspaces lie in the one file
        """The pool takes all its blocks at once."""
        return disk.taken(self._file)

    def remove(self, name: str) -> None:
        """Delete the subvolume."""
        if self._is_open():
            with suppress(FileNotFoundError):
                btrfs_calls.delete_subvolume(self._home.pool, name)
        self._note(name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Every workspace has a note beside the pool."""
        return {path.stem for path in self._home.folder.glob("*.btrfs")}

    def clear(self) -> None:
        """Give the pool back to the disk when no workspace is in it."""
        if not self._file.exists() and not self._home.pool.exists():
            return
        with disk.locked(self._home.folder / disk.LOCK):
            if not self.names():
                self._drop_pool()

    def _note(self, name: str) -> Path:
        return self._home.folder / f"{name}.btrfs"

    def _is_open(self) -> bool:
        return bool(kernel.mounts(self._home.pool))

    def _groups(self) -> Path:
        return Path("/sys/fs/btrfs") / btrfs_calls.uuid(self._home.pool) / "qgroups"

    def _open_pool(self) -> None:
        if self._is_open():
            if self.names() or self._is_counting():
                return
            self._drop_pool()
        # Left by a boot before this one, or half made: nothing in it is of use to anybody.
        self._file.unlink(missing_ok=True)
        disk.reserve(self._file, self._pool_bytes())
        try:
            self._home.pool.mkdir(mode=0o700, exist_ok=True)
            # Data and metadata share their blocks, so that neither runs out while the other has room.
            make_file_system(["mkfs.btrfs", "-q", "-f", "-K", "-M", "-m", "single", "-d", "single", str(self._file)])
            flags = kernel.NOSUID | kernel.NODEV | kernel.NOATIME
            attach_and_mount(self._home.locks, self._file, self._home.pool, "btrfs", flags, _OPTIONS)
            self._home.pool.chmod(0o700)
            self._start_counting()
        except BaseException:
            self._drop_pool()
            raise

    def _drop_pool(self) -> None:
        mounts.unmount(self._home.pool)
        self._file.unlink(missing_ok=True)
        with suppress(OSError):
            self._home.pool.rmdir()

    def _pool_bytes(self) -> int:
        if self._home.pool_mib:
            return self._home.pool_mib * MIB
        return max(SMALLEST_MIB, disk.room(self._home.folder) // 4 // MIB) * MIB

    def _start_counting(self) -> None:
        btrfs_calls.enable_quota(self._home.pool)
        threshold = self._groups() / "drop_subtree_threshold"
        if not threshold.exists():
            raise _no_quota("this kernel cannot be kept from giving up its count; 6.1 or newer is needed")
        threshold.write_text(str(_DEEPEST), encoding="ascii")
        deadline = time.monotonic() + _PATIENCE_S
        while _number(self._groups() / "inconsistent") and time.monotonic() < deadline:
            time.sleep(0.005)
        self._check_counting()

    def _is_counting(self) -> bool:
        groups = self._groups()
        return not _number(groups / "inconsistent") and _number(groups / "drop_subtree_threshold") == _DEEPEST

    def _check_counting(self) -> None:
        if not self._is_counting():
            raise _no_quota("the kernel gave up its count; it is made anew when the last execution has ended")

    def _find_room(self, size: int) -> None:
        """Keep the sum of all limits below the pool, with what is deleted and not yet given back."""
        whole = disk.taken(self._file)
        most = whole - max(32 * MIB, whole // 16)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            promised, deleted = self._promised()
            if size <= most - promised - deleted:
                return
            if size > most - promised or time.monotonic() > deadline:
                raise disk.no_room(size, most - promised - deleted, most, len(self.names()), self._file)
            # It wakes what gives back.
            btrfs_calls.sync(self._home.pool)
            time.sleep(0.02)

    def _promised(self) -> tuple[int, int]:
        """Return the limits of what lives, and what the deleted still takes; its group may stay for ever."""
        live = set()
        for path in self._home.pool.iterdir():
            # One that is deleted at this moment lives no more.
            with suppress(FileNotFoundError):
                live.add(btrfs_calls.number(path))
        promised = deleted = 0
        # To remove a group by hand would end the kernel's count.
        for group in self._groups().glob("0_*"):
            if int(group.name[2:]) in live:
                promised += _number(group / "max_referenced")
            elif group.name != _TOP:
                deleted += _used(group)
        return promised, deleted


def _used(group: Path) -> int:
    return sum(_number(group / name) for name in _COUNTERS)


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except OSError as error:
        # The group of what was deleted goes at any moment, also between opening and reading.
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise
        return 0


def _no_quota(why: str) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"The pool's quotas do not hold: {why}.", remedy="Set FUMEHOOD_STORAGE=loop.", reason="no_storage"
    )
