"""Many who want something written at once get it in few writes, each its own answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from fumehood.errors import BadInputError, FumehoodError
from fumehood.services.group_commit import GroupCommit

CALLERS = 20


class Writer:
    """Writes numbers, the first time only when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int | FumehoodError]:
        self.batches.append(list(asked))
        self.begun.set()
        assert self.go_on.wait(30)
        if 13 in asked:
            raise ConnectionError("the database is away")
        return [BadInputError(f"not {number}") if number % 2 else number * 10 for number in asked]


def test_what_comes_while_one_writes_is_written_together() -> None:
    writer = Writer()
    commit: GroupCommit[int, int] = GroupCommit(writer, most=8)
    with ThreadPoolExecutor(CALLERS) as pool:
        first = pool.submit(commit, 0)
        assert writer.begun.wait(30)
        others = [pool.submit(commit, number) for number in range(2, 12)]
        while len(commit._waiting) < len(others):
            pass
        writer.go_on.set()
        assert first.result(30) == 0
        for number, other in enumerate(others, start=2):
            if number % 2:
                with pytest.raises(BadInputError, match=f"not {number}"):
                    other.result(30)
            else:
                assert other.result(30) == number * 10
    assert writer.batches[0] == [0]
    assert [len(batch) for batch in writer.batches[1:]] == [8, 2]
    assert sorted(number for batch in writer.batches[1:] for number in batch) == list(range(2, 12))


def test_a_write_that_fails_fails_for_all_of_it_and_for_nobody_else() -> None:
    writer = Writer()
    writer.go_on.set()
    commit: GroupCommit[int, int] = GroupCommit(writer)
    with pytest.raises(ConnectionError, match="away"):
        commit(13)
    assert commit(14) == 140


def test_everybody_gets_an_answer_under_load() -> None:
    writer = Writer()
    writer.go_on.set()
    commit: GroupCommit[int, int] = GroupCommit(writer, most=3)
    with ThreadPoolExecutor(CALLERS) as pool:
        asked = list(range(20, 1020, 2))
        assert list(pool.map(commit, asked, timeout=60)) == [number * 10 for number in asked]
    assert sorted(number for batch in writer.batches for number in batch) == asked
    assert max(map(len, writer.batches)) <= 3
