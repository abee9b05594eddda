"""Follows every container of an installation, and removes what no row speaks of."""

from __future__ import annotations

import time

from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import container_name
from fumehood.services import executions
from fumehood.services.world import RunWorld
from fumehood.settings import Settings
from worker import worlds

WATCH_EVERY_S = 0.1
REAP_EVERY_S = 30.0


def watch(world: RunWorld, settings: Settings) -> None:
    """Follow the containers for ever, or return at once where another process of this state folder does."""
    with worlds.only_one(settings.state_dir / "watcher.lock") as mine:
        if mine:
            _watch_alone(world)


def _watch_alone(world: RunWorld) -> None:
    reaped = 0.0
    while True:
        executions.watch_once(world.store, world.sandbox, world.clock)
        if world.clock.now() - reaped > REAP_EVERY_S:
            reap(world)
            reaped = world.clock.now()
        time.sleep(WATCH_EVERY_S)


def reap(world: RunWorld) -> tuple[str, ...]:
    """Remove what lies on this machine and no row speaks of."""
    live: list[str] = []
    with world.store.begin(write=False) as tx:
        for state in (ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED, ExecutionState.COLLECTED):
            live += [container_name(one.id) for one in tx.executions.find(state=state)]
    return world.sandbox.reap(older_than_s=60.0, keep=[*live, *world.sandbox.held()])
