"""The worker processes that `fumehood run` and `fumehood serve` start: `python -m worker.local --side run`.

With `--direction` they work for one direction, without for all but those of other commands. Each ends by itself when
its standard input closes, so none outlives the command that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time

from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, container_name
from fumehood.domain.step import Side, StepState
from fumehood.errors import FumehoodError, NotFoundError, StoreUnavailableError
from fumehood.observe import traces
from fumehood.observe.start import start
from fumehood.queue.local import LocalQueue
from fumehood.services import executions, steps
from fumehood.services.change import Change
from fumehood.services.world import RunWorld, WriteWorld
from fumehood.settings import Settings
from worker import worlds
from worker.probe import probe
from worker.scratch import Scratch
from worker.watcher import watch

LOG = logging.getLogger("fumehood.worker")
STORE_AWAY_S = 1.0
"""How long a loop rests before it asks again for a database that is away."""
_RUNNING = (ExecutionState.WANTED, ExecutionState.LAUNCHED)


def main() -> int:
    """Run one worker until its standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["write", "run", "watch", "halt", "check"], required=True)
    parser.add_argument("--gateway", default="")
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--direction", default="")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings()
    only = DirectionId(asked.direction) if asked.direction else None
    if asked.side == "check":
        sys.stdout.write(json.dumps(probe(settings, asked.sandbox)))
        return 0
    if asked.side == "halt":
        return _halt(settings, asked.sandbox, only)
    start("worker", settings)
    scratch = Scratch(settings.state_dir)
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    if asked.side == "write":
        _loop(worlds.write_world(settings, asked.gateway), settings, only)
    elif asked.side == "run":
        _loop(worlds.run_world(settings, asked.sandbox, asked.gateway), settings, only)
    else:
        _watch(worlds.run_world(settings, asked.sandbox, asked.gateway), settings)
    return 0


def _halt(settings: Settings, adapter: str, only: DirectionId | None) -> int:
    try:
        halt_all(worlds.run_world(settings, adapter), settings, only)
    except FumehoodError as error:
        # An engine that went away has what runs, and whoever goes on finds it.
        sys.stderr.write(f"what runs could not be stopped: {error}\n")
        return error.exit_status
    return 0


def _end_with_parent(scratch: Scratch) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    scratch.drop()
    traces.flush()
    os._exit(0)


def _loop(world: WriteWorld | RunWorld, settings: Settings, only: DirectionId | None) -> None:
    queue = LocalQueue(world.store)
    is_new = True
    while True:
        others = frozenset[DirectionId]() if only else worlds.of_commands(settings)
        try:
            if is_new:
                take_over(world, only, others)
                is_new = False
            if not steps.advance(world, only, others):
                queue.wait()
        except StoreUnavailableError as error:
            LOG.warning("will try again: %s", error)
            time.sleep(STORE_AWAY_S)


def take_over(world: WriteWorld | RunWorld, only: DirectionId | None, others: frozenset[DirectionId]) -> None:
    """Let steps be claimed at once that a worker before this one died with: of each side there is one at a time."""
    side = Side.WRITE if isinstance(world, WriteWorld) else Side.RUN
    with world.store.begin() as tx:
        for step in tx.steps.find(side=side, state=StepState.CLAIMED):
            if step.direction_id == only or (only is None and step.direction_id not in others):
                tx.steps.renew(step, until=world.clock.now())


def _watch(world: RunWorld, settings: Settings) -> None:
    """Follow every container of this installation, as soon as no other watcher of its state folder does."""
    while True:
        try:
            watch(world, settings)
        except FumehoodError as error:
            # What runs has its deadline from its own supervisor meanwhile.
            LOG.warning("will look again: %s", error)
        time.sleep(STORE_AWAY_S)


def halt_all(world: RunWorld, settings: Settings, only: DirectionId | None) -> None:
    """Halt one direction, or all but those of other commands."""
    if only:
        halt(world, only)
        return
    with world.store.begin(write=False) as tx:
        found = [one.direction_id for state in _RUNNING for one in tx.executions.find(state=state)]
    for direction_id in sorted(set(found) - worlds.of_commands(settings)):
        halt(world, direction_id)


def halt(world: RunWorld, direction_id: DirectionId) -> None:
    """Stop and remove a direction's containers; each is wanted again, so that `--resume` goes on at once."""
    with world.store.begin(write=False) as tx:
        wanted = tx.executions.find(direction_id=direction_id, state=ExecutionState.WANTED)
        launched = tx.executions.find(direction_id=direction_id, state=ExecutionState.LAUNCHED)
    for execution in (*wanted, *launched):
        # One that is only wanted may have been started by a worker that did not live to say so.
        name = container_name(execution.id)
        with contextlib.suppress(NotFoundError):
            world.sandbox.stop(name, "lost")
        world.sandbox.remove(name)
    for execution in launched:
        _save(world, execution.to(ExecutionState.WANTED, fence=execution.fence + 1))
    for execution in wanted:
        with world.store.begin() as tx:
            executions.give_back(tx, world.clock, execution)
    with world.store.begin() as tx:
        for step in tx.steps.find(direction_id=direction_id, state=StepState.CLAIMED):
            # Its worker is gone, so nobody need wait for the lease to run out.
            tx.steps.renew(step, until=world.clock.now())


def _save(world: RunWorld, execution: Execution) -> None:
    with world.store.begin() as tx:
        steps.save(tx, world.clock, Change(executions=(execution,)))


if __name__ == "__main__":
    sys.exit(main())
