"""The ledger seen from the gateway: nothing is sent before its worst case is reserved."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass

from fumehood.domain import quota
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.ledger import Claims, LedgerEntry, ModelCall, ModelUsage, day_account, day_of
from fumehood.domain.quota import Balance
from fumehood.domain.tenant import PLATFORM
from fumehood.errors import NotFoundError, OverBudgetError
from fumehood.gateway.tokens import TokenError
from fumehood.gateway.upstream import UpstreamError
from fumehood.ports import Clock, Store, Transaction

_SLACK_USD = 1e-9
"""Slack for sums of floating-point dollars; far below what one token costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Money set aside for one call."""

    call_id: str
    claims: Claims
    usd: float
    tokens: int
    day: str


class Accounts:
    """Reserves, settles and releases.

    One gateway serves an installation, and its calls reserve one after the other: so two calls that each fit the
    budget, but not together, never both pass.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def reserve(self, call_id: str, claims: Claims, usd: float, tokens: int) -> Reservation:
        """Set the worst case aside; `OverBudgetError` when it would pass the direction's budget or a tenant's quota."""
        reservation = Reservation(call_id=call_id, claims=claims, usd=usd, tokens=tokens, day=day_of(self._clock.now()))
        with self._one_at_a_time, self._store.begin() as tx:
            direction = _direction(tx, claims)
            _check_switch(tx, direction)
            _check_quotas(tx, direction, reservation)
            if direction.budget_usd is not None and usd > 0:
                spent = tx.ledger.spent_usd(direction.id)
                if spent + usd > direction.budget_usd + _SLACK_USD:
                    raise OverBudgetError(
                        f"The direction's budget is {_dollars(direction.budget_usd)}; {_dollars(spent)} is spent or "
                        f"reserved, and this call may cost up to {_dollars(usd)}."
                    )
            tx.ledger.add(self._entry(reservation, "reserved", usd, tokens))
        return reservation

    def settle(self, reservation: Reservation, usage: ModelUsage, call: ModelCall) -> None:
        """Book what the call really cost, and keep its record; asked again, it changes nothing."""
        self._close(reservation, "settled", usage, call)

    def release(self, reservation: Reservation, call: ModelCall) -> None:
        """Give the money back for a call that cost nothing, and keep its record; asked again, it changes nothing."""
        self._close(reservation, "released", ModelUsage(), call)

    def _close(self, reservation: Reservation, kind: str, usage: ModelUsage, call: ModelCall) -> None:
        used = usage.input_tokens + usage.cached_tokens + usage.output_tokens
        with self._store.begin() as tx:
            if tx.calls.find(id=call.id):
                return
            # Against what is booked, which another gateway may have changed that took this one for dead.
            booked = tx.ledger.of_call(reservation.call_id)
            usd, tokens = usage.usd - sum(one.usd for one in booked), used - sum(one.tokens for one in booked)
            tx.ledger.add(self._entry(reservation, kind, usd, tokens, usage))
            tx.calls.save(call)

    def close_abandoned(self) -> int:
        """Close what gateways before this one reserved and did not live to settle; return how many calls that were.

        A model that costs nothing gives its tokens back. Whether a paid call was answered is not known, so its worst
        case is what it cost.
        """
        with self._store.begin(write=False) as tx:
            if not tx.ledger.open_calls():
                return 0
        with self._store.begin() as tx:
            abandoned = tx.ledger.open_calls()
            for one in abandoned:
                kind, tokens = ("settled", 0) if one.usd else ("released", -one.tokens)
                line = dataclasses.replace(one, id=self._clock.new_id("evt"), kind=kind, usd=0.0, tokens=tokens)
                tx.ledger.add(dataclasses.replace(line, at=self._clock.now()))
        return len(abandoned)

    def _entry(
        self, reservation: Reservation, kind: str, usd: float, tokens: int, usage: ModelUsage | None = None
    ) -> LedgerEntry:
        usage, claims = usage or ModelUsage(), reservation.claims
        return LedgerEntry(
            id=self._clock.new_id("evt"),
            call_id=reservation.call_id,
            tenant=claims.tenant,
            direction_id=claims.direction_id,
            experiment_id=claims.experiment_id,
            kind=kind,
            role=claims.role,
            model=claims.model,
            usd=usd,
            tokens=tokens,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            day=reservation.day,
            at=self._clock.now(),
        )


def _check_switch(tx: Transaction, direction: Direction) -> None:
    """Refuse what an admin has stopped; the step that asks is put back, and done again when work goes on."""
    switches = [found for key in (PLATFORM, direction.tenant) for found in tx.switches.find(id=key)]
    if any(one.is_killed for one in switches):
        raise UpstreamError(
            "An administrator has stopped all work.", status=503, kind="overloaded_error", retryable=True
        )


def _check_quotas(tx: Transaction, direction: Direction, asked: Reservation) -> None:
    tenants = tx.tenants.find(id=direction.tenant)
    if tenants and tenants[0].quotas:
        more = Balance(id=asked.call_id, usd=asked.usd, tokens=asked.tokens)
        total, day = (tx.ledger.balance(key) for key in (direction.tenant, day_account(direction.tenant, asked.day)))
        quota.check(tenants[0].quotas, total, day, more)


def _dollars(usd: float) -> str:
    """Return an amount with its cents, and with as many digits more as it has, up to six."""
    whole, _, part = f"{usd:.6f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"


def _direction(tx: Transaction, claims: Claims) -> Direction:
    try:
        direction = tx.directions.get(claims.direction_id)
    except NotFoundError as error:
        raise TokenError("The token names a direction that does not exist.") from error
    if direction.state is DirectionState.CANCELLED:
        raise TokenError("The token's direction was cancelled.")
    return direction
