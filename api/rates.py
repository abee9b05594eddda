"""How often one key may ask: reads and writes apart, counted in Redis where several processes serve."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that wants to pass."""

    key: str
    is_read: bool

    @property
    def kind(self) -> str:
        """What is counted apart."""
        return "read" if self.is_read else "write"


class Rates:
    """Counts what each key asks. Without its counter reads pass and writes are refused."""

    def __init__(self, storage: Storage, reads: str, writes: str) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._reads, self._writes = _rate(reads), _rate(writes)
        self._away_until = 0.0
        self._told: dict[Ask, _Left] = {}

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
        return self.take_all([Ask(key, is_read)])[0]

    def take_all(self, asked: Sequence[Ask]) -> list[Taken]:
        """Count requests that came at once, those of one key in one trip; return of each what came of it."""
        answers: dict[Ask, list[Taken]] = {}
        for one, times in Counter(asked).items():
            answers[one] = self._take(one, times)
        return [answers[one].pop(0) for one in asked]

    def _take(self, asked: Ask, times: int) -> list[Taken]:
        item = self._reads if asked.is_read else self._writes
        taken: list[Taken] = []
        if time.monotonic() >= self._away_until:
            try:
                # All of them or none; where not all pass, some may.
                if self._limiter.hit(item, asked.kind, asked.key, cost=times):
                    return [_told(item, asked, self._left(item, asked, times), passes=True)] * times
                while len(taken) < times:
                    passes = times > 1 and self._limiter.hit(item, asked.kind, asked.key)
                    taken.append(_told(item, asked, self._left(item, asked, int(passes)), passes=passes))
            except StorageError as error:
                LOG.warning("requests cannot be counted, so only reads are answered: %s", error.storage_error)
                self._away_until = time.monotonic() + AWAY_S
        return taken + [_uncounted(is_read=asked.is_read)] * (times - len(taken))

    def _left(self, item: RateLimitItem, asked: Ask, passed: int) -> _Left:
        """Return what is left after so many that passed, or when none did."""
        known, now = self._told.get(asked), time.time()
        if known and now < min(known.stale_at, known.resets_at) and known.remaining >= passed > 0:
            left = dataclasses.replace(known, remaining=known.remaining - passed)
        else:
            stats = self._limiter.get_window_stats(item, asked.kind, asked.key)
            left = _Left(remaining=stats.remaining, resets_at=stats.reset_time, stale_at=now + TOLD_S)
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[asked] = left
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What a key may still ask; times are of the epoch, in seconds."""

    remaining: int
    resets_at: float
    stale_at: float


def _told(item: RateLimitItem, asked: Ask, left: _Left, *, passes: bool) -> Taken:
    wait = str(max(1, math.ceil(left.resets_at - time.time())))
    headers = {
        "RateLimit-Limit": str(item.amount),
        "RateLimit-Remaining": str(left.remaining),
        "RateLimit-Reset": wait,
    }
    if passes:
        return Taken(headers)
    detail = f"This key has made the {item.amount} {asked.kind} requests that it may make in {item.get_expiry()} s."
    return Taken({**headers, "Retry-After": wait}, (429, "too-many-requests", detail))


def _uncounted(*, is_read: bool) -> Taken:
    if is_read:
        return Taken({})
    return Taken(_SOON, (503, "unavailable", "The queue does not answer now; nothing was changed. Try again soon."))


def _rate(text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError as error:
        raise BadInputError(f"A rate is written as 600/minute, not {text!r}.") from error
