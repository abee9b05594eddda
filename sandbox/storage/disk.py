"""The host's disk: what of it can still be promised, and whose fault it is when that is too little."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fumehood.domain.execution import MIB
from fumehood.errors import SandboxUnavailableError
from sandbox import kernel

RESERVE = 64 * MIB
"""What the host's disk always keeps for itself."""
FULL = {errno.ENOSPC, errno.EDQUOT}
LOCK = ".lock"


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold a lock file, so that no room is promised twice."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def reserve(file: Path, size: int) -> None:
    """Take a file's blocks from the disk at once; where that is impossible, count what others may yet take.

    What lies beside it belongs to other volumes of this installation, and comes back when they end.
    """
    free = room(file.parent)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if size <= free:
            if kernel.preallocate(descriptor, size):
                return
            promised = sum(_promised(other) for other in file.parent.iterdir())
            if size + promised <= free:
                os.ftruncate(descriptor, size)
                return
            free -= promised
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)
    file.unlink()
    others = sum(taken(other) for other in file.parent.iterdir())
    raise no_room(size, free, whole(file.parent), others, file.parent)


def room(folder: Path) -> int:
    """Return how much of a disk can be promised."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize - RESERVE


def whole(folder: Path) -> int:
    """Return how much of a disk could be promised if nothing lay on it."""
    disk = os.statvfs(folder)
    return disk.f_blocks * disk.f_frsize - RESERVE


def no_room(size: int, free: int, most: int, others: int, place: Path) -> SandboxUnavailableError:
    """Return the refusal of a volume, which says whether waiting helps."""
    asked, left = f"A volume of {-(-size // MIB)} MiB", f"{max(0, free) // MIB} MiB can be promised there"
    if size > most:
        return SandboxUnavailableError(
            f"{asked} can never fit {place}, which holds {max(0, most) // MIB} MiB.",
            remedy="Lower the storage limit, or keep the state folder on a larger disk.",
            reason="too_large",
        )
    if others:
        return SandboxUnavailableError(
            f"{asked} does not fit {place} beside what runs: {left}.",
            remedy="It fits when others have ended; `fumehood sandbox reap` removes what a dead worker left.",
            reason="no_space",
        )
    return SandboxUnavailableError(
        f"{asked} does not fit {place}: {left}.",
        remedy="Free space there, or lower the storage limit.",
        reason="disk_full",
    )


@contextmanager
def told_when_full(place: Path) -> Iterator[None]:
    """Turn a full disk into one clear sentence, whichever file it was that did not fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SandboxUnavailableError(
            f"The disk that holds {place} is full.", remedy="Free space there.", reason="disk_full"
        ) from error


def taken(file: Path) -> int:
    """Return the bytes that a file takes on its disk; none where it is not there."""
    with suppress(FileNotFoundError):
        return file.stat().st_blocks * 512
    return 0


def _promised(file: Path) -> int:
    with suppress(FileNotFoundError):
        found = file.stat()
        return max(0, found.st_size - found.st_blocks * 512)
    return 0
