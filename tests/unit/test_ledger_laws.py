"""Nothing is overspent and nothing is lost: the ledger's laws, whatever order things happen in and wherever it is cut.

Each rule is one thing that may happen to gateways that share a store: a call comes, is answered, breaks off or is
refused, its gateway is killed at any line of its own code, the database or the artifacts go away, another gateway
starts while the first lives, caps are changed, tokens revoked. What has to be in the ledger is worked out here from
what the provider was paid, never from what the gateway says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain import ledger
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment
from fumehood.domain.ids import DirectionId, ExperimentId, IdeaId, TenantId
from fumehood.domain.ledger import Claims, LedgerEntry, ModelUsage
from fumehood.domain.quota import Balance
from fumehood.domain.tenant import Tenant
from fumehood.domain.token import LONGEST_LIFE_S, TokenError
from fumehood.errors import ArtifactsUnavailableError, OverBudgetError, StoreUnavailableError
from fumehood.gateway import accounts, exchange, late
from fumehood.gateway.exchange import MOST_BESIDE, Desk, Exchange, Relay
from fumehood.gateway.late import Late
from fumehood.gateway.models import Model, Models
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message, UpstreamError
from fumehood.ports import Store, Transaction
from fumehood.services import revoking
from fumehood.store.memory import FixedClock, MemoryStore
from tests.fakes.store import migrated

MODEL = "claude-sonnet-4-6"
FREE, UNKNOWN = "mine/free", "claude-of-tomorrow"
_SHIPPED = Models.shipped()
MODELS = Models(_SHIPPED.sources, {**_SHIPPED.all(), FREE: Model(upstream="anthropic", free=True)}, allow_unknown=True)
PRICES = {MODEL: (3e-6, 15e-6), FREE: (0.0, 0.0), UNKNOWN: (0.0, 0.0)}
"""What a token in and a token out cost of each model, said here on its own."""
ASKED = st.sampled_from([MODEL, MODEL, MODEL, FREE, UNKNOWN])
WATCHED = {module.__file__ for module in (accounts, exchange, late)}
TENANTS = ("ten_1", "ten_2")
DIRECTIONS = {"dir_1": "ten_1", "dir_2": "ten_1", "dir_3": "ten_2"}
EXPERIMENTS = {"exp_1": "dir_1", "exp_2": "dir_1", "exp_3": "dir_3"}
PLACES = [(direction, None) for direction in DIRECTIONS] + [(of, key) for key, of in EXPERIMENTS.items()]
PLACES += [("dir_1", "exp_1")] * 4
"""Where calls are for: mostly one experiment, so that its caps are come to."""
TOKENS = tuple(f"tok_{letter * 26}" for letter in "abc")
AMOUNTS = st.sampled_from([None, None, 0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05])
TOKEN_AMOUNTS = st.sampled_from([None, None, 0.0, 1000.0, 2000.0, 4000.0, 8000.0])
OWN_CAPS = st.sampled_from([None, None, 0.01, 0.02, 0.03])
COMMITS = st.sampled_from([""] * 4 + ["before", "after", "after"])
LINES = st.sampled_from([0] * 360 + list(range(1, 121)))
"""Before which line of its own code a gateway is killed; mostly none."""
WAYS = ["whole", "whole", "down", "lost", "stream", "cut", "left"]
"""How a provider answers."""
SPLITS = ("budget_usd", "budget_usd_per_experiment", "budget_usd_per_call")


class KilledError(BaseException):
    """The gateway's process is gone; nothing that it would do after this is done."""


@dataclasses.dataclass
class Life:
    """Whether a gateway lives, and what is away for it now."""

    is_alive: bool = True
    commit: str = ""
    """What becomes of its next commit: lost `before` it came through, or heard of no more `after` it did."""
    has_artifacts: bool = True


class ItsStore:
    """The shared store as one gateway reaches it."""

    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life

    @contextlib.contextmanager
    def begin(self, *, write: bool = True, durable: bool = True) -> Iterator[Transaction]:
        self._check()
        commit, self._life.commit = (self._life.commit, "") if write else ("", self._life.commit)
        with self._store.begin(write=write, durable=durable) as tx:
            yield tx
            if commit == "before":
                raise StoreUnavailableError("It went away.")
        if commit == "after":
            raise StoreUnavailableError("It went away, and whether the commit came through is not known.")

    def version(self) -> int:
        return self._store.version()

    def _check(self) -> None:
        if not self._life.is_alive:
            raise KilledError


class ItsArtifacts(MemoryArtifacts):
    """Artifacts as one gateway reaches them."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    def put(self, data: bytes) -> str:
        if not self._life.is_alive:
            raise KilledError
        if not self._life.has_artifacts:
            raise ArtifactsUnavailableError("They do not answer.")
        return super().put(data)


class Waiting(Late):
    """What is written down later, when the machine says so instead of when time has passed."""

    def _begin(self) -> None:
        pass

    @property
    def waits(self) -> bool:
        return bool(self._waiting)


class Provider:
    """Answers as it is told, and remembers what it was paid."""

    name = "anthropic"

    def __init__(self) -> None:
        self.paid: dict[str, tuple[int, int]] = {}
        """By call, the tokens in and out that it charges for."""
        self.call = ""
        self.usage = (0, 0)
        self.is_down = False
        self.loses: tuple[int, int] | None = None
        """Its next answer is lost on the way, and all that is known of what it charges is that it is this at most."""
        self.cut_after: int | None = None
        """Of a stream, how many events are sent."""

    def send(self, claims: Claims, body: Any) -> Message:  # noqa: ARG002
        if self.loses:
            self.paid[self.call], self.loses, self.is_down = self.loses, None, True
            raise UpstreamError("It broke off.", status=502, kind="api_error", retryable=True, maybe_paid=True)
        if self.is_down:
            raise UpstreamError("Overloaded.", status=529, kind="overloaded_error", retryable=True)
        self.paid[self.call] = self.usage
        return self._message()

    def stream(self, claims: Claims, body: Any) -> Iterator[Event]:  # noqa: ARG002
        return self._events(events_of(self._message()))

    def count(self, claims: Claims, body: Any) -> int:
        raise NotImplementedError

    def _events(self, events: Iterator[Event]) -> Iterator[Event]:
        call, (given, _), said, at = self.call, self.usage, 0, 0
        for at, event in enumerate(events):
            if at == self.cut_after:
                raise UpstreamError("The answer broke off.", status=502, kind="api_error")
            said += len(event.get("delta", {}).get("text", ""))
            if event["type"] == "message_delta":
                said = 0
            elif said:
                # Broken off here, it charges for what it had said: two letters are one token.
                self.paid[call] = (given, math.ceil(said / 2))
            elif event["type"] == "message_start":
                self.paid[call] = (given, 1)
            if event["type"] == "message_delta":
                self.paid[call] = (given, event["usage"]["output_tokens"])
            yield event

    def _message(self) -> Message:
        given, said = self.usage
        text = "ab" * max(said - 1, 1)
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
            "stop_sequence": None, "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": given, "output_tokens": said},
        }  # fmt: skip


@dataclasses.dataclass
class Gateway:
    """One gateway's process."""

    desk: Desk
    life: Life
    late: Waiting


@dataclasses.dataclass
class Call:
    """A call under way, or over."""

    key: str
    gateway: Gateway
    model: str
    worst_usd: float
    worst_tokens: int
    exchange: Exchange
    relay: Relay | None = None
    is_over: bool = False


@contextlib.contextmanager
def killed_at(line: int, life: Life) -> Iterator[None]:
    """End the gateway's life before the so-manieth line that it carries out of its own code; 0 lets it live."""
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                life.is_alive = False
                raise KilledError
        return trace

    before = sys.gettrace()
    if line:
        sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Ledger(RuleBasedStateMachine):
    """Gateways that share a store, and what may happen to them."""

    open_store: ClassVar[Callable[[Path], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fumehood-ledger-"))
        self.store = type(self).open_store(self.folder)
        self.clock = FixedClock()
        self.provider = Provider()
        self.gateways: list[Gateway] = []
        self.calls: list[Call] = []
        self.seen: tuple[LedgerEntry, ...] = ()
        self.revoked: dict[str, float] = {}
        self.quotas: dict[tuple[str, str], tuple[float, float, str]] = {}
        """By tenant and name what was set last, what was taken of it then, and on which day that was."""
        self.numbers = 0

    @initialize()
    def begin(self) -> None:
        with self.store.begin() as tx:
            for key in TENANTS:
                tx.tenants.save(Tenant(id=TenantId(key), name=key))
            for key, tenant in DIRECTIONS.items():
                made = Direction(
                    id=DirectionId(key), tenant=TenantId(tenant), template="t", text="", model=MODEL,
                    review_model=MODEL, profile="tiny", ideas=1, runs=1,
                )  # fmt: skip
                tx.directions.save(made)
            for key, of in EXPERIMENTS.items():
                tx.experiments.save(
                    Experiment(
                        id=ExperimentId(key), direction_id=DirectionId(of), idea_id=IdeaId("idea_1"), name=key, index=0
                    )
                )
        self.start_another()
        self.start_another()

    # ---- what may happen

    @precondition(lambda self: len(self.alive) < 3)
    @rule(really=st.sampled_from([False] * 3 + [True]))
    def start(self, *, really: bool) -> None:
        """Start a gateway, while others live too; it closes what it takes for abandoned."""
        if really or not self.alive:
            self.start_another()

    def start_another(self) -> None:
        life = Life()
        desk = Desk(
            store=ItsStore(self.store, life),
            artifacts=ItsArtifacts(life),
            clock=self.clock,
            secret=b"s" * 32,
            upstreams={"anthropic": self.provider},
            models=MODELS,
            # Every other gateway keeps all texts with the artifacts, as long ones are.
            most_beside=(0, MOST_BESIDE)[len(self.gateways) % 2],
        )
        waiting = Waiting()
        object.__setattr__(desk, "late", waiting)
        desk.accounts.close_abandoned()
        assert desk.accounts.close_abandoned() == 0
        self.gateways.append(Gateway(desk, life, waiting))

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        place=st.sampled_from(PLACES),
        token=st.sampled_from(("", TOKENS[0], TOKENS[0], *TOKENS)),
        cap=OWN_CAPS,
        model=ASKED,
        most=st.sampled_from([50, 200, 1000]),
        line=LINES,
        commit=COMMITS,
    )
    def ask(
        self, data: st.DataObject, place: Any, token: str, cap: float | None, model: str, most: int, line: int,
        commit: str,
    ) -> None:  # fmt: skip
        """Begin a call: it passes exactly where every cap allows its worst case; the first that does not is named."""
        gateway = data.draw(st.sampled_from(self.alive))
        direction, experiment = place
        if self.clock.now() - self.revoked.get(token, self.clock.now()) >= LONGEST_LIFE_S:
            token = ""  # it has ended by itself
        claims = Claims(
            tenant=TenantId(DIRECTIONS[direction]), direction_id=DirectionId(direction),
            experiment_id=experiment and ExperimentId(experiment), role="coder", model=model, id=token, cap_usd=cap,
        )  # fmt: skip
        body = {"model": model, "max_tokens": most, "messages": [{"role": "user", "content": "?"}]}
        worst_usd, worst_tokens = self.worst(body)
        expected = self.refusal(claims, worst_usd, worst_tokens)
        before = self.entries()
        gateway.life.commit = commit
        self.numbers += 1
        try:
            with killed_at(line, gateway.life):
                made = gateway.desk.open(claims, json.dumps(body).encode())
        except KilledError:
            return
        except StoreUnavailableError:
            assert commit
            gateway.life.commit = ""
            gateway.life.has_artifacts = True
            assert not gateway.late.waits or gateway.late.try_again()
            assert sum(one.usd for one in self.entries()) <= sum(one.usd for one in before) + 1e-9
            return
        except (OverBudgetError, TokenError) as error:
            told = error.cap if isinstance(error, OverBudgetError) else "token refused"
            assert told == expected
            assert self.entries() == before
            return
        finally:
            gateway.life.commit = ""
        assert expected is None
        reserved = self.entries()[-1]
        assert (reserved.kind, reserved.usd, reserved.token) == ("reserved", pytest.approx(worst_usd), token)
        assert reserved.tokens == worst_tokens
        self.calls.append(Call(reserved.call_id, gateway, model, reserved.usd, reserved.tokens, made))

    ask_more = ask_still_more = ask
    """There are many more calls than there is anything else."""

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        given=st.integers(1, 60),
        said=st.integers(2, 50),
        how=st.sampled_from(WAYS),
        events=st.integers(0, 6),
        line=LINES,
        commit=COMMITS,
        has_artifacts=st.sampled_from([True, True, False]),
        hours=st.sampled_from([0, 0, 0, 14]),
    )
    def answer(
        self, data: st.DataObject, given: int, said: int, how: str, events: int, line: int, commit: str,
        has_artifacts: bool,
        hours: int,
    ) -> None:  # fmt: skip
        """Have the provider answer a call, whole, as a stream, or not at all; the gateway may be killed at any line."""
        call = data.draw(st.sampled_from(self.under_way))
        self.clock.advance(float(hours) * 3600.0)
        self.provider.call, self.provider.usage = call.key, (given, said)
        self.provider.is_down, self.provider.cut_after = how == "down", events if how == "cut" else None
        worst = call.exchange.worst
        self.provider.loses = (worst.input, worst.output) if how == "lost" else None
        life = call.gateway.life
        life.commit, life.has_artifacts = commit, has_artifacts
        call.is_over = True
        # One that was lost is sent again with money of its own, where there is some.
        refused = (OverBudgetError, TokenError, StoreUnavailableError) if how == "lost" else ()
        try:
            with killed_at(line, life), contextlib.suppress(UpstreamError, *refused):
                self.carry_out(call, how, events)
        except KilledError:
            return
        finally:
            life.commit, self.provider.loses = "", None
        before = self.entries()
        call.exchange.close(200, {}, {"input_tokens": 9, "output_tokens": 9})
        assert self.entries() == before

    answer_more = answer_still_more = answer

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        place=st.sampled_from(PLACES),
        model=ASKED,
        most=st.sampled_from([50, 200]),
        given=st.integers(1, 60),
        said=st.integers(2, 50),
        how=st.sampled_from(WAYS),
        events=st.integers(0, 6),
        line=LINES,
        commit=COMMITS,
        has_artifacts=st.sampled_from([True, True, False]),
    )
    def ask_and_be_answered(
        self, data: st.DataObject, place: Any, model: str, most: int, given: int, said: int, how: str, events: int,
        line: int,
        commit: str,
        has_artifacts: bool,
    ) -> None:  # fmt: skip
        """Do both at once: left to chance alone, few calls come to an answer before their gateway dies."""
        self.ask(data, place, "", None, model, most, 0, "")
        if self.under_way:
            self.answer(data, given, said, how, events, line, commit, has_artifacts, 0)

    ask_and_be_answered_more = ask_and_be_answered_still_more = ask_and_be_answered

    def carry_out(self, call: Call, how: str, events: int) -> None:
        if how in {"whole", "down", "lost"}:
            call.exchange.send()
            return
        relay = call.exchange.stream()
        if how == "left":
            for _ in range(events):
                relay.next()
            if not events:
                # Left before the provider had said anything: it has the prompt, and that is booked at its most.
                self.provider.paid[call.key] = (call.exchange.prompt.input, 0)
            relay.close()
            return
        while relay.next() is not None:
            pass

    @precondition(lambda self: any(one.late.waits for one in self.alive))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Let a gateway write down what it could not, in pieces of one where the database goes away again."""
        gateway = data.draw(st.sampled_from([one for one in self.alive if one.late.waits]))
        gateway.life.has_artifacts = True
        assert gateway.late.try_again()

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data(), really=st.sampled_from([False] * 5 + [True]))
    def kill(self, data: st.DataObject, *, really: bool) -> None:
        """Kill a gateway between two requests."""
        if really:
            data.draw(st.sampled_from(self.alive)).life.is_alive = False

    @rule(data=st.data(), what=st.sampled_from(["cap", "cap", "quota", "token", "time"]), amount=AMOUNTS)
    def change(self, data: st.DataObject, what: str, amount: float | None) -> None:
        """Let a person set a cap or a quota, or take a token back; or let time pass, into another day too."""
        if what == "cap":
            names = st.tuples(st.sampled_from(tuple(DIRECTIONS)), st.sampled_from(SPLITS))
            self.set_cap(*data.draw(names), amount)
        elif what == "quota":
            name = data.draw(st.sampled_from(["usd", "usd_day", "tokens", "tokens_day"]))
            amount = data.draw(TOKEN_AMOUNTS) if name.startswith("tokens") else amount
            self.set_quota(data.draw(st.sampled_from(TENANTS)), name, amount)
        elif what == "token":
            # The first stays, so that some are left to ask with.
            token = data.draw(st.sampled_from(TOKENS[1:]))
            revoking.revoke(self.store, self.clock, "key_1", token)
            self.revoked[token] = self.clock.now()
        elif what == "time":
            self.clock.advance(data.draw(st.integers(1, 30)) * 3600.0)

    def set_cap(self, direction: str, name: str, amount: float | None) -> None:
        with self.store.begin() as tx:
            changes: dict[str, Any] = {name: amount}
            tx.directions.save(dataclasses.replace(tx.directions.get(direction), **changes))

    def set_quota(self, tenant: str, name: str, amount: float | None) -> None:
        with self.store.begin() as tx:
            known = tx.tenants.get(tenant)
            kept = {key: value for key, value in known.quotas.items() if key != name}
            tx.tenants.save(dataclasses.replace(known, quotas=kept if amount is None else {**kept, name: amount}))
        self.quotas.pop((tenant, name), None)
        if amount is not None:
            today = ledger.day_of(self.clock.now())
            self.quotas[tenant, name] = amount, self.taken(self.entries(), tenant, name), today

    # ---- what holds

    @invariant()
    def the_laws_hold(self) -> None:
        self.no_line_is_lost_or_changed()
        self.balances_are_the_sums_of_their_lines()
        self.no_call_has_taken_more_than_its_worst_case()
        self.no_quota_is_passed()

    def no_line_is_lost_or_changed(self) -> None:
        now = self.entries()
        assert now[: len(self.seen)] == self.seen
        self.seen = now

    def balances_are_the_sums_of_their_lines(self) -> None:
        sums: dict[str, Balance] = {}
        for entry in self.seen:
            for account in ledger.accounts(entry):
                sums[account] = ledger.plus(sums.get(account, Balance(id=account)), entry)
        with self.store.begin(write=False) as tx:
            assert {key: tx.ledger.balance(key) for key in sums} == sums

    def no_call_has_taken_more_than_its_worst_case(self) -> None:
        for call in self.calls:
            lines = [one for one in self.seen if one.call_id == call.key]
            assert -1e-12 <= sum(one.usd for one in lines) <= call.worst_usd + 1e-12
            assert 0 <= sum(one.tokens for one in lines) <= call.worst_tokens

    def no_quota_is_passed(self) -> None:
        """Of dollars and of tokens, whatever they cost: but for what was taken before the quota was set."""
        today = ledger.day_of(self.clock.now())
        for (tenant, name), (most, had, day) in self.quotas.items():
            before = had if day == today or not name.endswith("_day") else 0.0
            assert self.taken(self.seen, tenant, name) <= max(most, before) + 1e-9

    def taken(self, lines: tuple[LedgerEntry, ...], tenant: str, name: str) -> float:
        """Return what a tenant has taken in all, or today, of what a quota counts."""
        today, column = ledger.day_of(self.clock.now()), name.removesuffix("_day")
        counted = [one for one in lines if one.tenant == tenant and (column == name or one.day == today)]
        return float(sum(getattr(one, column) for one in counted))

    def teardown(self) -> None:
        try:
            if self.gateways:
                self.come_to_rest()
                self.check_at_rest()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def come_to_rest(self) -> None:
        """End every call that is still under way, write down what waits, and have one more gateway start."""
        self.provider.is_down = True
        for call in self.under_way:
            call.is_over = True
            call.gateway.life.has_artifacts = True
            with contextlib.suppress(UpstreamError):
                call.exchange.send()
        for gateway in self.alive:
            gateway.life.has_artifacts = True
            assert not gateway.late.waits or gateway.late.try_again()
        self.start_another()

    def check_at_rest(self) -> None:
        self.the_laws_hold()
        with self.store.begin(write=False) as tx:
            assert tx.ledger.open_calls() == ()
            recorded = {one.id: one for one in tx.calls.find()}
        known = {call.key: call for call in self.calls}
        for key in {one.call_id for one in self.seen} | set(self.provider.paid):
            lines = [one for one in self.seen if one.call_id == key]
            usd, tokens = sum(one.usd for one in lines), sum(one.tokens for one in lines)
            call = known.get(key)
            if call is None:
                # Its gateway was killed, or lost the database, while it set the money aside: nothing was sent.
                assert key not in self.provider.paid
                assert (usd, tokens) in ((0.0, 0), (lines[0].usd, lines[0].tokens))
                continue
            if key not in recorded:
                assert not call.gateway.life.is_alive, "a gateway that lives writes every call of its own down"
                assert (usd, tokens) == (call.worst_usd, call.worst_tokens)
                continue
            given, said = self.provider.paid.get(key, (0, 0))
            input_usd, output_usd = PRICES[call.model]
            assert math.isclose(usd, given * input_usd + said * output_usd, abs_tol=1e-12)
            assert tokens == given + said
            assert recorded[key].usage == ModelUsage(
                input_tokens=given, output_tokens=said, usd=recorded[key].usage.usd
            )
            assert {one.day for one in lines} == {lines[0].day}, "booked on the day that it was reserved on"
            counted = sum(one.input_tokens for one in lines), sum(one.output_tokens for one in lines)
            assert counted == (given, said)

    # ---- what is worked out apart from the gateway

    @property
    def alive(self) -> list[Gateway]:
        return [one for one in self.gateways if one.life.is_alive]

    @property
    def under_way(self) -> list[Call]:
        return [one for one in self.calls if not one.is_over and one.gateway.life.is_alive]

    def entries(self) -> tuple[LedgerEntry, ...]:
        with self.store.begin(write=False) as tx:
            lines = [line for key in DIRECTIONS for line in tx.ledger.entries(DirectionId(key))]
        # In the order of their ids, which count up.
        return tuple(sorted(lines, key=lambda one: one.id))

    def worst(self, body: dict[str, Any]) -> tuple[float, int]:
        said = json.dumps({"messages": body["messages"]})
        most_input = exchange.request.most_input_tokens(body)
        assert most_input > len(said) / 2
        input_usd, output_usd = PRICES[body["model"]]
        usd = (most_input * input_usd * 1e6 + body["max_tokens"] * output_usd * 1e6) / 1e6
        return usd, most_input + body["max_tokens"]

    def refusal(self, claims: Claims, usd: float, tokens: int) -> str | None:
        """Return what has to refuse a call now, by the lines alone."""
        if claims.id in self.revoked:
            return "token refused"
        with self.store.begin(write=False) as tx:
            direction, tenant = tx.directions.get(claims.direction_id), tx.tenants.get(claims.tenant)
        lines = self.entries()

        def taken(wanted: Callable[[LedgerEntry], bool]) -> float:
            return sum(one.usd for one in lines if wanted(one))

        caps = (
            ("call", direction.budget_usd_per_call, 0.0),
            ("token", claims.cap_usd if claims.id else None, taken(lambda one: one.token == claims.id)),
            (
                "experiment",
                direction.budget_usd_per_experiment if claims.experiment_id else None,
                taken(lambda one: one.experiment_id == claims.experiment_id),
            ),
            ("direction", direction.budget_usd, taken(lambda one: one.direction_id == direction.id)),
        )
        # What is free asks for no dollars, so nothing in dollars stands in its way, not even what is passed.
        for name, most, spent in caps:
            if most is not None and usd > 0 and spent + usd > most + 1e-9:
                return name
        for name, more in (("usd", usd), ("tokens", tokens), ("usd_day", usd), ("tokens_day", tokens)):
            most = tenant.quotas.get(name)
            if most is not None and more > 0 and self.taken(lines, claims.tenant, name) + more > most + 1e-9:
                return "day" if name.endswith("_day") else "tenant"
        return None


class InMemory(Ledger):
    open_store = staticmethod(lambda _: MemoryStore())


class InSqlite(Ledger):
    open_store = staticmethod(lambda folder: migrated(folder / "store.db"))


_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
InMemory.TestCase.settings = settings(max_examples=80, stateful_step_count=50, suppress_health_check=_CHECKS)
InSqlite.TestCase.settings = settings(max_examples=8, stateful_step_count=40, suppress_health_check=_CHECKS)
TestInMemory = InMemory.TestCase
TestInSqlite = InSqlite.TestCase
