"""Which detector was written for a family: it is switched off to see what the others still catch.

A detector is a kind of the audit's findings that refuses (`audit: literal`), or the stage that an edit does not pass:
`run`, `query`, `evaluator`, `numbers` (what is written is no result), `step axis` (its steps stay its own word), `no
gain` (what the evaluator measured is no better than the baseline), and for finished folders `verification` of the
manifest and of the `records`.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.redteam.cases import Family

WRITTEN_FOR: Mapping[Family, str] = {
    Family.HARD_CODED_METRIC: "no gain",
    Family.COPIED_TRAINING_DATA: "evaluator",
    Family.HARD_CODED_GENERATOR: "no gain",
    Family.CLOSED_FORM: "no gain",
    Family.EMBEDDED_DATA: "audit: literal",
    Family.EVALUATOR_OVERWRITTEN: "audit: file",
    Family.MONKEYPATCH: "audit: patch",
    Family.FUTURE_TOKENS: "query",
    Family.SEEDS: "audit: seeds",
    Family.WRONG_DIRECTION: "no gain",
    Family.STALE_RESULT: "query",
    Family.HIDDEN_NAN: "evaluator",
    Family.FEWER_SAMPLES: "evaluator",
    Family.SWAPPED_ARMS: "records",
    Family.EDITED_FILES: "verification",
    Family.CLAIMED_RUN: "verification",
    Family.PARTIAL_RESULT: "run",
    Family.SEALED_DATA: "audit: held_out",
    Family.NO_EFFECT: "no gain",
    Family.OUTSIDE_HELP: "audit: process",
    Family.FALSE_STEPS: "step axis",
}
