"""The machine's clock, and ids that grow."""

from __future__ import annotations

import secrets
import threading
import time

from ulid import ULID


class SystemClock:
    """Tells the machine's time and makes ids that grow within a process, even when the clock is set back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def new_id(self, prefix: str) -> str:
        """Return `prefix_` and a fresh lower-case ULID."""
        with self._lock:
            fresh = int.from_bytes(ULID().bytes, "big")
            # A random stride, so that two processes that began as one do not count alike.
            self._last = fresh if fresh > self._last else self._last + 1 + secrets.randbits(32)
            return f"{prefix}_{str(ULID.from_int(self._last)).lower()}"
