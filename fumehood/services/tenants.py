"""Tenants: made, weighed, and given quotas."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from fumehood.domain import ledger, quota
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.ids import TenantId
from fumehood.domain.quota import MONEY, Balance
from fumehood.domain.tenant import LOCAL_TENANT, Tenant
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
        audit.note(tx, clock, actor, "tenant.created", tenant=made.id, subject=made.id, name=name, weight=weight)
    return made


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
    for state in LIVE:
        for direction in tx.directions.find(tenant=tenant, state=state):
            if direction.hold is Hold.OVER_BUDGET:
                tx.directions.save(dataclasses.replace(direction, hold=Hold.NONE))
            for experiment in tx.experiments.find(direction_id=direction.id, hold=Hold.OVER_BUDGET):
                if experiment.state is not ExperimentState.DONE:
                    tx.experiments.save(dataclasses.replace(experiment, hold=Hold.NONE))


def admit(tx: Transaction, key: TenantId) -> None:
    """Refuse one more direction where the tenant has as many as it may; in the transaction that saves it."""
    found = tx.tenants.find(id=key)
    most = found[0].quotas.get("directions") if found else None
    if most is None:
        return
    taken = sum(tx.directions.count(tenant=key, state=state) for state in LIVE)
    if taken + 1 > most:
        raise OverBudgetError(f"The tenant's quota is {most:g} directions at once, and {taken} are under way.")


def usage(store: Store, clock: Clock, key: TenantId) -> tuple[Tenant, int, Balance, Balance]:
    """Return a tenant, its directions under way, and what is spent or reserved in all and today."""
    with store.begin(write=False) as tx:
        found = tx.tenants.find(id=key)
        tenant = found[0] if found else Tenant(id=key, name=key)
        taken = sum(tx.directions.count(tenant=key, state=state) for state in LIVE)
        today = ledger.day_account(key, ledger.day_of(clock.now()))
        return tenant, taken, tx.ledger.balance(key), tx.ledger.balance(today)
