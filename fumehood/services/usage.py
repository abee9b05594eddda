"""What a direction's calls of models came to, stage by stage: tokens, those read from a provider's cache, dollars."""

from __future__ import annotations

from collections.abc import Mapping

from fumehood.domain.ids import DirectionId
from fumehood.ports import Transaction

STAGES: Mapping[str, tuple[str, ...]] = {
    "ideas": ("idea", "reflection"),
    "novelty": ("novelty", "novelty_query", "novelty_decision"),
    "coder": ("coder",),
    "fidelity": ("fidelity",),
    "runs": ("execution",),
    "plots": ("plot", "drawing"),
    "notes": ("notes",),
    "writing": ("section", "title", "refine"),
    "citations": ("citation",),
    "review": ("review",),
    "policy": ("judge",),
    "drafting": ("draft",),
}
"""Each stage's roles, in the order of the pipeline."""
OTHER = "other"
_STAGE_OF = {role: stage for stage, roles in STAGES.items() for role in roles}


def by_stage(tx: Transaction, direction_id: DirectionId) -> list[dict[str, object]]:
    """Return a line for each stage that asked a model; `input_tokens` are those paid in full, or kept for later."""
    calls: dict[str, set[str]] = {}
    sums: dict[str, list[float]] = {}
    for entry in tx.ledger.entries(direction_id):
        if not entry.model:
            continue  # of an execution
        stage = _STAGE_OF.get(entry.role, OTHER)
        calls.setdefault(stage, set()).add(entry.call_id)
        told = (entry.input_tokens, entry.cached_tokens, entry.output_tokens, entry.usd)
        sums[stage] = [before + more for before, more in zip(sums.get(stage, [0, 0, 0, 0.0]), told, strict=True)]
    return [
        {
            "stage": stage,
            "calls": len(calls[stage]),
            "input_tokens": int(sums[stage][0]),
            "cached_tokens": int(sums[stage][1]),
            "output_tokens": int(sums[stage][2]),
            "usd": round(sums[stage][3], 6),
        }
        for stage in (*STAGES, OTHER)
        if stage in sums
    ]
