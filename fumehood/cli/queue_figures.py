"""What submitting costs: the real api on a PostgreSQL and a Redis of its own, asked by many at once."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import os
import platform
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fumehood.cli.servers import lasting_port, postgres_server, redis_server
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId
from fumehood.errors import MachineUnfitError, WorkFailedError
from fumehood.services import directions
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from sandbox.overhead import percentile

ASKED = {"template": "2d_diffusion", "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1}
UNLIMITED = "10000000/minute"
"""What a key may ask here: the rates that guard a server would be what is measured."""
STARTS_WITHIN_S = 60.0
WANTED_WITHIN_S = 60.0
SETTLES_S = 2.0
MIB = 1024 * 1024
_BODY = json.dumps(ASKED).encode()
TARGETS = {"submit_p95_ms": ("at most", 50.0), "accepted_per_s": ("at least", 200.0), "streams_mib": ("at most", 200.0)}
"""What is asked for on two cores: one submit, many at once, and the api's memory with those who follow."""


@dataclass(kw_only=True)
class Served:
    """An api with servers of its own, and the workers that are started beside it."""

    folder: Path
    url: str
    key: str
    database_url: str
    environment: dict[str, str]
    api: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def client(self) -> httpx.Client:
        """Return a client with the key; it is on this machine, so no proxy is asked."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    @property
    def address(self) -> str:
        """Return host and port."""
        return self.url.removeprefix("http://")

    def work(self, *words: str) -> None:
        """Start a worker."""
        self.workers.append(_start(self.folder, words[1], ["-m", "worker", *words], self.environment))

    def rest(self) -> None:
        """Stop the workers."""
        _end(self.workers)
        self.workers.clear()

    def memory_mib(self) -> float:
        """Return what the api has in memory."""
        pages = int(Path(f"/proc/{self.api.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def measure(
    folder: Path,
    *,
    turns: int,
    clients: int,
    seconds: float,
    streams: int,
    sandbox: str,
    lab: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Take every figure, on servers that are gone afterwards.

    Args:
        folder: Where everything lies.
        turns: How many submits are timed one by one, and how many of them until work is wanted.
        clients: How many submit at once.
        seconds: For how long they do.
        streams: How many follow a direction's events.
        sandbox: The adapter that launches what is wanted; empty for none.
        lab: What is launched runs in.
        say: Told what is being measured.
    """
    with _served(folder, lab) as served:
        say(f"the api's memory with {streams} who follow")
        before_mib, after_mib = asyncio.run(_followed(served, streams))
        say(f"{turns} submits, one by one")
        single = one_by_one(served, turns)
        say(f"{turns} submits until work is wanted")
        wanted, launched = until_wanted(served, turns, sandbox)
        say(f"{clients} clients at once, for {seconds:g} s")
        accepted, crowded = at_once(served, clients, seconds)
    rows = {
        "submit": single,
        "submit until wanted": wanted,
        "submit until launched": launched,
        "submit, crowded": crowded,
    }
    figures = {
        "submit_p95_ms": percentile(single, 95), "accepted_per_s": round(accepted, 1),
        "streams_mib": round(after_mib, 1),
    }  # fmt: skip
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "clients": clients,
        "streams": streams,
        "rows": [
            {"name": name, "p50_ms": percentile(took, 50), "p95_ms": percentile(took, 95), "n": len(took)}
            for name, took in rows.items()
            if took
        ],
        "accepted_per_s": figures["accepted_per_s"],
        "memory_mib": {"before": round(before_mib, 1), "with_streams": figures["streams_mib"]},
        "targets": [_target(name, measured) for name, measured in figures.items()],
    }


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return a measurement as lines."""
    width = max(len(row["name"]) for row in told["rows"])
    yield f"{'':{width}}  {'p50 ms':>9} {'p95 ms':>9} {'n':>7}"
    for row in told["rows"]:
        yield f"{row['name']:{width}}  {row['p50_ms']:9.1f} {row['p95_ms']:9.1f} {row['n']:7}"
    memory = told["memory_mib"]
    yield f"{told['accepted_per_s']:.1f} submits accepted a second from {told['clients']} clients"
    yield f"{memory['before']:.1f} MiB of the api, {memory['with_streams']:.1f} MiB with {told['streams']} who follow"
    for one in told["targets"]:
        said = "met" if one["met"] else "NOT MET"
        yield f"{one['name']} {one['measured']:.1f}, {one['how']} {one['asked']:.0f} asked: {said}"


def _target(name: str, measured: float) -> dict[str, Any]:
    how, asked = TARGETS[name]
    met = measured >= asked if how == "at least" else measured <= asked
    return {"name": name, "measured": measured, "how": how, "asked": asked, "met": met and math.isfinite(measured)}


def one_by_one(served: Served, turns: int) -> list[float]:
    """Return how long each submit took, in milliseconds, after some that warm what the others find warm."""
    with served.client() as client:
        for _ in range(5):
            _submit(client)
        return [_timed(client) for _ in range(turns)]


def until_wanted(served: Served, turns: int, sandbox: str) -> tuple[list[float], list[float]]:
    """Return how long it took until the first container was wanted, and until it was launched, in milliseconds."""
    store, clock = SqlStore(served.database_url), SystemClock()
    # What was submitted before would be carried out beside what is timed.
    for key in _live(store):
        directions.cancel(store, clock, key)
    # No step comes as far as a call of a model.
    served.work("--side", "write", "--gateway", "http://127.0.0.1:9")
    if sandbox:
        served.work("--side", "run", "--sandbox", sandbox)
        served.work("--side", "watch", "--sandbox", sandbox)
    wanted, launched = [], []
    try:
        with served.client() as client:
            for number in range(turns + 1):
                key = DirectionId(_submit(client))
                first = _first(store, key, is_launched=bool(sandbox))
                with store.begin(write=False) as tx:
                    begun = tx.directions.get(key).created_at
                # The first one finds workers that start, and everything that was submitted before them.
                if number:
                    wanted.append((first.created_at - begun) * 1000)
                    if first.launched_at:
                        launched.append((first.launched_at - begun) * 1000)
                directions.cancel(store, clock, key)
                if sandbox:
                    # What still ends holds processors and memory, for which the next one would wait.
                    _until(lambda: _nothing_left(store), "nothing is left of what was launched")
    finally:
        store.close()
        served.rest()
    return wanted, launched


def at_once(served: Served, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Return how many submits a second were accepted, and how long each took, in milliseconds."""
    begin, over = threading.Barrier(clients + 1), threading.Event()

    def ask() -> list[float]:
        with contextlib.closing(http.client.HTTPConnection(served.address, timeout=30)) as client:
            took = [_timed_bare(client, served.key)]
            begin.wait()
            took.clear()
            while not over.is_set():
                took.append(_timed_bare(client, served.key))
        return took

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        begin.wait(STARTS_WITHIN_S)
        begun = time.monotonic()
        time.sleep(seconds)
        over.set()
        took = [one for asked in asking for one in asked.result()]
        return len(took) / (time.monotonic() - begun), took


async def _followed(served: Served, streams: int) -> tuple[float, float]:
    """Return the api's memory before and while so many follow a direction in which nothing happens."""
    with served.client() as client:
        direction = _submit(client)
    before = served.memory_mib()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {served.key}"}
    url = f"{served.url}/v1/directions/{direction}/events"
    done, heard = asyncio.Event(), asyncio.Semaphore(0)

    async def follow(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise WorkFailedError(f"A stream was refused with {answer.status_code}.")
            lines = answer.aiter_lines()
            await anext(lines)
            heard.release()
            await done.wait()

    async with (
        httpx.AsyncClient(limits=limits, headers=headers, timeout=60, trust_env=False) as following,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(streams):
            group.create_task(follow(following))
        for _ in range(streams):
            await heard.acquire()
        await asyncio.sleep(SETTLES_S)
        after = served.memory_mib()
        done.set()
    return before, after


def _submit(client: httpx.Client) -> str:
    answer = client.post("/v1/directions", json=ASKED)
    if answer.status_code != 202:
        raise WorkFailedError(f"A submit was answered {answer.status_code}: {answer.text[:500]}")
    return str(answer.json()["id"])


def _timed_bare(client: http.client.HTTPConnection, key: str) -> float:
    """Submit as simply as can be: callers who are many take their processor from the api that is measured."""
    begun = time.perf_counter()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    client.request("POST", "/v1/directions", _BODY, headers)
    answer = client.getresponse()
    told = answer.read()
    if answer.status != 202:
        raise WorkFailedError(f"A submit was answered {answer.status}: {told[:500].decode(errors='replace')}")
    return (time.perf_counter() - begun) * 1000


def _timed(client: httpx.Client) -> float:
    begun = time.perf_counter()
    _submit(client)
    return (time.perf_counter() - begun) * 1000


def _first(store: SqlStore, key: DirectionId, *, is_launched: bool) -> Execution:
    """Return a direction's first execution once it is wanted, or launched."""
    found: list[Execution] = []

    def is_there() -> bool:
        with store.begin(write=False) as tx:
            found[:] = tx.executions.find(direction_id=key)[:1]
            direction = tx.directions.get(key)
        if direction.is_final:
            raise WorkFailedError(f"The direction {key} is {direction.state}: {direction.error}")
        return bool(found) and (not is_launched or found[0].launched_at is not None)

    _until(is_there, "work was wanted")
    return found[0]


def _live(store: SqlStore) -> list[DirectionId]:
    with store.begin(write=False) as tx:
        return [one.id for one in tx.directions.find() if not one.is_final]


def _nothing_left(store: SqlStore) -> bool:
    with store.begin(write=False) as tx:
        return all(one.state is ExecutionState.REMOVED for one in tx.executions.find())


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WANTED_WITHIN_S
    while not holds():
        if time.monotonic() > deadline:
            raise WorkFailedError(f"It did not come to this in {WANTED_WITHIN_S:.0f} s: {what}.")
        time.sleep(0.01)


@contextlib.contextmanager
def _served(folder: Path, lab: Path) -> Iterator[Served]:
    """Start everything and have nothing of it left in the end."""
    with (
        postgres_server(lasting_port()) as postgres,
        redis_server(lasting_port(), folder / "redis.log") as redis,
    ):
        port, key, database_url = lasting_port(), secrets.token_urlsafe(32), postgres.empty()
        environment = {
            **_inherited(lab),
            "FUMEHOOD_STATE_DIR": str(folder / "state"),
            "FUMEHOOD_DATABASE_URL": database_url,
            "FUMEHOOD_REDIS_URL": redis.url,
            "FUMEHOOD_API_KEY": key,
            "FUMEHOOD_READS_PER_KEY": UNLIMITED,
            "FUMEHOOD_WRITES_PER_KEY": UNLIMITED,
        }
        api = _start(folder, "api", ["-m", "api", "--port", str(port)], environment)
        served = Served(
            folder=folder, url=f"http://127.0.0.1:{port}", key=key, database_url=database_url, environment=environment,
            api=api,
        )  # fmt: skip
        try:
            _wait(served)
            yield served
        finally:
            served.rest()
            _end([api])


def _inherited(lab: Path) -> dict[str, str]:
    """Return what a person has, but for the settings of another installation, whose lab alone is used."""
    kept = os.environ.items()  # noqa: TID251 - a child inherits what a command has
    mine = {name: value for name, value in kept if not name.startswith("FUMEHOOD_")}
    return {**mine, "FUMEHOOD_LAB_DIR": str(lab)}


def _start(folder: Path, name: str, words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", *words], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(served: Served) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    with served.client() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/healthz").is_success:
                    return
            if served.api.poll() is not None or time.monotonic() > deadline:
                said = (served.folder / "api.log").read_text(encoding="utf-8", errors="replace")
                raise MachineUnfitError(f"The api does not start: {said[-2000:]}")
            time.sleep(0.05)
