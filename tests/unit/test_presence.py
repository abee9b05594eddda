"""Worker processes are seen at work, by what they do for their work anyway."""

from __future__ import annotations

import dataclasses
import time

import pytest

from fumehood.domain.step import Side
from fumehood.domain.worker import Part
from fumehood.services import steps
from fumehood.services.presence import FRESH_S, SEEN_EVERY_S, Presence, fresh
from fumehood.store.memory import FixedClock, MemoryStore
from tests.fakes.laboratory import Laboratory

NOBODY = dict.fromkeys(Part, 0)


def seen(lab: Laboratory) -> dict[Part, int]:
    with lab.store.begin(write=False) as tx:
        return fresh(tx, lab.clock.now())


def test_a_process_shows_itself_now_and_then_and_forgets_the_dead() -> None:
    store, clock = MemoryStore(), FixedClock()
    dead, living = Presence(Part.RUN, clock), Presence(Part.RUN, clock)
    with store.begin() as tx:
        dead.show(tx)
    clock.advance(10_000.0)
    for _ in range(3):
        assert living.is_due
        with store.begin() as tx:
            living.show(tx)
        version = store.version()
        with store.begin() as tx:
            living.show(tx)
            assert fresh(tx, clock.now()) == NOBODY | {Part.RUN: 1}
            assert len(tx.workers.find()) == 1
        assert store.version() == version
        clock.advance(SEEN_EVERY_S)


def test_who_asks_for_work_in_vain_is_at_work_until_it_is_silent(lab: Laboratory) -> None:
    world = dataclasses.replace(lab.run, presence=Presence(Part.RUN, lab.clock))
    assert steps.advance(world) is False
    assert seen(lab) == NOBODY | {Part.RUN: 1}
    lab.clock.advance(FRESH_S + 1.0)
    assert seen(lab) == NOBODY


def test_a_worker_of_one_direction_is_not_one_to_count_on(lab: Laboratory) -> None:
    world = dataclasses.replace(lab.write, presence=Presence(Part.WRITE, lab.clock))
    assert steps.advance(world, lab.submit().id) is True
    assert seen(lab) == NOBODY


def test_who_has_a_long_step_is_at_work_too(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LEASE_S", dict.fromkeys(Side, 0.04))
    lab.submit()
    with lab.store.begin() as tx:
        step = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=60.0)
    assert step is not None
    with steps._heartbeat(lab.store, lab.clock, step, Presence(Part.WRITE, lab.clock)):
        deadline = time.monotonic() + 10
        while seen(lab) != NOBODY | {Part.WRITE: 1}:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_whoever_renews_a_lease_is_always_fresh() -> None:
    assert max(steps.LEASE_S.values()) / steps.BEATS + SEEN_EVERY_S < FRESH_S
