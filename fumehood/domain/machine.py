"""What executions share: processors, memory and GPUs, who holds them, and what was measured of the same code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fumehood.domain.execution import Limits
from fumehood.domain.ids import ExecutionId, TenantId

MARGIN = 1.25
"""What is counted for the next run of a code, by the most that was measured of it."""
MEMORY_MARGIN_MIB, GPU_MARGIN_MIB = 64, 1024
"""Counted beside, since a gauge that looks now and then misses some, and a program does not see its GPU's context."""
LEAST_CPUS = 0.5
"""Of its limit: so much of the processors is always counted, so that limits add up to twice the machine at most."""
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most that any execution of the same code, profile and kind took so far."""

    id: str
    memory_mib: float
    """As its control group measured it."""
    cpus: float
    """Processors kept busy, over a whole execution."""
    gpu_memory_mib: float = 0.0
    """As the programs say it themselves; 0 where none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is counted for one execution, and how far it may grow at once."""

    cpus: float
    memory_mib: int
    most_mib: int
    """Its hard limit."""


def need_of(limits: Limits, peak: Peak | None = None) -> Need:
    """Return what is counted for an execution: its limits, or less where its code is known to take less."""
    if peak is None:
        return Need(cpus=limits.cpus, memory_mib=limits.memory_mib, most_mib=limits.memory_mib)
    measured = math.ceil(peak.memory_mib * MARGIN) + MEMORY_MARGIN_MIB
    return Need(
        cpus=min(limits.cpus, max(peak.cpus * MARGIN, limits.cpus * LEAST_CPUS)),
        memory_mib=min(limits.memory_mib, measured),
        most_mib=limits.memory_mib,
    )


def gpu_need_of(asked_mib: int | None, peak: Peak | None = None) -> int | None:
    """Return what is set aside of a GPU in MiB; None has the device alone.

    What the programs said decides, where they did, also where it is more than the template asks for.
    """
    if asked_mib is None or peak is None or not peak.gpu_memory_mib:
        return asked_mib
    return math.ceil(peak.gpu_memory_mib * MARGIN) + GPU_MARGIN_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What is counted for executions together."""

    cpus: float = 0.0
    memory_mib: int = 0
    growth_mib: int = 0
    """How far the one that may grow most is below its limit."""

    def plus(self, need: Need) -> Taken:
        """Return what is counted with one more."""
        return Taken(
            cpus=self.cpus + need.cpus,
            memory_mib=self.memory_mib + need.memory_mib,
            growth_mib=max(self.growth_mib, need.most_mib - need.memory_mib),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is to be had for executions at once."""

    cpus: float
    memory_mib: int

    def holds(self, taken: Taken) -> bool:
        """Whether there is so much, even when any one of those that take it grows to its limit."""
        return taken.cpus <= self.cpus + _SLACK and taken.memory_mib + taken.growth_mib <= self.memory_mib


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What one try of an execution holds of the machine, from when that was set aside until its end was stored."""

    id: str
    """The execution and its fence."""
    tenant: TenantId
    execution_id: ExecutionId
    gpus: tuple[str, ...] = ()
    """As the engine names them; without any it shares the processors alone."""
    gpu_memory_mib: int | None = None
    """What is set aside on each of them; None has them alone."""
    since: float = 0.0
    beat_at: float = 0.0
    """When somebody last saw that a GPU is needed."""
    ended_at: float | None = None

    def is_beside(self, other: Lease) -> bool:
        """Whether two tries shared something: a GPU, or the processors where this one has no GPU."""
        if self.execution_id == other.execution_id or not self._meets(other):
            return False
        return not self.gpus or bool(set(self.gpus) & set(other.gpus))

    def _meets(self, other: Lease) -> bool:
        ours, theirs = (math.inf if one.ended_at is None else one.ended_at for one in (self, other))
        return self.since <= theirs and other.since <= ours


class Gpus:
    """Who holds which GPU. A device is shared by executions of one tenant only, and where its size is known."""

    def __init__(self, devices: Sequence[str], sizes_mib: Mapping[str, int], leases: Iterable[Lease]) -> None:
        self._devices, self._sizes = tuple(devices), dict(sizes_mib)
        self._on: dict[str, list[Lease]] = {}
        for lease in leases:
            self.add(lease)

    def add(self, lease: Lease) -> None:
        """Count one more, which holds its devices from now on."""
        for device in lease.gpus:
            self._on.setdefault(device, []).append(lease)

    def held_by(self, tenant: TenantId) -> frozenset[str]:
        """Return the devices of a tenant's executions."""
        return frozenset(device for device, leases in self._on.items() if leases[0].tenant == tenant)

    def can_hold(self, gpus: int, memory_mib: int | None) -> bool:
        """Whether so many devices are there at all, each of the size where it is known."""
        return sum(self._is_large(device, memory_mib) for device in self._devices) >= gpus

    def place(self, tenant: TenantId, gpus: int, memory_mib: int | None) -> tuple[str, ...] | None:
        """Return devices for one more execution, those in use first, the fullest before; None where it has to wait."""
        shared = [] if memory_mib is None else [one for one in self._devices if self._left(one, tenant) >= memory_mib]
        shared.sort(key=lambda one: self._left(one, tenant))
        free = [one for one in self._devices if one not in self._on and self._is_large(one, memory_mib)]
        chosen = (*shared, *free)[:gpus]
        return chosen if len(chosen) == gpus else None

    def _is_large(self, device: str, memory_mib: int | None) -> bool:
        return memory_mib is None or memory_mib <= self._sizes.get(device, memory_mib)

    def _left(self, device: str, tenant: TenantId) -> int:
        """Return what is left of a device in use, in MiB; below 0 where nothing may come beside."""
        leases = self._on.get(device, ())
        if device not in self._sizes or not leases or any(one.tenant != tenant for one in leases):
            return -1
        taken = [one.gpu_memory_mib for one in leases]
        return -1 if None in taken else self._sizes[device] - sum(filter(None, taken))


def mean_share(lease: Lease, others: Iterable[Lease]) -> float:
    """Return which part of its devices' time an execution that has ended is to be booked, from 0 to 1.

    Every second of a device is booked once: to those who held it then, by what was set aside for each.
    """
    until = lease.since if lease.ended_at is None else lease.ended_at
    if not lease.gpus or lease.gpu_memory_mib is None or until <= lease.since:
        return 1.0
    beside = [one for one in others if lease.is_beside(one)]
    times = {lease.since, until}
    for one in beside:
        times |= {at for at in (one.since, one.ended_at) if at is not None and lease.since < at < until}
    cuts = sorted(times)
    whole = 0.0
    for begin, end in itertools.pairwise(cuts):
        there = [one for one in beside if one.since <= begin and (one.ended_at is None or one.ended_at >= end)]
        for device in lease.gpus:
            taken = sum(one.gpu_memory_mib or 0 for one in there if device in one.gpus)
            whole += (end - begin) * lease.gpu_memory_mib / (lease.gpu_memory_mib + taken)
    return whole / ((until - lease.since) * len(lease.gpus))
