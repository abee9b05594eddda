"""The embedded queue: due rows lie in the database, and a change of it wakes whoever waits."""

from __future__ import annotations

import threading
import time

from fumehood.domain.step import Side
from fumehood.ports import Store

POLL_S = 0.03


def wait_for_change(
    store: Store, last_version: int, timeout_s: float = 1.0, stop: threading.Event | None = None
) -> int:
    """Return the store's version as soon as it differs from `last_version`, `stop` is set, or the time is over.

    Read the version before looking for work, so that nothing committed in between is slept over.
    """
    deadline = time.monotonic() + timeout_s
    stop = stop or threading.Event()
    while (version := store.version()) == last_version:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or stop.wait(min(POLL_S, left_s)):
            break
    return version


class LocalQueue:
    """Lets a worker's loop sleep until there may be something to do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = -1

    def wait(self, timeout_s: float = 1.0, stop: threading.Event | None = None) -> None:
        """Return when anything was committed since the last wait ended, `stop` is set, or the time is over."""
        self._seen = wait_for_change(self._store, self._seen, timeout_s, stop)


class CommitQueue:
    """Sends no hints: the commit that made work due has woken the workers' loops already."""

    def hint(self, side: Side) -> None:
        """Do nothing."""
