"""Whose turn it is among executions that wait: who may begin at all, and who before whom."""

from __future__ import annotations

from fumehood.domain import quota
from fumehood.domain.direction import PRIORITY_S, Direction, Hold
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import TenantId
from fumehood.domain.quota import Balance
from fumehood.domain.tenant import Tenant
from fumehood.ports import Transaction
from fumehood.services import switches
from fumehood.services.change import key_of

WAITED = "turns"
"""In the payload of a launch: how often it has found that others have what it needs."""
HASTENED = 4
"""How many launches of a tenant, and of all others, look again when something is free: more than it does for."""
FORGOTTEN_S = 60.0
"""A launch that nobody has asked for in this time is asked for by nobody: it keeps no other waiting."""


def tenant_of(tx: Transaction, key: TenantId) -> Tenant:
    """Return a tenant; one that nobody made has no limits."""
    found = tx.tenants.find(id=key)
    return found[0] if found else Tenant(id=key, name=key)


def is_before(tx: Transaction, one: Execution, other: Execution) -> bool:
    """Whether one has waited longer than another; priorities count among a tenant's own only."""
    if direction_of(tx, one).tenant == direction_of(tx, other).tenant:
        return age(tx, one) < age(tx, other)
    return one.created_at < other.created_at


def may_have_one_more(tx: Transaction, execution: Execution) -> bool:
    """Whether its tenant may have one more at once."""
    tenant = tenant_of(tx, direction_of(tx, execution).tenant)
    more = Balance(id=execution.id, running=1, gpus=execution.gpus)
    return quota.fits(tenant.quotas, tx.ledger.balance(tenant.id), more)


def age(tx: Transaction, execution: Execution) -> float:
    """Return when an execution counts as wanted among its tenant's: the earlier, the higher its priority."""
    return execution.created_at - PRIORITY_S * direction_of(tx, execution).priority


def direction_of(tx: Transaction, execution: Execution) -> Direction:
    """Return the direction that an execution is for."""
    return tx.directions.get(execution.direction_id)


def may_begin(tx: Transaction, execution: Execution, now: float) -> bool:
    """Whether nothing holds an execution and somebody asks for it: what an interrupted command left, nobody does."""
    for step in tx.steps.find(key=key_of("launch", execution)):
        if max(step.due_at, step.lease_until) < now - FORGOTTEN_S:
            return False
    direction = direction_of(tx, execution)
    experiment = tx.experiments.find(id=execution.experiment_id) if execution.experiment_id else ()
    if direction.is_final or direction.hold is not Hold.NONE or any(one.hold is not Hold.NONE for one in experiment):
        return False
    return not switches.is_paused(tx, direction.tenant)


def pass_on(tx: Transaction, now: float, tenant: TenantId) -> None:
    """Have those look again whose turn may come now, as something of a tenant's has ended: not after their pause.

    One that is just looking is missed, and looks again when its pause is over.
    """
    tx.steps.hasten(WAITED, tenant, now=now, most=HASTENED)
