"""The line to a provider: who is let through, what is repeated, and when nobody is sent there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from fumehood.gateway.line import MOST_WAITING, Breaker, FailedError, Line, Retries
from fumehood.gateway.sse import Event
from fumehood.gateway.upstream import UpstreamError
from fumehood.gateway.upstreams.anthropic import streamed


class Time:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at += seconds


@pytest.fixture
def clock() -> Time:
    return Time()


def retries(clock: Time, **changes: Any) -> Retries:
    return Retries(sleep=clock.sleep, monotonic=clock.now, draw=lambda: 0.0, **changes)


def down(kind: str = "api_error", **changes: Any) -> FailedError:
    error = UpstreamError("down", status=502, kind=kind, **{"retryable": True, **changes})
    return FailedError(error)


def after(failures: int, error: FailedError) -> Callable[[float], str]:
    """Return an attempt that fails so often before it answers."""
    left = [failures]

    def attempt(_: float) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "answer"

    return attempt


def test_what_passes_is_repeated_and_each_attempt_has_what_is_left(clock: Time) -> None:
    line = Line("p", retries=retries(clock, deadline_s=100.0))
    left: list[float] = []

    def attempt(left_s: float) -> str:
        left.append(left_s)
        if len(left) < 4:
            raise down()
        return "answer"

    assert line.carry_out(attempt) == "answer"
    assert clock.waits == [0.5, 1.0, 2.0]
    assert left == [100.0, 99.5, 98.5, 96.5]


def test_what_does_not_pass_is_told_at_once(clock: Time) -> None:
    line = Line("p", retries=retries(clock))
    with pytest.raises(UpstreamError, match="down"):
        line.carry_out(after(1, down(retryable=False)))
    assert clock.waits == []


class TestBreaker:
    def line(self, clock: Time) -> Line:
        return Line("p", retries=retries(clock, attempts=1), breaker=Breaker(failures=3, open_s=30.0, now=clock.now))

    def fail(self, line: Line, times: int = 1, error: FailedError | None = None) -> None:
        for _ in range(times):
            with pytest.raises(UpstreamError):
                line.carry_out(after(1, error or down()))

    def test_after_so_many_failures_in_a_row_nobody_is_sent_there(self, clock: Time) -> None:
        line = self.line(clock)
        self.fail(line, 3)
        asked: list[float] = []
        with pytest.raises(UpstreamError, match=r"failed many times in a row and is asked again in 30 s") as caught:
            line.carry_out(asked.append)
        assert (asked, caught.value.retryable, caught.value.status) == ([], True, 529)

    def test_then_one_asks_and_an_answer_opens_it_to_all(self, clock: Time) -> None:
        line = self.line(clock)
        self.fail(line, 3)
        clock.at = 30.0
        assert line.carry_out(after(0, down())) == "answer"
        assert line.carry_out(after(0, down())) == "answer"

    def test_while_one_asks_the_others_wait(self, clock: Time) -> None:
        line = self.line(clock)
        self.fail(line, 3)
        clock.at = 30.0

        def other(_: float) -> str:
            with pytest.raises(UpstreamError, match="in a row"):
                line.carry_out(after(0, down()))
            return "answer"

        assert line.carry_out(other) == "answer"

    def test_a_failure_of_the_one_that_asks_closes_it_again(self, clock: Time) -> None:
        line = self.line(clock)
        self.fail(line, 3)
        clock.at = 30.0
        self.fail(line)
        clock.at = 59.0
        with pytest.raises(UpstreamError, match="asked again in 1 s"):
            line.carry_out(after(0, down()))

    @pytest.mark.parametrize("error", [down("rate_limit_error"), down("invalid_request_error", retryable=False)])
    def test_a_limit_or_a_refusal_does_not_say_that_it_is_down(self, clock: Time, error: FailedError) -> None:
        line = self.line(clock)
        self.fail(line, 10, error)
        assert line.carry_out(after(0, down())) == "answer"

    def test_an_answer_in_between_begins_the_count_anew(self, clock: Time) -> None:
        line = self.line(clock)
        for _ in range(3):
            self.fail(line, 2)
            assert line.carry_out(after(0, down())) == "answer"


class TestPlaces:
    def test_no_more_are_under_way_than_there_are_places(self) -> None:
        line, lock, most, now = Line("p", most_at_once=3), threading.Lock(), [0], [0]
        together = threading.Event()

        def attempt(_: float) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
                if now[0] == 3:
                    together.set()
            together.wait(5.0)
            with lock:
                now[0] -= 1

        threads = [threading.Thread(target=line.carry_out, args=(attempt,)) for _ in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        assert (most[0], now[0]) == (3, 0)

    def test_who_gets_none_in_time_is_told(self) -> None:
        line = Line("p", most_at_once=1, retries=Retries(deadline_s=0.05))
        with line.place(), pytest.raises(UpstreamError, match="too many calls to p at once") as caught:
            line.carry_out(lambda _: "answer")
        assert caught.value.retryable

    @pytest.mark.parametrize("read", [0, 1, 3])
    def test_a_stream_gives_its_place_back_wherever_it_is_closed(self, read: int) -> None:
        line = Line("p", most_at_once=1, retries=Retries(deadline_s=0.05))
        closed: list[bool] = []

        def begin(_: float) -> Generator[Event, None, None]:
            try:
                for number in range(3):
                    yield {"type": str(number)}
            finally:
                closed.append(True)

        events = streamed(line, begin)
        assert [next(events)["type"] for _ in range(read)] == ["0", "1", "2"][:read]
        with pytest.raises(UpstreamError, match="too many calls"):
            line.carry_out(lambda _: "answer")
        events.close()
        assert closed == [True]
        assert line.carry_out(lambda _: "answer") == "answer"

    def test_a_stream_that_breaks_before_its_first_event_is_begun_again(self, clock: Time) -> None:
        line, begun = Line("p", most_at_once=1, retries=retries(clock)), [0]

        def begin(_: float) -> Generator[Event, None, None]:
            begun[0] += 1
            if begun[0] < 3:
                raise down().error
            yield {"type": "first"}
            raise down().error

        events = streamed(line, begin)
        assert next(events) == {"type": "first"}
        with pytest.raises(UpstreamError):
            next(events)
        assert begun == [3]
        assert line.carry_out(lambda _: "answer") == "answer"


def test_who_waits_is_bounded_and_one_tenant_leaves_room_for_others() -> None:
    line = Line("p", most_at_once=2, retries=Retries(deadline_s=30.0))
    leave = threading.Event()
    refused: list[str] = []

    def hold(tenant: str) -> None:
        try:
            with line.place(tenant):
                leave.wait(30)
        except UpstreamError as error:
            refused.append(tenant if (error.status, error.retryable) == (529, True) else str(error))

    def come(tenant: str, count: int) -> None:
        new = [threading.Thread(target=hold, args=(tenant,)) for _ in range(count)]
        threads.extend(new)
        for thread in new:
            thread.start()

    threads: list[threading.Thread] = []
    half = MOST_WAITING // 2
    come("a", 2 + half)
    while line._let_in["a"] < 2 + half:
        time.sleep(0.001)
    hold("a")
    assert refused == ["a"]
    come("b", half)
    while line._let_in["b"] < half:
        time.sleep(0.001)
    hold("c")
    assert refused == ["a", "c"]
    leave.set()
    for thread in threads:
        thread.join(30)
    hold("a")
    assert refused == ["a", "c"]
    assert not line._let_in
