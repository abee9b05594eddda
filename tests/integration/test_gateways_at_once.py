"""Two gateways' processes on one PostgreSQL database: nothing is overspent, also when one of them is killed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims, LedgerEntry, day_account, day_of
from fumehood.domain.token import mint
from fumehood.gateway import request
from fumehood.gateway.models import Models
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.fakes import provider as fake
from tests.fakes.postgres import PostgresServer
from tests.fakes.provider import KEY, Asked, Provider, serving

ROOT = Path(__file__).parents[2]
MODEL = "claude-sonnet-4-6"  # $3 in, $15 out
SECRET = b"s" * 32
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello?"}]}
WORST_USD = Models.shipped().of(MODEL).at_worst(request.most_input_tokens(BODY), 100, cached=False)
REAL_USD = (100 * 3 + 50 * 15) / 1e6
DIRECTION = Direction(
    id=DirectionId("dir_1"), tenant=TenantId("ten_1"), template="t", text="", model=MODEL, review_model=MODEL,
    profile="tiny", ideas=1, runs=1,
)  # fmt: skip


@dataclass
class Place:
    """A database, a provider whose answers can be held back, and the gateways between."""

    url: str
    folder: Path
    provider_url: str
    store: SqlStore
    gate: threading.Event
    clock: SystemClock = field(default_factory=SystemClock)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=300, limits=httpx.Limits()))
    """One for all callers, since making one costs more than a call: most certificates of the world are read for it."""

    @contextmanager
    def gateway(self) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        environment = {
            "PYTHONPATH": str(ROOT),
            "FUMEHOOD_STATE_DIR": str(self.folder / "state"),
            "FUMEHOOD_DATABASE_URL": self.url,
            "FUMEHOOD_GATEWAY_SECRET": SECRET.hex(),
            "FUMEHOOD_ANTHROPIC_BASE_URL": self.provider_url,
            "ANTHROPIC_API_KEY": KEY,
        }
        command = [sys.executable, "-m", "fumehood.gateway", "--port", "0", "--with-parent"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes, env=environment, cwd=ROOT) as process:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["url"]
            process.kill()

    def budget(self, calls: int) -> None:
        """Let exactly so many calls fit at their worst."""
        with self.store.begin() as tx:
            tx.directions.save(Direction(**{**vars_of(DIRECTION), "budget_usd": calls * WORST_USD}))

    def ask(self, url: str) -> int:
        claims = Claims(
            tenant=DIRECTION.tenant, direction_id=DIRECTION.id, role="idea", model=MODEL, id="tok_1",
            expires_at=self.clock.now() + 600,
        )  # fmt: skip
        try:
            told = self.client.post(f"{url}/v1/messages", json=BODY, headers={"x-api-key": mint(claims, SECRET)})
        except httpx.TransportError:
            return 0
        if told.status_code == 402:
            assert told.json()["cap"] == "direction"
        return told.status_code

    def spent(self) -> float:
        with self.store.begin(write=False) as tx:
            return tx.ledger.spent_usd(DIRECTION.id)

    def open_calls(self) -> tuple[LedgerEntry, ...]:
        with self.store.begin(write=False) as tx:
            return tx.ledger.open_calls()

    def check_sums(self) -> None:
        """Have every account's balance be the sum of its lines."""
        with self.store.begin(write=False) as tx:
            lines = tx.ledger.entries(DIRECTION.id)
            usd, tokens = sum(one.usd for one in lines), sum(one.tokens for one in lines)
            for account in (DIRECTION.id, "ten_1", "tok_1", day_account(TenantId("ten_1"), day_of(self.clock.now()))):
                balance = tx.ledger.balance(account)
                assert math.isclose(balance.usd, usd, abs_tol=1e-9)
                assert balance.tokens == tokens


def vars_of(direction: Direction) -> dict[str, Any]:
    return {name: getattr(direction, name) for name in Direction.__slots__}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def place(postgres: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    url, gate = postgres.migrated(), threading.Event()

    def answer(_: Asked) -> fake.Reply:
        gate.wait(300)
        return fake.text()

    store = SqlStore(url)
    with store.begin() as tx:
        tx.directions.save(DIRECTION)
    with serving(Provider(answer).app) as provider_url:
        place = Place(url, tmp_path, provider_url, store, gate)
        yield place
        gate.set()
        place.client.close()
    store.close()


def test_of_64_calls_at_two_gateways_exactly_as_many_pass_as_fit(place: Place) -> None:
    fits = 20
    place.budget(fits)
    with place.gateway() as (_, one), place.gateway() as (_, other), ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(place.ask, (one, other)[number % 2]) for number in range(64)]
        # Those that pass wait for the provider, so all are decided while every one of them is at its worst.
        until(lambda: sum(call.done() for call in asked) == 64 - fits)
        assert place.spent() == pytest.approx(fits * WORST_USD)
        place.gate.set()
        statuses = sorted(call.result() for call in asked)
        assert statuses == [200] * fits + [402] * (64 - fits)
        assert place.spent() == pytest.approx(fits * REAL_USD)
        place.check_sums()
        # What the answers cost less than they might have is there again for others.
        assert place.ask(other) == 200
    assert place.open_calls() == ()


def test_a_gateway_killed_in_the_middle_and_begun_anew_loses_nothing_and_lets_nothing_more_out(place: Place) -> None:
    with ExitStack() as others, ThreadPoolExecutor(24) as pool:
        process, one = others.enter_context(place.gateway())
        _, other = others.enter_context(place.gateway())
        place.gate.set()
        assert [place.ask(url) for url in (one, other) * 2] == [200] * 4
        place.gate.clear()
        dying: list[Future[int]] = [pool.submit(place.ask, one) for _ in range(6)]
        living: list[Future[int]] = [pool.submit(place.ask, other) for _ in range(6)]
        until(lambda: len(place.open_calls()) == 12)
        process.kill()
        assert [call.result() for call in dying] == [0] * 6
        _, again = others.enter_context(place.gateway())
        # It closed what the other, which lives, has under way too, and gave nothing of it back.
        assert place.open_calls() == ()
        taken = place.spent()
        assert taken == pytest.approx(4 * REAL_USD + 12 * WORST_USD)
        place.budget(0)
        with place.store.begin() as tx:
            room = Direction(**{**vars_of(DIRECTION), "budget_usd": taken + 3 * WORST_USD})
            tx.directions.save(room)
        late = [pool.submit(place.ask, (again, other)[number % 2]) for number in range(8)]
        until(lambda: sum(call.done() for call in late) == 5)
        assert place.spent() == pytest.approx(taken + 3 * WORST_USD)
        place.gate.set()
        assert [call.result() for call in living] == [200] * 6
        assert sorted(call.result() for call in late) == [200] * 3 + [402] * 5
        # Those of the killed one may have been paid for, so they stay at their worst; all others are as they were.
        assert place.spent() == pytest.approx((4 + 6 + 3) * REAL_USD + 6 * WORST_USD)
        assert place.open_calls() == ()
        place.check_sums()
    with place.store.begin(write=False) as tx:
        assert len(tx.calls.find()) == 4 + 6 + 3
