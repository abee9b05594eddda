"""A Celery worker of one side: `python -m worker --side write --gateway URL` or `python -m worker --side run`.

A task claims a due step from the database and does it. What a lost hint would leave undone is found by a hint that each
worker sends its own side every few seconds. `--side watch` takes no steps and follows the containers; where no such
process does, the run side follows them too.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from celery.platforms import SecurityWarning

from fumehood.artifacts.signing import Ed25519Signer, publish
from fumehood.domain.step import Side
from fumehood.errors import FumehoodError, StoreUnavailableError
from fumehood.observe.start import start
from fumehood.queue.celery import TASK, CeleryQueue, create_app, queue_name
from fumehood.services import steps
from fumehood.services.world import RunWorld, WriteWorld
from fumehood.settings import Settings
from worker import worlds
from worker.pulse import Pulse
from worker.scratch import Scratch
from worker.watcher import watch

LOG = logging.getLogger("fumehood.worker")
RECONCILE_EVERY_S = 2.0
WATCH = "watch"
"""The process that follows the containers and takes no steps."""
GRACE_S = 3
"""How long a step in hand may go on once the worker is told to stop; cut short, it is done again."""


def main() -> int:
    """Run one worker until it is told to stop."""
    asked = _parser().parse_args()
    settings = Settings()
    gateway = asked.gateway or settings.gateway_url
    if asked.side == Side.WRITE and not gateway:
        sys.stderr.write("worker: a write worker needs --gateway or FUMEHOOD_GATEWAY_URL.\n")
        return 2
    app = create_app(settings.redis_url)
    queue = CeleryQueue(app)
    pulse = Pulse(asked.pulse)
    world: WriteWorld | RunWorld
    try:
        start("worker", settings)
        worlds.prepare_state(settings)
        atexit.register(Scratch(settings.state_dir).drop)
        if asked.side == WATCH:
            LOG.info("the watcher has started")
            _watch(worlds.run_world(settings, asked.sandbox, gateway), settings, queue, pulse)
        if asked.side == Side.WRITE:
            world = worlds.write_world(settings, gateway)
        else:
            world = worlds.run_world(settings, asked.sandbox, gateway)
            worlds.build_installed_labs(settings, LOG.warning)
            publish(Ed25519Signer(settings.state_dir), settings.state_dir)
            watched = worlds.run_world(settings, asked.sandbox, gateway)
            _every(RECONCILE_EVERY_S, lambda: watch(watched, settings, ended=lambda: queue.hint(Side.RUN)))
    except FumehoodError as error:
        sys.stderr.write(f"worker: {error}\n")
        return error.exit_status
    _serve(world, Side(asked.side), app, queue, pulse)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker")
    parser.add_argument("--side", choices=[*(side.value for side in Side), WATCH], required=True)
    parser.add_argument("--gateway", default="", help="the gateway's URL; FUMEHOOD_GATEWAY_URL when left out")
    parser.add_argument("--sandbox", choices=["auto", "docker", "local"], default="auto")
    parser.add_argument("--pulse", type=Path, help="a file to touch every few seconds for as long as the work goes on")
    return parser


def _watch(world: RunWorld, settings: Settings, queue: CeleryQueue, pulse: Pulse) -> NoReturn:
    """Follow the containers until told to stop; while another process does, wait to take over."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)

    def look() -> None:
        pulse.beat()
        watch(world, settings, ended=lambda: queue.hint(Side.RUN), looked=pulse.beat)

    _again_and_again(RECONCILE_EVERY_S, look)


def _serve(world: WriteWorld | RunWorld, side: Side, app: Celery, queue: CeleryQueue, pulse: Pulse) -> None:
    def advance(_side: str) -> None:
        """Do one due step, and tell both sides that there may be more."""
        try:
            with pulse.working():
                done = steps.advance(world)
        except StoreUnavailableError as error:
            # What was in hand is due again once it is back, and the next hint comes by itself.
            LOG.warning("will try again: %s", error)
            return
        if done:
            for other in Side:
                queue.hint(other)

    app.task(name=TASK)(advance)
    # A hint that cannot be acknowledged, because Redis has just gone, is no loss: what it said stands in the database.
    logging.getLogger("celery.worker.request").addFilter(lambda told: not told.getMessage().startswith("Couldn't ack"))
    _every(RECONCILE_EVERY_S, lambda: queue.hint(side))
    signals.worker_shutting_down.connect(_stop_soon)
    signals.worker_ready.connect(_hang_up_as_told_to_stop)
    # Volumes, cgroups and the pool of uids need root, and messages are JSON, so nothing of one is ever executed.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        app.worker_main(
            [
                "--quiet",
                "worker",
                f"--queues={queue_name(side)}",
                # One step at a time, in this process and its main thread: no connection is carried over a fork.
                "--pool=solo",
                f"--hostname={side.value}@%h",
                "--loglevel=WARNING",
                # Workers need not know of each other; the table of steps divides the work.
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )
    finally:
        # It has stopped by itself; an alarm that came while the interpreter ends would kill it.
        signal.alarm(0)


def _hang_up_as_told_to_stop(**_: object) -> None:
    # Celery would execute this program anew, with other words than it was started with.
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))


def _stop_soon(**_: object) -> None:
    def leave(*_: object) -> None:
        raise WorkerShutdown(0)

    # Raised in the main thread, so what the step holds, a subprocess or a temporary folder, is cleared away.
    signal.signal(signal.SIGALRM, leave)
    signal.alarm(GRACE_S)


def _every(seconds: float, work: Callable[[], None]) -> None:
    threading.Thread(target=_again_and_again, args=(seconds, work), daemon=True).start()


def _again_and_again(seconds: float, work: Callable[[], None]) -> NoReturn:
    told = ""
    while True:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - what ended here would leave the work undone for ever
            if (now := f"{type(error).__name__}: {error}") != told:
                LOG.warning("will try again: %s", now)
            told = now
        else:
            told = ""
        time.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
