"""A gateway of models for one case, and the execution that may ask it; named protections can be switched off.

What is off opens the way to money and models of our own making, and to nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Execution, ExecutionState
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.token import execution_secret
from fumehood.gateway.accounts import Accounts, Reservation
from fumehood.gateway.app import create_app
from fumehood.gateway.exchange import Desk
from fumehood.gateway.models import Models
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message, Upstream
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.store.clock import SystemClock
from fumehood.store.memory import MemoryStore
from sandbox.egress.granting import ModelGateway
from tests.fakes.provider import serving

MODEL = "claude-sonnet-4-6"
CAP_USD = 0.05
"""What the execution may spend."""
SLOW_S = 0.5
"""So long an answer takes, so that calls at once are under way together."""
_SECRET = b"escape" * 6


class _Provider:
    """Answers every call at its whole length."""

    name = "anthropic"

    def send(self, claims: Claims, body: Body) -> Message:
        """Return an answer that costs the most that was set aside for output."""
        time.sleep(SLOW_S)
        usage = {"input_tokens": 1000, "output_tokens": body["max_tokens"]}
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": claims.model, "stop_reason": "max_tokens",
            "stop_sequence": None, "content": [{"type": "text", "text": "canary"}], "usage": usage,
        }  # fmt: skip

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the same as events."""
        return events_of(self.send(claims, body))

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return some number."""
        return 1


class _WeakAccounts(Accounts):
    """Takes an execution for what it was at first, or lets any call pass, where these protections are off."""

    def __init__(self, store: MemoryStore, clock: SystemClock, off: AbstractSet[str]) -> None:
        super().__init__(store, clock)
        self._off = off
        self._known: dict[str, Claims] = {}

    def bound(self, claims: Claims) -> Claims:
        """Return what the holder of a token may do, or could once."""
        if "end of the execution" not in self._off:
            return super().bound(claims)
        if claims.id not in self._known:
            self._known[claims.id] = super().bound(claims)
        return self._known[claims.id]

    def reserve(self, call_id: str, claims: Claims, usd: float, tokens: int) -> Reservation:
        """Set money aside, with no look at what there is."""
        if not {"end of the execution", "cap of the execution"} & self._off:
            return super().reserve(call_id, claims, usd, tokens)
        made = Reservation(call_id=call_id, claims=claims, usd=usd, tokens=tokens, day="2026-01-01")
        with self._store.begin() as tx:
            tx.ledger.add(self._entry(made, "reserved", usd, tokens))
        return made


class _WeakDesk(Desk):
    """Believes a token's claims, or answers by any model, where these protections are off."""

    off: AbstractSet[str]

    def claims(self, token: str) -> Claims:
        """Return what a token says, whoever signed it."""
        if "signature of tokens" not in self.off:
            return super().claims(token)
        claims = json.loads(bytes.fromhex(token.rpartition(".")[2]))
        return Claims(**claims)

    def upstream(self, claims: Claims, body: Body) -> Upstream:
        """Return who answers for the model that was asked for."""
        if "model of the token" not in self.off:
            return super().upstream(claims, body)
        return self.upstreams["anthropic"]


class ModelHouse:
    """A gateway of models that is served, a direction that pays, and an execution of it that is under way."""

    def __init__(self, off: AbstractSet[str]) -> None:
        self.clock, self.store = SystemClock(), MemoryStore()
        artifacts = MemoryArtifacts()
        self.direction = Direction(
            id=DirectionId(self.clock.new_id("dir")), tenant=TenantId("ten_1"), template="t", text="", model=MODEL,
            review_model=MODEL, profile="tiny", ideas=1, runs=1, budget_usd=100.0,
        )  # fmt: skip
        self.execution = Execution(
            id=ExecutionId(self.clock.new_id("exec")), direction_id=self.direction.id, kind=Kind.RUN, image="plain",
            command=("true",), network="allow:llm", llm_usd=CAP_USD, state=ExecutionState.LAUNCHED,
        )  # fmt: skip
        with self.store.begin() as tx:
            tx.directions.save(self.direction)
            tx.executions.save(self.execution)
        desk = _WeakDesk(
            store=self.store,
            artifacts=artifacts,
            clock=self.clock,
            secret=_SECRET,
            upstreams={"anthropic": _Provider(), "offline": OfflineModel(artifacts)},
            models=Models.shipped(),
        )
        object.__setattr__(desk, "off", off)
        object.__setattr__(desk, "accounts", _WeakAccounts(self.store, self.clock, off))
        self._served = ExitStack()
        self.url = self._served.enter_context(serving(create_app(desk)))
        self.gateway = ModelGateway(url=self.url, secret=lambda: execution_secret(_SECRET))

    @property
    def labels(self) -> dict[str, str]:
        """What a launch of the execution is labelled with."""
        return {"execution": self.execution.id, "direction": self.direction.id}

    @property
    def port(self) -> int:
        """Where the gateway listens, on loopback."""
        return int(self.url.rpartition(":")[2])

    def end(self) -> None:
        """Write down that the execution is over."""
        with self.store.begin() as tx:
            tx.executions.save(dataclasses.replace(self.execution, state=ExecutionState.COLLECTED))

    def spent_usd(self) -> float:
        """Return what the direction has spent, or set aside."""
        with self.store.begin(write=False) as tx:
            return tx.ledger.spent_usd(self.direction.id)

    def close(self) -> None:
        """Stop serving."""
        self._served.close()
