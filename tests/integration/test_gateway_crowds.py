"""A provider that hangs: its callers wait or are refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fumehood.domain.ids import TenantId
from fumehood.domain.ledger import Claims
from fumehood.gateway.line import MOST_WAITING, Line, streamed
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message
from tests.fakes.gateway import Gateway, gateway

MODEL = "claude-sonnet-4-6"
AT_ONCE = 16
CROWD = 300
OTHERS_S = 5.0
"""Far more than an answer takes that waits for nobody, and far less than the hung ones are left to hang."""
MESSAGE: Message = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "Hello."}],
    "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip


class Hanging:
    """A provider that answers nobody until it is let go."""

    name = "anthropic"

    def __init__(self) -> None:
        self.line = Line("anthropic", most_at_once=AT_ONCE)
        self.goes_on = threading.Event()
        self.asked: list[str] = []

    def send(self, claims: Claims, body: Body) -> Message:  # noqa: ARG002 - part of the port
        return self.line.carry_out(lambda _: self._answer(claims.tenant), claims.tenant)

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:  # noqa: ARG002 - part of the port
        def events(_: float) -> Any:
            for at, event in enumerate(events_of(MESSAGE)):
                if at == 1:
                    self._answer(claims.tenant)
                yield event

        return streamed(self.line, events, claims.tenant)

    def count(self, claims: Claims, body: Body) -> int:
        raise NotImplementedError

    def _answer(self, tenant: str) -> Message:
        self.asked.append(tenant)
        self.goes_on.wait(60)
        return MESSAGE


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.goes_on.set()


def asked(model: str, *, stream: bool = False) -> dict[str, Any]:
    return {"model": model, "max_tokens": 5, "stream": stream, "messages": [{"role": "user", "content": "?"}]}


async def post(client: httpx.AsyncClient, room: Gateway, model: str, **how: Any) -> int:
    headers = {"x-api-key": room.token(model)}
    answer = await client.post(f"{room.url}/v1/messages", json=asked(model, **how), headers=headers)
    return answer.status_code


def anothers(room: Gateway) -> Gateway:
    direction = dataclasses.replace(room.direction, tenant=TenantId("ten_2"))
    return dataclasses.replace(room, direction=direction).anew()


async def until(holds: Any) -> None:
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_crowd_before_a_provider_that_hangs_keeps_nobody_else_waiting(hanging: Hanging, stream: bool) -> None:
    async def crowded(room: Gateway, other: Gateway) -> None:
        limits = httpx.Limits(max_connections=CROWD + 20)
        async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:
            crowd = [asyncio.create_task(post(client, room, MODEL, stream=stream)) for _ in range(CROWD)]
            waits = AT_ONCE + MOST_WAITING // 2
            # Under way is what has a place, as many wait as may, and the others were told so at once.
            await until(lambda: sum(one.done() for one in crowd) == CROWD - waits)
            assert Counter(hanging.asked) == {"ten_1": AT_ONCE}

            begun = time.monotonic()
            assert (await client.get(f"{room.url}/healthz")).status_code == 200
            assert [await post(client, one, "offline", stream=stream) for one in (other, room)] == [200, 200]
            assert time.monotonic() - begun < OTHERS_S

            # Another tenant's call to the same provider is let in, and has its turn.
            late = asyncio.create_task(post(client, other, MODEL))
            await asyncio.sleep(0.5)
            assert not late.done()
            hanging.goes_on.set()
            assert await late == 200
            assert Counter([await one for one in crowd]) == {200: waits, 529: CROWD - waits}

    with gateway({"anthropic": hanging}) as room:
        asyncio.run(crowded(room, anothers(room)))
        assert {one.status for one in room.calls()} == {200, 529}
        assert all(sum(line.usd for line in room.entries() if line.call_id == one.id) < 0.001 for one in room.calls())
