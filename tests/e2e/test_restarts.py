"""PostgreSQL, S3 or Redis is restarted under a direction: callers are told to come back, and nothing is lost."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import StepState
from fumehood.services import directions
from fumehood.store.clock import SystemClock
from tests import leaks
from tests.fakes.quick import NAME
from tests.installation import ASKED, KEY, OURS, Installation

pytestmark = [pytest.mark.kill, pytest.mark.local, pytest.mark.latex, pytest.mark.redis, pytest.mark.s3]
AWAY_S = 3.0
ANSWERS_WITHIN_S = 8.0
GOES_ON_WITHIN_S = 10.0
DONE_WITHIN_S = 300.0


@dataclass
class Follower:
    """Somebody who follows a direction's events over one connection."""

    url: str
    seen: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        # A connection that is cut leaves it without the end, which is what is asked for.
        with suppress(httpx.TransportError), httpx.stream("GET", self.url, headers=headers, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    self.seen.append(int(line.removeprefix("id: ")))
                self.ended = self.ended or line == "event: end"


class Restarts:
    """One direction, and what is asked while a server is away."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.direction = installation.submit()
        self.follower = Follower(str(installation.client.base_url) + f"/v1/directions/{self.direction}/events")
        self.accepted = {self.direction}

    def until_it_says(self, kind: str) -> None:
        """Wait for an event of the direction."""

        def has_come() -> bool:
            with self.installation.store.begin(write=False) as tx:
                return any(event.kind == kind for event in tx.events.since(DirectionId(self.direction)))

        self.installation.until(has_come, DONE_WITHIN_S, kind)

    def restart(self, server: str, asks: Callable[[], None]) -> None:
        """Restart a server; what was refused meanwhile is accepted once, and the work goes on, all within seconds."""
        self.installation.stop(server)
        began = time.monotonic()
        asks()
        key = f"while {server} is away".replace(" ", "-")
        refused(self.post(key))
        assert self.installation.client.get("/healthz").status_code == 200
        self.installation.until(lambda: not self.installation.is_ready(), AWAY_S, "it is said not to be ready")
        time.sleep(max(0.0, began + AWAY_S - time.monotonic()))
        self.installation.start(server)
        back, done = time.monotonic(), self.done()
        self.accepted.add(self.installation.submit(GOES_ON_WITHIN_S, key))
        self.installation.until(lambda: self.done() > done, GOES_ON_WITHIN_S, "the work goes on")
        self.installation.until(self.installation.is_ready, GOES_ON_WITHIN_S, "it is ready")
        assert time.monotonic() - back < GOES_ON_WITHIN_S
        for other in self.accepted - {self.direction}:
            directions.cancel(self.installation.store, SystemClock(), DirectionId(other))

    def make_known(self) -> None:
        """Have the api read the template just now."""
        self.accepted.add(self.installation.submit())

    def post(self, key: str) -> httpx.Response:
        began = time.monotonic()
        answer = self.installation.client.post("/v1/directions", json=ASKED, headers={"Idempotency-Key": key})
        assert time.monotonic() - began < ANSWERS_WITHIN_S
        return answer

    def done(self) -> int:
        """Return how many steps of the direction are done."""
        with self.installation.store.begin(write=False) as tx:
            return len(tx.steps.find(direction_id=self.direction, state=StepState.DONE))

    def read(self, path: str) -> httpx.Response:
        return self.installation.client.get(path)

    def first_run(self) -> str:
        with self.installation.store.begin(write=False) as tx:
            return tx.runs.find(direction_id=self.direction, index=0)[0].id


def refused(answer: httpx.Response) -> None:
    """Hold an answer against what is promised while something is away."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    told: dict[str, Any] = answer.json()
    assert told["status"] == 503
    assert "\n" not in told["detail"]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, lab_dir: Path) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("restarts") / "it", lab_dir, s3="seaweedfs")
    try:
        made.begin()
        yield made
    finally:
        made.end()


def test_a_direction_outlives_restarts_of_its_servers(installation: Installation) -> None:
    restarts = Restarts(installation)
    path = f"/v1/directions/{restarts.direction}"

    def without_s3() -> None:
        refused(restarts.read(f"/v1/runs/{run}/record"))
        # One that was submitted a moment ago is known; its files were kept, and are not asked for.
        accepted = restarts.post("a-known-template")
        assert accepted.status_code == 202, accepted.text
        restarts.accepted.add(accepted.json()["id"])
        os.utime(installation.folder / "templates" / NAME / "experiment.py")
        assert restarts.read(path).status_code == 200

    def without_database() -> None:
        for asked in (path, "/v1/directions", f"/v1/runs/{run}"):
            refused(restarts.read(asked))

    def without_redis() -> None:
        for asked in (path, f"/v1/runs/{run}/record"):
            assert restarts.read(asked).status_code == 200

    restarts.until_it_says("run.measured")
    restarts.make_known()
    run = restarts.first_run()
    restarts.restart("s3", without_s3)
    restarts.until_it_says("experiment.started")
    restarts.restart("postgres", without_database)
    restarts.until_it_says("plots.drawn")
    restarts.restart("redis", without_redis)
    installation.until(lambda: installation.is_over(restarts.direction), DONE_WITHIN_S, "the direction ends")
    nothing_was_lost(restarts)


def nothing_was_lost(restarts: Restarts) -> None:
    installation, key = restarts.installation, restarts.direction
    told = installation.read(key)
    assert (told["state"], told["error"]) == ("done", "")
    with installation.store.begin(write=False) as tx:
        executions = tx.executions.find(direction_id=key)
        events = [event.seq for event in tx.events.since(DirectionId(key))]
        runs = tx.runs.find(direction_id=key)
        known = {one.id for one in tx.directions.find()}
    assert not any(one.losses for one in executions)
    assert sorted(run.index for run in runs) == [0, 1]
    # What was refused and sent again with its key is there once.
    assert known == restarts.accepted
    installation.until(lambda: restarts.follower.ended, 10, "the follower hears of the end")
    assert restarts.follower.seen == events
    record = json.loads(installation.client.get(f"/v1/runs/{restarts.first_run()}/record").content)
    assert record["payload"]

    def is_cleared() -> bool:
        with installation.store.begin(write=False) as tx:
            return all(one.state is ExecutionState.REMOVED for one in tx.executions.find())

    installation.until(is_cleared, 30, "every execution is removed")
    assert leaks.recorded(installation.state) == {}
    for name in OURS:
        assert "Traceback" not in installation.log(name), installation.log(name)[-3000:]
