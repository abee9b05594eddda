"""Local copies of blobs that are kept elsewhere, in a folder that processes share and that stays near a size."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fumehood.artifacts.files import give, make_folder, new_file, write_all
from fumehood.errors import TamperedError

IN_USE_S = 3600.0
"""A copy that any process was handed so short ago is not removed: no launch takes that long to read its inputs."""


class Cache:
    """Whole files named by their hash, each checked against it whenever it is handed out.

    What was handed out longest ago goes first when all are more than `limit` bytes. A path holds for `IN_USE_S` after
    it was handed out, in whichever process; what is in use is kept even where it is more than the limit. A file that
    is open or mounted stays readable for whoever has it.
    """

    def __init__(self, root: Path, limit: int, *, in_use_s: float = IN_USE_S) -> None:
        self._root = root
        self._limit = limit
        self._in_use_s = in_use_s

    def path(self, sha256: str, fetch: Callable[[], Iterable[bytes]]) -> Path:
        """Return the local copy; it is fetched where there is none, or where it no longer matches its hash."""
        path = self._root / sha256[:2] / sha256
        if self._claim(path) and _hash_of(path) == sha256:
            return path
        self._keep(path, sha256, fetch())
        self._cut_back()
        return path

    def _claim(self, path: Path) -> bool:
        """Mark a copy as just handed out, under the lock that whoever removes holds too."""
        if not path.is_file():
            return False
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def _keep(self, path: Path, sha256: str, chunks: Iterable[bytes]) -> None:
        make_folder(self._root)
        with new_file(self._root, 0o400) as (handle, new):
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                write_all(handle, chunk)
            if digest.hexdigest() != sha256:
                raise TamperedError(f"The stored bytes of {sha256} no longer match their hash.")
            os.fsync(handle)
            make_folder(path.parent)
            new.rename(path)

    def _cut_back(self) -> None:
        with self._locked(fcntl.LOCK_EX):
            found = sorted(self._files(), key=lambda one: one[1].st_mtime)
            size = sum(about.st_size for _, about in found)
            newest = time.time() - self._in_use_s
            for path, about in found:
                is_left_over = path.parent == self._root
                if about.st_mtime > newest or not (is_left_over or size > self._limit):
                    continue
                path.unlink(missing_ok=True)
                size -= about.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Give the copies, and what a killed process left half fetched."""
        for path in (*self._root.glob("??/*"), *self._root.glob(".new-*")):
            with contextlib.suppress(FileNotFoundError):
                about = path.lstat()
                if stat.S_ISREG(about.st_mode):
                    yield path, about

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        make_folder(self._root)
        place = self._root / "lock"
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give(place)
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


def _hash_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
