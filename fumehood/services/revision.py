"""What is wrong with a section that a model wrote, told once to the model, then mended without it."""

from __future__ import annotations

import re
from collections.abc import Collection

from fumehood.services import drawings, placeholders, prose, tables
from fumehood.services.fact_types import Facts, RunFacts
from fumehood.services.idea_facts import DECIMAL
from fumehood.services.placeholders import MARK, Tools

OPEN_TO_ALL = (0.05, 5.0, 95.0, 100.0)
"""Levels and wholes that any paper may name."""
OVERCLAIMS = re.compile(
    r"outperform|state[- ]of[- ]the[- ]art|\bstatistically significant"
    r"|\bsignificant(?:ly)? (?:better|improv|lower|higher|worse)"
    r"|\bwe (?:prove|demonstrate) that|\bclearly (?:better|superior)|\bbreakthrough|\bconfirms (?:our|the) hypothesis",
    re.IGNORECASE,
)
OUTCOME_SECTIONS = frozenset({"title", "abstract", "conclusion"})
"""Where a paper says what came of it."""
DEFINING = frozenset({"background", "method"})
"""Where formulas may hold constants of their own: nothing is reported there."""
_RUN_LABEL = re.compile(r"\b[Rr]un(?:[ ~]|\\_|_)(\d+)\b")
_PERCENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:\\%|per ?cent)")
_DISPLAY = re.compile(r"\\begin\{(equation|align|gather|multline)(\*?)\}.*?\\end\{\1\2\}|\\\[.*?\\\]", re.DOTALL)
_FORMULA = re.compile(r"\$[^$]*\$")
_SILENT = re.compile(r"\\(?:includegraphics|label|ref|eqref|cite[a-z]*|hspace|vspace)\*?(?:\[[^\]]*\])*\{[^}]*\}")


def tidy(section: str, text: str) -> str:
    """Return what a model answered without fences, comments, headings and wrappers."""
    fenced = re.search(r"```(?:latex|tex)?\s*\n(.*?)```", text, re.DOTALL)
    text = prose.uncommented(fenced[1] if fenced else text)
    text = re.sub(r"\\begin\{(abstract|document)\}|\\end\{(abstract|document)\}", "", text)
    text = re.sub(r"\A\s*\\section\*?\{[^}]*\}", "", text)
    text = re.sub(r"\\label\{sec:[^}]*\}", "", text).replace("**", "").strip()
    if section != "title":
        return text
    wrapped = re.match(r"\\title\{(.*)\}\s*\Z", text, re.DOTALL)
    lines = (wrapped[1] if wrapped else text).strip().splitlines() or [""]
    return lines[0].strip().strip('"').rstrip(".")


def revise(
    section: str, text: str, facts: Facts, tools: Tools, *, seen: Collection[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """Return the section mended, and what had to be mended; without problems the text stays as it is."""
    problems: list[str] = []
    text = _titled(tidy(section, text), facts, problems)
    allowed = _allowed(facts)

    def sentence(one: str) -> str:
        found = _wrong(section, one, facts, tools, allowed)
        problems.extend(found)
        return "" if found else _resolved(one, tools, problems)

    text = prose.rebuilt(text, sentence)
    if section != "title":
        text, again = prose.without_repeats(text, set(seen))
        problems += [f"This sentence stands elsewhere in the paper: {prose.plain(one)[:160]}" for one in again]
    text = _balanced(text, facts, tools, problems)
    text = _with_outcome(section, text, facts, problems)
    return text, tuple(dict.fromkeys(problems))


def _titled(text: str, facts: Facts, problems: list[str]) -> str:
    """Put a run's title in the place of its number."""
    titles = {run["index"]: run["title"] for run in facts["runs"]} | {0: "the baseline"}

    def name(match: re.Match[str]) -> str:
        title = titles.get(int(match[1]))
        if title is None:
            return match[0]
        problems.append(f"{match[0]} is a number, not a name; call it {title!r}.")
        return title

    return placeholders.outside(text, lambda part: _RUN_LABEL.sub(name, part))


def _allowed(facts: Facts) -> set[float]:
    idea = facts["idea"]
    texts = [
        *facts["constants"],
        idea["title"],
        idea["plan"],
        idea["hypothesis"],
        *(row["value"] for row in facts["setup"]),
    ]
    texts += [text for run in facts["runs"] for text in (run["title"], run["description"])]
    found = {float(match) for text in texts for match in DECIMAL.findall(text)}
    found |= {float(match) for text in texts for match in _PERCENT.findall(text.replace("%", r"\%"))}
    return found | set(OPEN_TO_ALL)


def _wrong(section: str, sentence: str, facts: Facts, tools: Tools, allowed: set[float]) -> list[str]:
    """Return why a sentence cannot stay."""
    start = prose.plain(sentence)[:120]
    found = []
    for kind, words in MARK.findall(sentence):
        name = words.partition("|")[0].strip()
        if kind == "num" and name not in facts["numbers"]:
            found.append(f"There is no number named {name}.")
        elif kind == "figure" and name not in {entry["file"] for entry in facts["figures"]}:
            found.append(f"There is no figure {name}.")
        elif kind == "table" and not tables.has(name, facts):
            found.append(f"There is no table {name}.")
        elif kind not in {"num", "cite", "figure", "table"}:
            found.append(f"There is no placeholder of the kind {kind}.")
    bare = _SILENT.sub("", _DISPLAY.sub("", MARK.sub(_caption, sentence))).replace("{,}", "")
    typed = _FORMULA.sub("", bare) if section in DEFINING else bare
    found += [
        f"The number {match} comes from no record; use a [[num: NAME]] placeholder, in: {start}"
        for match in [*DECIMAL.findall(typed), *_PERCENT.findall(typed)]
        if float(match) not in allowed
    ]
    if OVERCLAIMS.search(bare):
        found.append(f"This claims more than a screen can show; differences are promising or not shown: {start}")
    found += _misnamed(sentence, bare, facts)
    files = [entry["file"] for entry in facts["figures"]]
    if r"\includegraphics" in sentence:
        found.append("Show figures with [[figure: FILE | CAPTION]] only.")
    commands = [one for one in tools.typesetter.check(sentence, figures=files, keys=()) if "not allowed" in one]
    return [*found, *commands]


def _caption(mark: re.Match[str]) -> str:
    """Return what a placeholder prints of the model's own words."""
    return mark[2].partition("|")[2] if mark[1] == "figure" else ""


def _misnamed(sentence: str, bare: str, facts: Facts) -> list[str]:
    """Return which runs a sentence speaks of that there are not, or that the figure it is about does not show."""
    there = {run["index"] for run in facts["runs"]} | {0}
    numbers = {int(number) for number in _RUN_LABEL.findall(bare)}
    found = [f"There is no run {number} in this study." for number in sorted(numbers - there)]
    captioned = {words.partition("|")[0].strip(): words for kind, words in MARK.findall(sentence) if kind == "figure"}
    known = {entry["file"]: entry for entry in facts["figures"]}
    for file, words in captioned.items():
        strange = _beside(words.partition("|")[2], facts, known[file]["runs"]) if file in known else []
        found += [f"The figure {file} does not show {run['title']!r}, which its caption names." for run in strange]
    about = [entry for entry in known.values() if f"\\ref{{fig:{entry['file'].rsplit('.', 1)[0]}}}" in sentence]
    if about:
        shown = [run for entry in about for run in entry["runs"]]
        for run in _beside(MARK.sub("", sentence), facts, shown):
            if run["metrics"]:
                # What gave no number is in no figure, and may be said to be missing there.
                files = " and ".join(entry["file"] for entry in about)
                found.append(f"The figure {files} does not show {run['title']!r}: {prose.plain(sentence)[:120]}")
    return found


def _beside(words: str, facts: Facts, shown: Collection[str]) -> list[RunFacts]:
    """Return the variants that words name, by title or number, and that are not among those shown.

    A title of one common word is none that can be told from the word.
    """
    names = {run["name"]: [f"run {run['index']}", run["name"]] for run in facts["runs"]}
    for run in facts["runs"]:
        if " " in run["title"].strip():
            names[run["name"]].append(run["title"].rstrip("."))
    said = drawings.named([prose.plain(words).replace("~", " ")], names)
    return [run for run in facts["runs"] if run["name"] in said and run["name"] not in shown]


def _resolved(sentence: str, tools: Tools, problems: list[str]) -> str:
    """Take out citations that mean no work."""
    for words in placeholders.unresolved(sentence, tools.literature):
        problems.append(f"No work was found for the citation {words!r}.")

        def drop(match: re.Match[str], words: str = words) -> str:
            rest = [one.strip() for one in re.split(r"[;,]" if r"\cite" in match[0] else ";", match[1])]
            kept = [one for one in rest if one and one != words]
            return f" [[cite: {'; '.join(kept)}]]" if kept else ""

        sentence = re.sub(r"[\s~]*\[\[\s*cite\s*:\s*(.*?)\s*\]\]", drop, sentence, flags=re.DOTALL)
        sentence = placeholders.CITE.sub(drop, sentence)
    return sentence


def _balanced(text: str, facts: Facts, tools: Tools, problems: list[str]) -> str:
    """Drop what breaks the typesetting: first sentences, then whole paragraphs."""
    files = [entry["file"] for entry in facts["figures"]]

    def broken(part: str) -> list[str]:
        checked = tools.typesetter.check(part, figures=files, keys=())
        return [one for one in checked if not one.startswith("The citation")]

    kept = []
    for block in prose.blocks(text):
        found = broken(block)
        if not found:
            kept.append(block)
            continue
        problems += [f"{one} In: {prose.plain(block)[:120]}" for one in found]
        mended = " ".join(one for one in prose.sentences(block) if not broken(one))
        if mended and not broken(mended):
            kept.append(mended)
    return "\n\n".join(kept)


def _with_outcome(section: str, text: str, facts: Facts, problems: list[str]) -> str:
    outcome = facts["outcome"]
    if section not in OUTCOME_SECTIONS or not outcome or outcome in prose.plain(text).lower():
        return text
    problems.append(f"The {section} must say that the outcome is {outcome}.")
    if section == "title":
        text = text or facts["idea"]["title"]
        return f"{text}: {'An' if outcome[0] in 'aeiou' else 'A'} {outcome.capitalize()} Screening Study"
    said = f"By the registered rule the outcome of this study is {outcome}."
    return f"{text} {said}" if section == "abstract" else f"{text}\n\n{said.replace('this', 'the present')}"
