"""The results section of a paper without a language model: every sentence depends on what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fumehood.gateway.upstreams import offline_confirmation, offline_runs
from fumehood.gateway.upstreams import offline_words as w
from fumehood.gateway.upstreams.offline_words import Facts, Run


def results(facts: Facts, playbook: Mapping[str, Any]) -> list[str]:
    """Return the section's paragraphs."""
    if not facts["metric"]:
        return [
            "Nothing was measured: neither the baseline nor any variant gave a number, so there is no result to report."
        ]
    parts = [_opening(facts), "[[table: results]]", _baseline(facts), _two_errors(facts)]
    figures = [entry["file"] for entry in facts["figures"]]
    shown = [_figure(file, playbook, at) for at, file in enumerate(figures)]
    for at, run in enumerate(facts["runs"]):
        parts += offline_runs.paragraphs_of(facts, run, at)
        if at < len(shown):
            parts += shown[at]
    for more in shown[len(facts["runs"]) :]:
        parts += more
    parts += _together(facts)
    parts += offline_confirmation.results(facts)
    return [part for part in parts if part]


def _compared(facts: Facts) -> bool:
    return any(f"{run['name']}.{facts['metric']}.difference" in facts["numbers"] for run in facts["runs"])


def _opening(facts: Facts) -> str:
    datasets = len(w.metric_words(facts)["datasets"])
    each = f", for each of the {w.count(datasets, 'data set')}" if datasets > 1 else ""
    said = (
        f"Table~\\ref{{tab:results}} gives the {w.metric_name(facts)} of the baseline and of "
        f"{w.count(len(facts['runs']), 'variant')}{each}."
    )
    if _compared(facts) and w.metric_words(facts)["direction"]:
        said += (
            " Table~\\ref{tab:comparison} sets each variant against the baseline and carries the label that follows"
            " from the rule fixed beforehand."
        )
    elif not w.metric_words(facts)["direction"]:
        said += (
            " The template does not say on which side better lies, so the values are described and nothing is ranked."
        )
    if len(facts["baseline"]["metrics"]) > 1:
        said += (
            " Further quantities, which nobody registered and which therefore carry no label, stand in"
            " Table~\\ref{tab:secondary}."
        )
    if w.metric_words(facts)["source"] == "self":
        said += (
            " All of these numbers are self-reported: the experiment's own code computed them, and no independent "
            "evaluation stands behind them."
        )
    return said


def _baseline(facts: Facts) -> str:
    metric = facts["metric"]
    entry = facts["baseline"]["metrics"].get(metric)
    if entry is None:
        return "The baseline itself has no value of this metric, so no variant can be compared with it."
    parts = {name: part for name, part in entry["datasets"].items() if part["mean"] is not None}
    said = "\\paragraph{Baseline.} "
    if len(parts) < 2:
        only = next(iter(parts))
        return (
            said + f"The unchanged template reaches {w.value(facts, f'run_0.{metric}.{only}')}{w.unit(facts)} on"
            f" {w.tex(only)}."
        )
    ordered = sorted(parts, key=lambda name: float(parts[name]["mean"]))
    low, high = ordered[0], ordered[-1]
    said += (
        f"The unchanged template is far from uniform over the data sets: its {w.metric_name(facts)} runs from "
        f"{w.value(facts, f'run_0.{metric}.{low}')}{w.unit(facts)} on {w.tex(low)} to "
        f"{w.value(facts, f'run_0.{metric}.{high}')}{w.unit(facts)} on {w.tex(high)}."
        if abs(parts[high]["mean"] - parts[low]["mean"])
        > 2 * ((parts[high]["stderr"] or 0) + (parts[low]["stderr"] or 0))
        else (
            f"On the unchanged template the {w.metric_name(facts)} is much the same everywhere, between"
            f" {w.value(facts, f'run_0.{metric}.{low}')} on {w.tex(low)} and {w.value(facts, f'run_0.{metric}.{high}')}"
            f" on {w.tex(high)}."
        )
    )
    noisy = max(parts, key=lambda name: parts[name]["stderr"] or 0.0)
    if parts[noisy]["stderr"]:
        said += (
            f" Seeds disagree most on {w.tex(noisy)}, where the standard error is "
            f"{w.num(f'run_0.{metric}.{noisy}.stderr')}{w.unit(facts)}; a difference of that size on this data set "
            "is what one should expect from a change of seed alone."
        )
    return said


def _two_errors(facts: Facts) -> str:
    """Say once why a difference of means and a contrast can look unlike one another."""
    entry = facts["baseline"]["metrics"].get(facts["metric"])
    errors = {name: part["stderr"] or 0.0 for name, part in entry["datasets"].items()} if entry else {}
    if len(errors) < 2 or not any(errors.values()) or not w.by_contrast(facts):
        return ""
    noisy = max(errors, key=lambda name: errors[name])
    most = errors[noisy] ** 2 > sum(one**2 for one in errors.values()) / 2
    ruled = (
        f"is dominated by the noisiest data set, here {w.tex(noisy)}" if most else "is ruled by the noisier data sets"
    )
    return (
        "Each variant is described twice below, and the two descriptions need not agree. The difference of means takes"
        f" all data sets in the metric's own unit, so that the standard error beside it {ruled}. The contrast $C$"
        " weighs each data set by its own spread over seeds, and a small but steady movement on a quiet data set"
        " counts in it. The label follows from $C$ and its $p$ alone."
    )


def _figure(file: str, playbook: Mapping[str, Any], at: int) -> list[str]:
    words = playbook.get("paper", {})
    stem = file.rsplit(".", 1)[0]
    caption = str(words.get("captions", {}).get(file, ""))
    subject = str(words.get("figures", {}).get(file, stem.replace("_", " ")))
    pointer = w.pick(
        (
            f"Figure~\\ref{{fig:{stem}}} shows the {subject} of all runs that gave numbers.",
            f"The {subject} can be read off Figure~\\ref{{fig:{stem}}}.",
            f"A reader who prefers pictures finds the {subject} in Figure~\\ref{{fig:{stem}}}.",
        ),
        at,
    )
    mark = f"[[figure: {file} | {caption}]]" if caption else f"[[figure: {file}]]"
    return [mark, f"{pointer} {words.get('remarks', {}).get(file, '')}".strip()]


def _together(facts: Facts) -> list[str]:
    runs = w.by_contrast(facts)
    secondary = "[[table: secondary]]" if len(facts["baseline"]["metrics"]) > 1 else ""
    comparison = "[[table: comparison]]" if _compared(facts) and w.metric_words(facts)["direction"] else ""
    if not runs:
        return [comparison, secondary]
    said = "\\paragraph{Taken together.} "
    wanted = [run for run in runs if run["contrast"]["value"] > 0]
    if len(runs) == 1:
        side = "wanted" if wanted else "unwanted"
        said += f"A single variant could be compared, and its contrast lies on the {side} side."
    elif not wanted:
        said += (
            f"{w.every(len(runs))} contrasts lie on the unwanted side; the one nearest to zero is that of"
            f" {w.name_of(runs[0])}."
        )
    elif len(wanted) == len(runs):
        said += (
            f"{w.every(len(runs))} contrasts lie on the wanted side, from {w.name_of(runs[-1])} at the lower end to"
            f" {w.name_of(runs[0])} at the upper."
        )
    else:
        said += (
            f"{w.capital(w.count(len(wanted)))} of {w.count(len(runs))} contrasts "
            f"{'lies' if len(wanted) == 1 else 'lie'} on the wanted side, with {w.name_of(runs[0])} furthest out; "
            f"at the other end stands {w.name_of(runs[-1])}."
        )
    return [f"{said} {_by_dataset(runs)} {_verdict(facts, runs)}", comparison, secondary]


def _by_dataset(runs: list[Run]) -> str:
    if len(runs) < 2:
        return ""
    names = list(runs[0]["contrast"]["datasets"])
    votes = {name: sum(run["contrast"]["datasets"].get(name, 0) > 0 for run in runs) for name in names}
    every, none = [n for n in names if votes[n] == len(runs)], [n for n in names if votes[n] == 0]
    if len(names) < 2 or not (every or none):
        return "No data set moves the same way under every variant." if len(names) > 1 else ""
    parts = []
    if every:
        parts.append(f"every variant moves {w.listed([w.tex(name) for name in every])} to the wanted side")
    if none:
        parts.append(f"none does so for {w.listed([w.tex(name) for name in none])}")
    return w.sentence(w.listed(parts, "while"))


def _verdict(facts: Facts, runs: list[Run]) -> str:
    good = w.promising(facts)
    if good and len(runs) == 1:
        return (
            f"{w.names_of(good)} is labelled promising. The label is given only to contrasts that happened to be large"
            " on this set of held-out points, so the size of this one is likely to be flattered."
        )
    if good:
        everyone = "both variants" if len(runs) == 2 else f"all {w.count(len(runs), 'variant')}"
        return (
            f"{w.names_of(good)} {'is' if len(good) == 1 else 'are'} labelled promising. The label was earned on the"
            f" same held-out points on which {everyone} were looked at, so its size is biased upwards by the choice."
        )
    none, equal = ("No variant is", "the variants are") if len(runs) > 1 else (f"{w.name_of(runs[0])} is not", "it is")
    return (
        f"{none} labelled promising. That is not evidence that {equal} equal to the baseline: a screen of this size"
        " would miss differences of a moderate size."
    )
