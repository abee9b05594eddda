"""What an execution takes of its tenant's quotas: set aside before it is launched, settled when it has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fumehood.domain import ledger, quota
from fumehood.domain.direction import Direction, Spending
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.machine import Machine
from fumehood.domain.quota import Balance
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import leasing, turns


def reserve(
    store: Store,
    clock: Clock,
    direction: Direction,
    execution: Execution,
    devices: Sequence[str],
    room: Machine | None = None,
    gpu_memory_mib: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, ...] | None:
    """Set aside the most that an execution can take, and return its GPUs; None while it has to wait for others.

    Args:
        store: The database.
        clock: The time.
        direction: Whose execution it is.
        execution: What is to be launched.
        devices: The GPUs of this machine.
        room: What executions share; without it, they begin however many there are.
        gpu_memory_mib: How large those GPUs are of which that is known.

    Raises `OverBudgetError` for what waiting does not mend. Asked again for the same fence, it changes nothing.
    """
    with store.begin() as tx:
        tenant = turns.tenant_of(tx, direction.tenant)
        if is_reserved(tx, execution):
            return tuple(device for lease in tx.leases.find(id=leasing.lease_id(execution)) for device in lease.gpus)
        current = tx.directions.get(direction.id)
        if current.budget_gpu_s is not None or current.budget_wall_s is not None:
            current.check_budget(spent(tx, direction.id))
        quota.check_limits(tenant.quotas, execution.limits)
        entry = _worst(clock, direction, execution)
        total = tx.ledger.balance(tenant.id)
        more = ledger.plus(Balance(id=execution.id), entry)
        quota.check(tenant.quotas, total, tx.ledger.balance(ledger.day_account(tenant.id, entry.day)), more)
        quota.check_at_once(tenant.quotas, more)
        # Of GPUs at once, those count that a tenant's executions have together, which the leases say.
        if not quota.fits(tenant.quotas, total, dataclasses.replace(more, gpus=0)):
            return None
        held = tx.leases.find(ended_at=None) if room is not None or execution.gpus else ()
        if room is not None and not leasing.has_room(tx, clock, room, held, execution):
            return None
        lease = leasing.given(tx, clock, held, tenant.id, execution, devices, gpu_memory_mib)
        if lease is None:
            return None
        tx.leases.save(lease)
        tx.ledger.add(entry)
        return lease.gpus


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
    """Book what an execution really took, in the transaction that stores its end, and end its lease; once."""
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
    gpu_s = wall_s * reserved.gpus * leasing.end(tx, clock, leasing.lease_id(execution, fence))
    tx.ledger.add(
        dataclasses.replace(
            reserved,
            id=settled_id,
            kind="settled",
            cpu_s=(usage.cpu_s if usage else 0.0) - reserved.cpu_s,
            gpu_s=gpu_s - reserved.gpu_s,
            wall_s=wall_s,
            bytes=kept - reserved.bytes,
            running=-reserved.running,
            gpus=-reserved.gpus,
            at=clock.now(),
        )
    )
    if execution.measured_as and execution.outcome:
        leasing.learn(tx, execution)
    turns.pass_on(tx, clock.now(), reserved.tenant)


def is_reserved(tx: Transaction, execution: Execution) -> bool:
    """Whether something is set aside for this try of an execution."""
    return tx.ledger.entry(_entry_id(execution, execution.fence, "reserved")) is not None


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
