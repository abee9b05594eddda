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

from fumehood.cli.servers import lasting_port

pytestmark = pytest.mark.redis
STOPS_WITHIN_S = 30.0
"""Also where others use the processors; the step lasts twice as long, and Redis never comes."""
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


AWAY = """
import sys
from fumehood.errors import StoreUnavailableError
from worker import __main__ as worker

answers = []

def advance(world):
    answers.append(1)
    if len(answers) < 3:
        raise StoreUnavailableError("The database does not answer.")
    print("back", file=sys.__stdout__, flush=True)
    return False

worker.steps.advance = advance
worker.RECONCILE_EVERY_S = 0.1
sys.argv = ["worker", "--side", "write", "--gateway", "http://127.0.0.1:9"]
sys.exit(worker.main())
"""


@contextmanager
def started(state: Path, redis_url: str, program: str = LONG_STEP) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(state), "FUMEHOOD_REDIS_URL": redis_url}
    with subprocess.Popen(
        [sys.executable, "-c", program],
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
        said, complained = worker.communicate(timeout=120)
    assert time.monotonic() - began < STOPS_WITHIN_S
    assert "cleared away" in said
    assert (worker.returncode, complained) == (0, "")


def test_a_database_that_is_away_is_one_line_and_asked_again(tmp_path: Path, redis_url: str) -> None:
    with started(tmp_path, redis_url, AWAY) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "back\n"
        worker.terminate()
        _, complained = worker.communicate(timeout=120)
    told = [line for line in complained.splitlines() if "The database does not answer" in line]
    assert len(told) == 2
    assert all("will try again" in line for line in told)
    assert "Traceback" not in complained


def test_a_worker_that_looks_for_redis_stops_too(tmp_path: Path) -> None:
    with started(tmp_path, f"redis://127.0.0.1:{lasting_port()}/0") as worker:
        assert worker.stderr is not None
        assert "Cannot connect" in worker.stderr.readline()
        began = time.monotonic()
        worker.terminate()
        worker.communicate(timeout=120)
    assert time.monotonic() - began < STOPS_WITHIN_S
    assert worker.returncode == 0
