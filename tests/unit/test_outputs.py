"""What a run's program prints, while it runs: each byte once, never too much, and gone a while after the end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.feed import Feed
from fumehood.domain.execution import ExecutionState, Kind, Limits, Verdict
from fumehood.domain.experiment import Execution, RunResult
from fumehood.domain.ids import RunId
from fumehood.domain.output import Over, Printed
from fumehood.services import directions, executions, outputs
from tests.fakes.laboratory import Laboratory
from tests.fakes.sandbox import Did, InstantSandbox


class Talking(InstantSandbox):
    """Its runs go on until they are told how to end, and print what they are told."""

    def __init__(self) -> None:
        super().__init__(lambda spec: None if spec.kind is Kind.RUN else Did(files={"data.txt": b"1"}))
        self.printed = b""

    def follow(self, name: str, offset: int = 0) -> bytes:
        self._did(name)
        return self.printed[offset:]

    def end(self, verdict: Verdict) -> None:
        for name, did in self.did.items():
            if did is None:
                self.did[name] = Did(verdict=verdict, output=self.printed.decode("utf-8", "replace"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path, sandbox=Talking())
    made.submit()
    made.go_on(until=lambda: any(one.state is ExecutionState.LAUNCHED for one in of_run(made)))
    yield made
    made.artifacts.close()


def of_run(lab: Laboratory) -> tuple[Execution, ...]:
    return lab.executions(kind=Kind.RUN)


def printed(lab: Laboratory, text: bytes) -> None:
    lab.sandbox.printed += text
    outputs.publish(lab.store, lab.sandbox, lab.clock)


def read(lab: Laboratory, place: int = 0, limit: int = 1000) -> tuple[list[Printed], Over | None]:
    return outputs.read(lab.store, lab.artifacts, lab.runs()[0].id, place, limit)


def text(lab: Laboratory, place: int = 0) -> str:
    return "".join(piece.text for piece in read(lab, place)[0])


def test_it_is_read_as_it_comes_and_the_last_word_is_the_verdict(lab: Laboratory) -> None:
    printed(lab, b"loss 1\n")
    [first], over = read(lab)
    assert (first.text, first.offset, over) == ("loss 1\n", 0, None)
    printed(lab, b"loss 2\n")
    assert text(lab, first.place) == "loss 2\n"
    lab.sandbox.printed += b"bye"
    lab.sandbox.end(Verdict.FAILED)
    executions.watch_once(lab.store, lab.sandbox, lab.clock)
    assert text(lab) == "loss 1\nloss 2\nbye"
    assert read(lab)[1] is None, "it is not collected yet"
    lab.go_on(until=lambda: of_run(lab)[0].outcome is not None)
    pieces, over = read(lab)
    assert "".join(piece.text for piece in pieces) == "loss 1\nloss 2\nbye"
    assert over == Over(verdict="failed", exit_code=1)
    assert read(lab, pieces[-1].place) == ([], over)


def test_a_watcher_that_was_killed_is_followed_by_one_that_goes_on(lab: Laboratory) -> None:
    printed(lab, b"one ")
    known = of_run(lab)[0]
    for _ in range(3):  # as several watchers, each without a memory
        outputs.publish(lab.store, lab.sandbox, lab.clock)
        printed(lab, b"more ")
    lab.sandbox.end(Verdict.SUCCEEDED)
    for _ in range(3):
        outputs.finish(lab.store, lab.sandbox, lab.clock, known)
    assert text(lab) == "one more more more "


def test_what_a_stale_watcher_copies_is_not_kept(lab: Laboratory) -> None:
    known = of_run(lab)[0]
    lab.save(dataclasses.replace(known, fence=known.fence + 1))
    lab.sandbox.printed = b"of the run before"
    outputs.finish(lab.store, lab.sandbox, lab.clock, known)
    assert text(lab) == ""


def test_one_that_begins_anew_is_told_from_its_start(lab: Laboratory) -> None:
    printed(lab, b"first try")
    place = read(lab)[0][-1].place
    known = of_run(lab)[0]
    lab.save(dataclasses.replace(known, fence=known.fence + 1))
    lab.sandbox.printed = b""
    printed(lab, b"again")
    assert text(lab) == text(lab, place) == "again"


def test_no_more_is_kept_than_it_may_print(lab: Laboratory) -> None:
    known = of_run(lab)[0]
    lab.save(dataclasses.replace(known, limits=dataclasses.replace(known.limits, output_bytes=40_000)))
    for _ in range(4):
        printed(lab, b"x" * 30_000)
    assert len(text(lab)) == 40_000
    lab.save(dataclasses.replace(known, limits=Limits(output_bytes=2**30)))
    printed(lab, b"x" * (outputs.MOST + 1))
    assert len(text(lab)) == outputs.MOST


def test_it_goes_a_while_after_the_end_and_the_kept_end_of_the_log_stands_for_it(lab: Laboratory) -> None:
    printed(lab, b"loss 1\n")
    place = read(lab)[0][-1].place
    lab.clock.advance(outputs.KEPT_S + 1)
    outputs.forget(lab.store, lab.clock)
    assert text(lab) == "loss 1\n", "it still runs"
    lab.sandbox.end(Verdict.FAILED)
    lab.go_on(until=lambda: of_run(lab)[0].outcome is not None)
    outputs.forget(lab.store, lab.clock)
    assert read(lab, place)[0] == [], "who has it all hears nothing twice"
    lab.clock.advance(outputs.KEPT_S + 1)
    outputs.forget(lab.store, lab.clock)
    with lab.store.begin(write=False) as tx:
        assert tx.outputs.find() == ()
    [kept], over = read(lab)
    assert (kept.text, kept.offset) == ("loss 1\n", None)
    assert read(lab, kept.place) == ([], over)


@settings(max_examples=25)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_come_as_the_text_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    lab = Laboratory(tmp_path_factory.mktemp("lab"), sandbox=Talking())
    lab.submit()
    lab.go_on(until=lambda: any(one.state is ExecutionState.LAUNCHED for one in of_run(lab)))
    run = lab.runs()[0].id
    feed = Feed(lab.store, poll_s=0.01)
    for cut in sorted(min(cut, len(data)) for cut in cuts):
        lab.sandbox.printed = data[:cut]
        outputs.publish(lab.store, lab.sandbox, lab.clock)
    lab.sandbox.printed = data
    lab.sandbox.end(Verdict.FAILED)
    lab.go_on(until=lambda: of_run(lab)[0].outcome is not None)
    events = asyncio.run(all_of(feed, lab, run))
    assert all(event.count(b"\n\n") == 1 and b"\r" not in event and b"\0" not in event for event in events)
    told = [json.loads(event.partition(b"data: ")[2]) for event in events]
    assert "".join(one["text"] for one in told[:-1]) == data.decode("utf-8", "replace")
    assert told[-1] == {"verdict": "failed", "exit_code": 1, "truncated": False}
    lab.artifacts.close()


async def all_of(feed: Feed, lab: Laboratory, run: RunId) -> list[bytes]:
    return [event async for event in feed.printed(lab.artifacts, run, 0)]


def test_who_follows_hears_it_while_it_runs(lab: Laboratory) -> None:
    feed = Feed(lab.store, poll_s=0.01)

    async def follow() -> list[Any]:
        reader = asyncio.create_task(all_of(feed, lab, lab.runs()[0].id))
        for number in range(50):
            printed(lab, f"loss {number}\n".encode())
            await asyncio.sleep(0.002)
        lab.sandbox.end(Verdict.FAILED)
        lab.go_on(until=lambda: of_run(lab)[0].outcome is not None)
        return [json.loads(event.partition(b"data: ")[2]) for event in await reader]

    told = asyncio.run(follow())
    assert "".join(one["text"] for one in told[:-1]) == "".join(f"loss {number}\n" for number in range(50))
    assert told[-1]["verdict"] == "failed"
    assert feed.streams == 0


def test_a_run_that_never_begins_ends_with_its_direction(lab: Laboratory) -> None:
    run = dataclasses.replace(lab.runs()[0], id=RunId(lab.clock.new_id("run")), index=7)
    lab.save(run)

    def end() -> tuple[list[Printed], Over | None]:
        return outputs.read(lab.store, lab.artifacts, run.id, 0, 10)

    assert end() == ([], None)
    directions.cancel(lab.store, lab.clock, lab.direction().id)
    assert end() == ([], Over(verdict="cancelled"))
    lab.save(dataclasses.replace(run, result=RunResult.MEASURED, log=lab.artifacts.put(b"from before")))
    [log], over = end()
    assert (log.text, log.execution_id, over) == ("from before", None, Over(verdict="succeeded"))
