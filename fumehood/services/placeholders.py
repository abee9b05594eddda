"""From a section with placeholders to LaTeX: numbers out of records, works that exist, figures and tables.

A section is LaTeX in which `[[num: NAME]]` stands for a number of the facts, `[[cite: WORDS; WORDS]]` for works,
`[[figure: FILE | CAPTION]]` for a figure and `[[table: NAME]]` for one of the platform's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from fumehood.domain.claim import Claim
from fumehood.errors import NotFoundError
from fumehood.ports import Literature, Typesetter
from fumehood.services import drawings, numbers, prose, tables
from fumehood.services.fact_types import Facts

MARK = re.compile(r"\[\[\s*(\w+)\s*:\s*(.*?)\s*\]\]", re.DOTALL)
OVERLAP = 0.5
CITE = re.compile(r"[\s~]*\\cite[a-zA-Z]*\*?(?:\[[^\]]*\])*\{([^}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A section as it is typeset."""

    latex: str
    claims: tuple[Claim, ...]
    keys: tuple[str, ...]
    """Works cited, in the order of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What rendering needs besides the facts."""

    literature: Literature
    typesetter: Typesetter


def render(
    section: str, text: str, facts: Facts, tools: Tools, *, shown: Collection[str] = (), first: int = 1
) -> Rendered:
    """Fill in every placeholder; what is unknown is left out. `shown` are floats that stand in earlier sections."""
    floats = set(shown)

    def float_of(match: re.Match[str]) -> str:
        kind, words = match[1], match[2]
        name = words.partition("|")[0].strip()
        if kind not in {"figure", "table"}:
            return match[0]
        if f"{kind}:{name}" in floats:
            return ""
        floats.add(f"{kind}:{name}")
        made = figure(words, facts, tools) if kind == "figure" else table(name, facts, tools)
        return f"\n\n{made}\n\n" if made else ""

    claims: list[Claim] = []
    keys: list[str] = []

    def fill(sentence: str) -> str:
        cited, seen = _cited(sentence, tools.literature)
        keys.extend(seen)
        rows = cited.split("\n") if r"\begin{table}" in cited else [cited]
        return "\n".join(_numbered(row, section, facts, claims, first) for row in rows)

    latex = prose.rebuilt(MARK.sub(float_of, text), fill)
    return Rendered(latex=latex, claims=tuple(claims), keys=tuple(dict.fromkeys(keys)))


def floats_of(text: str) -> set[str]:
    """Return the floats that a section asks for, as `figure:FILE` and `table:NAME`."""
    return {
        f"{kind}:{words.partition('|')[0].strip()}" for kind, words in MARK.findall(text) if kind in {"figure", "table"}
    }


def figure(words: str, facts: Facts, tools: Tools) -> str:
    """Return a figure's float, its caption naming the runs that it shows; nothing for one that does not exist."""
    file, _, said = (part.strip() for part in words.partition("|"))
    known = next((entry for entry in facts["figures"] if entry["file"] == file), None)
    if known is None:
        return ""
    stem, escape = file.rsplit(".", 1)[0], tools.typesetter.escape
    caption = said or escape(known["caption"] or f"{stem.replace('_', ' ').capitalize()}.")
    titles = {run["name"]: escape(run["title"].rstrip(".")) for run in (facts["baseline"], *facts["runs"])}
    # Named by the platform: what a caption says of them is somebody's word.
    whole = caption if caption.endswith((".", "!", "?", "}")) else f"{caption}."
    caption = f"{whole} {drawings.caption(known['runs'], titles)}"
    return (
        "\\begin{figure}[tb]\n\\centering\n"
        f"\\includegraphics[width=0.86\\linewidth,height=0.42\\textheight,keepaspectratio]{{{file}}}\n"
        f"\\caption{{{caption}}}\n\\label{{fig:{stem}}}\n\\end{{figure}}"
    )


def table(name: str, facts: Facts, tools: Tools) -> str:
    """Return a table's float with number placeholders, or nothing for a table that there is not."""
    return tables.build(name, facts, tools.typesetter.escape) if name in tables.NAMES else ""


def find_work(words: str, literature: Literature) -> str | None:
    """Return the key of the work that these words mean, or None when none is near enough."""
    words = " ".join(words.split())
    if re.fullmatch(r"[a-z][\w-]*\d{4}\w*", words):
        try:
            return literature.get(words).key
        except NotFoundError:
            return None
    hits = literature.search(words, limit=3)
    return hits[0].work.key if hits and hits[0].overlap >= OVERLAP else None


def unresolved(sentence: str, literature: Literature) -> list[str]:
    """Return the words of citations that mean no work."""
    found = [words for kind, group in MARK.findall(sentence) if kind == "cite" for words in group.split(";")]
    found += [key for group in CITE.findall(sentence) for key in group.split(",")]
    return [words.strip() for words in found if words.strip() and find_work(words, literature) is None]


def _cited(sentence: str, literature: Literature) -> tuple[str, list[str]]:
    """Put keys in the place of citations; a work is cited once in a sentence."""
    seen: list[str] = []

    def keys_of(wanted: Iterable[str]) -> str:
        fresh: list[str] = []
        for words in wanted:
            key = find_work(words, literature)
            if key and key not in seen:
                seen.append(key)
                fresh.append(key)
        return rf"~\citep{{{','.join(fresh)}}}" if fresh else ""

    def mark(match: re.Match[str]) -> str:
        return keys_of(match[1].split(";"))

    sentence = CITE.sub(lambda match: keys_of(match[1].split(",")), sentence)
    return re.sub(r"[\s~]*\[\[\s*cite\s*:\s*(.*?)\s*\]\]", mark, sentence, flags=re.DOTALL), seen


def _numbered(sentence: str, section: str, facts: Facts, claims: list[Claim], first: int) -> str:
    fresh: list[Claim] = []

    def number(match: re.Match[str]) -> str:
        known = facts["numbers"].get(match[2])
        if match[1] != "num" or known is None:
            return ""
        text = numbers.rounded(known["value"], known["digits"])
        fresh.append(
            Claim(
                id=f"c{first + len(claims) + len(fresh)}",
                section=section,
                text=text,
                source=known["source"],
                pointer=known["pointer"],
                value=known["value"],
                digits=known["digits"],
                sentence="",
            )
        )
        return numbers.in_latex(text)

    filled = MARK.sub(number, sentence)
    said = prose.plain(filled)
    claims.extend(replace(claim, sentence=said) for claim in fresh)
    return filled


def outside(text: str, change: Callable[[str], str]) -> str:
    """Change a text everywhere but in its placeholders."""
    parts = re.split(r"(\[\[.*?\]\])", text, flags=re.DOTALL)
    return "".join(part if at % 2 else change(part) for at, part in enumerate(parts))
