"""The line to one provider: how many calls at once, what is tried again, and for how long nobody is sent there."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from fumehood.gateway.sse import Event
from fumehood.gateway.upstream import UpstreamError
from fumehood.observe import metrics

T = TypeVar("T")

MOST_WAITING = 128
"""Calls that wait for a place on one line; any more are refused as an overload is."""
_OVERLOADED = 529


class Retries:
    """How often and how long to try: waits grow twofold up to `longest_s`, each shortened at random by up to half."""

    def __init__(
        self,
        *,
        attempts: int = 6,
        first_s: float = 0.5,
        longest_s: float = 60.0,
        deadline_s: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.attempts = attempts
        self.deadline_s = deadline_s
        self.now = monotonic
        self.sleep = sleep
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw

    def wait_s(self, failures: int, asked_for: float | None) -> float:
        """Return how long to wait after so many failures; what the provider asked for is never undercut."""
        grown = min(self._longest_s, self._first_s * 2 ** (failures - 1))
        return float(max(grown * (1 - self._draw() / 2), asked_for or 0.0))


class FailedError(Exception):
    """One attempt that got no answer, as an upstream raises it within `Line.carry_out`."""

    def __init__(self, error: UpstreamError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


class Breaker:
    """Opens after so many failures in a row that say a provider is down; then one call in a while asks whether it is.

    A provider that limits the rate, or refuses a call, is not down.
    """

    def __init__(self, *, failures: int = 8, open_s: float = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        self._most = failures
        self._open_s = open_s
        self._now = now
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_at = 0.0
        self.reason = ""
        """What the last of the failures was."""

    def left_s(self) -> float:
        """Return for how long nobody may ask; 0 lets this caller ask, and of several only the first."""
        with self._lock:
            left = self._closed_at - self._now()
            if self._failures < self._most:
                return 0.0
            if left > 0:
                return left
            self._closed_at = self._now() + self._open_s
            return 0.0

    def tell(self, *, is_down: bool, reason: str = "") -> None:
        """Note what came of a call."""
        with self._lock:
            self.reason = reason
            self._failures = self._failures + 1 if is_down else 0
            if self._failures >= self._most:
                self._closed_at = self._now() + self._open_s


class Line:
    """One provider's line. Every call goes through it, whatever it is for."""

    def __init__(
        self,
        name: str,
        *,
        most_at_once: int = 16,
        retries: Retries | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.retries = retries or Retries()
        self._breaker = breaker or Breaker(now=self.retries.now)
        self._places = threading.BoundedSemaphore(most_at_once)
        self._most_at_once = most_at_once
        self._lock = threading.Lock()
        self._let_in: Counter[str] = Counter()

    def carry_out(self, attempt: Callable[[float], T], tenant: str = "") -> T:
        """Return what an attempt comes to that is given how many seconds it has; those that may help are repeated.

        One that may have been paid for is not: what is set aside for a call is for one answer.
        """
        with self.place(tenant) as ends_at:
            return self.repeat(attempt, ends_at)

    @contextmanager
    def place(self, tenant: str = "") -> Iterator[float]:
        """Hold one of the places, and give when the call has to be over; `UpstreamError` where none becomes free.

        Who waits for a place holds a thread, so no more than `MOST_WAITING` do, of one tenant half of that.
        """
        ends_at = self.retries.now() + self.retries.deadline_s
        self._enter(tenant)
        try:
            if not self._places.acquire(timeout=self.retries.deadline_s):
                raise self._too_many()
            try:
                yield ends_at
            finally:
                self._places.release()
        finally:
            with self._lock:
                self._let_in -= Counter((tenant,))

    def _enter(self, tenant: str) -> None:
        with self._lock:
            is_full = self._let_in.total() >= self._most_at_once + MOST_WAITING
            if is_full or self._let_in[tenant] >= self._most_at_once + MOST_WAITING // 2:
                raise self._too_many()
            self._let_in[tenant] += 1

    def _too_many(self) -> UpstreamError:
        told = f"There are too many calls to {self.name} at once."
        return UpstreamError(told, status=_OVERLOADED, kind="overloaded_error", retryable=True)

    def repeat(self, attempt: Callable[[float], T], ends_at: float) -> T:
        """Do as `carry_out`, for a caller that holds a place, as a stream does until its last event."""
        failures = 0
        while True:
            if (closed_s := self._breaker.left_s()) > 0:
                raise UpstreamError(
                    f"{self.name} failed many times in a row and is asked again in {closed_s:.0f} s: "
                    f"{self._breaker.reason}",
                    status=_OVERLOADED,
                    kind="overloaded_error",
                    retryable=True,
                )
            try:
                # Each attempt may take what is left of the whole, so that all of them together keep the deadline.
                outcome = attempt(max(ends_at - self.retries.now(), 1.0))
            except FailedError as failed:
                failures += 1
                self._wait(failed, failures, ends_at)
                continue
            self._breaker.tell(is_down=False)
            return outcome

    def _wait(self, failed: FailedError, failures: int, ends_at: float) -> None:
        error = failed.error
        metrics.UPSTREAM_ERRORS.labels(self.name, error.kind).inc()
        self._breaker.tell(is_down=error.retryable and error.kind != "rate_limit_error", reason=str(error))
        wait_s = self.retries.wait_s(failures, failed.retry_after_s)
        is_late = self.retries.now() + wait_s > ends_at
        if not error.retryable or error.maybe_paid or failures >= self.retries.attempts or is_late:
            raise error
        metrics.UPSTREAM_RETRIES.labels(self.name).inc()
        self.retries.sleep(wait_s)


Begin = Callable[[float], Generator[Event, None, None]]


def streamed(line: Line, begin: Begin, tenant: str = "") -> Generator[Event, None, None]:
    """Return the events of a stream that has begun; its place on the line is held until it is closed."""
    events = _streamed(line, begin, tenant)
    next(events)
    return events


def _streamed(line: Line, begin: Begin, tenant: str) -> Generator[Event, None, None]:
    def first(left_s: float) -> tuple[list[Event], Generator[Event, None, None]]:
        events = begin(left_s)
        try:
            begun = [next(events)]
            # A provider that only says that it lives has not begun to answer.
            while begun[-1].get("type") == "ping":
                begun.append(next(events))
            return begun, events
        except UpstreamError as error:
            raise FailedError(error) from error
        except StopIteration:
            told = "The provider's stream ended before it began."
            raise FailedError(
                UpstreamError(told, status=502, kind="api_error", retryable=True, maybe_paid=True)
            ) from None

    with line.place(tenant) as ends_at:
        begun, events = line.repeat(first, ends_at)
        with closing(events):
            # For whoever made this: from here on closing it gives the place back, also where nobody reads on.
            yield {}
            yield from begun
            yield from events
