"""What the gateway costs: as a process between a caller and a stand-in for a provider, beside asking that directly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import platform
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from fumehood.cli.servers import lasting_port, postgres_server
from fumehood.cli.stand_in import WORDS
from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.token import mint
from fumehood.errors import WorkFailedError
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore, open_store
from sandbox.overhead import percentile

MODEL = "claude-sonnet-4-6"
WARM = 10
ANSWERS_WITHIN_S = 60.0
TARGETS = {"overhead_p50_ms": 5.0, "first_byte_ms": 10.0, "streams_whole": 0.0}
"""What is asked for on two cores, at most: a call's p50 above asking directly, a stream's first byte above that, and of
the streams at once those that did not come whole."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Somewhere that answers the Messages API."""

    url: str
    key: str

    def headers(self) -> dict[str, str]:
        """Return what a call carries."""
        return {"x-api-key": self.key, "anthropic-version": "2023-06-01"}


def measure(folder: Path, *, turns: int, streams: int, database: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Take every figure, on processes that are gone afterwards.

    Args:
        folder: Where everything lies.
        turns: How many calls and how many streams are timed one by one, each beside one that asks directly.
        streams: How many are read at once.
        database: `postgresql` or `sqlite`.
        say: Told what is being measured.
    """
    with _served(folder, database) as (direct, gateway):
        waits: list[float] = []
        say(f"{turns} calls, each beside one that asks directly")
        with (folder / "disk").open("wb", buffering=0) as file:
            calls = _in_turn(turns, direct, gateway, _call, between=lambda: waits.append(_wait(file)))
        say(f"{turns} streams' first bytes, the same way")
        firsts = _in_turn(turns, direct, gateway, _first_byte)
        say(f"{streams} streams at once")
        crowd = {
            name: asyncio.run(_at_once(place, streams)) for name, place in (("direct", direct), ("gateway", gateway))
        }
    above = [through - bare for bare, through in zip(*calls, strict=True)]
    first_above = [through - bare for bare, through in zip(*firsts, strict=True)]
    rows = {
        "call, direct": calls[0],
        "call, gateway": calls[1],
        "call, gateway above direct": above,
        "a write that waits for the disk": waits[WARM:],
        "first byte, direct": firsts[0],
        "first byte, gateway": firsts[1],
        "first byte, gateway above direct": first_above,
        f"{streams} streams, first byte, direct": crowd["direct"].firsts,
        f"{streams} streams, first byte, gateway": crowd["gateway"].firsts,
        f"{streams} streams, whole, direct": crowd["direct"].wholes,
        f"{streams} streams, whole, gateway": crowd["gateway"].wholes,
    }
    figures = {
        "overhead_p50_ms": percentile(above, 50),
        "first_byte_ms": percentile(first_above, 50),
        "streams_whole": float(streams - len(crowd["gateway"].wholes)),
    }
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "database": database,
        "streams": streams,
        "rows": [
            {"name": name, "p50_ms": percentile(took, 50), "p95_ms": percentile(took, 95), "n": len(took)}
            for name, took in rows.items()
            if took
        ],
        "targets": [
            {
                "name": name,
                "measured": value,
                "asked": TARGETS[name],
                "met": math.isfinite(value) and value <= TARGETS[name],
            }
            for name, value in figures.items()
        ],
    }


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return a measurement as lines."""
    width = max(len(row["name"]) for row in told["rows"])
    yield f"{told['database']:{width}}  {'p50 ms':>9} {'p95 ms':>9} {'n':>7}"
    for row in told["rows"]:
        yield f"{row['name']:{width}}  {row['p50_ms']:9.2f} {row['p95_ms']:9.2f} {row['n']:7}"
    for one in told["targets"]:
        said = "met" if one["met"] else "NOT MET"
        yield f"{one['name']} {one['measured']:.2f}, at most {one['asked']:.0f} asked: {said}"


def _in_turn(
    turns: int,
    direct: Place,
    gateway: Place,
    timed: Callable[[httpx.Client, Place], float],
    between: Callable[[], object] = lambda: None,
) -> tuple[list[float], list[float]]:
    """Return what each way took, in milliseconds, in turn, so that the machine's mood is the same for both."""
    bare, through = [], []
    with httpx.Client(timeout=30, trust_env=False) as client:
        for number in range(WARM + turns):
            took = timed(client, direct), timed(client, gateway)
            between()
            if number >= WARM:
                bare.append(took[0])
                through.append(took[1])
    return bare, through


def _asked(*, stream: bool) -> dict[str, Any]:
    """Return a request that was never made before, since what was kept already costs less to keep."""
    said = f"Hello, this is {secrets.token_hex(8)}."
    return {"model": MODEL, "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": said}]}


def _call(client: httpx.Client, place: Place) -> float:
    begun = time.perf_counter()
    answer = client.post(f"{place.url}/v1/messages", json=_asked(stream=False), headers=place.headers())
    took = (time.perf_counter() - begun) * 1000
    _checked(answer.status_code, answer.text)
    return took


def _wait(file: BinaryIO) -> float:
    """Return what the disk alone takes of a call, in milliseconds: its reservation waits for as much as this once."""
    begun = time.perf_counter()
    file.write(bytes(4096))
    os.fdatasync(file.fileno())
    return (time.perf_counter() - begun) * 1000


def _first_byte(client: httpx.Client, place: Place) -> float:
    begun = time.perf_counter()
    with client.stream("POST", f"{place.url}/v1/messages", json=_asked(stream=True), headers=place.headers()) as answer:
        next(answer.iter_bytes())
        took = (time.perf_counter() - begun) * 1000
        _checked(answer.status_code, "")
    return took


@dataclass(frozen=True, kw_only=True)
class _Crowd:
    firsts: list[float]
    wholes: list[float]


async def _at_once(place: Place, streams: int) -> _Crowd:
    """Return how long the first byte and the whole took of each stream that came whole, in milliseconds."""
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:
        took = await asyncio.gather(*(_one(client, place) for _ in range(streams)))
    whole = [one for one in took if one is not None]
    return _Crowd(firsts=[first for first, _ in whole], wholes=[last for _, last in whole])


async def _one(client: httpx.AsyncClient, place: Place) -> tuple[float, float] | None:
    begun, first, seen = time.perf_counter(), 0.0, b""
    address = f"{place.url}/v1/messages"
    async with client.stream("POST", address, json=_asked(stream=True), headers=place.headers()) as answer:
        async for part in answer.aiter_bytes():
            first = first or (time.perf_counter() - begun) * 1000
            seen += part
    last = (time.perf_counter() - begun) * 1000
    is_whole = seen.count(b"text_delta") == WORDS and b"message_stop" in seen
    return (first, last) if is_whole else None


def _checked(status: int, text: str) -> None:
    if status != httpx.codes.OK:
        raise WorkFailedError(f"A call was answered {status}: {text[:300]}")


@contextlib.contextmanager
def _served(folder: Path, database: str) -> Iterator[tuple[Place, Place]]:
    with contextlib.ExitStack() as held:
        if database == "postgresql":
            server = held.enter_context(postgres_server(lasting_port()))
            url = server.empty()
        else:
            url = f"sqlite:///{folder / 'fumehood.db'}"
        provider = held.enter_context(_stand_in(folder))
        token = _prepared(url)
        yield (
            Place(url=provider, key="none"),
            Place(url=held.enter_context(_gateway(folder, url, provider)), key=token),
        )


def _prepared(database_url: str) -> str:
    """Make a direction that calls can be for, and return a token for them."""
    clock = SystemClock()
    direction = Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=TenantId("ten_local"),
        template="none",
        text="",
        model=MODEL,
        review_model=MODEL,
        profile="tiny",
        ideas=1,
        runs=1,
        budget_usd=1000.0,
    )
    store: SqlStore = open_store(database_url)
    with store.begin() as tx:
        tx.directions.save(direction)
    store.close()
    claims = Claims(
        tenant=direction.tenant, direction_id=direction.id, role="idea", model=MODEL, expires_at=clock.now() + 3600
    )
    return mint(claims, _SECRET)


_SECRET = secrets.token_bytes(32)


@contextlib.contextmanager
def _stand_in(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.set_inheritable(True)
        number = listener.fileno()
        command = [sys.executable, "-m", "fumehood.cli.stand_in", str(number)]
        with _running(command, folder / "stand_in.log", pass_fds=(number,)):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _gateway(folder: Path, database_url: str, provider: str) -> Iterator[str]:
    environment = {
        "PATH": os.defpath,
        "FUMEHOOD_STATE_DIR": str(folder / "state"),
        "FUMEHOOD_DATABASE_URL": database_url,
        "FUMEHOOD_ANTHROPIC_BASE_URL": provider,
        "FUMEHOOD_GATEWAY_SECRET": _SECRET.hex(),
        "FUMEHOOD_MODELS": str(_many_at_once(folder)),
        "ANTHROPIC_API_KEY": "sk-ant-none",
    }
    command = [sys.executable, "-m", "fumehood.gateway", "--port", "0"]
    with _running(command, folder / "gateway.log", env=environment, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise WorkFailedError("The gateway says nothing.")
        line = process.stdout.readline()
        if not line:
            said = (folder / "gateway.log").read_text(errors="replace")[-500:]
            raise WorkFailedError(f"The gateway did not start: {said}")
        yield str(json.loads(line)["url"])


def _many_at_once(folder: Path) -> Path:
    """Write down that the stand-in takes more calls at once than a provider is sent."""
    file = folder / "models.toml"
    file.write_text('[upstreams.anthropic]\nkind = "anthropic"\nkey = "anthropic"\nmost_at_once = 1000\n')
    return file


@contextlib.contextmanager
def _running(command: list[str], log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, **{"stdout": file, **how})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
