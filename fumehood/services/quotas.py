"""What an execution takes of its tenant's quotas: set aside before it is launched, settled when it has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fumehood.domain import ledger, quota
from fumehood.domain.direction import PRIORITY_S, Direction, Hold, Spending
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.quota import Balance, Lease, Machine
from fumehood.domain.tenant import Tenant
from fumehood.errors import SandboxUnavailableError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import switches
from fumehood.services.change import key_of

FORGOTTEN_S = 60.0
"""A launch that nobody has asked for in this time is asked for by nobody: it keeps no other waiting."""


def tenant_of(tx: Transaction, key: TenantId) -> Tenant:
    """Return a tenant; one that nobody made has no limits."""
    found = tx.tenants.find(id=key)
    return found[0] if found else Tenant(id=key, name=key)


def reserve(
    store: Store,
    clock: Clock,
    direction: Direction,
    execution: Execution,
    devices: Sequence[str],
    machine: Machine | None = None,
) -> tuple[str, ...] | None:
    """Set aside the most that an execution can take, and return its GPUs; None while it has to wait for others.

    Raises `OverBudgetError` for what waiting does not mend. Asked again for the same fence, it changes nothing.
    """
    with store.begin() as tx:
        tenant = tenant_of(tx, direction.tenant)
        if is_reserved(tx, execution):
            return tuple(one.id for one in tx.leases.find(execution_id=execution.id))
        current = tx.directions.get(direction.id)
        if current.budget_gpu_s is not None or current.budget_wall_s is not None:
            current.check_budget(spent(tx, direction.id))
        quota.check_limits(tenant.quotas, execution.limits)
        entry = _worst(clock, direction, execution)
        total = tx.ledger.balance(tenant.id)
        more = ledger.plus(Balance(id=execution.id), entry)
        quota.check(tenant.quotas, total, tx.ledger.balance(ledger.day_account(tenant.id, entry.day)), more)
        quota.check_at_once(tenant.quotas, more)
        if not quota.fits(tenant.quotas, total, more):
            return None
        if machine is not None and not _has_room(tx, clock, machine, execution):
            return None
        granted = _lease(tx, clock, execution, devices) if execution.gpus else ()
        if granted is None:
            return None
        tx.ledger.add(entry)
        return granted


def spent(tx: Transaction, key: DirectionId) -> Spending:
    """Return what a direction's executions have used; without what is set aside for those under way."""
    balance = tx.ledger.balance(key)
    open_gpu_s = 0.0
    for state in (ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED):
        for execution in tx.executions.find(direction_id=key, state=state):
            reserved = tx.ledger.entry(_entry_id(execution, execution.fence, "reserved"))
            open_gpu_s += reserved.gpu_s if reserved else 0.0
    return Spending(gpu_s=max(0.0, balance.gpu_s - open_gpu_s), wall_s=balance.wall_s)


def settle(tx: Transaction, clock: Clock, execution: Execution) -> None:
    """Book what an execution really took, in the transaction that stores its end, and free its GPUs; once."""
    is_tried_again = execution.state is ExecutionState.WANTED
    fence = execution.fence - 1 if is_tried_again else execution.fence
    reserved, settled_id = (
        tx.ledger.entry(_entry_id(execution, fence, "reserved")),
        _entry_id(execution, fence, "settled"),
    )
    if reserved is None or tx.ledger.entry(settled_id):
        return
    usage = execution.outcome.usage if execution.outcome else None
    kept = sum(item.bytes for item in execution.outcome.artifacts) if execution.outcome else 0
    wall_s = usage.wall_s if usage else 0.0
    tx.ledger.add(
        dataclasses.replace(
            reserved,
            id=settled_id,
            kind="settled",
            cpu_s=(usage.cpu_s if usage else 0.0) - reserved.cpu_s,
            gpu_s=wall_s * reserved.gpus - reserved.gpu_s,
            wall_s=wall_s,
            bytes=kept - reserved.bytes,
            running=-reserved.running,
            gpus=-reserved.gpus,
            at=clock.now(),
        )
    )
    for lease in tx.leases.find(execution_id=execution.id):
        tx.leases.save(Lease(id=lease.id))


def is_reserved(tx: Transaction, execution: Execution) -> bool:
    """Whether something is set aside for this try of an execution."""
    return tx.ledger.entry(_entry_id(execution, execution.fence, "reserved")) is not None


def beat(store: Store, clock: Clock) -> None:
    """Renew the lease of every GPU whose execution is still under way, and free those of others."""
    with store.begin(write=False) as tx:
        if not any(lease.execution_id for lease in tx.leases.find()):
            return
    with store.begin() as tx:
        for lease in tx.leases.find():
            if lease.execution_id is None:
                continue
            execution = tx.executions.find(id=lease.execution_id)
            is_needed = bool(execution) and execution[0].state in _UNDER_WAY
            tx.leases.save(dataclasses.replace(lease, beat_at=clock.now()) if is_needed else Lease(id=lease.id))


_UNDER_WAY = frozenset({ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED})


def _has_room(tx: Transaction, clock: Clock, machine: Machine, execution: Execution) -> bool:
    """Whether the machine has processors and memory for one more; what it could never hold beside others runs alone."""
    launched = tx.executions.find(state=ExecutionState.LAUNCHED)
    now = clock.now()
    free = machine.without(one.limits for one in launched)
    if launched and not free.holds(execution.limits):
        return False
    wanted = tx.executions.find(state=ExecutionState.WANTED)
    others = [one for one in wanted if one.id != execution.id and _may_begin(tx, one, now)]
    starting = [one for one in others if is_reserved(tx, one)]
    if not launched and not starting:
        return True
    free = free.without(one.limits for one in starting)
    if not free.holds(execution.limits):
        return False
    # Whoever needs more is not passed over by those who need less, or it would wait for ever.
    return not any(
        not free.holds(one.limits) and _is_before(tx, one, execution) and _fits(tx, one)
        for one in others
        if one not in starting
    )


def _is_before(tx: Transaction, one: Execution, other: Execution) -> bool:
    """Whether one has waited longer than another; priorities count among a tenant's own only."""
    if _direction(tx, one).tenant == _direction(tx, other).tenant:
        return _age(tx, one) < _age(tx, other)
    return one.created_at < other.created_at


def _fits(tx: Transaction, execution: Execution) -> bool:
    """Whether its tenant may have one more at once."""
    tenant = tenant_of(tx, _direction(tx, execution).tenant)
    more = Balance(id=execution.id, running=1, gpus=execution.gpus)
    return quota.fits(tenant.quotas, tx.ledger.balance(tenant.id), more)


def _lease(tx: Transaction, clock: Clock, execution: Execution, devices: Sequence[str]) -> tuple[str, ...] | None:
    """Give an execution its GPUs if they are free and it is its turn; None when it has to wait."""
    if execution.gpus > len(devices):
        raise SandboxUnavailableError(
            f"It needs {execution.gpus} GPUs, and this run worker has {len(devices)}.",
            remedy="Name them in FUMEHOOD_GPUS where the engine has the GPU runtime.",
            reason="gpu_runtime_missing",
        )
    leases = {lease.id: lease for lease in tx.leases.find()}
    free = [device for device in devices if device not in leases or leases[device].execution_id is None]
    for waiting in _in_turn(tx, list(leases.values()), clock.now()):
        if waiting.gpus > len(free):
            # Whoever needs more is not passed over by those who need less, or it would wait for ever.
            return None
        granted, free = free[: waiting.gpus], free[waiting.gpus :]
        if waiting.id == execution.id:
            now = clock.now()
            tenant = _direction(tx, execution).tenant
            for device in granted:
                tx.leases.save(Lease(id=device, tenant=tenant, execution_id=execution.id, since=now, beat_at=now))
            return tuple(granted)
    return None


def _in_turn(tx: Transaction, leases: Sequence[Lease], now: float) -> list[Execution]:
    """Return the executions that wait for GPUs, the tenant first that has least for its weight, then the oldest.

    Priorities count among a tenant's own only.

    What was used today counts beside what is held, so that tenants who take turns on one GPU get their share too. What
    was used before does not, or who has worked here for a year would wait until a newcomer has had as much.
    """
    turns: list[Execution] = []
    waiting: dict[TenantId, list[Execution]] = {}
    held: dict[TenantId, float] = {}
    wanted = tx.executions.find(state=ExecutionState.WANTED)
    for execution in sorted(wanted, key=lambda one: _age(tx, one)):
        if execution.gpus and _may_begin(tx, execution, now):
            waiting.setdefault(_direction(tx, execution).tenant, []).append(execution)
    for lease in leases:
        if lease.tenant:
            held[lease.tenant] = held.get(lease.tenant, 0.0) + 1.0
    tenants = {key: tenant_of(tx, key) for key in waiting}
    today = ledger.day_of(now)
    used = {key: tx.ledger.balance(ledger.day_account(key, today)).gpu_s for key in waiting}
    while any(waiting.values()):
        key = min(
            (key for key, left in waiting.items() if left),
            key=lambda key: (held.get(key, 0.0) / tenants[key].weight, used[key] / tenants[key].weight, key),
        )
        execution = waiting[key].pop(0)
        balance = dataclasses.replace(tx.ledger.balance(key), gpus=int(held.get(key, 0.0)))
        if not quota.fits(tenants[key].quotas, balance, Balance(id=execution.id, gpus=execution.gpus)):
            waiting[key].clear()
            continue
        held[key] = held.get(key, 0.0) + execution.gpus
        turns.append(execution)
    return turns


def _age(tx: Transaction, execution: Execution) -> float:
    """Return when an execution counts as wanted among its tenant's: the earlier, the higher its priority."""
    return execution.created_at - PRIORITY_S * _direction(tx, execution).priority


def _direction(tx: Transaction, execution: Execution) -> Direction:
    return tx.directions.get(execution.direction_id)


def _may_begin(tx: Transaction, execution: Execution, now: float) -> bool:
    """Whether nothing holds an execution and somebody asks for it: what an interrupted command left, nobody does."""
    for step in tx.steps.find(key=key_of("launch", execution)):
        if max(step.due_at, step.lease_until) < now - FORGOTTEN_S:
            return False
    direction = _direction(tx, execution)
    experiment = tx.experiments.find(id=execution.experiment_id) if execution.experiment_id else ()
    if direction.is_final or direction.hold is not Hold.NONE or any(one.hold is not Hold.NONE for one in experiment):
        return False
    return not switches.is_paused(tx, direction.tenant)


def _worst(clock: Clock, direction: Direction, execution: Execution) -> LedgerEntry:
    limits = execution.limits
    return LedgerEntry(
        id=_entry_id(execution, execution.fence, "reserved"),
        call_id=execution.id,
        tenant=direction.tenant,
        direction_id=direction.id,
        experiment_id=execution.experiment_id,
        kind="reserved",
        role=execution.kind,
        model="",
        cpu_s=limits.wall_s * limits.cpus,
        gpu_s=limits.wall_s * execution.gpus,
        bytes=limits.storage_mib * 1024 * 1024 if execution.collect else 0,
        running=1,
        gpus=execution.gpus,
        day=ledger.day_of(clock.now()),
        at=clock.now(),
    )


def _entry_id(execution: Execution, fence: int, kind: str) -> str:
    return f"{execution.id}:{fence}:{kind}"
