"""The ledger seen from the gateway: nothing is sent before its worst case is reserved."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass

from fumehood.domain import caps, quota
from fumehood.domain.admission import Admission
from fumehood.domain.caps import Cap
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall, ModelUsage, day_of
from fumehood.domain.quota import Balance
from fumehood.domain.step import StepState
from fumehood.domain.token import EXECUTION_ROLE, id_for_execution
from fumehood.gateway.tokens import TokenError
from fumehood.gateway.upstream import UpstreamError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import quotas


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

    Calls reserve one after the other, those of other gateways on the same database too, since of its transactions that
    write there is one at a time: so two calls that each fit a cap, but not together, never both pass.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def reserve(self, call_id: str, claims: Claims, usd: float, tokens: int) -> Reservation:
        """Set the worst case aside.

        Raises `TokenError` when the token opens nothing any more, and `OverBudgetError` when a cap would be passed: of
        the call, the token, the experiment, the direction, or the tenant.
        """
        reservation = Reservation(call_id=call_id, claims=claims, usd=usd, tokens=tokens, day=day_of(self._clock.now()))
        with self._one_at_a_time, self._store.begin() as tx:
            _check_caps(_admitted(tx, claims, reservation.day), reservation)
            tx.ledger.add(self._entry(reservation, "reserved", usd, tokens))
        return reservation

    def bound(self, claims: Claims) -> Claims:
        """Return what the holder of a token may do; for an execution's that is told by the database alone."""
        if not claims.execution:
            return claims
        with self._store.begin(write=False) as tx:
            return _of_execution(tx, claims)

    def check(self, claims: Claims) -> None:
        """Refuse a token that opens nothing any more, for what costs nothing."""
        with self._store.begin(write=False) as tx:
            _admitted(tx, claims, day_of(self._clock.now()))

    def withdraw(self, call_id: str) -> None:
        """Give the money back for a call that was never sent, where it was set aside at all; asked again, no more."""
        with self._store.begin() as tx:
            booked = tx.ledger.of_call(call_id)
            usd, tokens = sum(one.usd for one in booked), sum(one.tokens for one in booked)
            if booked and booked[-1].kind != "released":
                tx.ledger.add(self._closing(booked[0], "released", -usd, -tokens))

    def forfeit(self, call_id: str) -> None:
        """Take what was set aside for a call as its cost, where nothing has closed it yet."""
        with self._store.begin() as tx:
            booked = tx.ledger.of_call(call_id)
            if len(booked) == 1:
                tx.ledger.add(self._closing(booked[0], "settled", 0.0, 0))

    def settle(self, reservation: Reservation, call: ModelCall, text: CallText) -> None:
        """Book what the call really cost, and keep its record; asked again, it changes nothing."""
        self._close(reservation, "settled", call, text)

    def release(self, reservation: Reservation, call: ModelCall, text: CallText) -> None:
        """Give the money back for a call that cost nothing, and keep its record; asked again, it changes nothing."""
        self._close(reservation, "released", call, text)

    def _close(self, reservation: Reservation, kind: str, call: ModelCall, text: CallText) -> None:
        usage = call.usage
        used = usage.input_tokens + usage.cached_tokens + usage.output_tokens
        # What a power cut takes back, it leaves reserved, as a call whose gateway died; what whoever asked makes of the
        # answer is committed later, and so not kept without it.
        with self._store.begin(durable=False) as tx:
            booked = tx.ledger.of_call(reservation.call_id)
            if len(booked) > 1 and tx.calls.find(id=call.id):
                return
            # Against what is booked, which another gateway may have changed that took this one for dead.
            usd, tokens = usage.usd - sum(one.usd for one in booked), used - sum(one.tokens for one in booked)
            tx.ledger.add(self._entry(reservation, kind, usd, tokens, usage))
            tx.calls.save(call)
            if text.request or text.reply:
                tx.call_texts.save(text)

    def close_abandoned(self) -> int:
        """Close what gateways before this one reserved and did not live to settle; return how many calls that were.

        Whether such a call was answered is not known, so its worst case is what it took, of dollars and of tokens. One
        that another gateway, which lives, has under way is corrected when that settles it.
        """
        with self._store.begin(write=False) as tx:
            if not tx.ledger.open_calls():
                return 0
        with self._store.begin() as tx:
            abandoned = tx.ledger.open_calls()
            for one in abandoned:
                tx.ledger.add(self._closing(one, "settled", 0.0, 0))
        return len(abandoned)

    def _closing(self, reserved: LedgerEntry, kind: str, usd: float, tokens: int) -> LedgerEntry:
        key, now = self._clock.new_id("evt"), self._clock.now()
        return dataclasses.replace(reserved, id=key, kind=kind, usd=usd, tokens=tokens, at=now)

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
            token=claims.id,
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


def _admitted(tx: Transaction, claims: Claims, day: str) -> Admission:
    """Return how it stands with what a token is for; refuse one whose work has ended, or that was taken back."""
    admission = tx.ledger.admission(claims, day)
    if admission is None:
        raise TokenError("The token names a direction that does not exist.")
    if admission.direction_is_final:
        raise TokenError(f"The token's direction is {admission.direction}, so nothing more is asked for it.")
    if admission.is_killed:
        # The step that asks is put back, and done again when work goes on.
        told = "An administrator has stopped all work."
        raise UpstreamError(told, status=503, kind="overloaded_error", retryable=True)
    if admission.is_revoked:
        raise TokenError("The token was revoked by an administrator.")
    if claims.experiment_id is not None and admission.experiment is None:
        raise TokenError("The token names an experiment that does not exist.")
    if admission.experiment_is_final:
        raise TokenError(f"The token's experiment is {admission.experiment}, so nothing more is asked for it.")
    if claims.step and (admission.step is not StepState.CLAIMED or admission.fence != claims.fence):
        # It was done, put back, or begun again: what this holder does is dropped.
        raise TokenError("The token was for a step that is no longer in its holder's hands.")
    if claims.execution:
        _of_execution(tx, claims)
    return admission


def _of_execution(tx: Transaction, claims: Claims) -> Claims:
    """Return what the rows say of an execution that a token names: model, cap and all else; none of it is the token's.

    `TokenError` when it is not under way, has another fence, is of another direction, or was granted no model.
    """
    found = tx.executions.find(id=claims.execution)
    if not found or found[0].direction_id != claims.direction_id:
        raise TokenError("The token names an execution that its direction does not have.")
    execution = found[0]
    if not execution.may_ask_model:
        raise TokenError("The token's execution was granted no model.")
    if execution.fence != claims.fence or not _is_under_way(tx, execution):
        raise TokenError("The token's execution has ended, or was begun again.")
    direction = tx.directions.get(execution.direction_id)
    runs = tx.runs.find(id=execution.run_id) if execution.run_id else ()
    experiments = tx.experiments.find(id=execution.experiment_id) if execution.experiment_id else ()
    return Claims(
        tenant=direction.tenant,
        direction_id=direction.id,
        experiment_id=execution.experiment_id,
        role=EXECUTION_ROLE,
        model=direction.model,
        idea=experiments[0].name if experiments else "",
        run=runs[0].index if runs else 0,
        attempt=1 + max((one.number for one in runs[0].attempts), default=0) if runs else 0,
        playbook=direction.template_files.get("offline.toml", ""),
        id=id_for_execution(execution.id, execution.fence),
        execution=execution.id,
        fence=execution.fence,
        cap_usd=execution.llm_usd,
        expires_at=claims.expires_at,
    )


def _is_under_way(tx: Transaction, execution: Execution) -> bool:
    """Tell whether an execution runs; its program may ask before its launch is written down."""
    if execution.state is ExecutionState.WANTED:
        return quotas.is_reserved(tx, execution)
    return execution.state is ExecutionState.LAUNCHED


def _check_caps(admission: Admission, asked: Reservation) -> None:
    claims = asked.claims
    for cap, most, taken in (
        (Cap.CALL, admission.budget_usd_per_call, 0.0),
        (Cap.TOKEN, claims.cap_usd if claims.id else None, admission.token_usd),
        (
            Cap.EXPERIMENT,
            admission.budget_usd_per_experiment if claims.experiment_id else None,
            admission.experiment_usd,
        ),
        (Cap.DIRECTION, admission.budget_usd, admission.direction_usd),
    ):
        caps.check(cap, most, taken, asked.usd)
    if admission.quotas:
        more = Balance(id=asked.call_id, usd=asked.usd, tokens=asked.tokens)
        quota.check(admission.quotas, admission.total, admission.day, more)
