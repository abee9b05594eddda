"""How often one key may ask: reads and writes apart, counted in Redis where several processes serve."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from fumehood.errors import BadInputError

LOG = logging.getLogger("fumehood.api")
AWAY_S = 1.0
"""After a counter that did not answer, so long none is asked: whoever reads is not made to wait for it again."""
PATIENCE_S = 1.0
TOLD_S = 0.25
"""So long a key's headers go on from what was left when last asked, less its own requests since: asking at each request
is a second trip to the counter. What passes is asked every time."""
MOST_TOLD = 10_000
_SOON = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking: the headers that say how much is left, and the refusal where nothing is."""

    headers: Mapping[str, str]
    refusal: tuple[int, str, str] | None = None
    """Status, name and sentence of a problem."""


class Rates:
    """Counts what each key asks. Without its counter reads pass and writes are refused."""

    def __init__(self, storage: Storage, reads: str, writes: str) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._reads, self._writes = _rate(reads), _rate(writes)
        self._away_until = 0.0
        self._told: dict[tuple[str, str], _Left] = {}

    @classmethod
    def alone(cls, reads: str, writes: str) -> Rates:
        """Return the counter of one process that serves by itself."""
        return cls(MemoryStorage(), reads, writes)

    @classmethod
    def on_redis(cls, url: str, reads: str, writes: str) -> Rates:
        """Return the counter that all processes of an installation share."""
        patience = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S}
        return cls(storage_from_string(url, wrap_exceptions=True, **patience), reads, writes)  # type: ignore[arg-type]

    def take(self, key: str, *, is_read: bool) -> Taken:
        """Count one request of a key."""
        item = self._reads if is_read else self._writes
        kind = "read" if is_read else "write"
        if time.monotonic() < self._away_until:
            return _uncounted(is_read=is_read)
        try:
            passes = self._limiter.hit(item, kind, key)
            left = self._left(item, kind, key, is_refused=not passes)
        except StorageError as error:
            LOG.warning("requests cannot be counted, so only reads are answered: %s", error.storage_error)
            self._away_until = time.monotonic() + AWAY_S
            return _uncounted(is_read=is_read)
        wait = str(max(1, math.ceil(left.resets_at - time.time())))
        headers = {
            "RateLimit-Limit": str(item.amount),
            "RateLimit-Remaining": str(left.remaining),
            "RateLimit-Reset": wait,
        }
        if passes:
            return Taken(headers)
        detail = f"This key has made the {item.amount} {kind} requests that it may make in {item.get_expiry()} s."
        return Taken({**headers, "Retry-After": wait}, (429, "too-many-requests", detail))

    def _left(self, item: RateLimitItem, kind: str, key: str, *, is_refused: bool) -> _Left:
        known, now = self._told.get((kind, key)), time.time()
        if known and now < min(known.stale_at, known.resets_at) and known.remaining > 0 and not is_refused:
            left = dataclasses.replace(known, remaining=known.remaining - 1)
        else:
            stats = self._limiter.get_window_stats(item, kind, key)
            left = _Left(remaining=stats.remaining, resets_at=stats.reset_time, stale_at=now + TOLD_S)
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[kind, key] = left
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What a key may still ask; times are of the epoch, in seconds."""

    remaining: int
    resets_at: float
    stale_at: float


def _uncounted(*, is_read: bool) -> Taken:
    if is_read:
        return Taken({})
    return Taken(_SOON, (503, "unavailable", "The queue does not answer now; nothing was changed. Try again soon."))


def _rate(text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError as error:
        raise BadInputError(f"A rate is written as 600/minute, not {text!r}.") from error
