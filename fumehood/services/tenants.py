"""Tenants: made, weighed, and given quotas."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fumehood.domain import ledger, quota
from fumehood.domain.direction import Direction, DirectionState, Hold
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.ids import TenantId
from fumehood.domain.quota import MONEY, Balance
from fumehood.domain.tenant import LOCAL_TENANT, PLATFORM, Tenant
from fumehood.errors import BadInputError, OverBudgetError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit
from fumehood.services.replies import Once, keep, made_by

LIVE = (DirectionState.QUEUED, DirectionState.IDEATING, DirectionState.RUNNING)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}\Z")


def local(tx: Transaction, clock: Clock) -> Tenant:
    """Return the tenant of whoever works on this machine itself, who is made on first use."""
    found = tx.tenants.find(id=LOCAL_TENANT)
    if found:
        return found[0]
    made = Tenant(id=LOCAL_TENANT, name="local", created_at=clock.now())
    tx.tenants.save(made)
    _note_created(tx, clock, PLATFORM, made)
    return made


def create(store: Store, clock: Clock, actor: str, name: str, weight: float = 1.0, once: Once | None = None) -> Tenant:
    """Make a tenant."""
    if not _NAME.match(name):
        raise BadInputError("A tenant's name has 1 to 100 letters, digits, spaces, dots, dashes or underscores.")
    if not 0.01 <= weight <= 100:
        raise BadInputError("A tenant's weight must be from 0.01 to 100.")
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.tenants.get(known)
        made = Tenant(id=TenantId(clock.new_id("ten")), name=name, weight=weight, created_at=clock.now())
        tx.tenants.save(made)
        keep(tx, clock, once, made.id)
        _note_created(tx, clock, actor, made)
    return made


def _note_created(tx: Transaction, clock: Clock, actor: str, made: Tenant) -> None:
    called, weight = made.name, made.weight
    audit.note(tx, clock, actor, "tenant.created", tenant=made.id, subject=made.id, name=called, weight=weight)


def set_quotas(
    store: Store, clock: Clock, actor: str, key: TenantId, changes: Mapping[str, float | None], *, money: bool = False
) -> Tenant:
    """Set some quotas of a tenant, or take them away (None); what a lower one held goes on where a higher one allows.

    With `money`, only those in US dollars can be set; without it, only the others.
    """
    wrong = [name for name in changes if (name in MONEY) is not money]
    if wrong:
        place = "a quota; it is set with the quotas" if money else "a budget; it is set with the budgets"
        raise BadInputError(f"{wrong[0]} is {place}.")
    given = quota.checked({name: value for name, value in changes.items() if value is not None})
    quota.checked(dict.fromkeys(changes, 0.0))
    with store.begin() as tx:
        tenant = tx.tenants.get(key)
        kept = {name: value for name, value in tenant.quotas.items() if name not in changes}
        tenant = dataclasses.replace(tenant, quotas=kept | given)
        tx.tenants.save(tenant)
        audit.note(tx, clock, actor, "quota.set", tenant=tenant.id, subject=tenant.id, **dict(changes))
        let_go_on(tx, tenant.id)
    return tenant


def let_go_on(tx: Transaction, tenant: TenantId) -> None:
    """Lift what a quota or budget holds; whatever is still too much is held again when it asks."""
    for direction in _live(tx, tenant):
        _lift(tx, direction)


def begin_day(store: Store, clock: Clock) -> int:
    """Lift what a quota of an earlier day holds, and return of how many directions; asked again, it changes nothing."""
    today, lifted = ledger.day_of(clock.now()), 0
    with store.begin(write=False) as tx:
        limited = [one.id for one in tx.tenants.find() if any(name.endswith("_day") for name in one.quotas)]
    for tenant in limited:
        with store.begin() as tx:
            for direction in _live(tx, tenant):
                held = [event.at for event in tx.events.since(direction.id, 0, 1_000_000) if event.kind == _HELD]
                if held and ledger.day_of(held[-1]) < today:
                    lifted += _lift(tx, direction)
    return lifted


_HELD = Hold.OVER_BUDGET.value


def _live(tx: Transaction, tenant: TenantId) -> list[Direction]:
    return [direction for state in LIVE for direction in tx.directions.find(tenant=tenant, state=state)]


def _lift(tx: Transaction, direction: Direction) -> bool:
    """Lift a direction's own hold and those of its experiments; return whether there was one."""
    held = [
        one
        for one in tx.experiments.find(direction_id=direction.id, hold=Hold.OVER_BUDGET)
        if one.state is not ExperimentState.DONE
    ]
    for experiment in held:
        tx.experiments.save(dataclasses.replace(experiment, hold=Hold.NONE))
    if direction.hold is Hold.OVER_BUDGET:
        tx.directions.save(dataclasses.replace(direction, hold=Hold.NONE))
    return bool(held) or direction.hold is Hold.OVER_BUDGET


@dataclass(slots=True)
class Room:
    """How many directions a tenant has under way, in a transaction that makes some, and may have."""

    most: float
    taken: int

    def take(self) -> None:
        """Count one more, or refuse it."""
        if self.taken + 1 > self.most:
            raise OverBudgetError(
                f"The tenant's quota is {self.most:g} directions at once, and {self.taken} are under way."
            )
        self.taken += 1


def room(tx: Transaction, key: TenantId) -> Room:
    """Return what room a tenant has for directions; they are counted only where there is a quota."""
    found = tx.tenants.find(id=key)
    most = found[0].quotas.get("directions") if found else None
    if most is None:
        return Room(math.inf, 0)
    return Room(most, sum(tx.directions.count(tenant=key, state=state) for state in LIVE))


def usage(store: Store, clock: Clock, key: TenantId) -> tuple[Tenant, int, Balance, Balance]:
    """Return a tenant, its directions under way, and what is spent or reserved in all and today."""
    with store.begin(write=False) as tx:
        found = tx.tenants.find(id=key)
        tenant = found[0] if found else Tenant(id=key, name=key)
        taken = sum(tx.directions.count(tenant=key, state=state) for state in LIVE)
        today = ledger.day_account(key, ledger.day_of(clock.now()))
        return tenant, taken, tx.ledger.balance(key), tx.ledger.balance(today)
