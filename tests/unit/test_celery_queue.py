"""Hints over Celery: nobody waits for Redis, and nothing fails without it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from celery import Celery
from redis.exceptions import RedisError

from fumehood.cli.servers import lasting_port
from fumehood.domain.step import Side
from fumehood.queue.celery import PAUSE_S, CeleryQueue, create_app, queue_name

PATIENCE_S = 60.0


class Broker:
    """Stands in for a Celery application: it sends when it may, and fails when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[str], str]] = []
        self.error: Exception | None = None
        self.asked = 0
        self.tried = 0
        self.open = threading.Event()
        self.open.set()

    def send_task(self, name: str, *, args: list[str], queue: str, retry: bool) -> None:
        assert (name, retry) == ("fumehood.advance", False)
        self.asked += 1
        self.open.wait()
        self.tried += 1
        if self.error:
            raise self.error
        self.sent.append((args, queue))

    def wait_for(self, tries: int, *, asked: int = 0) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.tried < tries or self.asked < asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.open.set()


def queue_over(broker: Broker) -> CeleryQueue:
    return CeleryQueue(cast("Celery", broker))


def test_a_hint_reaches_its_side(broker: Broker) -> None:
    queue = queue_over(broker)
    for side in Side:
        queue.hint(side)
    broker.wait_for(2)
    assert broker.sent == [(["write"], "fumehood.write"), (["run"], "fumehood.run")]


@pytest.mark.parametrize("error", [OSError("away"), ValueError("a fault of the client's")])
def test_a_failure_is_told_once_and_hints_go_on(
    broker: Broker, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    queue = queue_over(broker)
    broker.error = error
    with caplog.at_level(logging.WARNING, logger="fumehood.queue"):
        for tries in range(1, 4):
            queue.hint(Side.RUN)
            broker.wait_for(tries)
    assert [str(error) in one.message for one in caplog.records] == [True]
    broker.error = None
    queue.hint(Side.RUN)
    broker.wait_for(4)
    assert len(broker.sent) == 1


def test_nobody_waits_for_a_broker_that_hangs(broker: Broker) -> None:
    queue = queue_over(broker)
    broker.open.clear()
    # Whoever waited would wait for ever: it is opened only afterwards.
    for _ in range(1000):
        queue.hint(Side.WRITE)
    assert broker.sent == []
    broker.open.set()
    broker.wait_for(1)


def test_of_many_hints_in_a_row_one_is_sent_after_the_last(broker: Broker) -> None:
    queue = queue_over(broker)
    broker.open.clear()
    queue.hint(Side.WRITE)
    broker.wait_for(0, asked=1)
    for _ in range(100):
        queue.hint(Side.WRITE)
    queue.hint(Side.RUN)
    broker.open.set()
    broker.wait_for(3)
    time.sleep(5 * PAUSE_S)
    assert [args for args, _ in broker.sent] == [["write"], ["write"], ["run"]]


def test_nothing_but_json_and_no_command_is_taken_from_the_broker() -> None:
    settings: Any = create_app("redis://127.0.0.1:1/0").conf
    assert settings.accept_content == ["json"]
    assert settings.worker_enable_remote_control is False
    assert settings.broker_connection_max_retries is None
    assert {queue_name(side) for side in Side} == {"fumehood.write", "fumehood.run"}


@pytest.mark.redis
def test_a_broker_that_answers_is_there(redis_url: str) -> None:
    CeleryQueue(create_app(redis_url)).check()


def test_a_broker_that_is_away_is_an_error() -> None:
    with pytest.raises(RedisError):
        CeleryQueue(create_app(f"redis://127.0.0.1:{lasting_port()}/0")).check()


def test_a_broker_that_takes_connections_and_says_nothing_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = create_app(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        cast("Any", app).conf.broker_transport_options |= {"socket_timeout": 0.2}
        with pytest.raises(RedisError):
            CeleryQueue(app).check()
