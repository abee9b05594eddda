"""What each execution is given of the machine: room beside others, and GPUs of its own or shared ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from fumehood.domain import ledger, machine, quota
from fumehood.domain.execution import ExecutionState, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import TenantId
from fumehood.domain.machine import Gpus, Lease, Machine, Peak, Taken
from fumehood.domain.quota import Balance
from fumehood.errors import SandboxUnavailableError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import turns

_UNDER_WAY = frozenset({ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED})


def lease_id(execution: Execution, fence: int | None = None) -> str:
    """Return the id of what a try of an execution holds of the machine: its newest, where no fence is given."""
    return f"{execution.id}:{execution.fence if fence is None else fence}"


def has_room(tx: Transaction, clock: Clock, room: Machine, held: Iterable[Lease], execution: Execution) -> bool:
    """Whether the machine has processors and memory for one more; what it could never hold beside others runs alone."""
    there = _There(tx, room, tx.executions.find(state=ExecutionState.LAUNCHED))
    if not there.have_room_for(execution):
        return False
    now, reserved = clock.now(), {lease.id for lease in held}
    wanted = tx.executions.find(state=ExecutionState.WANTED)
    others = [one for one in wanted if one.id != execution.id and turns.may_begin(tx, one, now)]
    there.come(one for one in others if lease_id(one) in reserved)
    if not there.have_room_for(execution):
        return False
    # Whoever needs more is not passed over by those who need less, or it would wait for ever.
    return not any(
        not there.have_room_for(one) and turns.is_before(tx, one, execution) and turns.may_have_one_more(tx, one)
        for one in others
        if lease_id(one) not in reserved
    )


class _There:
    """The executions that a machine is shared by now."""

    def __init__(self, tx: Transaction, room: Machine, launched: Iterable[Execution]) -> None:
        self._tx, self._room = tx, room
        self._all: list[Execution] = []
        self._by_limits, self._measured = Taken(), Taken()
        self._counted, self._is_taken = 0, False
        self._peaks: dict[str, Peak | None] = {}
        self.come(launched)

    def come(self, more: Iterable[Execution]) -> None:
        """Count those that are being launched."""
        for one in more:
            self._all.append(one)
            self._is_taken |= _takes_all(one)
            self._by_limits = self._by_limits.plus(machine.need_of(one.limits))

    def have_room_for(self, execution: Execution) -> bool:
        """Whether one more fits beside them, by its limits or, where these are too much, by what was measured."""
        if not self._all:
            return True
        if self._is_taken or _takes_all(execution):
            return False
        if self._room.holds(self._by_limits.plus(machine.need_of(execution.limits))):
            return True
        for one in self._all[self._counted :]:
            self._measured = self._measured.plus(self._need(one))
        self._counted = len(self._all)
        return self._room.holds(self._measured.plus(self._need(execution)))

    def _need(self, execution: Execution) -> machine.Need:
        key = execution.measured_as
        if key and key not in self._peaks:
            self._peaks[key] = next(iter(self._tx.peaks.find(id=key)), None)
        return machine.need_of(execution.limits, self._peaks.get(key))


def _takes_all(execution: Execution) -> bool:
    """Whether its time is measured, and so nothing may use the processors beside it; a GPU is its own machine."""
    return execution.alone and not execution.gpus


def given(
    tx: Transaction,
    clock: Clock,
    held: Iterable[Lease],
    tenant: TenantId,
    execution: Execution,
    devices: Sequence[str],
    sizes_mib: Mapping[str, int],
) -> Lease | None:
    """Return what an execution is given, with its GPUs if they are free and it is its turn; None when it has to wait.

    The tenant is first that has least for its weight, then the oldest; priorities count among a tenant's own only.

    What was used today counts beside what is held, so that tenants who take turns on one GPU get their share too. What
    was used before does not, or who has worked here for a year would wait until a newcomer has had as much.
    """
    now = clock.now()
    if not execution.gpus:
        return _leased(execution, tenant, now)
    gpus, reserved = Gpus(devices, sizes_mib, held), {lease.id for lease in held}
    if not gpus.can_hold(execution.gpus, execution.gpu_memory_mib):
        size = f" of {execution.gpu_memory_mib} MiB" if execution.gpu_memory_mib else ""
        raise SandboxUnavailableError(
            f"It needs {execution.gpus} GPUs{size}, and this run worker has {len(devices)}.",
            remedy="Name them in FUMEHOOD_GPUS where the engine has the GPU runtime.",
            reason="gpu_runtime_missing",
        )
    waiting = _waiting_for_gpus(tx, now, reserved)
    tenants = {key: turns.tenant_of(tx, key) for key in waiting}
    used = {key: tx.ledger.balance(ledger.day_account(key, ledger.day_of(now))).gpu_s for key in waiting}
    while any(waiting.values()):
        key = min(
            (key for key, left in waiting.items() if left),
            key=lambda key: (len(gpus.held_by(key)) / tenants[key].weight, used[key] / tenants[key].weight, key),
        )
        one = waiting[key].pop(0)
        if not gpus.can_hold(one.gpus, one.gpu_memory_mib):
            continue
        need = _gpu_need(tx, one, gpus)
        granted, mine = gpus.place(key, one.gpus, need), gpus.held_by(key)
        more = one.gpus if granted is None else len({*granted} - mine)
        if not quota.fits(tenants[key].quotas, Balance(id=key, gpus=len(mine)), Balance(id=one.id, gpus=more)):
            waiting[key].clear()
            continue
        if granted is None:
            # Whoever needs more is not passed over by those who need less, or it would wait for ever.
            return None
        lease = dataclasses.replace(_leased(one, key, now), gpus=granted, gpu_memory_mib=need)
        if one.id == execution.id:
            return lease
        gpus.add(lease)
    return None


def _leased(execution: Execution, tenant: TenantId, now: float) -> Lease:
    return Lease(id=lease_id(execution), tenant=tenant, execution_id=execution.id, since=now, beat_at=now)


def _gpu_need(tx: Transaction, execution: Execution, gpus: Gpus) -> int | None:
    if execution.alone or execution.gpu_memory_mib is None:
        return None
    peaks = tx.peaks.find(id=execution.measured_as) if execution.measured_as else ()
    need = machine.gpu_need_of(execution.gpu_memory_mib, peaks[0] if peaks else None)
    return need if gpus.can_hold(execution.gpus, need) else None


def _waiting_for_gpus(tx: Transaction, now: float, reserved: Collection[str]) -> dict[TenantId, list[Execution]]:
    """Return the executions that wait for GPUs by their tenant, the oldest first."""
    waiting: dict[TenantId, list[Execution]] = {}
    wanted = tx.executions.find(state=ExecutionState.WANTED)
    for execution in sorted(wanted, key=lambda one: turns.age(tx, one)):
        if execution.gpus and lease_id(execution) not in reserved and turns.may_begin(tx, execution, now):
            waiting.setdefault(turns.direction_of(tx, execution).tenant, []).append(execution)
    return waiting


def end(tx: Transaction, clock: Clock, key: str) -> float:
    """End a lease, and return which part of its GPUs' time is to be booked."""
    share = 1.0
    for lease in tx.leases.find(id=key):
        ended = dataclasses.replace(lease, ended_at=clock.now())
        tx.leases.save(ended)
        if lease.gpu_memory_mib is not None:
            share = machine.mean_share(ended, tx.leases.during(ended.since, clock.now()))
    return share


def learn(tx: Transaction, execution: Execution) -> None:
    """Keep the most that was measured of executions like this one; what it did not come to measure, nothing."""
    outcome = execution.outcome
    if outcome is None or not outcome.usage.peak_memory_mib or not outcome.usage.wall_s:
        return
    usage, known = outcome.usage, tx.peaks.find(id=execution.measured_as)
    if not known and outcome.verdict is not Verdict.SUCCEEDED:
        # What ended early may have been about to take more.
        return
    before = known[0] if known else Peak(id=execution.measured_as, memory_mib=0.0, cpus=0.0)
    most = Peak(
        id=before.id,
        memory_mib=max(before.memory_mib, usage.peak_memory_mib),
        cpus=max(before.cpus, usage.cpu_s / usage.wall_s),
        gpu_memory_mib=max(before.gpu_memory_mib, usage.told_gpu_memory_mib),
    )
    if most != before:
        tx.peaks.save(most)


def beat(store: Store, clock: Clock) -> None:
    """Renew the lease of every GPU whose execution is still under way, and end those of others."""
    with store.begin(write=False) as tx:
        if not any(lease.gpus or not _is_needed(tx, lease) for lease in tx.leases.find(ended_at=None)):
            return
    with store.begin() as tx:
        for lease in tx.leases.find(ended_at=None):
            if not _is_needed(tx, lease):
                tx.leases.save(dataclasses.replace(lease, ended_at=clock.now()))
            elif lease.gpus:
                tx.leases.save(dataclasses.replace(lease, beat_at=clock.now()))


def _is_needed(tx: Transaction, lease: Lease) -> bool:
    return any(
        one.state in _UNDER_WAY and lease_id(one) == lease.id for one in tx.executions.find(id=lease.execution_id)
    )
