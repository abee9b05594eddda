"""`log.json` of a finished experiment: its entries and its baseline's, and proofs that they are in the signed log."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fumehood.domain.experiment import Experiment, Run
from fumehood.domain.log import Leaf, TreeHead
from fumehood.errors import ConflictError
from fumehood.ports import Artifacts, Transaction
from fumehood.services import log, log_line

FILE = "log.json"
PAPER = "latex/main.tex"


def build(
    tx: Transaction, artifacts: Artifacts, experiment: Experiment, runs: Sequence[Run], head: TreeHead
) -> dict[str, object]:
    """Return what the file says of an experiment whose folder holds these runs.

    Raises `ConflictError` where the log has grown since it was signed.
    """
    scopes = list(dict.fromkeys([experiment.id, *(log.scope_of(run) for run in runs)]))
    leaves = [leaf for scope in scopes for leaf in tx.log.of(scope)]
    if any(leaf.index >= head.size for leaf in leaves):
        raise ConflictError(f"The log has grown while the folder of {experiment.name} was made: make it again.")
    return {
        "head": json.loads(head.envelope),
        "experiment": experiment.id,
        "baselines": scopes[1:],
        "counts": {scope: tx.log.count(scope) for scope in scopes},
        "leaves": [_leaf(tx, leaf, head) for leaf in leaves],
        "paper": _paper(tx, artifacts, experiment, head),
    }


def _leaf(tx: Transaction, leaf: Leaf, head: TreeHead) -> dict[str, object]:
    return {"index": leaf.index, "entry": log.entry_of(leaf), "proof": log.inclusion(tx, leaf.index, head.size)}


def _paper(tx: Transaction, artifacts: Artifacts, experiment: Experiment, head: TreeHead) -> dict[str, object] | None:
    """Return the proof that the signed log begins with the one that the paper names; None without a paper."""
    source = experiment.products.get(PAPER)
    printed = log_line.read(artifacts.get(source).decode(errors="replace")) if source else None
    if printed is None or printed.size > head.size:
        return None
    return {"size": printed.size, "consistency": log.consistency(tx, printed.size, head.size)}
