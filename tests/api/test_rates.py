"""How often a key may ask, and that one trip to the counter is enough while it asks often."""

from __future__ import annotations

import asyncio

import pytest
from limits.storage import MemoryStorage

from api.rates import Ask, Rates
from fumehood.observe import context
from fumehood.serving import Threads


class Counted(MemoryStorage):
    """The counter of one process, which tells how often it was asked what is left, and to count."""

    looks = 0
    counts = 0

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        self.counts += 1
        return super().acquire_sliding_window_entry(key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        self.looks += 1
        return super().get_sliding_window(key, expiry)


def test_headers_count_down_without_another_trip() -> None:
    storage = Counted()
    rates = Rates(storage, "100/minute", "5/minute")
    left = [rates.take("a", is_read=False).headers["RateLimit-Remaining"] for _ in range(5)]
    assert left == ["4", "3", "2", "1", "0"]
    assert storage.looks == 1


def test_what_passes_is_asked_each_time_and_a_refusal_looks_again() -> None:
    storage = Counted()
    here, there = Rates(storage, "100/minute", "4/minute"), Rates(storage, "100/minute", "4/minute")
    assert not here.take("a", is_read=False).refusal
    for _ in range(3):
        assert not there.take("a", is_read=False).refusal
    refused = here.take("a", is_read=False)
    assert refused.refusal
    assert refused.refusal[0] == 429
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert storage.looks == 3


def test_what_is_told_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.rates.TOLD_S", 0.0)
    storage = Counted()
    rates = Rates(storage, "100/minute", "5/minute")
    for _ in range(3):
        rates.take("a", is_read=True)
    assert storage.looks == 3


def test_keys_and_kinds_are_counted_apart() -> None:
    rates = Rates.alone("3/minute", "2/minute")
    rates.take("a", is_read=True)
    assert rates.take("b", is_read=True).headers["RateLimit-Remaining"] == "2"
    assert rates.take("a", is_read=False).headers["RateLimit-Remaining"] == "1"
    assert rates.take("a", is_read=True).headers["RateLimit-Remaining"] == "1"


def test_requests_that_come_at_once_are_counted_in_one_trip_for_each_key_and_kind() -> None:
    storage = Counted()
    rates = Rates(storage, "100/minute", "5/minute")
    a, b, reading = Ask("a", is_read=False), Ask("b", is_read=False), Ask("a", is_read=True)
    taken = rates.take_all([a, b, a, reading, a])
    assert [one.headers["RateLimit-Remaining"] for one in taken] == ["2", "4", "2", "99", "2"]
    assert (storage.counts, storage.looks) == (3, 3)
    assert rates.take("a", is_read=False).headers["RateLimit-Remaining"] == "1"


def test_of_those_that_come_at_once_as_many_pass_as_may() -> None:
    rates = Rates.alone("100/minute", "5/minute")
    taken = rates.take_all([Ask("a", is_read=False)] * 8)
    assert [one.refusal is None for one in taken] == [True] * 5 + [False] * 3
    assert {one.headers["RateLimit-Remaining"] for one in taken[4:]} == {"0"}


def test_work_in_threads_keeps_the_ids_of_its_request_and_raises_what_it_raised() -> None:
    threads = Threads(2, "some")

    async def asked(name: str) -> str | None:
        with context.working_on(request_id=name):
            await asyncio.sleep(0)
            return await threads.do(lambda: context.ids().get("request_id"))

    async def both() -> list[str | None]:
        return list(await asyncio.gather(asked("one"), asked("two")))

    assert asyncio.run(both()) == ["one", "two"]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.do(lambda: 1 // 0))
