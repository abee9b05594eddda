"""Where a worker process keeps what it needs for a moment: in the state folder, cleared away also after a kill.

Among that are keys of executions and files that were just let out of one; in the machine's `/tmp` they would stay.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "worker-"


class Scratch:
    """The folder of this process, in which every temporary file of it is made from now on."""

    def __init__(self, state_dir: Path) -> None:
        clear(state_dir)
        with _locked(_folder(state_dir)) as folder:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
            # Held as long as the process lives, whatever ends it.
            self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_EX)
        tempfile.tempdir = str(self.path)

    def drop(self) -> None:
        """Take it away."""
        tempfile.tempdir = None
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


def clear(state_dir: Path) -> tuple[str, ...]:
    """Take away what processes left that live no more; their names."""
    removed = []
    with _locked(_folder(state_dir)) as folder:
        for path in sorted(folder.glob(f"{PREFIX}*")):
            try:
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                # Gone, or of another user, who clears it.
                continue
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
            except BlockingIOError:
                pass
            finally:
                os.close(held)
    return tuple(removed)


def _folder(state_dir: Path) -> Path:
    folder = state_dir / "tmp"
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        # The side that works without root's rights has its folder there too.
        owner = state_dir.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
