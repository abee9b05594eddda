"""Follows every container of an installation, and removes what no row speaks of."""

from __future__ import annotations

import time
from collections.abc import Callable

from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import container_name
from fumehood.services import executions
from fumehood.services.world import RunWorld
from fumehood.settings import Settings
from worker import worlds

WATCH_EVERY_S = 0.1
REAP_EVERY_S = 30.0


def watch(world: RunWorld, settings: Settings, *, ended: Callable[[], None] | None = None) -> None:
    """Follow the containers for ever, or return at once where another process of this state folder does.

    Args:
        world: The engine and the database.
        settings: Where the state folder is.
        ended: Called when fewer run than before, so that what is due now need not be looked for.
    """
    with worlds.only_one(settings.state_dir / "watcher.lock") as mine:
        if mine:
            _watch_alone(world, ended)


def _watch_alone(world: RunWorld, ended: Callable[[], None] | None) -> None:
    reaped, running = 0.0, 0
    while True:
        before, running = running, executions.watch_once(world.store, world.sandbox, world.clock)
        if ended and running < before:
            ended()
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
