"""The one place of limits: the ceilings an admin sets, and what a spec's limits mean to the kernel."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fumehood.domain.execution import MIB, Limits, Spec
from fumehood.errors import OverBudgetError

if TYPE_CHECKING:
    from fumehood.settings import Settings

CPU_PERIOD_US = 100_000
OPEN_FILES = 4096
OOM_SCORE = 500
"""When the whole host runs short of memory, what runs in a sandbox goes first."""
SUPERVISORS = 2
"""Processes of the isolation tool itself that the pids cgroup counts beside the program's own."""
FEWEST_IN_CONTAINER = 8
"""An engine's own start needs about as many tasks at once, inside the same limit."""
SPARE_TASKS = 1024
"""So much higher is a limit that is not meant to be hit, below the one that is."""
DENIED_FORKS = 1000
"""So many refused forks are a bomb, not a program that meets its limit; it is ended instead of waiting for its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What no execution may ask more of; None leaves a limit to the machine's own maximum."""

    wall_s: float | None = None
    memory_mib: int | None = None
    processes: int | None = None
    storage_mib: int | None = None
    cpus: float | None = None
    output_bytes: int | None = None
    artifacts: int | None = None
    artifact_bytes: int | None = None

    def lowered(self, other: Ceilings) -> Ceilings:
        """Return the lower ceiling of two, for each limit."""
        pairs = {name: (value, asdict(other)[name]) for name, value in asdict(self).items()}
        return Ceilings(
            **{name: min((one for one in pair if one is not None), default=None) for name, pair in pairs.items()}
        )

    def check(self, spec: Spec) -> None:
        """Refuse a spec above a ceiling, naming the limit; nothing is lowered silently."""
        asked = {**asdict(spec.limits), "artifacts": spec.max_artifacts, "artifact_bytes": spec.max_artifact_bytes}
        for name, ceiling in asdict(self).items():
            if ceiling is not None and asked[name] > ceiling:
                raise OverBudgetError(f"The limit {name} may be at most {ceiling} here, and {asked[name]} was asked.")
        if self.storage_mib is not None and spec.storage == "none":
            raise OverBudgetError(
                f"The limit storage_mib may be at most {self.storage_mib} here, and storage without a quota was asked."
            )


def machine_ceilings() -> Ceilings:
    """Return the ceilings that the machine itself sets: more than it has would be no limit at all."""
    return Ceilings(
        memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB,
        processes=int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii")),
    )


def of(settings: Settings) -> Ceilings:
    """Return the ceilings that the settings name."""
    return Ceilings(**settings.ceilings.model_dump())


def effective_ceilings(of_admin: Ceilings | None) -> Ceilings:
    """Return the ceilings that hold: the admin's, and never more than the machine's."""
    return (of_admin or Ceilings()).lowered(machine_ceilings())


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


def tmp_bytes(limits: Limits) -> int:
    """Return the size of `/tmp`, which counts as memory."""
    return max(MIB, min(256 * MIB, memory_bytes(limits) // 2))


def shared_memory_bytes(limits: Limits) -> int:
    """Return the size of `/dev/shm`, which counts as memory; data loaders of several processes live from it."""
    return max(MIB, memory_bytes(limits) // 2)


def inodes(limits: Limits) -> int:
    """Return how many files the workspace may hold: about one for each 50 KiB."""
    return max(2000, min(1_000_000, limits.storage_mib * 20))


def rlimits(limits: Limits) -> dict[str, int]:
    """Return what each process is limited to, whatever its group may have."""
    return {"FSIZE": storage_bytes(limits), "NOFILE": OPEN_FILES, "CORE": 0}


def log_mib(limits: Limits) -> int:
    """Return how much an engine may keep of the output: more than our copy, which is taken while it runs."""
    return 2 * limits.output_bytes // MIB + 64
