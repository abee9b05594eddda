"""Many who want something written at once get it in few writes, each its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fumehood.batching import InBatches
from fumehood.errors import BadInputError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Writer:
    """Writes numbers, the first time only when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asked))
        self.begun.set()
        assert self.go_on.wait(30)
        if 13 in asked:
            raise ConnectionError("the database is away")
        return [BadInputError(f"not {number}") if number % 2 else number * 10 for number in asked]


async def test_what_comes_while_one_batch_is_done_is_done_together() -> None:
    writer = Writer()
    commit: InBatches[int, int] = InBatches(writer, "numbers", most=8)
    first = asyncio.create_task(commit(0))
    assert await asyncio.to_thread(writer.begun.wait, 30)
    others = {number: asyncio.create_task(commit(number)) for number in range(2, 12)}
    await asyncio.sleep(0)
    writer.go_on.set()
    assert await first == 0
    for number, other in others.items():
        if number % 2:
            with pytest.raises(BadInputError, match=f"not {number}"):
                await other
        else:
            assert await other == number * 10
    assert writer.batches == [[0], list(range(2, 10)), [10, 11]]


async def test_a_batch_that_fails_fails_for_all_of_it_and_for_nobody_else() -> None:
    writer = Writer()
    writer.go_on.set()
    commit: InBatches[int, int] = InBatches(writer, "numbers")
    with pytest.raises(ConnectionError, match="away"):
        await commit(13)
    assert await commit(14) == 140


async def test_what_nobody_waits_for_any_more_is_done_and_stops_nothing() -> None:
    writer = Writer()
    commit: InBatches[int, int] = InBatches(writer, "numbers")
    first, gone = asyncio.create_task(commit(0)), asyncio.create_task(commit(2))
    assert await asyncio.to_thread(writer.begun.wait, 30)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    writer.go_on.set()
    assert await first == 0
    assert await commit(4) == 40


def test_everybody_gets_an_answer_whatever_loop_they_ask_from() -> None:
    writer = Writer()
    writer.go_on.set()
    commit: InBatches[int, int] = InBatches(writer, "numbers", most=3)
    told: dict[int, int] = {}

    async def ask(numbers: range) -> None:
        told.update(zip(numbers, await asyncio.gather(*map(commit, numbers)), strict=True))

    loops = [threading.Thread(target=asyncio.run, args=(ask(range(begin, 1020, 8)),)) for begin in (20, 22, 24, 26)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join(60)
    assert told == {number: number * 10 for number in range(20, 1020, 2)}
    assert sorted(number for batch in writer.batches for number in batch) == list(range(20, 1020, 2))
    assert max(map(len, writer.batches)) <= 3
