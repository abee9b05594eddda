"""What cannot be written down while database or artifacts are away: kept, and tried until it can."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from fumehood.errors import ArtifactsUnavailableError, StoreUnavailableError

PAUSE_S = 1.0
_LOG = logging.getLogger("fumehood.gateway")
AWAY = (StoreUnavailableError, ArtifactsUnavailableError, OSError)
"""What passes: a service that does not answer, a disk that is full."""


class Late:
    """Carries things out now where that is possible, else in order in a thread that lives for as long as any wait."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()

    def carry_out(self, work: Callable[[], None]) -> None:
        """Carry it out, or keep it; it may be tried several times, and must come to the same each time."""
        try:
            work()
        except AWAY as error:
            _LOG.warning("a call is written down later: %s", error)
            with self._lock:
                self._waiting.append(work)
                if len(self._waiting) == 1:
                    self._begin()

    def try_again(self) -> bool:
        """Carry out what waits, as far as that is possible now; return whether nothing waits any more."""
        while True:
            try:
                self._waiting[0]()
            except AWAY:
                return False
            except Exception:  # noqa: BLE001 - a thread that ended here would leave the rest unwritten
                # What comes after must not wait for it; its reservation is closed by the next gateway.
                _LOG.exception("a call could not be written down")
            with self._lock:
                self._waiting.popleft()
                if not self._waiting:
                    return True

    def _begin(self) -> None:
        threading.Thread(target=self._until_none_waits, daemon=True).start()

    def _until_none_waits(self) -> None:
        while True:
            time.sleep(self._pause_s)
            if self.try_again():
                return
