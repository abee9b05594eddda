"""Hints for the workers over Celery on Redis; messages carry no more than which side may have work."""

from __future__ import annotations

from typing import Any

from celery import Celery

from fumehood.domain.step import Side

TASK = "fumehood.advance"


def queue_name(side: Side) -> str:
    """Return the Celery queue of a side."""
    return f"fumehood.{side.value}"


def create_app(redis_url: str) -> Celery:
    """Return a Celery application with the settings that a lost worker needs: late acks, short limits, JSON only.

    The visibility timeout outlasts the longest task, and no task waits for an experiment.
    """
    app = Celery("fumehood", broker=redis_url)
    app.conf.update(
        broker_transport_options={
            "visibility_timeout": 120,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        visibility_timeout=120,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return app


class CeleryQueue:
    """Sends hints through a Celery application."""

    def __init__(self, app: Celery) -> None:
        self._app: Any = app

    def hint(self, side: Side) -> None:
        """Tell the workers of a side that something may be due."""
        self._app.send_task(TASK, args=[side.value], queue=queue_name(side), retry=False)
