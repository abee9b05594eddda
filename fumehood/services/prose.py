"""LaTeX prose as paragraphs and sentences: splitting it, reading it as plain text, finding what is said twice."""

from __future__ import annotations

import re
from collections.abc import Callable

ENVIRONMENT = re.compile(r"\\begin\{([A-Za-z]+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_ENDS = re.compile(r"[.!?](?:\}|''|\")?(\s+)(?=[A-Z\\$`\[(\x00])")
_HEADING = re.compile(r"\\(?:sub)*(?:paragraph|section)\*?\{[^{}]*\}$")
_NOT_ENDS = ("e.g.", "i.e.", "et al.", "cf.", "vs.", "Fig.", "Eq.", "Sec.", "Tab.", "No.", "approx.", "resp.", "Dr.")
_DROPPED = re.compile(r"\\(?:cite[pt]?|citealp|label|ref|eqref|footnote|hspace|vspace)\*?(?:\[[^\]]*\])*\{[^{}]*\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?(?:\[[^\]]*\])?")
_SHORTEST = 4
"""Words; a shorter sentence may well occur twice."""


def blocks(text: str) -> list[str]:
    """Split into paragraphs; an environment, with what touches it, stays whole."""
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"\x00{len(held) - 1}\x00"

    parts = re.split(r"\n\s*\n", ENVIRONMENT.sub(hold, text))
    return [re.sub(r"\x00(\d+)\x00", lambda m: held[int(m[1])], part).strip() for part in parts if part.strip()]


def sentences(block: str) -> list[str]:
    """Split a paragraph into sentences; an environment within it belongs to the sentence around it."""
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"\x00{len(held) - 1}\x00"

    covered = ENVIRONMENT.sub(hold, block)
    covered = re.sub(r"\[\[.*?\]\]", hold, covered, flags=re.DOTALL)
    covered = re.sub(r"\$[^$]*\$", hold, covered)
    found: list[str] = []
    at = 0
    cuts = [match.span(1) for match in _ENDS.finditer(covered)]
    for start, end in [*cuts, (len(covered), len(covered))]:
        part, at = covered[at:start], end
        if found and (found[-1].endswith(_NOT_ENDS) or _HEADING.search(found[-1])):
            found[-1] = f"{found[-1]} {part}"
        else:
            found.append(part)
    while any("\x00" in one for one in found):
        found = [re.sub(r"\x00(\d+)\x00", lambda m: held[int(m[1])], one) for one in found]
    return [one.strip() for one in found if one.strip()]


def plain(latex: str) -> str:
    """Return LaTeX prose as one line of plain text, about as it reads in print."""
    text = re.sub(r"(?<!\\)%.*", "", latex)
    text = _DROPPED.sub("", text)
    text = text.replace(r"\ensuremath", "").replace("{,}", ",").replace("~", " ").replace(r"\,", " ")
    text = text.replace(r"\times10^", "e").replace("--", "-").replace("``", '"').replace("''", '"')
    text = re.sub(r"\\([%&#_$])", r"\1", text)
    text = text.replace(r"\pm", "±")
    text = _COMMAND.sub(" ", text)
    text = re.sub(r"[{}$]", "", text)
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"\s+([.,;:!?)])", r"\1", text).strip()


def normalised(sentence: str) -> str:
    """Return what makes two sentences the same: their words and numbers, without case and marks."""
    return " ".join(re.findall(r"[a-z0-9.+-]*[a-z0-9]", plain(sentence).lower()))


def words(latex: str) -> int:
    """Count the words of a text."""
    return len(plain(latex).split())


def keys(text: str) -> set[str]:
    """Return the normalised sentences of a text that are long enough to count as repetitions."""
    found = (normalised(sentence) for block in blocks(text) for sentence in sentences(block))
    return {key for key in found if len(key.split()) >= _SHORTEST}


def rebuilt(text: str, change: Callable[[str], str]) -> str:
    """Return a text with each sentence changed; one that becomes empty goes, and so does an empty paragraph."""
    kept = []
    for block in blocks(text):
        parts = [part for part in map(change, sentences(block)) if part]
        if parts:
            kept.append(" ".join(parts))
    return "\n\n".join(kept)


def without_repeats(text: str, seen: set[str]) -> tuple[str, list[str]]:
    """Return a text without the sentences in `seen` or said before, and those; what is new is added to `seen`."""
    dropped: list[str] = []

    def once(sentence: str) -> str:
        key = normalised(sentence)
        if len(key.split()) < _SHORTEST or key not in seen:
            seen.add(key)
            return sentence
        dropped.append(sentence)
        return ""

    return rebuilt(text, once), dropped


def uncommented(text: str) -> str:
    """Return LaTeX without its comments."""
    return re.sub(r"(?m)^[ \t]*%.*\n?|(?<!\\)%.*", "", text)
