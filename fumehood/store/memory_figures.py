"""The figures of the store in memory, counted row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.figures import ExecutionCount, Spending, Standing, StateCount, StepCount, Taking
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.step import Side, StepState

Rows = Collection[Mapping[str, Any]]
_ENDED = {StepState.DONE, StepState.FAILED}


def steps(rows: Rows, now: float, is_allowed: Callable[[Mapping[str, Any], Side], bool]) -> tuple[StepCount, ...]:
    """Count the live steps."""
    found: dict[tuple[Side, Standing], list[float]] = {}
    for row in rows:
        if row["state"] not in _ENDED:
            side = Side(row["side"])
            found.setdefault((side, _standing(row, now, is_allowed(row, side))), []).append(row["due_at"])
    return tuple(
        StepCount(side=side, standing=standing, number=len(due), oldest_due_at=min(due))
        for (side, standing), due in sorted(found.items())
    )


def _standing(row: Mapping[str, Any], now: float, allowed: bool) -> Standing:
    if row["state"] == StepState.WAITING:
        return Standing.WAITING
    if row["state"] == StepState.CLAIMED and row["lease_until"] > now:
        return Standing.CLAIMED
    if not allowed:
        return Standing.HELD
    return Standing.LATER if row["state"] == StepState.DUE and row["due_at"] > now else Standing.DUE


def states(rows: Rows) -> tuple[StateCount, ...]:
    """Count directions or experiments."""
    found = Counter((row["state"], row["hold"]) for row in rows)
    return tuple(StateCount(state=state, hold=hold, number=number) for (state, hold), number in sorted(found.items()))


def executions(rows: Rows) -> tuple[ExecutionCount, ...]:
    """Count the executions."""
    found = Counter((row["kind"], row["state"], row["verdict"] or "") for row in rows)
    return tuple(
        ExecutionCount(
            kind=Kind(kind), state=ExecutionState(state), verdict=Verdict(verdict) if verdict else None, number=number
        )
        for (kind, state, verdict), number in sorted(found.items())
    )


def spending(entries: Iterable[LedgerEntry]) -> tuple[Spending, ...]:
    """Sum the ledger up."""
    lines = [line for line in entries if line.model]
    over = {line.call_id for line in lines if line.kind in {"settled", "released"}}
    found: dict[tuple[str, str], list[LedgerEntry]] = {}
    for line in lines:
        found.setdefault((line.model, line.role), []).append(line)
    return tuple(
        Spending(
            model=model,
            role=role,
            usd=sum(line.usd for line in mine if line.call_id in over),
            reserved_usd=sum(line.usd for line in mine if line.call_id not in over),
            input_tokens=sum(line.input_tokens for line in mine),
            cached_tokens=sum(line.cached_tokens for line in mine),
            output_tokens=sum(line.output_tokens for line in mine),
        )
        for (model, role), mine in sorted(found.items())
    )


def takings(entries: Iterable[LedgerEntry]) -> tuple[Taking, ...]:
    """Sum up what executions took that are over."""
    lines = [line for line in entries if not line.model]
    over = {line.id.replace(":settled", ":reserved") for line in lines if line.kind == "settled"}
    counted = [line for line in lines if line.kind == "settled" or line.id in over]
    return tuple(
        Taking(
            kind=Kind(kind),
            cpu_s=sum(line.cpu_s for line in counted if line.role == kind),
            gpu_s=sum(line.gpu_s for line in counted if line.role == kind),
        )
        for kind in sorted({line.role for line in counted})
    )
