"""The local literature index: shipped works in an in-memory full-text table, searched without a network."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from importlib import resources
from typing import Any
from urllib.parse import quote

from fumehood.domain.literature import Hit, Work
from fumehood.errors import NotFoundError

TOKENIZE = "porter unicode61"
TITLE_WEIGHT, ABSTRACT_WEIGHT, TOPICS_WEIGHT = 6.0, 1.0, 2.0
MAX_TERMS = 64
"""Distinct content words of a query that count; a longer text is cut here."""
MAX_QUERY = 10_000
"""Characters of a query that are read."""

GRAMMAR = """
    a about after against all also an and any approach are as at based be been before between both but by can
    could do does during each either for from had has have how if in into is it its let lets made make may method
    methods more most near new no nor not novel of on one onto only or other our over own paper per propose proposed
    same several should show shows so some study such than that the their them then there these they this those
    through to two under up use used uses using via was we were what when where whether which while who why will with
    within without would you your
"""
STOPWORDS = frozenset(GRAMMAR.split())
"""Words that say nothing of a subject: grammar, and what every paper says of itself."""

WORD = re.compile(r"[^\W_]+")


class LocalIndex:
    """Searches the works that ship with the platform; safe to share between threads, for it never changes."""

    def __init__(self, works: Iterable[Work] | None = None) -> None:
        self._works = tuple(load() if works is None else works)
        self._by_key = {work.key: work for work in self._works}
        self._table = _table(self._works)
        self._stems = _stems_of_rows(self._table)

    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """Return the works nearest to any text, best first; empty when no content word is known."""
        stems = _query_stems(query)
        if not stems or limit < 1:
            return []
        # Each word is quoted, so nothing a person types is read as an operator. A title that begins with the
        # whole query counts extra: who asks for a work by name wants it before those that build on it.
        title = " ".join(WORD.findall(query[:MAX_QUERY].lower())[:MAX_TERMS])
        match = " OR ".join([*(f'"{word}"' for word in stems.values()), f'title : ^ "{title}"'])
        rows = self._table.execute(
            "SELECT rowid, bm25(works, ?, ?, ?) AS rank FROM works WHERE works MATCH ? ORDER BY rank, rowid LIMIT ?",
            (TITLE_WEIGHT, ABSTRACT_WEIGHT, TOPICS_WEIGHT, match, limit),
        ).fetchall()
        return [
            Hit(
                work=self._works[row],
                score=-rank,  # FTS5 ranks the best match lowest
                overlap=len(self._stems[row] & stems.keys()) / len(stems),
            )
            for row, rank in rows
        ]

    def get(self, key: str) -> Work:
        """Return a work by its key; `NotFoundError` when there is none."""
        try:
            return self._by_key[key]
        except KeyError:
            raise NotFoundError(f"No work has the key {key!r}.") from None

    def all(self) -> tuple[Work, ...]:
        """Return every work, in the order of the file."""
        return self._works

    def bibtex(self, work: Work) -> str:
        """Return its BibTeX entry."""
        return bibtex(work)


def load() -> tuple[Work, ...]:
    """Read the works that ship with the platform."""
    text = resources.files("fumehood.literature").joinpath("works.jsonl").read_text(encoding="utf-8")
    return tuple(_work(json.loads(line)) for line in text.splitlines())


def _work(row: dict[str, Any]) -> Work:
    return Work(**{**row, "authors": tuple(row["authors"]), "topics": tuple(row["topics"])})


def _table(works: tuple[Work, ...]) -> sqlite3.Connection:
    table = sqlite3.connect(":memory:", check_same_thread=False)
    table.execute(f"CREATE VIRTUAL TABLE works USING fts5(title, abstract, topics, tokenize='{TOKENIZE}')")
    table.executemany(
        "INSERT INTO works (rowid, title, abstract, topics) VALUES (?, ?, ?, ?)",
        [(row, work.title, work.abstract, " ".join(work.topics)) for row, work in enumerate(works)],
    )
    table.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(works, instance)")
    table.commit()
    return table


def _stems_of_rows(table: sqlite3.Connection) -> dict[int, set[str]]:
    stems: dict[int, set[str]] = defaultdict(set)
    for stem, row in table.execute("SELECT DISTINCT term, doc FROM vocabulary"):
        stems[row].add(stem)
    return stems


def _query_stems(query: str) -> dict[str, str]:
    """Return stem to word for the query's content words.

    The table's own tokenizer stems them, in a table of their own, so that both sides are sure to agree.
    """
    words = dict.fromkeys(word for word in WORD.findall(query[:MAX_QUERY].lower()) if word not in STOPWORDS)
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute(f"CREATE VIRTUAL TABLE words USING fts5(word, tokenize='{TOKENIZE}')")
        scratch.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, instance)")
        scratch.executemany("INSERT INTO words (word) VALUES (?)", [(word,) for word in words])
        rows = scratch.execute(
            "SELECT term, words.word FROM vocabulary JOIN words ON words.rowid = doc ORDER BY doc"
        ).fetchall()
    stems: dict[str, str] = {}
    for stem, word in rows:
        if len(stems) < MAX_TERMS:
            stems.setdefault(stem, word)
    return stems


ESCAPES = {
    "\\": r"\textbackslash{}",
    # BibTeX counts a brace even after a backslash, so these two are spelled out.
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u2026": r"\ldots{}",
    "\u00a0": "~",
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
    "\u0131": r"{\i}",
    "\u00d7": r"$\times$",
}
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0328": "k",
}
ARXIV = "arXiv"
CONFERENCES = frozenset(
    {
        "AAAI", "ACL", "AISTATS", "CHI", "CVPR", "EACL", "EMNLP", "ICCV", "ICLR", "ICML",
        "IEEE ISIT", "MICCAI", "MLSys", "NAACL", "NeurIPS", "SEQUENCES", "UAI", "USENIX Security", "WACV",
    }
)  # fmt: skip
"""Venues whose works stand in proceedings; every other one is a journal."""
PARTICLES = frozenset({"De", "Del", "Della", "Di", "Du", "La", "Van", "Von"})


def bibtex(work: Work) -> str:
    """Return an entry in plain ASCII; `url` and `doi` are verbatim, as the styles that print them expect."""
    authors = [_name(author) for author in work.authors] + (["others"] if work.et_al else [])
    fields = {
        # The second pair of braces keeps the title's capitals whatever the style does.
        "title": "{" + _latex(work.title) + "}",
        "author": " and ".join(authors),
        "year": str(work.year),
    }
    kind = "article"
    if work.venue == ARXIV:
        fields["journal"] = f"arXiv preprint arXiv:{work.arxiv}"
    else:
        kind = "inproceedings" if work.venue in CONFERENCES else "article"
        fields["booktitle" if kind == "inproceedings" else "journal"] = _latex(work.venue)
        if work.arxiv:
            fields["note"] = f"arXiv:{work.arxiv}"
    doi = quote(work.doi or "", safe="/:;()")
    if doi:
        fields["doi"] = doi
    if work.arxiv or doi:
        fields["url"] = f"https://arxiv.org/abs/{work.arxiv}" if work.arxiv else f"https://doi.org/{doi}"
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{work.key},\n" + ",\n".join(lines) + "\n}\n"


def _name(author: str) -> str:
    """Return the name for an `author` field; BibTeX would take a capitalised particle for a given name."""
    words = author.split()
    for at in range(1, len(words) - 1):
        if words[at] in PARTICLES:
            return f"{_latex(' '.join(words[at:]))}, {_latex(' '.join(words[:at]))}"
    return _latex(author)


def _latex(text: str) -> str:
    return "".join(_latex_char(char) for char in unicodedata.normalize("NFC", text))


def _latex_char(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if char.isascii():
        return char if char.isprintable() else " "
    parts = unicodedata.normalize("NFD", char)
    base, marks = parts[0], parts[1:]
    if base.isascii() and all(mark in ACCENTS for mark in marks):
        for mark in marks:
            base = f"\\{ACCENTS[mark]}{{{base}}}"
        return f"{{{base}}}"
    # pdflatex stops at a character it has no glyph for; a question mark is the smaller harm.
    return unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
