"""A workspace as a mount: taken away, or made read-only once nothing runs in it."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from sandbox import kernel

PATIENCE_S = 5.0
"""The mount namespace of the dead outlives them by a moment."""


def freeze(target: Path, patience_s: float = PATIENCE_S) -> None:
    """Make a workspace read-only, with no link followed; what ran in it must be dead."""
    flags = kernel.RDONLY | kernel.NOSUID | kernel.NODEV | kernel.NOEXEC | kernel.NOSYMFOLLOW
    # A file system of its own as a whole; of one that is shared, only what is shown here.
    is_own = any(mount.is_whole for mount in kernel.mounts(target) if mount.target == target)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            kernel.mount(target, target, "", flags | kernel.REMOUNT | (0 if is_own else kernel.BIND))
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def unmount(target: Path, patience_s: float = PATIENCE_S) -> None:
    """Unmount everything at and below a folder, waiting for what is just dying."""
    deadline = time.monotonic() + patience_s
    for mount in reversed(kernel.mounts(target)):
        while True:
            try:
                kernel.unmount(mount.target, lazily=time.monotonic() > deadline)
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.005)
