"""What a paper may say of a confirmation: its label and outcome, and every number by the place where it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain.experiment import Run
from fumehood.errors import NotFoundError
from fumehood.services import numbers
from fumehood.services.confirmation_report import PRODUCT
from fumehood.services.fact_types import ConfirmationFacts, Number

STEM = "confirmation"
SHOWN = {
    "contrast": "result/contrast",
    "contrast_se": "result/contrast_se",
    "df": "result/df",
    "p": "result/p",
    "low": "result/interval/low",
    "high": "result/interval/high",
    "discovery_low": "result/discovery_interval/low",
    "discovery_high": "result/discovery_interval/high",
    "alpha": "plan/alpha",
    "margin": "plan/rule/margin",
    "screen_contrast": "plan/screen_contrast",
    "failed": "result/failed",
    "base_failed": "result/base_failed",
}
OF_DATASETS = ("run", "base", "difference", "margin", "n", "base_n", "spread_ratio", "p", "held_out", "tau")


def confirmation_facts(
    told: Mapping[str, Any] | None, runs: Sequence[Run], table: dict[str, Number]
) -> ConfirmationFacts | None:
    """Return what `confirmation.json` came to, and add its numbers to the table; None where nothing was confirmed."""
    if told is None or not told.get("result"):
        return None
    plan, result = told["plan"], told["result"]
    for name, pointer in SHOWN.items():
        _add(table, name, pointer, told)
    datasets = list(result.get("datasets") or {})
    for dataset in datasets:
        for name in OF_DATASETS:
            _add(table, f"{dataset}.{name}", f"result/datasets/{dataset}/{name}", told)
    chosen = next((run for run in runs if run.folder == plan["run"]), None)
    look = int(result.get("look") or 0)
    return ConfirmationFacts(
        run=plan["run"],
        title=chosen.title if chosen else plan["run"],
        label=result["label"],
        outcome=result["outcome"],
        look=look,
        seeds=int(plan["rule"]["looks"][look - 1]) if look else 0,
        baseline_seeds=len(plan["baseline_seeds"]),
        screened=int(plan["screened"]),
        index=int(plan["index"]) + 1,
        ideas=int(plan["rule"]["ideas"]),
        discoveries=int(plan["discoveries"]),
        transform=plan["measure"]["transform"],
        datasets=datasets,
        left_out=dict(plan["left_out"]),
        contradicting=list(result.get("contradicting") or ()),
        failed=int(result.get("failed") or 0),
        base_failed=int(result.get("base_failed") or 0),
        alone=bool(result.get("alone")),
        baseline_untuned=bool(result.get("baseline_untuned")),
        error_is_assured=bool(result.get("error_is_assured", True)),
    )


def _add(table: dict[str, Number], name: str, pointer: str, told: Mapping[str, Any]) -> None:
    try:
        value = numbers.resolve(pointer, told)
    except NotFoundError:
        return
    whole = name.rsplit(".", 1)[-1] in {"n", "base_n", "failed", "base_failed", "held_out"}
    digits = numbers.all_digits(value) if whole else 2 if name in {"alpha", "margin"} else 3
    table[f"{STEM}.{name}"] = Number(value=value, digits=digits, source=PRODUCT, pointer=pointer)
