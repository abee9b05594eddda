"""Follows every container of an installation, and removes what no row speaks of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from fumehood.domain import ledger
from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import container_name
from fumehood.domain.worker import Part
from fumehood.errors import FumehoodError
from fumehood.observe import metrics
from fumehood.ports import Store
from fumehood.services import audit, executions, leasing, log, outputs, tenants
from fumehood.services.presence import Presence
from fumehood.services.world import RunWorld
from fumehood.settings import Settings
from worker import scratch, worlds

LOG = logging.getLogger("fumehood.watcher")
WATCH_EVERY_S = 0.1
REAP_EVERY_S = 30.0
PUBLISH_EVERY_S = 1.0
"""How often what programs print is copied to where it can be read."""
KEEP_EVERY_S = 2.0
"""How often leases are renewed, what the audit holds is sealed and the log signed."""
SPARED_S = 60.0
"""What is younger may belong to a launch that is just being written down."""
_ON_MACHINE = (ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED, ExecutionState.COLLECTED)


def watch(
    world: RunWorld,
    settings: Settings,
    *,
    ended: Callable[[], None] = lambda: None,
    looked: Callable[[], None] = lambda: None,
) -> None:
    """Follow the containers for ever, or return at once where another process of this state folder does.

    Args:
        world: The engine and the database.
        settings: Where the state folder is.
        ended: Called when fewer run than before, so that what is due now need not be looked for.
        looked: Called after each look.
    """
    with worlds.only_one(_lock(settings)) as mine:
        if mine:
            _watch_alone(world, settings, ended, looked)


def is_watched(settings: Settings) -> bool:
    """Tell whether a process of this state folder follows its containers."""
    with worlds.only_one(_lock(settings)) as mine:
        return not mine


def _lock(settings: Settings) -> Path:
    return settings.state_dir / "watcher.lock"


def _watch_alone(world: RunWorld, settings: Settings, ended: Callable[[], None], looked: Callable[[], None]) -> None:
    # The first thing is to repair what whoever watched before left.
    # By a clock that nobody sets: an hour turned back must not stop the keeping for an hour.
    reaped = kept = published = float("-inf")
    running, day = 0, ""
    unknown: set[str] = set()
    presence = Presence(Part.WATCH, world.clock)
    looked_at = time.monotonic()
    metrics.WATCHER_LAG.set_function(lambda: time.monotonic() - looked_at)
    while True:
        before, running = running, executions.watch_once(world.store, world.sandbox, world.clock, unknown)
        looked_at = time.monotonic()
        looked()
        if looked_at - published > PUBLISH_EVERY_S:
            outputs.publish(world.store, world.sandbox, world.clock)
            published = looked_at
        if looked_at - kept > KEEP_EVERY_S:
            leasing.beat(world.store, world.clock)
            outputs.forget(world.store, world.clock)
            audit.seal(world.store)
            log.sign(world.store, world.clock, world.signer)
            kept, today = looked_at, ledger.day_of(world.clock.now())
            if day != today:
                tenants.begin_day(world.store, world.clock)
                day = today
        if presence.is_due:
            with world.store.begin() as tx:
                presence.show(tx)
        if running < before:
            ended()
        if looked_at - reaped > REAP_EVERY_S:
            _reap_or_say_why(world)
            scratch.clear(settings.state_dir)
            reaped = looked_at
        time.sleep(WATCH_EVERY_S)


def _reap_or_say_why(world: RunWorld) -> None:
    try:
        if removed := reap(world):
            metrics.REAPED.inc(len(removed))
            LOG.warning("removed what nobody spoke of: %s", ", ".join(removed))
    except FumehoodError as error:
        # An engine that is away now is asked again next time; what runs is watched meanwhile.
        LOG.warning("nothing could be reaped: %s", error)


def reap(world: RunWorld) -> tuple[str, ...]:
    """Remove what lies on this machine and no row speaks of."""
    return world.sandbox.reap(older_than_s=SPARED_S, keep=[*on_machine(world.store), *world.sandbox.held()])


def on_machine(store: Store) -> list[str]:
    """Return the executions that may have something on this machine, by the database."""
    with store.begin(write=False) as tx:
        return [container_name(one.id) for state in _ON_MACHINE for one in tx.executions.find(state=state)]
