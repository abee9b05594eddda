"""What a paper without a language model says of a confirmation: how it is made, what it came to, and what is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fumehood.gateway.upstreams import offline_words as w
from fumehood.gateway.upstreams.offline_words import Facts

_REASONS = {
    "undecided": "two looks showed neither a difference nor that there is none",
    "dataset_dependent": "the data sets contradict one another",
    "failed_seeds": "seeds failed, and the others alone would flatter it",
    "missing_cells": "some of what had to be measured is missing",
    "no_scale": "the baseline gives no scale to compare by",
    "step_axis": "the steps at which variants reach the target are their own word",
    "budget_mismatch": "no variant is known to share the baseline's budget",
    "protocol_changed": "what was measured is not what was declared",
    "screen_only": "no run was worth confirming",
}
_SAID = {
    "better": "is \\emph{better} than the baseline",
    "worse": "is \\emph{worse} than the baseline",
    "no_difference": "shows \\emph{no difference} from the baseline, which means one within the margin",
}


def told(facts: Facts) -> Mapping[str, Any] | None:
    """Return the confirmation's facts; None where nothing was confirmed."""
    found: Mapping[str, Any] | None = facts.get("confirmation")
    return found


def finding(facts: Facts) -> str:
    """Return what a confirmation came to, in a sentence or two; empty where there was none."""
    found = told(facts)
    if found is None:
        return ""
    name = _name(found)
    if not found["look"]:
        return f"{w.capital(name)} was chosen for a confirmation, which gave no label, since {_reason(found['label'])}."
    measured = (
        f"Measured again on {w.count(found['seeds'], 'fresh seed')} a data set and on sealed data, {name}"
        f" {_verdict(found['label'])}"
    )
    if not w.has(facts, "confirmation.contrast", "confirmation.low", "confirmation.high"):
        return f"{measured}."
    return f"{measured} ({_contrast()})."


def in_short(facts: Facts) -> str:
    """Return what a confirmation came to as an abstract says it; empty where there was none."""
    found = told(facts)
    if found is None:
        return ""
    said = f"{w.capital(_name(found))} alone was then to be confirmed, on fresh seeds and sealed data"
    if not w.has(facts, "confirmation.contrast", "confirmation.low", "confirmation.high"):
        return f"{said}, which gave it the label \\emph{{{w.tex(found['label'])}}}."
    return f"{said}: there it has {_contrast()}, and the label \\emph{{{w.tex(found['label'])}}}."


def results(facts: Facts) -> list[str]:
    """Return the paragraph and the table of the results section."""
    found = told(facts)
    if found is None:
        return []
    name = _name(found)
    said = (
        f"\\paragraph{{Confirmation.}} Of {w.count(found['screened'], 'screened variant')}, {name} has the largest"
        " contrast"
        + (
            f" (${w.num('confirmation.screen_contrast')}$, selected and so biased)"
            if w.has(facts, "confirmation.screen_contrast")
            else ""
        )
        + f" and alone was confirmed. {finding(facts)}"
    )
    if w.has(facts, "confirmation.p", "confirmation.alpha"):
        said += (
            f" The two-sided $p$ is {w.num('confirmation.p')}, and each of the two looks may spend half of the level"
            f" $\\alpha = {w.num('confirmation.alpha')}$, which this study has as confirmation {found['index']} of a"
            f" direction of {found['ideas']} after {_earlier(found['discoveries'])}."
        )
    if w.has(facts, "confirmation.discovery_low", "confirmation.discovery_high"):
        said += (
            f" At the level of a discovery the interval is $[{w.num('confirmation.discovery_low')},"
            f" {w.num('confirmation.discovery_high')}]$."
        )
    if found["alone"]:
        said += " Where seeds that were run together failed, each of them was run once more alone."
    if found["failed"] or found["base_failed"]:
        said += (
            f" Of the seeds, {w.count(found['failed'])} of the variant's and {w.count(found['base_failed'])} of the"
            " baseline's failed; they count as the worst."
        )
    if found["contradicting"]:
        verb = "contradicts" if len(found["contradicting"]) == 1 else "contradict"
        said += f" {w.capital(w.listed([w.tex(one) for one in found['contradicting']]))} {verb} the others."
    table = "[[table: confirmation]]" if found["datasets"] else ""
    return [f"{said} Table~\\ref{{tab:confirmation}} gives the data sets." if table else said, table]


def method(facts: Facts) -> str:
    """Return how a confirmation is made; empty where there was none."""
    found = told(facts)
    if found is None:
        return ""
    return (
        "The variant with the largest contrast is then measured once more, on seeds that were drawn after its code was"
        " fixed and on training and held-out data of a sealed arm, against"
        f" {w.count(found['baseline_seeds'], 'seed')} of the baseline there, which share nothing with those of the"
        " screen. Its contrast is judged by the same test at a level that all confirmations of the direction share, in"
        " at most two looks. A small $p$ makes it \\emph{better} or \\emph{worse}; an interval inside the margin of"
        f" {w.num('confirmation.margin')} baseline standard deviations makes it \\emph{{no difference}}; what is"
        " neither stays undecided. A data set that contradicts the label takes it back."
    )


def limitation(facts: Facts) -> str:
    """Return what a confirmation leaves open, or that there was none."""
    found = told(facts)
    if found is None:
        return (
            "No held-out set was kept sealed for a second look, because this profile does not confirm."
            if not facts["profile"]["confirm"]
            else f"Nothing was confirmed on sealed data: {_reason(facts['label'])}."
        )
    said = "Only the variant that the screen chose was confirmed, so the label speaks of it and not of the others."
    if found["baseline_untuned"]:
        said += (
            f" The idea had {w.count(found['screened'], 'try', 'tries')} and the baseline one: nobody tuned that as"
            " far, and a gain may in part be owed to the trying."
        )
    if not found["error_is_assured"]:
        said += (
            " With one data set, and a metric that is not compared by its logarithm, the rule's rates of error are not"
            " assured where the metric is skewed."
        )
    return said


def _name(found: Mapping[str, Any]) -> str:
    return rf"\emph{{{w.tex(found['title'])}}}"


def _verdict(label: str) -> str:
    if label in _SAID:
        return _SAID[label]
    return f"cannot be labelled, since {_reason(label)}"


def _earlier(discoveries: int) -> str:
    return w.count(discoveries, "earlier discovery", "earlier discoveries")


def _reason(label: str) -> str:
    return _REASONS.get(label.partition(": ")[2], "the rule came to no label")


def _contrast() -> str:
    return (
        f"$C = {w.num('confirmation.contrast')}$ baseline standard deviations, with a 95\\,\\% interval of"
        f" $[{w.num('confirmation.low')}, {w.num('confirmation.high')}]$"
    )
