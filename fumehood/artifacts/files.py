"""Files and folders that belong to whoever owns the folder around them, also when root makes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def make_folder(path: Path, *, durably: bool = True) -> None:
    """Make a folder, 0700, of its parent's owner; one that is there stays as it is.

    Where not `durably`, its name is the caller's to sync.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    # One maker at a time: a second one's folder would take the place of the first's, while that is still empty and
    # somebody is putting a file into it.
    with opened_folder(path.parent) as parent:
        fcntl.flock(parent, fcntl.LOCK_EX)
        if not path.is_dir():
            # It takes its name when it already has its owner, so that nobody meets one that is closed to him.
            new = Path(tempfile.mkdtemp(dir=path.parent, prefix=".new-"))
            try:
                give(new)
                new.rename(path)
            except OSError:
                new.rmdir()
                raise
            if durably:
                os.fsync(parent)


@contextlib.contextmanager
def new_file(folder: Path, mode: int) -> Iterator[tuple[int, Path]]:
    """Give an open, nameless-to-others file in `folder`, of the folder's owner; what was not moved away is removed."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    path = Path(name)
    try:
        give(path)
        os.fchmod(handle, mode)
        yield handle, path
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def write_once(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file durably if there is none; of several writers at once, one wins and its bytes stay."""
    make_folder(path.parent)
    with new_file(path.parent, mode) as (handle, new):
        write_all(handle, data)
        os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    sync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write all the bytes, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def give(path: Path) -> None:
    """Let root hand what it made to the owner of the folder around it."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    with opened_folder(path) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Give a folder opened for syncing or locking."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
