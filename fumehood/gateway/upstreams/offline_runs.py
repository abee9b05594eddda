"""What is said about one run: what it changed, what it measured, on which data sets, and what that does not show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fumehood.gateway.upstreams import offline_words as w
from fumehood.gateway.upstreams.offline_words import Facts, Run

LEVEL = 0.05


def paragraphs_of(facts: Facts, run: Run, at: int) -> list[str]:
    """Return what is said about one run; `at` varies the words."""
    heading = f"\\paragraph{{{w.tex(run['title'])}.}} "
    described = w.sentence(w.tex(run["description"])) if run["description"] else ""
    if not run["metrics"]:
        return [heading + " ".join(part for part in (described, _failure(run, at)) if part)]
    first = [described, _tries(run, at), _numbers(facts, run, at)]
    second = [_datasets(facts, run, at), _label(facts, run, at), _others(facts, run, at), _meaning(run, at)]
    return [heading + " ".join(part for part in first if part), " ".join(part for part in second if part)]


def _verdicts(run: Run) -> str:
    words = {
        "failed": "an error",
        "timed_out": "the time limit",
        "out_of_memory": "the memory limit",
        "out_of_storage": "the storage limit",
        "too_many_processes": "the process limit",
        "too_much_output": "the output limit",
        "no_result": "numbers that were missing or not finite",
        "no_edit": "an answer that held no edit that applies",
        "refused": "an edit that was refused",
    }
    seen = dict.fromkeys(words.get(one["verdict"], w.tex(one["verdict"].replace("_", " "))) for one in run["attempts"])
    return w.listed(list(seen))


def _error_name(run: Run) -> str:
    last = run["attempts"][-1]["error"] if run["attempts"] else ""
    found = re.search(r"\b([A-Z]\w*(?:Error|Exception|Warning|Interrupt))\b", last)
    return f" (\\texttt{{{w.tex(found[1])}}})" if found else ""


def _failure(run: Run, at: int) -> str:
    tries = len(run["attempts"])
    if not tries:
        return "This variant was planned and never measured, and it appears here so that the plan and the report agree."
    ended = (
        f"{w.capital(w.count(tries, 'attempt'))} at {w.name_of(run)} ended with {_verdicts(run)}{_error_name(run)},"
        " and no number came of it."
    )
    return f"{ended} " + w.pick(
        (
            (
                f"A program that fails says nothing about the idea behind it, so {w.name_of(run)} counts neither for"
                " nor against the hypothesis."
            ),
            f"We report {w.name_of(run)} as a gap and not as a bad value; the comparison simply lacks it.",
            f"Since no model was trained to its end, nothing is known about the quality of {w.name_of(run)}.",
        ),
        at,
    )


def _tries(run: Run, at: int) -> str:
    tries = len(run["attempts"])
    if not tries:
        return ""
    return w.pick(
        (
            (
                f"The code of {w.name_of(run)} did not work at once: {w.count(tries, 'earlier attempt')} ended with"
                f" {_verdicts(run)}{_error_name(run)}, and the numbers below belong to the mended version."
            ),
            (
                f"Before the measured version of {w.name_of(run)} there {'was' if tries == 1 else 'were'} "
                f"{w.count(tries, 'failed attempt')}, which ended with {_verdicts(run)}{_error_name(run)}."
            ),
        ),
        at,
    )


def _numbers(facts: Facts, run: Run, at: int) -> str:
    metric, name = facts["metric"], run["name"]
    entry = run["metrics"].get(metric)
    if entry is None:
        return f"It gave numbers, but no {w.metric_name(facts)}, so it cannot be set against the baseline."
    if entry["mean"] is None:
        return (
            f"Not every data set has a {w.metric_name(facts)} for {w.name_of(run)}, so no mean over data sets is given."
        )
    stem = f"{name}.{metric}"
    several = len(entry["datasets"]) > 1
    over = "Averaged over the data sets, its" if several else "Its"
    if not w.has(facts, f"{stem}.difference"):
        return (
            f"{over} {w.metric_name(facts)} is {w.value(facts, stem)}{w.unit(facts)}, without a baseline value"
            " beside it."
        )
    said = w.pick(
        (
            (
                f"{over} {w.metric_name(facts)} is {w.value(facts, stem)}{w.unit(facts)} against "
                f"{w.value(facts, f'run_0.{metric}')}{w.unit(facts)} for the baseline"
            ),
            (
                f"Where the baseline has {w.value(facts, f'run_0.{metric}')}{w.unit(facts)}, {w.name_of(run)} has "
                f"{w.value(facts, stem)}{w.unit(facts)}"
            ),
            (
                f"The {w.metric_name(facts)} {'averages' if several else 'is'} {w.value(facts, stem)}{w.unit(facts)},"
                f" to be read beside the baseline's {w.value(facts, f'run_0.{metric}')}{w.unit(facts)}"
            ),
        ),
        at,
    )
    if entry["word"] == "equal":
        return (
            f"{said}: no difference at all, which after a change of code deserves a look at whether the change took"
            " effect."
        )
    change = f"{w.num(f'{stem}.change')}{w.unit(facts)} {entry['word']}"
    if w.has(facts, f"{stem}.relative_change"):
        change += f", or {w.num(f'{stem}.relative_change')} per cent"
    side = {"better": ", on the wanted side", "worse": ", on the unwanted side"}.get(entry["judgement"], "")
    return f"{said}: {change}{side}. {_noise(run, entry, at)}".strip()


def _noise(run: Run, entry: Mapping[str, Any], at: int) -> str:
    ratio = entry["noise"]
    if ratio is None:
        return (
            f"How much of this is chance cannot be said for {w.name_of(run)}, since there is no spread over seeds to"
            " compare it with."
        )
    if ratio < 1:
        options = (
            f"The difference of {w.name_of(run)} is smaller than its own standard error.",
            f"As a difference of means this is small: for {w.name_of(run)} it does not reach one standard error.",
            f"In the means the gap of {w.name_of(run)} stays below one standard error of the difference.",
        )
    elif ratio < 2:
        options = (
            f"For {w.name_of(run)} that is between one and two standard errors of the difference.",
            f"The gap of {w.name_of(run)} exceeds its standard error, but not twice that.",
            f"In the means this is a gap of one to two standard errors for {w.name_of(run)}.",
        )
    elif ratio < 4:
        options = (
            (
                f"The difference of {w.name_of(run)} is two to four times its standard error, which itself rests on a"
                " handful of seeds."
            ),
            (
                f"For {w.name_of(run)} the gap is a few standard errors wide, which would be much with many seeds and"
                " is moderate with these."
            ),
            (
                f"Between two and four standard errors, {w.name_of(run)} stands out a little, though less than the"
                " ratio suggests to an eye used to large samples."
            ),
        )
    else:
        options = (
            f"The difference of {w.name_of(run)} is more than four times its standard error.",
            f"Against the spread over seeds {w.name_of(run)} moves far, by more than four standard errors.",
            f"Measured by the seeds' spread {w.name_of(run)} stands out, since the gap exceeds four standard errors.",
        )
    return f"{w.pick(options, at)} {_unlike(run, ratio, at)}".strip()


def _unlike(run: Run, ratio: float, at: int) -> str:
    """Say so where the raw gap and the contrast point to different words."""
    p = run["contrast"]["p"] if run["contrast"] else None
    if p is None or (ratio < 2) != (p <= LEVEL) or 2 <= ratio < 4:
        return ""
    if ratio < 2:
        return w.pick(
            (
                (
                    f"The contrast of {w.name_of(run)} below is the clearer of the two, since it weighs each data set"
                    " by its own spread."
                ),
                f"Weighed by the spread of each data set, as in the contrast below, {w.name_of(run)} stands out more.",
            ),
            at,
        )
    return w.pick(
        (
            (
                f"The contrast below is less sure of {w.name_of(run)}, since it weighs each data set by its own spread"
                " and counts the seeds as few."
            ),
            (
                "Weighed by the spread of each data set and by the number of seeds, as in the contrast below, the case"
                f" of {w.name_of(run)} is weaker."
            ),
        ),
        at,
    )


def _datasets(facts: Facts, run: Run, at: int) -> str:
    metric = facts["metric"]
    stem = f"{run['name']}.{metric}"
    entry = run["metrics"].get(metric)
    if entry is None or len(entry["datasets"]) < 2 or not w.metric_words(facts)["direction"]:
        return ""
    parts = {name: part for name, part in entry["datasets"].items() if part["judgement"]}
    sides = {
        side: sorted(
            (name for name, part in parts.items() if part["judgement"] == side),
            key=lambda name: -abs(parts[name]["difference"]),
        )
        for side in ("better", "worse")
    }

    def tell(names: list[str]) -> str:
        return w.listed([f"{w.tex(one)} ({w.num(f'{stem}.{one}.change')})" for one in names])

    word = str(w.metric_words(facts)["direction"])
    other = "higher" if word == "lower" else "lower"
    wanted, unwanted = sides["better"], sides["worse"]
    if wanted and unwanted:
        said = w.pick(
            (
                (
                    f"The data sets disagree: the value of {w.name_of(run)} is {word} on {tell(wanted)} and {other} on"
                    f" {tell(unwanted)}."
                ),
                (
                    f"By data set the picture of {w.name_of(run)} is mixed, {word} on {tell(wanted)} but {other} on"
                    f" {tell(unwanted)}."
                ),
                f"On {tell(unwanted)} {w.name_of(run)} is {other} than the baseline, on {tell(wanted)} it is {word}.",
            ),
            at,
        )
    elif wanted or unwanted:
        same, direction = (wanted, word) if wanted else (unwanted, other)
        said = w.pick(
            (
                (
                    f"{w.every(len(same))} data sets agree about the direction of {w.name_of(run)}: {direction} on"
                    f" {tell(same)}."
                ),
                f"The movement of {w.name_of(run)} has the same sign everywhere, {direction} on {tell(same)}.",
                f"No data set breaks ranks for {w.name_of(run)}; each is {direction}: {tell(same)}.",
            ),
            at,
        )
    else:
        return ""
    loud = [name for name, part in parts.items() if (part["noise"] or 0) >= 2]
    if not loud:
        return f"{said} " + w.pick(
            (
                f"None of these single differences of {w.name_of(run)} reaches twice its standard error.",
                f"Taken one by one, each of them lies within two standard errors of zero for {w.name_of(run)}.",
                f"No single data set carries {w.name_of(run)}: each gap is below two of its standard errors.",
            ),
            at,
        )
    strongest = max(loud, key=lambda name: parts[name]["noise"])
    return f"{said} " + w.pick(
        (
            f"Measured by its own standard error the movement of {w.name_of(run)} is largest on {w.tex(strongest)}.",
            (
                f"It is {w.tex(strongest)} where {w.name_of(run)} departs furthest from the baseline in units of the"
                " seeds' noise."
            ),
            f"The departure of {w.name_of(run)} that noise explains least is the one on {w.tex(strongest)}.",
        ),
        at,
    )


def _label(facts: Facts, run: Run, at: int) -> str:
    found, stem = run["contrast"], f"{run['name']}.{facts['metric']}"
    if run["label"].startswith("not_comparable"):
        why = (
            "its device was shared, or the baseline's was."
            if run["label"].endswith("shared_device")
            else "it was not measured as the baseline was."
        )
        return f"{w.name_of(run)} is \\emph{{not comparable}}: {why}"
    if found is None:
        return (
            f"No contrast can be formed for {w.name_of(run)}, so its label is \\emph{{not shown}}."
            if run["label"]
            else ""
        )
    said = f"The contrast is $C = {w.num(f'{stem}.contrast')}$ baseline standard deviations"
    if w.has(facts, f"{stem}.contrast_se", f"{stem}.p", f"{stem}.df"):
        said += (
            f" with a standard error of {w.num(f'{stem}.contrast_se')}"
            f" ($p = {w.num(f'{stem}.p')}$ on {w.num(f'{stem}.df')} degrees of freedom)"
        )
    if run["budget"]:
        return (
            f"{said}, but {w.name_of(run)} does not share the baseline's budget: {' '.join(run['budget'])} It is"
            " therefore labelled \\emph{not shown}."
        )
    if run["label"] == "promising":
        return (
            f"{said}, and the label of {w.name_of(run)} is \\emph{{promising}}: the strongest word that a screen may"
            " use, and one that asks for a confirmation."
        )
    tail: tuple[str, ...]
    if found["value"] <= 0:
        tail = (
            f", on the unwanted side, and {w.name_of(run)} is labelled \\emph{{not shown}}",
            f"; being on the unwanted side, it gives {w.name_of(run)} the label \\emph{{not shown}}",
        )
    elif found["p"] is None:
        tail = (f" without an error that could be estimated, hence the label \\emph{{not shown}} for {w.name_of(run)}",)
    else:
        tail = (
            (
                f", on the wanted side but short of the level fixed beforehand, so that {w.name_of(run)} is labelled"
                " \\emph{not shown}"
            ),
            (
                "; the sign agrees with the hypothesis, the evidence does not suffice, and the label of"
                f" {w.name_of(run)} is \\emph{{not shown}}"
            ),
        )
    return f"{said}{w.pick(tail, at)}."


def _others(facts: Facts, run: Run, at: int) -> str:
    metrics = facts["template"]["metrics"]
    told = [
        name
        for name in run["metrics"]
        if name != facts["metric"]
        and metrics[name]["source"] == "evaluator"
        and w.has(facts, f"{run['name']}.{name}.mean", f"run_0.{name}.mean")
    ][:1]
    if not told:
        return ""
    name = told[0]
    title = w.tex(metrics[name]["title"][:1].lower() + metrics[name]["title"][1:])
    ours, theirs = w.value(facts, f"{run['name']}.{name}"), w.value(facts, f"run_0.{name}")
    return w.pick(
        (
            f"Its {title}, which is described and not judged, is {ours} where the baseline has {theirs}.",
            f"Beside this, the {title} of {w.name_of(run)} is {ours} (baseline: {theirs}).",
            f"For the record, {w.name_of(run)} has a {title} of {ours}, the baseline one of {theirs}.",
        ),
        at,
    )


def _meaning(run: Run, at: int) -> str:
    return w.pick(
        (
            (
                f"Why {w.name_of(run)} behaves so was not tested; the measurement looks at what comes out and"
                " not at what happens inside."
            ),
            f"We offer no mechanism for {w.name_of(run)}, because no run isolates one.",
            (
                f"An explanation of what {w.name_of(run)} does would need runs that vary one cause at a time, and this"
                " study has none."
            ),
            (
                f"What is said of {w.name_of(run)} here is a statement about the edited program as a whole and not"
                " about any part of it."
            ),
            f"Whether the effect of {w.name_of(run)} would survive another size is left open by these numbers.",
        ),
        at,
    )
