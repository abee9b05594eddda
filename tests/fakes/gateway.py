"""A gateway over real HTTP before any upstreams, with its ledger to look into."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims, LedgerEntry, ModelCall
from fumehood.gateway import tokens
from fumehood.gateway.app import create_app
from fumehood.gateway.exchange import Desk
from fumehood.gateway.models import Models
from fumehood.gateway.upstream import Upstream
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.store.clock import SystemClock
from fumehood.store.memory import MemoryStore
from tests.fakes.provider import serving

SECRET = b"s" * 32


@dataclasses.dataclass(frozen=True)
class Gateway:
    """One direction's view of it."""

    url: str
    store: MemoryStore
    artifacts: MemoryArtifacts
    clock: SystemClock
    direction: Direction

    def anew(self) -> Gateway:
        """Return the view of another direction, which has no calls yet."""
        direction = dataclasses.replace(self.direction, id=DirectionId(self.clock.new_id("dir")))
        with self.store.begin() as tx:
            tx.directions.save(direction)
        return dataclasses.replace(self, direction=direction)

    def claims(self, model: str, **changes: Any) -> Claims:
        claims = Claims(
            tenant=self.direction.tenant,
            direction_id=self.direction.id,
            role="notes",
            model=model,
            expires_at=self.clock.now() + 600,
        )
        return dataclasses.replace(claims, **changes)

    def token(self, model: str, **changes: Any) -> str:
        return tokens.mint(self.claims(model, **changes), SECRET)

    def entries(self) -> tuple[LedgerEntry, ...]:
        with self.store.begin() as tx:
            return tx.ledger.entries(self.direction.id)

    def spent(self) -> float:
        with self.store.begin() as tx:
            return tx.ledger.spent_usd(self.direction.id)

    def calls(self) -> tuple[ModelCall, ...]:
        with self.store.begin() as tx:
            return tx.calls.find(direction_id=self.direction.id)

    def closed(self, count: int = 1) -> tuple[ModelCall, ...]:
        """Wait until so many calls are closed: after a caller has gone this takes a moment."""
        deadline = time.monotonic() + 10
        while len(self.calls()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.calls()

    def budget(self, usd: float) -> None:
        with self.store.begin() as tx:
            tx.directions.save(dataclasses.replace(self.direction, budget_usd=usd))


@contextmanager
def gateway(upstreams: Mapping[str, Upstream] | None = None, models: Models | None = None) -> Iterator[Gateway]:
    """Serve a gateway that keeps its things in memory; the offline model is always there."""
    clock, store = SystemClock(), MemoryStore()
    artifacts = MemoryArtifacts()
    direction = Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=TenantId("ten_1"),
        template="t",
        text="",
        model="offline",
        review_model="offline",
        profile="tiny",
        ideas=1,
        runs=1,
        budget_usd=10.0,
    )
    with store.begin() as tx:
        tx.directions.save(direction)
    desk = Desk(
        store=store,
        artifacts=artifacts,
        clock=clock,
        secret=SECRET,
        upstreams={"offline": OfflineModel(artifacts), **(upstreams or {})},
        models=models or Models.shipped(),
    )
    with serving(create_app(desk)) as url:
        yield Gateway(url, store, artifacts, clock, direction)
