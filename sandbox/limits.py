"""The ceilings an admin sets, and what a spec's limits mean to the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from fumehood.domain.execution import MIB, Limits
from fumehood.errors import OverBudgetError

CPU_PERIOD_US = 100_000
OPEN_FILES = 4096
OOM_SCORE = 500
"""When the whole host runs short of memory, what runs in a sandbox goes first."""
SUPERVISORS = 2
"""Processes of the isolation tool itself that the pids cgroup counts beside the program's own."""
DENIED_FORKS = 1000
"""So many refused forks are a bomb, not a program that meets its limit; it is ended instead of waiting for its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What no execution may ask more of; None leaves a limit to the kernel's own maximum."""

    wall_s: float | None = None
    memory_mib: int | None = None
    processes: int | None = None
    storage_mib: int | None = None
    cpus: float | None = None
    output_bytes: int | None = None

    def check(self, limits: Limits) -> None:
        """Refuse limits above a ceiling, naming the limit; nothing is lowered silently."""
        for field in fields(self):
            ceiling = getattr(self, field.name)
            asked = getattr(limits, field.name)
            if ceiling is not None and asked > ceiling:
                raise OverBudgetError(
                    f"The limit {field.name} may be at most {ceiling:g} here, and {asked:g} was asked."
                )


def machine_ceilings() -> Ceilings:
    """Return the ceilings that the machine itself sets: more memory than it has would be no limit at all."""
    return Ceilings(memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB)


def memory_bytes(limits: Limits) -> int:
    """Return the memory limit in bytes; swap gets none on top."""
    return limits.memory_mib * MIB


def storage_bytes(limits: Limits) -> int:
    """Return the storage limit in bytes, which is also the largest file."""
    return limits.storage_mib * MIB


def tasks(limits: Limits) -> int:
    """Return what the pids cgroup may hold so that the program itself has `processes`."""
    return limits.processes + SUPERVISORS


def cpu_quota_us(limits: Limits) -> int:
    """Return the CPU time allowed in each period; the kernel takes no less than a millisecond."""
    return max(1000, int(limits.cpus * CPU_PERIOD_US))


def nano_cpus(limits: Limits) -> int:
    """Return the CPU limit in the unit of container engines."""
    return int(limits.cpus * 1_000_000_000)


def tmp_bytes(limits: Limits) -> int:
    """Return the size of `/tmp`, which counts as memory."""
    return max(MIB, min(256 * MIB, memory_bytes(limits) // 2))


def shared_memory_bytes(limits: Limits) -> int:
    """Return the size of `/dev/shm`, which counts as memory; data loaders of several processes live from it."""
    return max(MIB, memory_bytes(limits) // 2)


def inodes(limits: Limits) -> int:
    """Return how many files the workspace may hold: about one for each 50 KiB."""
    return max(2000, min(1_000_000, limits.storage_mib * 20))
