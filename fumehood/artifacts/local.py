"""Blobs in a local folder, each in a file named by its hash."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from fumehood.artifacts.files import make_folder, new_file, sync_folder, write_all
from fumehood.errors import ArtifactsUnavailableError, BadInputError, NotFoundError, TamperedError

SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1024 * 1024
MOST_SYNCED = 10_000
"""Files known to lie durably in their folder, that need not be seen to again by this process."""


class LocalArtifacts:
    """Blobs below `root`, as `ab/abcdef...`; what root's processes put belongs to the folder's owner."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._synced: dict[str, tuple[int, int]] = {}

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex; durable when this returns."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._is_kept(sha256, len(data)):
            self._keep([data])
        return sha256

    def put_file(self, path: Path) -> str:
        """Keep a regular file's bytes and return their SHA-256; the file is not touched."""
        handle = open_regular(path)
        try:
            known = hashlib.sha256()
            size = 0
            for chunk in chunks_of(handle):
                known.update(chunk)
                size += len(chunk)
            if self._is_kept(known.hexdigest(), size):
                return known.hexdigest()
            os.lseek(handle, 0, os.SEEK_SET)
            # Hashed once more while it is copied: the file may have changed since.
            return self._keep(chunks_of(handle))
        finally:
            os.close(handle)

    def get(self, sha256: str) -> bytes:
        """Return the bytes; `NotFoundError` when absent, `TamperedError` when they no longer match their hash."""
        data = self.path(sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise TamperedError(f"The stored bytes of {sha256} no longer match their hash.")
        return data

    def path(self, sha256: str) -> Path:
        """Return the blob's own file; `NotFoundError` when absent. Never write to it."""
        if not SHA256.fullmatch(sha256):
            raise NotFoundError(f"{sha256!r} is not a SHA-256 in hex, so nothing is stored under it.")
        path = self._path(sha256)
        if not path.is_file():
            raise NotFoundError(f"There is no artifact {sha256}.")
        return path

    def probe(self, *, writes: bool = False) -> None:  # noqa: ARG002 - what may be read may be written to here
        """Return when the folder is there and may be used; else raise `ArtifactsUnavailableError`."""
        if not os.access(self._root if self._root.exists() else self._root.parent, os.R_OK | os.W_OK | os.X_OK):
            raise ArtifactsUnavailableError(
                f"The folder of artifacts {self._root} cannot be used.", remedy="Look at its disk and its owner."
            )

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def _is_kept(self, sha256: str, size: int) -> bool:
        path = self._path(sha256)
        try:
            kept = path.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(kept.st_mode) or kept.st_size != size:
            return False
        mark = kept.st_ino, kept.st_mtime_ns
        if self._synced.get(sha256) != mark:
            # Whoever put it may not have come to this yet, and our caller will rely on it.
            handle = open_regular(path)
            try:
                self._sync(handle, path)
            finally:
                os.close(handle)
            if len(self._synced) >= MOST_SYNCED:
                self._synced.clear()
            self._synced[sha256] = mark
        return True

    def _keep(self, chunks: Iterable[bytes]) -> str:
        make_folder(self._root)
        with new_file(self._root, 0o400) as (handle, new):
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                write_all(handle, chunk)
            path = self._path(digest.hexdigest())
            make_folder(path.parent, durably=False)
            # Named first: a file system with a journal then writes file and names at once, and the folders' syncs find
            # nothing left to do. What a power cut leaves short has not the size of what is asked for.
            new.rename(path)
            self._sync(handle, path)
        return digest.hexdigest()

    def _sync(self, handle: int, path: Path) -> None:
        try:
            os.fsync(handle)
        except OSError:
            # Asked again, the kernel would call durable what it could not write.
            path.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        sync_folder(self._root)


def open_regular(path: Path) -> int:
    """Open a file to read; `NotFoundError` when there is none, `BadInputError` when it is not a regular one."""
    try:
        # Without O_NONBLOCK a named pipe would hold us until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadInputError(f"{path} is not a regular file.")
    return handle


def chunks_of(handle: int) -> Iterator[bytes]:
    """Give what an open file holds from where it stands."""
    while chunk := os.read(handle, _CHUNK):
        yield chunk
