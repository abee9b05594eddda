"""How much a tenant may have: quotas by name, and what is taken of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fumehood.domain.caps import Cap
from fumehood.domain.execution import Limits
from fumehood.errors import BadInputError, OverBudgetError

QUOTAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "directions": "directions at once",
        "runs": "executions at once",
        "gpus": "GPUs at once",
        "gpu_seconds": "GPU-seconds in all",
        "gpu_seconds_day": "GPU-seconds a day",
        "cpu_seconds": "CPU-seconds in all",
        "cpu_seconds_day": "CPU-seconds a day",
        "usd": "US dollars in all",
        "usd_day": "US dollars a day",
        "tokens": "tokens in all",
        "tokens_day": "tokens a day",
        "stored_bytes": "bytes of artifacts",
        "wall_s": "seconds for one execution",
        "memory_mib": "MiB of memory for one execution",
        "storage_mib": "MiB of storage for one execution",
        "processes": "processes for one execution",
    }
)
"""What can be limited, and in what it is counted."""
MONEY: Final = ("usd", "usd_day")
_CEILINGS = ("wall_s", "memory_mib", "storage_mib", "processes")
_AT_ONCE = {"runs": "running", "gpus": "gpus"}
_KEPT = {"stored_bytes": "bytes"}
_SUMMED = {"gpu_seconds": "gpu_s", "cpu_seconds": "cpu_s", "usd": "usd", "tokens": "tokens"}
_SLACK = 1e-9
"""For sums of floating-point numbers; far below what one token costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The sum of a ledger's entries over one account: a tenant, its day, a direction, an experiment, or a token."""

    id: str
    usd: float = 0.0
    tokens: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    """These three say what settled calls really used; `tokens` counts what is reserved too."""
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    wall_s: float = 0.0
    """Booked when an execution has ended; nothing is reserved of it."""
    bytes: int = 0
    running: int = 0
    """Executions that are reserved for or run."""
    gpus: int = 0


def checked(quotas: Mapping[str, float]) -> dict[str, float]:
    """Return quotas that are known and not negative, or refuse in one sentence."""
    for name, value in quotas.items():
        if name not in QUOTAS:
            raise BadInputError(f"There is no quota {name!r}; there are {', '.join(QUOTAS)}.")
        if not 0 <= value < float("inf"):
            raise BadInputError(f"The quota {name} must be a number that is not negative.")
    return {name: float(value) for name, value in quotas.items()}


def check_limits(quotas: Mapping[str, float], limits: Limits) -> None:
    """Refuse an execution that asks for more than one of this tenant's may have."""
    for name in _CEILINGS:
        asked = float(getattr(limits, name))
        if name in quotas and asked > quotas[name]:
            raise OverBudgetError(f"The tenant's quota is {quotas[name]:g} {QUOTAS[name]}; {asked:g} are asked for.")


def check_at_once(quotas: Mapping[str, float], more: Balance) -> None:
    """Refuse what would not fit beside nothing at all, so that waiting has no end."""
    for name, column in _AT_ONCE.items():
        if name in quotas and getattr(more, column) > quotas[name]:
            raise OverBudgetError(
                f"The tenant's quota is {quotas[name]:g} {QUOTAS[name]}; {getattr(more, column):g} are asked for."
            )


def fits(quotas: Mapping[str, float], total: Balance, more: Balance) -> bool:
    """Whether this may begin beside what runs; waiting helps where it may not."""
    return all(
        name not in quotas or getattr(total, column) + getattr(more, column) <= quotas[name]
        for name, column in _AT_ONCE.items()
        if getattr(more, column) > 0
    )


def check(quotas: Mapping[str, float], total: Balance, day: Balance, more: Balance) -> None:
    """Refuse what would pass a quota, by what is spent or reserved in all and on this day."""
    for name, column in {**_KEPT, **_SUMMED}.items():
        _check_one(quotas, name, float(getattr(total, column)), float(getattr(more, column)))
    for name, column in _SUMMED.items():
        _check_one(quotas, f"{name}_day", float(getattr(day, column)), float(getattr(more, column)))


def _check_one(quotas: Mapping[str, float], name: str, taken: float, more: float) -> None:
    if more > 0 and name in quotas and taken + more > quotas[name] + _SLACK:
        raise OverBudgetError(
            f"The tenant's quota is {quotas[name]:g} {QUOTAS[name]}; {taken:g} are spent or reserved, and this takes "
            f"up to {more:g}.",
            cap=Cap.DAY if name.endswith("_day") else Cap.TENANT,
        )
