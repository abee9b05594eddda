"""A published work and a search's finding of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One published work, as much of it as a citation and a comparison need."""

    key: str
    """BibTeX key, such as `ho2020denoising`."""
    title: str
    authors: tuple[str, ...]
    """Names as `Given Family`, in the order of the title page."""
    et_al: bool = False
    """True when there are more authors than are listed."""
    year: int
    venue: str
    arxiv: str | None = None
    """Identifier without version, such as `2006.11239` or `cond-mat/0305641`."""
    doi: str | None = None
    topics: tuple[str, ...] = ()
    abstract: str = ""
    """What the work does, in our own words."""
    checked: str = ""
    """Where the identifier was seen together with title, first author and year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One work that a search found."""

    work: Work
    score: float
    """Higher is nearer; comparable within one search only."""
    overlap: float
    """Share of the query's content words, 0 to 1, that the work's title, abstract and topics contain."""
