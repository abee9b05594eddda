"""A file whose age says whether a worker still works, for whoever starts it again when it does not.

It is touched while the worker takes hints, or has a step in hand: a step may take minutes, and takes no hint meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEAT_EVERY_S = 5.0


class Pulse:
    """The pulse of one process; without a file it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._touched = 0.0
        self._at_work = threading.Event()
        if path is not None:
            threading.Thread(target=self._beat_at_work, daemon=True).start()

    def beat(self) -> None:
        """Say that it works; the file is touched now and then only."""
        if self._path is not None and time.monotonic() - self._touched > BEAT_EVERY_S:
            self._path.touch()
            self._touched = time.monotonic()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say the same for as long as the block takes."""
        self.beat()
        self._at_work.set()
        try:
            yield
        finally:
            self._at_work.clear()

    def _beat_at_work(self) -> None:
        while True:
            self._at_work.wait()
            self.beat()
            time.sleep(BEAT_EVERY_S / 5)
