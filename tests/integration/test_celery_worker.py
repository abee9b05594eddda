"""A Celery worker as a process: it stops soon when told to, whatever it is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_port

pytestmark = pytest.mark.redis
STOPS_WITHIN_S = 8.0
LONG_STEP = """
import sys
import time
from worker import __main__ as worker

def advance(world):
    try:
        print("begun", file=sys.__stdout__, flush=True)
        time.sleep(60)
    finally:
        print("cleared away", file=sys.__stdout__, flush=True)

worker.steps.advance = advance
sys.argv = ["worker", "--side", "write", "--gateway", "http://127.0.0.1:9"]
sys.exit(worker.main())
"""


@contextmanager
def started(state: Path, redis_url: str) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(state), "FUMEHOOD_REDIS_URL": redis_url}
    with subprocess.Popen(
        [sys.executable, "-c", LONG_STEP],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_long_step_is_cut_short_and_cleared_away(tmp_path: Path, redis_url: str, told: signal.Signals) -> None:
    with started(tmp_path, redis_url) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        began = time.monotonic()
        worker.send_signal(told)
        said, complained = worker.communicate(timeout=30)
    assert time.monotonic() - began < STOPS_WITHIN_S
    assert "cleared away" in said
    assert (worker.returncode, complained) == (0, "")


def test_a_worker_that_looks_for_redis_stops_too(tmp_path: Path) -> None:
    with started(tmp_path, f"redis://127.0.0.1:{free_port()}/0") as worker:
        assert worker.stderr is not None
        assert "Cannot connect" in worker.stderr.readline()
        began = time.monotonic()
        worker.terminate()
        worker.communicate(timeout=30)
    assert time.monotonic() - began < STOPS_WITHIN_S
    assert worker.returncode == 0
