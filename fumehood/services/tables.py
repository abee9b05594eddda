"""The tables of a paper, built from facts by the platform; every number is a placeholder and so becomes a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fumehood.services.fact_types import Facts, RunFacts, SetupRow

Escape = Callable[[str], str]
MAX_COLUMNS = 5
_NONE = "--"
_DAGGER = r"$^{\dagger}$"


def build(name: str, facts: Facts, escape: Escape) -> str:
    """Return a table's LaTeX with number placeholders; empty when the facts hold nothing for it."""
    return _BUILDERS[name](facts, escape)


def has(name: str, facts: Facts) -> bool:
    """Whether a table has anything to show."""
    return name in NAMES and bool(build(name, facts, str))


def _confirmation(facts: Facts, escape: Escape) -> str:
    told = facts["confirmation"]
    if told is None or not told["datasets"]:
        return ""
    parts = {"base": "baseline", "run": "variant", "difference": "difference", "margin": "margin", "p": "$p$"}
    sizes = {"n": "$n$", "base_n": "$n_b$"}
    rows = []
    for dataset in told["datasets"]:
        cells = [_or_none(facts, f"confirmation.{dataset}.{part}") for part in {**parts, **sizes}]
        rows.append(" & ".join([escape(dataset), *cells]) + r" \\")
    head = " & ".join(["Data set", *parts.values(), *sizes.values()]) + r" \\"
    unit = "logarithm of the metric" if told["transform"] == "log" else "metric"
    caption = (
        f"Confirmation of {escape(told['title'])} on fresh seeds and sealed data: means of the {unit} over $n$ seeds of"
        " the variant and $n_b$ of the baseline, their difference, and the margin within which a difference counts as"
        " none. The $p$ of a single data set only serves to find one that contradicts the label, which is"
        f" \\emph{{{escape(told['label'])}}}."
    )
    return _table("confirmation", "l" + "r" * (len(parts) + len(sizes)), head, rows, caption, wide=True)


def _table(name: str, columns: str, head: str, rows: list[str], caption: str, *, wide: bool = False) -> str:
    body = "\n".join([head, r"\midrule", *rows])
    grid = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    if wide:  # made narrower only where it would stand out of the page
        grid = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{grid}}}"
    return (
        f"\\begin{{table}}[tb]\n\\centering\n\\caption{{{caption}}}\n\\label{{tab:{name}}}\n\\small\n"
        f"\\setlength{{\\tabcolsep}}{{4pt}}\n{grid}\n\\end{{table}}"
    )


def _plus_minus(facts: Facts, stem: str) -> str:
    if f"{stem}.mean" not in facts["numbers"]:
        return _NONE
    mean = f"[[num: {stem}.mean]]"
    error = facts["numbers"].get(f"{stem}.stderr")
    return f"{mean}\\,$\\pm$\\,[[num: {stem}.stderr]]" if error and error["value"] else mean


def _or_none(facts: Facts, name: str) -> str:
    return f"[[num: {name}]]" if name in facts["numbers"] else _NONE


def _errors_of(facts: Facts, metric: str) -> list[str]:
    return [name for name in facts["numbers"] if f".{metric}." in name and name.endswith(".stderr")]


def _title(run: RunFacts, escape: Escape) -> str:
    return escape(run["title"])


def _everyone(facts: Facts) -> list[RunFacts]:
    return [facts["baseline"], *facts["runs"]]


def _missing(run: RunFacts, escape: Escape, span: int) -> str:
    tries = len(run["attempts"])
    said = f"no result after {tries} attempt{'s' if tries != 1 else ''}" if tries else "not measured"
    return f"{_title(run, escape)} & \\multicolumn{{{span}}}{{l}}{{\\emph{{{said}}}}} \\\\"


def _results(facts: Facts, escape: Escape) -> str:
    metric = facts["metric"]
    if not metric or metric not in facts["baseline"]["metrics"]:
        return ""
    words = facts["template"]["metrics"][metric]
    datasets = words["datasets"]
    shown = datasets if len(datasets) <= MAX_COLUMNS else []
    stems = [f"{metric}.{dataset}" for dataset in shown] + ([metric] if len(datasets) > 1 else [])
    labelled = any(run["label"] for run in facts["runs"])
    heads = [escape(name) for name in shown] + (["mean"] if len(datasets) > 1 else []) + (["label"] if labelled else [])
    rows = []
    for run in _everyone(facts):
        if metric not in run["metrics"]:
            rows.append(_missing(run, escape, len(heads)))
            continue
        cells = [_plus_minus(facts, f"{run['name']}.{stem}") for stem in stems]
        cells += [escape(run["label"]) or _NONE] if labelled else []
        rows.append(" & ".join([_title(run, escape), *cells]) + r" \\")
    head = " & ".join(["Variant", *heads]) + r" \\"
    spread = any(facts["numbers"][name]["value"] for name in _errors_of(facts, metric))
    over = "mean and standard error over seeds" if spread else "one value each, without a spread"
    caption = f"{_name(facts, metric, escape)}: {over}. {_side(facts, metric)} {_source(facts, metric)}"
    return _table("results", "l" + "c" * len(heads), head, rows, caption, wide=True)


def _comparison(facts: Facts, escape: Escape) -> str:
    metric = facts["metric"]
    compared = [run for run in facts["runs"] if f"{run['name']}.{metric}.difference" in facts["numbers"]]
    if not compared or facts["template"]["metrics"][metric]["direction"] is None:
        return ""
    parts = {"difference": "difference", "relative_percent": r"relative (\%)"}
    if any(run["contrast"] for run in compared):
        parts |= {"contrast": "$C$", "contrast_se": "$s_C$", "df": "df", "p": "$p$"}
    rows = []
    for run in compared:
        cells = [_or_none(facts, f"{run['name']}.{metric}.{part}") for part in parts]
        rows.append(" & ".join([_title(run, escape), *cells, escape(run["label"]) or _NONE]) + r" \\")
    head = " & ".join(["Variant", *parts.values(), "label"]) + r" \\"
    caption = (
        f"Each variant against the baseline in {_name(facts, metric, escape, lower=True)}: raw and relative difference"
        " of the mean over data sets, the contrast $C$ in baseline standard deviations (positive is the wanted side),"
        " its standard error, its degrees of freedom and the two-sided $p$, which is not corrected for the number of"
        " variants."
        if "contrast" in parts
        else f"Each variant against the baseline in {_name(facts, metric, escape, lower=True)}."
    )
    return _table("comparison", "l" + "r" * len(parts) + "l", head, rows, caption, wide=True)


def _secondary(facts: Facts, escape: Escape) -> str:
    others = [name for name in facts["baseline"]["metrics"] if name != facts["metric"]][:MAX_COLUMNS]
    if not others:
        return ""
    rows = [
        " & ".join([_title(run, escape), *(_marked(facts, run, name) for name in others)]) + r" \\"
        for run in _everyone(facts)
        if run["metrics"]
    ]
    heads = []
    for name in others:
        words = facts["template"]["metrics"][name]
        unit = f" ({escape(words['unit'])})" if words["unit"] else ""
        mark = r"$^{\ast}$" if words["source"] == "self" else ""
        heads.append(escape(words["title"]) + unit + mark)
    head = " & ".join(["Variant", *heads]) + r" \\"
    marked = any(r"\ast" in one for one in heads)
    shared = any(_DAGGER in row for row in rows)
    dagger = (
        rf" A dagger ({_DAGGER}) marks what is compared with none: a time while something else ran on the device, in"
        " this run or in the baseline's, or a run that was not measured as the baseline was."
    )
    star = r" An asterisk marks what the experiment reported about itself." if marked else ""
    caption = (
        "Further quantities, as means over data sets, with standard errors over seeds where there are any; they are "
        f"given for description and carry no label.{star}{dagger if shared else ''}"
    )
    return _table("secondary", "l" + "c" * len(heads), head, rows, caption, wide=True)


def _marked(facts: Facts, run: RunFacts, metric: str) -> str:
    told = run["metrics"].get(metric)
    return _plus_minus(facts, f"{run['name']}.{metric}") + (_DAGGER if told and told["not_comparable"] else "")


def _setup(facts: Facts, escape: Escape) -> str:
    if not facts["setup"]:
        return ""
    rows = [f"{escape(row['name'])} & {_value(row, escape)}" for row in facts["setup"]]
    caption = "Set-up of the study, out of the baseline's record and the template's profile."
    columns = r"@{}p{0.42\linewidth}p{0.53\linewidth}@{}"
    return _table("setup", columns, r"Quantity & Value \\", rows, caption)


def _value(row: SetupRow, escape: Escape) -> str:
    if row["number"]:
        return f"[[num: {row['number']}]] \\\\"
    value = escape(row["value"])
    if "--" in row["value"] or "hash" in row["name"]:
        return rf"\raggedright\texttt{{{value.replace('--', '-{}-')}}} \tabularnewline"
    return rf"{value} \\"


def _name(facts: Facts, metric: str, escape: Escape, *, lower: bool = False) -> str:
    words = facts["template"]["metrics"][metric]
    title = words["title"]
    if not lower:
        title = title[:1].upper() + title[1:]
    return escape(title) + (f" ({escape(words['unit'])})" if words["unit"] else "")


def _side(facts: Facts, metric: str) -> str:
    direction = facts["template"]["metrics"][metric]["direction"]
    return f"The {direction} side is the wanted one." if direction else "The template declares no wanted side."


def _source(facts: Facts, metric: str) -> str:
    if facts["template"]["metrics"][metric]["source"] == "evaluator":
        return "Measured by the frozen evaluator, not by the experiment."
    return "These numbers are self-reported by the experiment."


_BUILDERS: Mapping[str, Callable[[Facts, Escape], str]] = {
    "results": _results,
    "comparison": _comparison,
    "confirmation": _confirmation,
    "secondary": _secondary,
    "setup": _setup,
}
NAMES = tuple(_BUILDERS)
