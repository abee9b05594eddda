"""Small words for sentences that follow the data: lists, counts, sides, number placeholders, escaping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
Run = Mapping[str, Any]

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {char: f"\\{char}" for char in "{}$&%#_"}


def tex(text: str) -> str:
    """Return plain text as LaTeX that prints it."""
    return "".join(_SPECIAL.get(char, char) for char in text)


def count(number: int, noun: str = "", plural: str = "") -> str:
    """Return a small number in letters, with its noun."""
    word = _COUNTS[number] if 0 <= number < len(_COUNTS) else str(number)
    if not noun:
        return word
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def every(number: int) -> str:
    """Return `Both`, or `All three` and so on, for the start of a sentence."""
    return "Both" if number == 2 else f"All {count(number)}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def capital(text: str) -> str:
    """Return a text that begins with a capital."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends like a sentence."""
    text = capital(text.strip())
    return text if not text or text[-1] in ".!?" else f"{text}."


def pick(options: Sequence[str], at: int) -> str:
    """Return one of several ways to say it, in turn."""
    return options[at % len(options)]


def num(name: str) -> str:
    """Return a number's placeholder; callers whose number may be absent ask `has` first."""
    return f"[[num: {name}]]"


def has(facts: Facts, *names: str) -> bool:
    """Whether all these numbers are known."""
    return all(name in facts["numbers"] for name in names)


def value(facts: Facts, stem: str) -> str:
    """Return `mean ± standard error` as placeholders; the mean alone where there is no error or it is zero."""
    mean = num(f"{stem}.mean")
    error = facts["numbers"].get(f"{stem}.stderr")
    return f"{mean}\\,$\\pm$\\,{num(f'{stem}.stderr')}" if error and error["value"] else mean


def paragraphs(playbook: Mapping[str, Any], *path: str) -> list[str]:
    """Return a playbook's text as paragraphs; an absent one is empty."""
    found: Any = playbook
    for part in path:
        found = found.get(part, {}) if isinstance(found, Mapping) else {}
    if isinstance(found, str):
        found = re.split(r"\n\s*\n", found.strip())
    return [one.strip() for one in found if isinstance(one, str) and one.strip()] if isinstance(found, list) else []


def idea_of(facts: Facts, playbook: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the playbook's entry of the idea that the paper is about; empty for an idea of somebody else."""
    if isinstance(playbook.get("idea"), Mapping):
        return dict(playbook["idea"])
    for entry in playbook.get("ideas", ()):
        if isinstance(entry, Mapping) and facts["idea"]["name"] in {entry.get("name"), entry.get("Name")}:
            return entry
    return {}


def planned(facts: Facts, playbook: Mapping[str, Any]) -> int:
    """Return how many variants the playbook's plan names; 0 for an idea of somebody else."""
    return len(idea_of(facts, playbook).get("runs", ()))


def measured(facts: Facts) -> list[Run]:
    """Return the runs that gave numbers, the baseline left out."""
    return [run for run in facts["runs"] if run["metrics"]]


def failed(facts: Facts) -> list[Run]:
    """Return the runs that gave none."""
    return [run for run in facts["runs"] if not run["metrics"]]


def name_of(run: Run) -> str:
    """Return a run's title as it stands in prose."""
    return rf"\emph{{{tex(run['title'])}}}"


def names_of(runs: Sequence[Run]) -> str:
    """Return several runs' titles as a list in prose."""
    return listed([name_of(run) for run in runs])


def metric_words(facts: Facts) -> Mapping[str, Any]:
    """Return the words about the metric that the paper speaks of first."""
    empty: dict[str, Any] = {"title": "the metric", "direction": None, "unit": "", "source": "self", "datasets": []}
    found: Mapping[str, Any] = facts["template"]["metrics"].get(facts["metric"], empty)
    return found


def metric_name(facts: Facts) -> str:
    """Return that metric's name as it stands in prose."""
    title = metric_words(facts)["title"]
    return tex(title if title[:2].isupper() else title[:1].lower() + title[1:])


def unit(facts: Facts) -> str:
    """Return that metric's unit with a space before it."""
    found = metric_words(facts)["unit"]
    return f"~{tex(found)}" if found else ""


def promising(facts: Facts) -> list[Run]:
    """Return the runs that the screen calls promising."""
    return [run for run in facts["runs"] if run["label"] == "promising"]


def by_contrast(facts: Facts) -> list[Run]:
    """Return the runs with a contrast, the one furthest to the wanted side first."""
    runs = [run for run in facts["runs"] if run["contrast"]]
    return sorted(runs, key=lambda run: -run["contrast"]["value"])


def seeds_of(facts: Facts) -> int:
    """Return how many seeds the baseline has; 0 when the template does not take any."""
    return len(facts["baseline"]["seeds"])


def fewest_seeds(facts: Facts) -> int:
    """Return how many seeds a variant has at least; the baseline's number where none was measured."""
    return min((len(run["seeds"]) for run in measured(facts)), default=seeds_of(facts))
