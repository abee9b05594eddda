"""The paper of the offline model: prose from facts and a template's playbook, and a review of what was checked.

No language model takes part. Each sentence about a run follows from its numbers: turn a result round, and the sentence,
the tables and the abstract turn with it.
"""

from __future__ import annotations

import statistics as stats
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fumehood.gateway.upstreams import offline_confirmation, offline_method, offline_results
from fumehood.gateway.upstreams import offline_words as w
from fumehood.gateway.upstreams.offline_words import Facts

Table = Mapping[str, Any]
_FAR = 3
"""A data set whose value is more than this many medians is one that the baseline does not learn well."""


def compose(subject: str, facts: Facts, playbook: Table) -> str:
    """Return one section as LaTeX with placeholders; an unknown subject gives an empty text."""
    writer = _WRITERS.get(subject)
    return "\n\n".join(part for part in writer(facts, playbook) if part) if writer else ""


def drawing(figure: Mapping[str, Any]) -> str:
    """Return what a figure shows, from its axes, its runs and the ends of its curves alone."""
    titles = [str(one).strip().rstrip(".") for one in figure.get("runs", {}).values()]
    axes, series = figure.get("axes") or [], figure.get("series") or []
    # Pictures of runs beside one another bear the runs' names on their axes.
    y = next((str(one["y"]) for one in axes if one.get("y") and one["y"] not in titles), "values")
    x = next((f" over the {one['x']}" for one in axes if one.get("x")), "")
    said = f"Drawn are the {y}{x} of {w.listed(titles)}."
    labelled = [one for one in series if one.get("label") and "last" in one and one.get("kind") == "line"]
    panels = sorted({one["axes"] for one in labelled})
    ends = [min((one for one in labelled if one["axes"] == at), key=lambda one: float(one["last"])) for at in panels]
    lowest = Counter(str(one["label"]) for one in ends).most_common(1)
    if len({one["label"] for one in labelled}) < 2 or not lowest:
        return said
    label, count = lowest[0]
    where = " in every panel" if count == len(panels) else f" in {w.count(count)} of {w.count(len(panels), 'panel')}"
    where = where if len(panels) > 1 else ""
    return f"{said} At its end, the curve of {label} lies lowest{where}."


def review(facts: Facts) -> dict[str, Any]:
    """Return the review form with what was really checked; whatever needs a judgement is None, for `not judged`."""
    checks = [one for one in facts.get("checks", ()) if isinstance(one, Mapping)]
    held = [str(one.get("name", "")) for one in checks if one.get("held")]
    broken = [f"{one.get('name', '')}: {one.get('detail', '')}".rstrip(": ") for one in checks if not one.get("held")]
    outcome = str(facts.get("outcome") or "none")
    return {
        "summary": (
            "A mechanical check of the paper; no language model took part and nothing was judged. "
            f"{len(held)} of {len(checks)} checks held. The recorded outcome is {outcome}."
        ),
        "strengths": [f"Checked and held: {name}." for name in held],
        "weaknesses": [f"Checked and not held: {name}." for name in broken],
        "originality": None,
        "quality": None,
        "clarity": None,
        "significance": None,
        "questions": [],
        "limitations": [str(one) for one in facts.get("limitations", ())],
        "ethical_concerns": None,
        "soundness": None,
        "presentation": None,
        "contribution": None,
        "overall": None,
        "confidence": None,
        "decision": None,
    }


def _title(facts: Facts, _: Table) -> list[str]:
    title = w.tex(facts["idea"]["title"].strip().rstrip("."))
    outcome = facts["outcome"] or "inconclusive"
    article = "An" if outcome[0] in "aeiou" else "A"
    study = "Study" if offline_confirmation.told(facts) else "Screening Study"
    return [f"{title}{'' if title.endswith('?') else ':'} {article} {w.capital(outcome)} {study}"]


def _scale(facts: Facts) -> str:
    """Return how much was measured; what was tried and gave no number is told beside it."""
    datasets, measured = len(w.metric_words(facts)["datasets"]), len(facts["runs"]) - len(w.failed(facts))
    said = w.count(measured, "variant") if measured else "no variant"
    if not measured:
        return said
    if datasets > 1:
        said += f" on {w.count(datasets)} data sets"
    return f"{said} with {w.count(w.fewest_seeds(facts), 'seed')} each" if w.fewest_seeds(facts) else said


def _abstract(facts: Facts, playbook: Table) -> list[str]:
    opening = " ".join(w.paragraphs(playbook, "paper", "abstract"))
    idea = (
        f"The idea under test, ``{w.tex(facts['idea']['title'].rstrip('.?'))}'', was registered with its hypothesis"
        " before the first run."
    )
    did = f"We measure an unchanged baseline and {_scale(facts)}"
    did += (
        f", at equal {w.tex(facts['template']['equal'])}."
        if facts["template"]["equal"] != "wall_s"
        else ", at equal wall time."
    )
    return [" ".join(part for part in (opening, idea, did, _finding(facts), _gaps(facts), _outcome(facts)) if part)]


def _finding(facts: Facts) -> str:
    runs = w.by_contrast(facts)
    if not runs:
        return (
            "The measured values are described without a ranking, because no comparison in the registered sense could"
            " be formed."
        )
    best, metric = runs[0], facts["metric"]
    stem = f"{best['name']}.{metric}"
    good = w.promising(facts)
    entry = best["metrics"][metric]
    tail = (
        f"; its {w.metric_name(facts)} is {w.value(facts, stem)}{w.unit(facts)} against"
        f" {w.value(facts, f'run_0.{metric}')}{w.unit(facts)}"
    )
    if entry["mean"] is None or not w.has(facts, f"run_0.{metric}.mean"):
        tail = ""
    reach = f"$C = {w.num(f'{stem}.contrast')}$ baseline standard deviations"
    if good and best in good:
        said = (
            f"{w.capital(w.names_of(good))} {'is' if len(good) == 1 else 'are'} promising by the screen's rule: "
            + (
                f"the largest contrast is {reach}, for {w.name_of(best)}"
                if len(runs) > 1
                else f"its contrast is {reach}"
            )
            + f"{tail}."
        )
    elif best["contrast"]["value"] > 0:
        said = (
            f"No variant is promising by the screen's rule: the largest contrast on the wanted side is {reach}, for "
            f"{w.name_of(best)}{tail}."
            if len(runs) > 1
            else f"{w.name_of(best)} is not promising by the screen's rule: its contrast is {reach}{tail}."
        )
    elif len(runs) == 1:
        said = f"{w.name_of(best)} does not lie on the wanted side of the baseline: its contrast is {reach}{tail}."
    else:
        said = f"No variant lies on the wanted side of the baseline; the nearest, {w.name_of(best)}, has {reach}{tail}."
    worst = runs[-1]
    if len(runs) > 1 and worst["contrast"]["value"] < 0 < best["contrast"]["value"]:
        other = w.num(f"{worst['name']}.{metric}.contrast")
        said += f" {w.capital(w.name_of(worst))} moves the other way ($C = {other}$)."
    return said


def _gaps(facts: Facts) -> str:
    failed = w.failed(facts)
    if not failed:
        return ""
    return f"{w.capital(w.count(len(failed), 'planned variant'))} gave no number."


def _outcome(facts: Facts) -> str:
    outcome = facts["outcome"] or "inconclusive"
    if found := offline_confirmation.in_short(facts):
        return f"{found} By the registered rule the outcome is {outcome}."
    if outcome != "inconclusive" or facts["profile"]["confirm"]:
        return f"By the registered rule the outcome is {outcome}."
    return (
        "Because this profile screens on a development set and does not confirm on fresh seeds and unseen data, the"
        " outcome is inconclusive by rule."
    )


def _introduction(facts: Facts, playbook: Table) -> list[str]:
    idea = facts["idea"]
    question = ""
    if idea["plan"]:
        question = (
            "This paper asks one question of that kind. The plan, as it was written down before anything was run:"
            f"\n\\begin{{quote}}\n{w.sentence(w.tex(idea['plan']))}\n\\end{{quote}}"
        )
    promise = ""
    if idea["hypothesis"]:
        promise = f"The hypothesis, registered as an {idea['kind']}, reads: ``{w.sentence(w.tex(idea['hypothesis']))}''"
        promise = promise.replace("an replication", "a replication")
        if idea["expected"] and idea["metric"]:
            promise += (
                f" The metric it speaks of is the {w.metric_name(facts)}, and the expected direction is"
                f" {w.tex(idea['expected'])}."
            )
    evaluator = w.metric_words(facts)["source"] == "evaluator"
    compared = (
        f"a comparison of {_scale(facts)} against a shared baseline"
        if len(facts["runs"]) > len(w.failed(facts))
        else "a baseline to compare with"
    )
    items = [
        f"{compared}, with the rule for reading it fixed beforehand;",
        (
            "numbers that an evaluator outside the experiment measured and the platform signed, one record a run;"
            if evaluator
            else "numbers as the experiment reported them about itself, marked as such wherever they appear;"
        ),
        f"an account of {_account(facts, playbook)}, including those that went the wrong way or gave no number;"
        if len(facts["runs"]) > 1
        else f"an account of {_account(facts, playbook)}, whichever way it went;",
        "a statement of what the screen leaves open, which is most of what one would like to know."
        if offline_confirmation.told(facts) is None
        else "a confirmation of the best variant on fresh seeds and sealed data, by a rule fixed beforehand.",
    ]
    contributions = "What this paper contributes is small and, we hope, exact:\n\\begin{itemize}\n"
    contributions += "\n".join(f"\\item {item}" for item in items) + "\n\\end{itemize}"
    return [*w.paragraphs(playbook, "paper", "introduction"), question, promise, contributions]


def _account(facts: Facts, playbook: Table) -> str:
    carried = len(facts["runs"])
    planned = w.planned(facts, playbook)
    if planned <= carried:
        whole = planned == carried
        if carried == 1:
            return f"the one variant that was {'planned' if whole else 'carried out'}"
        return f"every variant that was {'planned' if whole else 'carried out'}"
    subject = "the one variant that was" if carried == 1 else f"the {w.count(carried, 'variant')} that were"
    return f"{subject} carried out, of {w.count(planned)} in the plan"


def _related_work(facts: Facts, playbook: Table) -> list[str]:
    return [*w.paragraphs(playbook, "paper", "related_work"), _novelty(facts)]


def _novelty(facts: Facts) -> str:
    idea = facts["idea"]
    near = sorted(idea["evidence"], key=lambda one: -one["overlap"])
    if idea["novelty"] == "unchecked":
        return (
            "The literature was not searched for this idea, because the search was switched off. Whether the idea was"
            " carried out before is therefore not known, and we claim no novelty."
        )
    if not near:
        return (
            "Whether this very idea was carried out before was not established: the search found no work close enough"
            " to compare it with."
        )
    first = near[0]
    said = (
        f"Before the first run the idea was compared with {w.count(len(near), 'work')} from a literature search. The"
        f" nearest by its words is ``{w.tex(first['title'])}'' [[cite: {first['key']}]]."
    )
    return (
        f"{said} {'It was' if len(near) == 1 else 'They were'} listed by a count of shared words, and nobody judged"
        f" whether {'it is' if len(near) == 1 else 'one of them is'} the same study; we claim no novelty. Such a count"
        " is a coarse measure, and a specialist may well know of closer work."
    )


def _background(facts: Facts, playbook: Table) -> list[str]:
    common = w.paragraphs(playbook, "paper", "background")
    if not common:
        summary = facts["template"]["summary"] or facts["template"]["title"]
        said = f" {w.sentence(w.tex(summary))}" if summary != facts["template"]["title"] else ""
        common = [f"The study uses the template ``{w.tex(facts['template']['title'])}''.{said}"]
    return [*common, *w.paragraphs(w.idea_of(facts, playbook), "background")]


def _limitations(facts: Facts, playbook: Table) -> list[str]:
    seeds, runs = w.fewest_seeds(facts), w.by_contrast(facts)
    said = []
    if 0 < seeds < 10:
        said.append(
            f"With {w.count(seeds, 'seed')} a standard deviation is itself known only roughly, and a test with "
            f"{w.count(seeds - 1, 'degree')} of freedom misses all but large differences."
        )
    elif not seeds:
        said.append("Without controlled seeds every value is a single draw.")
    if runs and 0 < seeds < 5:
        said.append(
            "The spread against which everything is set is estimated from these few values, so a difference that is"
            " called promising may be the luck of the seeds."
        )
    said += [_not_carried_out(facts, playbook), _not_learned(facts)]
    if len(runs) > 1:
        said.append(
            f"{w.capital(w.count(len(runs)))} variants were looked at on one development set, so the best of them is"
            " flattered by having been chosen."
        )
    if runs:
        said.append(offline_confirmation.limitation(facts))
    left = {name: why for run in runs for name, why in run["contrast"]["left_out"].items()}
    for name, why in left.items():
        said.append(f"The data set {w.tex(name)} does not enter the contrast, since {w.tex(why)}.")
    failed = w.failed(facts)
    if failed:
        said.append(
            f"{w.capital(w.names_of(failed))} had to be left without a number, which leaves a hole in the plan."
        )
    own = [name for name, words in facts["template"]["metrics"].items() if words["source"] == "self"]
    if own:
        titles = w.listed([w.tex(facts["template"]["metrics"][name]["title"]) for name in own])
        verb = "is" if len(own) == 1 else "are"
        said.append(
            f"{w.capital(titles)} {verb} self-reported by the experiment and {'was' if len(own) == 1 else 'were'} not"
            " checked by anyone else."
        )
    sized = [run for run in w.measured(facts) if run["budget"]]
    if sized:
        said.append(
            f"{w.capital(w.names_of(sized))} differ{'s' if len(sized) == 1 else ''} from the baseline in size or"
            " budget, and no difference can be credited to the idea alone."
        )
    said += [w.sentence(w.tex(one)) for one in facts["limitations"]]
    return [
        " ".join(one for one in said if one),
        *w.paragraphs(w.idea_of(facts, playbook), "limitations"),
        *w.paragraphs(playbook, "paper", "limitations"),
    ]


def _not_carried_out(facts: Facts, playbook: Table) -> str:
    missing = w.planned(facts, playbook) - len(facts["runs"])
    if missing < 1:
        return ""
    return (
        f"{w.capital(w.count(missing, 'variant'))} of the plan {'was' if missing == 1 else 'were'} not carried out, so"
        " whatever the plan meant to learn from setting its variants against one another stays open."
    )


def _not_learned(facts: Facts) -> str:
    """Name the data sets on which the baseline's own value lies far above the others."""
    metric, words = facts["metric"], w.metric_words(facts)
    entry = facts["baseline"]["metrics"].get(metric)
    if entry is None or words["direction"] != "lower":
        return ""
    means = {name: part["mean"] for name, part in entry["datasets"].items() if part["mean"] is not None}
    middle = stats.median(means.values()) if len(means) > 2 else 0.0
    far = [name for name, mean in means.items() if middle > 0 and mean > _FAR * middle]
    if not far:
        return ""
    values = w.listed([f"{w.tex(one)} ({w.value(facts, f'run_0.{metric}.{one}')}{w.unit(facts)})" for one in far])
    return (
        f"The baseline itself does not learn {values} well at this size: its {w.metric_name(facts)} there is more than"
        f" {w.count(_FAR)} times the median over the data sets. A difference on such a data set says"
        " little about models that have learned it."
    )


def _conclusion(facts: Facts, playbook: Table) -> list[str]:
    runs, good = w.by_contrast(facts), w.promising(facts)
    metric = w.metric_name(facts)
    if not runs:
        found = f"We measured {_scale(facts)}; a registered comparison could not be formed."
    elif good:
        found = (
            (
                f"The one variant, {w.names_of(good)},"
                if len(facts["runs"]) == 1
                else f"Of {w.count(len(facts['runs']), 'variant')}, {w.count(len(good))}"
            )
            + f" moved the {metric} to the wanted side by more than the spread over seeds explains in this screen"
            + (f": {w.names_of(good)}" if len(facts["runs"]) > 1 else "")
            + ". Promising is the word for that, and it obliges nobody to believe it"
            + (", which is what the confirmation is for." if offline_confirmation.told(facts) else " yet.")
        )
    elif runs[0]["contrast"]["value"] > 0:
        found = f"The screen shows no difference in {metric} on the wanted side beyond what seeds produce." + (
            f" {w.name_of(runs[0])} came closest, and its evidence falls short of the level set in advance."
            if len(runs) > 1
            else f" The evidence for {w.name_of(runs[0])} falls short of the level set in advance."
        )
    else:
        found = (
            f"{'Every variant that could be compared' if len(runs) > 1 else w.name_of(runs[0])} ended on the unwanted"
            f" side of the baseline in {metric}, so this screen gives the hypothesis no support."
        )
    outcome = facts["outcome"] or "inconclusive"
    confirmed = offline_confirmation.told(facts)
    rule = (
        f"The outcome of the study is {outcome}: a screen on a development set can neither confirm nor refute what was"
        " registered."
        if outcome == "inconclusive" and confirmed is None
        else f"The outcome of the study is {outcome}."
    )
    if facts["label"] and (outcome == "inconclusive" or confirmed):
        rule += f" In the platform's terms the label is \\texttt{{{w.tex(facts['label'])}}}."
    following = (
        f"The next step, if one is wanted, is to take {w.name_of(runs[0])} alone, with fresh seeds and on data that"
        f" nobody has looked at; until then {'its place at the top of the table' if len(runs) > 1 else 'its contrast'}"
        " is a reason to look again and nothing else."
        if runs and runs[0]["contrast"]["value"] > 0 and confirmed is None
        else _after_confirmation(outcome)
        if confirmed is not None
        else (
            "Before more effort goes into this idea, a reader may prefer to ask why"
            f" {'the variants' if len(runs) > 1 else w.name_of(runs[0])} did not help, which this study was not built"
            " to answer."
            if runs
            else "A template with declared directions and controlled seeds would make the same study comparable."
        )
    )
    return [f"{found} {rule}", following, *w.paragraphs(playbook, "paper", "discussion")]


def _after_confirmation(outcome: str) -> str:
    if outcome == "confirmed":
        return (
            "What was confirmed is the behaviour of one piece of code beside one baseline, at this size and on these"
            " data. Whether it carries further is for other studies to say, and this one's records are there to start"
            " from."
        )
    return (
        "A reader who still believes in the idea would have to bring more seeds or another form of it; the records of"
        " this study say how much was looked at already."
    )


_WRITERS: Mapping[str, Callable[[Facts, Table], list[str]]] = {
    "title": _title,
    "abstract": _abstract,
    "introduction": _introduction,
    "related_work": _related_work,
    "background": _background,
    "method": offline_method.method,
    "experimental_setup": offline_method.experimental_setup,
    "results": offline_results.results,
    "limitations": _limitations,
    "conclusion": _conclusion,
}
