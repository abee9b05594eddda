"""A Celery worker of one side: `python -m worker --side write --gateway URL` or `python -m worker --side run`.

A task claims due steps from the database and does them; the run side also follows the containers. What a lost hint
would leave undone is picked up by a thread that looks for due steps every few seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import cache

from fumehood.domain.step import Side
from fumehood.errors import FumehoodError
from fumehood.queue.celery import TASK, CeleryQueue, create_app, queue_name
from fumehood.services import executions, steps
from fumehood.services.world import RunWorld, WriteWorld
from fumehood.settings import Settings
from worker import worlds

LOG = logging.getLogger("fumehood.worker")
RECONCILE_EVERY_S = 2.0
WATCH_EVERY_S = 0.2


def main() -> int:
    """Run one worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m worker")
    parser.add_argument("--side", choices=[side.value for side in Side], required=True)
    parser.add_argument("--gateway", default="", help="the gateway's URL; FUMEHOOD_GATEWAY_URL when left out")
    parser.add_argument("--sandbox", choices=["auto", "docker", "local"], default="auto")
    asked = parser.parse_args()
    settings = Settings()
    side = Side(asked.side)
    gateway = asked.gateway or settings.gateway_url
    if side is Side.WRITE and not gateway:
        sys.stderr.write("worker: a write worker needs --gateway or FUMEHOOD_GATEWAY_URL.\n")
        return 2
    try:
        worlds.prepare_state(settings)
    except FumehoodError as error:
        sys.stderr.write(f"worker: {error}\n")
        return error.exit_status
    app = create_app(settings.redis_url)
    queue = CeleryQueue(app)

    @cache
    def world() -> WriteWorld | RunWorld:
        """Built on first use, in the process that uses it: connections do not survive a fork."""
        if side is Side.WRITE:
            return worlds.write_world(settings, gateway)
        return worlds.run_world(settings, asked.sandbox)

    def advance(_side: str) -> None:
        """Do one due step, and tell both sides that there may be more."""
        if steps.advance(world()):
            for other in Side:
                queue.hint(other)

    # A write step may take minutes and holds its row by a lease, so its message is acknowledged before it begins.
    app.task(name=TASK, acks_late=side is Side.RUN)(advance)
    _every(RECONCILE_EVERY_S, lambda: queue.hint(side))
    if side is Side.RUN:
        watcher = worlds.run_world(settings, asked.sandbox)

        def watch() -> None:
            with worlds.only_one(settings.state_dir / "watcher.lock") as mine:
                while mine:
                    if executions.watch_once(watcher.store, watcher.sandbox, watcher.clock) >= 0:
                        time.sleep(WATCH_EVERY_S)

        _every(RECONCILE_EVERY_S, watch)
    app.worker_main(
        ["worker", f"--queues={queue_name(side)}", "--pool=solo", f"--hostname={side.value}@%h", "--loglevel=WARNING"]
    )
    return 0


def _every(seconds: float, work: Callable[[], None]) -> None:
    def loop() -> None:
        while True:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a thread that ended here would leave the work undone for ever
                LOG.warning("will try again: %s: %s", type(error).__name__, error)
            time.sleep(seconds)

    threading.Thread(target=loop, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
