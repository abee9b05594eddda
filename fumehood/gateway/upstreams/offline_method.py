"""The method and the set-up of a paper without a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fumehood.gateway.upstreams import offline_confirmation
from fumehood.gateway.upstreams import offline_words as w
from fumehood.gateway.upstreams.offline_words import Facts

Table = Mapping[str, Any]


def method(facts: Facts, playbook: Table) -> list[str]:
    """Return what was done, how it is compared and how it is measured."""
    own = w.paragraphs(w.idea_of(facts, playbook), "method")
    titles = [w.name_of(run) for run in facts["runs"]]
    variants = ""
    if titles:
        variants = (
            f"{_carried_out(facts, playbook)}: {w.listed(titles)}. {'Each' if len(titles) > 1 else 'It'} is an edit of"
            " the baseline's code, and the edited files are kept with the run's record, so that what was measured can"
            " be read and not only described."
        )
    return [
        *w.paragraphs(playbook, "paper", "method"),
        *own,
        variants,
        _comparison(facts),
        offline_confirmation.method(facts),
        *w.paragraphs(playbook, "paper", "evaluation"),
    ]


def _carried_out(facts: Facts, playbook: Table) -> str:
    carried, planned = len(facts["runs"]), w.planned(facts, playbook)
    were = "was" if carried == 1 else "were"
    if planned <= carried:
        return f"{w.capital(w.count(carried, 'variant'))} {were} carried out"
    why = ""
    if facts["profile"].get("runs") == carried:
        why = f", for the study was limited to {w.count(carried, 'variant')}"
    return f"Of the {w.count(planned, 'variant')} in the plan, {w.count(carried)} {were} carried out{why}"


def _comparison(facts: Facts) -> str:
    direction = w.metric_words(facts)["direction"]
    if direction is None or facts["template"]["primary"] is None:
        return (
            "The template declares no direction for its metrics. We therefore print values beside one another and draw"
            " no conclusion about which is to be preferred."
        )
    sign = "y^{b}_d - y^{r}_d" if direction == "lower" else "y^{r}_d - y^{b}_d"
    bars = sign.replace("y^{b}_d", r"\bar y^{\,b}_d").replace("y^{r}_d", r"\bar y^{\,r}_d")
    return (
        "Variants are compared with the baseline through one number. Let $\\bar y^{\\,r}_d$ and $\\bar y^{\\,b}_d$"
        " be the means over seeds of a variant and of the baseline on data set $d$, and $s_d$ the standard deviation"
        " of the baseline over its seeds. The contrast over the $D$ data sets is\n\\begin{equation}\n  C ="
        f" \\frac{{1}}{{D}} \\sum_{{d=1}}^{{D}} \\frac{{{bars}}}{{s_d}}, \\qquad\n  s_C^2 = \\frac{{1}}{{D^2}}"
        " \\sum_{d=1}^{D} \\frac{1}{s_d^2}\\left( \\frac{v^{r}_d}{n} + \\frac{v^{b}_d}{n_b}"
        " \\right),\n\\end{equation}\nwhere $v^{r}_d$ and $v^{b}_d$ are the variances over $n$ and $n_b$ seeds;"
        " the sign is chosen so that positive means the wanted side. The ratio $C / s_C$ is referred to a $t$"
        " distribution whose degrees of freedom are those of Welch and Satterthwaite, but never more than $n - 1$. A"
        " data set on which the baseline does not vary at all leaves the sum.\n\nOnly two words may follow. A variant"
        " is \\emph{promising} if $C > 0$ and the two-sided $p$ is at most 0.05, and otherwise the difference is"
        " \\emph{not shown}. The second word is not a finding of equality."
        + (
            " No correction is made for the number of variants, which is one reason why the first word is so weak."
            if len(facts["runs"]) > 1
            else ""
        )
    )


def _seeds(facts: Facts) -> str:
    ours = [len(run["seeds"]) for run in w.measured(facts)]
    theirs = w.seeds_of(facts)
    if not ours or set(ours) == {theirs}:
        return f"Baseline and variants use the same {w.count(theirs, 'seed')}."
    return (
        f"Each variant uses {w.count(min(ours), 'seed')}, and the baseline these and others, {w.count(theirs)} in all."
    )


def experimental_setup(facts: Facts, playbook: Table) -> list[str]:
    """Return the data, the set-up out of the record, and who did the work."""
    words = w.metric_words(facts)
    seeds = w.seeds_of(facts)
    measured = (
        "The evaluator is a program of its own: it reads what a run leaves and the held-out data, works in a container"
        " that never sees the experiment's code, and is the same for every run. The experiment never sees the held-out"
        " data."
        if words["source"] == "evaluator"
        else (
            "The template has no evaluator of its own, so every number in this paper was computed by the code under"
            " study."
        )
    )
    seeded = (
        f"{_seeds(facts)} Standard errors are standard deviations over seeds divided by the square root of their"
        " number."
        if seeds
        else (
            "The template does not take seeds, so the spread between repetitions is unknown and no difference can be"
            " set against it."
        )
    )
    run = (
        "Every run takes place in a container without a network and within limits on time, memory, storage, processes"
        " and output that were fixed before the first run; a run that reaches one of them is stopped and reported."
        " Table~\\ref{tab:setup} lists the set-up as it stands in the baseline's record. Whatever is not in that"
        " record, such as the model of the processor, is not stated here."
    )
    budget = (
        f"Runs are compared at equal {w.tex(facts['template']['equal'].replace('wall_s', 'wall time'))}."
        if words["direction"]
        else ""
    )
    coder = f"The edits were applied by {w.tex(facts['coder'])}." if facts["coder"] else ""
    whose = (
        "No language model took part: the proposals, the edits and the prose that does not depend on a result come"
        " from a playbook written beforehand with the template, and the sentences about results from a program that"
        " reads the records."
        if facts["model"]["offline"]
        else f"Proposals, edits and text come from the model {w.tex(facts['model']['name'])}."
    )
    return [
        *w.paragraphs(playbook, "paper", "setup"),
        f"{seeded} {budget} {measured}".replace("  ", " "),
        "[[table: setup]]" if facts["setup"] else "",
        run,
        f"{whose} {coder}".strip(),
    ]
