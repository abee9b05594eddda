"""The pace of requests to one upstream, shared by all executions on a host through one small locked file."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from sandbox.egress.request import RefusedError

FURTHEST_S = 30.0
"""No request waits longer than this for its turn; it is told when to come again."""
_LOCK_PATIENCE_S, _LOCK_POLL_S = 5.0, 0.005


class Pace:
    """Gives out turns, one in each interval; the file holds when the next one is free."""

    def __init__(self, file: Path, interval_s: float) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._interval_s = interval_s

    async def turn(self) -> None:
        """Wait for the next free turn; RefusedError when it is too far away."""
        wait_s = await _held(self._take)
        if wait_s > FURTHEST_S:
            raise RefusedError(429, "Too many requests wait for this capability.", retry_after_s=wait_s)
        await anyio.sleep(wait_s)

    async def pause(self, seconds: float) -> None:
        """Give no turn for a while, because the upstream said so."""
        await _held(lambda: self._put_off(min(seconds, 2 * FURTHEST_S)))

    def _take(self) -> float | None:
        """Take the next turn and return how long to wait for it; None while another process holds the file."""
        with self._locked() as held:
            if not held:
                return None
            now = time.monotonic()
            free_at = self._read(now)
            wait_s = max(0.0, free_at - now)
            if wait_s <= FURTHEST_S:
                self._write(now + wait_s + self._interval_s)
            return wait_s

    def _put_off(self, seconds: float) -> float | None:
        with self._locked() as held:
            if not held:
                return None
            now = time.monotonic()
            self._write(max(self._read(now), now + seconds))
            return seconds

    def _read(self, now: float) -> float:
        try:
            told = float(os.pread(self._descriptor, 64, 0))
        except ValueError:
            return now
        # The clock begins anew with the machine; what lies this far away was written before.
        return told if now - 1e6 < told <= now + 4 * FURTHEST_S else now

    def _write(self, free_at: float) -> None:
        os.pwrite(self._descriptor, f"{free_at:<40.6f}".encode(), 0)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


async def _held(act: Callable[[], float | None]) -> float:
    """Do something under the lock as soon as it is free; RefusedError when somebody keeps it."""
    for _ in range(int(_LOCK_PATIENCE_S / _LOCK_POLL_S)):
        if (told := act()) is not None:
            return told
        await anyio.sleep(_LOCK_POLL_S)
    raise RefusedError(503, "The pace of requests cannot be kept; try again.", retry_after_s=_LOCK_PATIENCE_S)
