"""API, gateway and Celery workers as processes of their own: what is posted is carried out, whatever dies meanwhile."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.signing import open_envelope, trusted_keys
from fumehood.cli.servers import lasting_port
from fumehood.domain.direction import Direction
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution, ExperimentState
from fumehood.domain.ids import DirectionId
from fumehood.services import directions, records
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.e2e.conftest import House
from tests.fakes.quick import NAME as QUICK

pytestmark = [pytest.mark.slow, pytest.mark.local, pytest.mark.latex, pytest.mark.redis]
KEY = "a key for the doors"
UNKNOWN = "dir_" + "0" * 26
ASKED = {"template": QUICK, "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1}
WORKERS = ("write", "run", "watch")
ANSWERS_WITHIN_S = 4.0
"""Less than the client of Redis waits for a server that does not answer."""
REDIS_AWAY_S = 3.0
STARTS_WITHIN_S = 120.0
STOPS_WITHIN_S = 30.0
"""Also where others use the processors; what is waited for here lasts longer, or has no end."""
DONE_WITHIN_S = 400.0


class Doors:
    """The processes of an installation that is reached over HTTP, each started, stopped and killed by its name.

    The Redis is its own, so that it can be away, and its queues are nobody else's.
    """

    def __init__(self, house: House, logs: Path) -> None:
        self.house, self._logs = house, logs
        self._ports = {"redis": lasting_port(), "gateway": lasting_port(), "api": lasting_port()}
        self.artifacts = LocalArtifacts(house.state / "artifacts")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://127.0.0.1:{self._ports['api']}"
        self.client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)

    @cached_property
    def store(self) -> SqlStore:
        """The database, whose tables the doors made."""
        return SqlStore(Settings(state_dir=self.house.state).resolved_database_url)

    def environment(self) -> dict[str, str]:
        return self.house.environment() | {
            "FUMEHOOD_API_KEY": KEY,
            "FUMEHOOD_REDIS_URL": f"redis://127.0.0.1:{self._ports['redis']}/0",
        }

    def _command(self, name: str) -> list[str]:
        port = str(self._ports.get(name))
        module = [sys.executable, "-m"]
        gateway = f"http://127.0.0.1:{self._ports['gateway']}"
        return {
            "redis": ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            "gateway": [*module, "fumehood.gateway", "--port", port, "--with-parent"],
            "api": [*module, "api", "--port", port],
            "write": [*module, "worker", "--side", "write", "--gateway", gateway],
            "run": [*module, "worker", "--side", "run", "--sandbox", "local"],
            "watch": [*module, "worker", "--side", "watch", "--sandbox", "local"],
        }[name]

    def start(self, *names: str) -> None:
        for name in names:
            with (self._logs / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    self._command(name),
                    env=self.environment(),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )

    def stop(self, *names: str, by: signal.Signals = signal.SIGTERM) -> dict[str, int]:
        """Send a signal to processes and return how each ended; one that stays too long fails the test."""
        for name in names:
            self._running[name].send_signal(by)
        statuses = {}
        for name in names:
            statuses[name] = self._running[name].wait(STOPS_WITHIN_S)
            with self._running.pop(name):
                pass
        return statuses

    def signal(self, name: str, sent: signal.Signals) -> None:
        self._running[name].send_signal(sent)

    def end(self) -> None:
        self.client.close()
        self.store.close()
        for process in self._running.values():
            with process:
                process.kill()

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def post(self) -> str:
        """Post a direction, which is answered at once."""
        began = time.monotonic()
        answer = self.client.post("/v1/directions", json=ASKED)
        assert time.monotonic() - began < ANSWERS_WITHIN_S
        assert answer.status_code == 202, answer.text
        found: str = answer.json()["id"]
        return found

    def is_refused(self) -> bool:
        """Post a direction while Redis does not answer: the answer comes at once, and says when to ask again."""
        began = time.monotonic()
        answer = self.client.post("/v1/directions", json=ASKED)
        assert time.monotonic() - began < ANSWERS_WITHIN_S
        assert answer.status_code in {202, 503}, answer.text
        return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0

    def read(self, direction: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/directions/{direction}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, what: Callable[[], object], within_s: float = DONE_WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while not what():
            if time.monotonic() > deadline:
                told = "\n".join(f"{name}:\n{self.log(name)[-2000:]}" for name in ("api", "gateway", *WORKERS))
                pytest.fail(f"it did not come to pass within {within_s} s\n{told}")
            time.sleep(0.1)

    def is_up(self) -> bool:
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def is_over(self, direction: str) -> bool:
        return self.read(direction)["state"] in {"done", "failed"}

    def directions(self) -> tuple[Direction, ...]:
        with self.store.begin(write=False) as tx:
            return tx.directions.find()

    def executions(self, direction: str, **equal: object) -> tuple[Execution, ...]:
        with self.store.begin(write=False) as tx:
            return tx.executions.find(direction_id=direction, **equal)

    def left(self) -> list[str]:
        """Return what is left of executions, apart from the doors' own processes."""
        return [one for one in self.house.left() if not one.isdigit()]

    def carried_out(self, direction: str) -> None:
        """Wait for a direction to be done, and look at what the database has of it."""
        self.until(lambda: self.is_over(direction))
        told = self.read(direction)
        assert (told["state"], told["error"]) == ("done", "")
        with self.store.begin(write=False) as tx:
            experiments = tx.experiments.find(direction_id=direction)
            runs = tx.runs.find(direction_id=direction)
        assert [one.state for one in experiments] == [ExperimentState.DONE]
        assert self.artifacts.get(experiments[0].products["paper.pdf"]).startswith(b"%PDF-")
        assert sorted(run.index for run in runs) == [0, 1]
        trusted = trusted_keys(self.house.state)
        for run in runs:
            payload = open_envelope(self.artifacts.get(run.record), trusted, records.PAYLOAD_TYPE)
            assert json.loads(payload)["predicate"]["verdicts"]["evaluate"] == "succeeded"
        assert not any(one.losses for one in self.executions(direction))
        self.until(lambda: not self.left(), within_s=60)


@pytest.fixture(scope="module")
def doors(make_house: Any, slow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    house = make_house("doors", FUMEHOOD_TEMPLATES_DIR=str(slow_template.parent))
    made = Doors(house, tmp_path_factory.mktemp("logs"))
    try:
        # All at once and Redis last: each waits for what it needs.
        made.start("gateway", "api", *WORKERS, "redis")
        made.until(made.is_up, within_s=STARTS_WITHIN_S)
        yield made
        assert made.stop(*WORKERS) == dict.fromkeys(WORKERS, 0), "\n".join(made.log(name)[-2000:] for name in WORKERS)
        for name in ("api", "gateway", *WORKERS):
            assert "Traceback" not in made.log(name), made.log(name)[-3000:]
            assert "Warning" not in made.log(name), made.log(name)[-3000:]
    finally:
        made.end()


@pytest.mark.kill
def test_a_direction_is_carried_out_whatever_dies_meanwhile(doors: Doors) -> None:
    direction = doors.post()
    # While data are drawn both sides wait, so no hint is on its way.
    doors.until(lambda: doors.executions(direction, state=ExecutionState.LAUNCHED))
    doors.stop("redis")
    assert doors.is_refused()
    assert doors.read(direction)["id"] == direction
    time.sleep(REDIS_AWAY_S)
    doors.start("redis")
    doors.until(lambda: doors.executions(direction, state=ExecutionState.LAUNCHED))
    assert doors.stop("run", "watch") == {"run": 0, "watch": 0}
    assert doors.stop("write", by=signal.SIGINT) == {"write": 0}
    assert doors.left(), "a worker that was told to stop leaves alone what runs"
    doors.start("run", "write")
    time.sleep(random.Random(5).uniform(2.0, 6.0))
    assert not doors.is_over(direction)
    # Without a watcher of its own, the run worker follows the containers.
    doors.start("watch")
    assert doors.stop(*WORKERS, "api", by=signal.SIGKILL) == dict.fromkeys((*WORKERS, "api"), -9)
    doors.start(*WORKERS, "api")
    doors.until(doors.is_up, within_s=STARTS_WITHIN_S)
    doors.carried_out(direction)


def test_a_redis_that_takes_connections_and_never_answers_holds_nobody_up(doors: Doors) -> None:
    doors.signal("redis", signal.SIGSTOP)
    try:
        assert doors.is_refused()
        assert doors.client.get("/v1/directions").status_code == 200
    finally:
        doors.signal("redis", signal.SIGCONT)
    doors.until(lambda: not doors.is_refused(), within_s=60)
    [direction] = [one.id for one in doors.directions() if not one.is_final]
    doors.until(lambda: doors.read(direction)["state"] != "queued")
    directions.cancel(doors.store, SystemClock(), DirectionId(direction))
    doors.until(lambda: not doors.left(), within_s=60)


def test_the_doors_refuse_what_is_not_allowed(doors: Doors) -> None:
    def problem(answer: httpx.Response) -> int:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        return answer.status_code

    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        for path in (f"/v1/directions/{UNKNOWN}", "/v1/nothing", "/admin", "/docs/oauth2-redirect"):
            assert problem(httpx.get(doors.url + path, headers=headers)) == 401
        assert problem(httpx.post(f"{doors.url}/v1/directions", json=ASKED, headers=headers)) == 401
    for template in ("../2d_diffusion", "/etc", "templates/2d_diffusion", ".", "..", "2d_diffusion/", "", "nothing"):
        assert problem(doors.client.post("/v1/directions", json=ASKED | {"template": template})) == 422
    assert problem(doors.client.get(f"/v1/directions/{UNKNOWN}")) == 404
    assert problem(doors.client.post("/v1/directions", content=b" " * (1 << 20) + b"{}")) == 413


@pytest.mark.parametrize(
    ("command", "changes", "status", "said"),
    [
        (("api",), {"FUMEHOOD_API_KEY": "short"}, 2, "api: FUMEHOOD_API_KEY must be a key of at least 16 characters"),
        (("api",), {"FUMEHOOD_STATE_DIR": "/dev/null/state"}, 3, "api: The state folder /dev/null/state cannot"),
        (("api",), {"FUMEHOOD_DATABASE_URL": "mysql://x/y"}, 2, "api: The database must be one of"),
        (("worker", "--side", "write"), {}, 2, "worker: a write worker needs --gateway"),
        (("worker", "--side", "run"), {"FUMEHOOD_STATE_DIR": "/dev/null/state"}, 3, "worker: The state folder"),
        (("worker", "--side", "run"), {"FUMEHOOD_DATABASE_URL": "mysql://x/y"}, 2, "worker: The database must be"),
    ],
)
def test_a_door_that_cannot_be_opened_says_so_in_one_sentence(
    doors: Doors, command: tuple[str, ...], changes: dict[str, str], status: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], env=doors.environment() | changes, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
