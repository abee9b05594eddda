"""Blobs in memory, which keep the same promises as those in a folder."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path

from fumehood.errors import BadInputError, NotFoundError


class MemoryArtifacts:
    """Blobs that end with their process; a file is made of one only when its path is asked for."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._blobs[sha256] = bytes(data)
        return sha256

    def put_file(self, path: Path) -> str:
        """Keep a regular file's bytes and return their SHA-256; the file is not touched."""
        if not path.exists():
            raise NotFoundError(f"There is no file {path}.")
        if not path.is_file():
            raise BadInputError(f"{path} is not a regular file.")
        return self.put(path.read_bytes())

    def get(self, sha256: str) -> bytes:
        """Return the bytes; `NotFoundError` when absent."""
        if sha256 not in self._blobs:
            raise NotFoundError(f"There is no artifact {sha256}.")
        return self._blobs[sha256]

    def path(self, sha256: str) -> Path:
        """Return a readable file with these bytes, which lives as long as this object; `NotFoundError` when absent."""
        data = self.get(sha256)
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="fumehood-artifacts-", ignore_cleanup_errors=True)
            path = Path(self._folder.name) / sha256
            if not path.exists():
                path.write_bytes(data)
                path.chmod(0o400)
        return path

    def probe(self, *, writes: bool = False) -> None:
        """Do nothing; it answers as long as the process lives."""

    def close(self) -> None:
        """Remove the files that were made."""
        with self._lock:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
