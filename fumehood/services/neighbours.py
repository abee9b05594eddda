"""Who ran beside an execution: what its record says of that, and which of its numbers do not count for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fumehood.domain.confirmation import Reason
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Execution
from fumehood.domain.machine import Lease
from fumehood.ports import Transaction
from fumehood.services import leasing

MOST_NAMED = 50
"""Executions of the same tenant that a record names; the others are counted."""
SELF, EVALUATOR = "self", "evaluator"
_MADE_BY = {SELF: (Kind.RUN,), EVALUATOR: (Kind.RUN, Kind.QUERY, Kind.EVALUATE)}
"""During which executions a metric came about, by its source."""


def placements(tx: Transaction, jobs: Mapping[Kind, Execution]) -> dict[str, dict[str, Any]]:
    """Return, by kind, which devices a run's executions had, from when until when, and who was beside each.

    Of other tenants' executions there is the count alone.
    """
    return {kind.value: _placement(tx, job) for kind, job in sorted(jobs.items())}


def _placement(tx: Transaction, job: Execution) -> dict[str, Any]:
    told: dict[str, Any] = {"execution": job.id, "gpus": [], "since": None, "until": None, "neighbours": None}
    for lease in tx.leases.find(id=leasing.lease_id(job)):
        if lease.ended_at is None:
            continue
        beside = [one for one in tx.leases.during(lease.since, lease.ended_at) if lease.is_beside(one)]
        told |= {"gpus": list(lease.gpus), "since": lease.since, "until": lease.ended_at}
        told |= {"neighbours": len({one.execution_id for one in beside}), "beside": _named(lease, beside)}
    return {"beside": [], **told}


def _named(lease: Lease, beside: list[Lease]) -> list[str]:
    mine = dict.fromkeys(str(one.execution_id) for one in beside if one.tenant == lease.tenant)
    return list(mine)[:MOST_NAMED]


def incomparable(metric: Mapping[str, Any], placed: Mapping[str, Any]) -> str:
    """Return why a metric of a record counts for nothing beside another run's; empty where it does.

    A time counts only where every execution that it came about in is known to have had its device alone.
    """
    if not metric.get("is_time"):
        return ""
    jobs = [
        placed[kind] for kind in _MADE_BY[EVALUATOR if metric.get("source") == EVALUATOR else SELF] if kind in placed
    ]
    return "" if jobs and all(one.get("neighbours") == 0 for one in jobs) else Reason.SHARED_DEVICE.value


def problems(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what does not hold of the placements in records, by folder: of two that met, one names the other."""
    known: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for folder, record in records.items():
        placed = record.get("placement")
        if placed is None:
            continue
        known |= {one["execution"]: (f"{folder} ({kind})", one) for kind, one in placed.items()}
        for name, metric in record.get("metrics", {}).items():
            if metric.get("not_comparable", "") != incomparable(metric, placed):
                yield f"{folder}: whether {name} counts does not follow from who ran beside it"
    for key, (place, one) in known.items():
        if one["neighbours"] is not None and one["neighbours"] < len(one["beside"]):
            yield f"{place} names more that ran beside it than it counts"
        for other, (elsewhere, theirs) in known.items():
            # One will do: where the clock was set back, the first could not know of the second.
            if key < other and _met(one, theirs) and not _names(one, other) and not _names(theirs, key):
                yield f"{place} and {elsewhere} ran at the same time, and their records do not say so"


def _met(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two shared a device by what their records say of themselves; both sides see only what they can share."""
    if one["since"] is None or other["since"] is None or bool(one["gpus"]) != bool(other["gpus"]):
        return False
    shares = not one["gpus"] or bool(set(one["gpus"]) & set(other["gpus"]))
    return shares and one["since"] < other["until"] and other["since"] < one["until"]


def _names(one: Mapping[str, Any], other: str) -> bool:
    return other in one["beside"] or len(one["beside"]) >= MOST_NAMED
