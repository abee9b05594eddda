"""Hints for the workers over Celery on Redis; messages carry no more than which side may have work."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from celery import Celery

from fumehood.domain.step import Side

LOG = logging.getLogger("fumehood.queue")
TASK = "fumehood.advance"
PAUSE_S = 0.02
"""Between two hints at the least: a message costs more than the commit that it tells of."""


def queue_name(side: Side) -> str:
    """Return the Celery queue of a side."""
    return f"fumehood.{side.value}"


def create_app(redis_url: str) -> Celery:
    """Return a Celery application for hints: JSON only, no results, no remote control.

    A message is acknowledged before it is acted upon. What a lost one would have said stands in the database, so none
    is ever delivered again, and Redis may go and come back at any time.
    """
    app = Celery("fumehood", broker=redis_url)
    app.conf.update(
        broker_transport_options={
            # Without these, a Redis that takes connections and never answers would be waited for without end.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
    )
    return app


class CeleryQueue:
    """Sends hints from a thread of its own, so that no caller waits for Redis or fails without it.

    A hint that cannot be sent is dropped: the workers also look for themselves. One says no more than the one before
    that still waits, so of a side there is never more than one waiting, and of many in a row most are never sent.
    """

    def __init__(self, app: Celery) -> None:
        self._app: Any = app
        self._waiting: dict[Side, None] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._send_all, daemon=True).start()

    def hint(self, side: Side) -> None:
        """Tell the workers of a side that something may be due."""
        with self._changed:
            self._waiting[side] = None
            self._changed.notify()

    def check(self) -> None:
        """Return when the broker answers now; else raise what its client says."""
        with self._app.connection_for_write() as connection:
            # Opening a channel asks the broker something; a connection alone may be to one that hangs.
            connection.connect()

    def _send_all(self) -> None:
        failing = False
        while True:
            for side in self._take():
                try:
                    self._app.send_task(TASK, args=[side.value], queue=queue_name(side), retry=False)
                except Exception as error:  # noqa: BLE001 - a thread that ended here would send no hint ever again
                    if not failing:
                        LOG.warning("no hint can be sent, the work is found once Redis is back: %s", error)
                    failing = True
                else:
                    failing = False
            time.sleep(PAUSE_S)

    def _take(self) -> tuple[Side, ...]:
        """Wait for hints and take them, in the order in which they were given."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            taken = tuple(self._waiting)
            self._waiting.clear()
            return taken
