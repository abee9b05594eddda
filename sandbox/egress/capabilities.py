"""The named capabilities: where each one leads, and which paths and queries may go there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fumehood.domain.execution import LLM, granted_names
from fumehood.errors import BadInputError

INTERVAL_S = 1.0
"""Between two requests to one upstream, of all executions on this host together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One upstream, the paths and query names that may be asked of it, and how the platform's key is added."""

    name: str
    upstream: str
    """Scheme and host of the real one; plain text and other ports are for doubles only."""
    paths: tuple[str, ...]
    """Regular expressions; one of them must match the whole path."""
    queries: Mapping[str, int]
    """The names a query may hold, each with the most characters of its value."""
    accept: str
    variable: str
    """What a program finds the address in."""
    key_header: str = ""
    key_query: str = ""
    """The header or the query name that carries the key, where there is one."""
    interval_s: float = INTERVAL_S
    patterns: tuple[re.Pattern[str], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Compile the paths once."""
        object.__setattr__(self, "patterns", tuple(re.compile(path) for path in self.paths))

    @property
    def takes_key(self) -> bool:
        """Whether the upstream knows keys at all."""
        return bool(self.key_header or self.key_query)

    def allows(self, path: str) -> bool:
        """Tell whether a path may be asked for."""
        return any(pattern.fullmatch(path) for pattern in self.patterns)


_TEXT, _LIST, _WORD = 300, 200, 40
_DOI = r"10\.[0-9]{4,9}/[A-Za-z0-9._;()/:-]{1,100}"
_PAPER = (
    rf"(?:[0-9a-f]{{40}}|CorpusId:[0-9]{{1,12}}|DOI:{_DOI}|(?:ARXIV|arXiv):[A-Za-z.-]{{0,20}}/?[0-9.]{{4,12}}(?:v[0-9]{{1,2}})?"
    r"|(?:MAG|PMID|PMCID):[0-9]{1,12}|ACL:[A-Za-z0-9.-]{1,40})"
)
_ENTITY = "(?:works|authors|sources|institutions|topics|publishers|funders)"

SEMANTIC_SCHOLAR = Capability(
    name="semantic-scholar",
    upstream="https://api.semanticscholar.org",
    paths=(
        r"/graph/v1/paper/(?:search|search/bulk|search/match|autocomplete)",
        rf"/graph/v1/paper/{_PAPER}(?:/(?:authors|citations|references))?",
        r"/graph/v1/author/search",
        r"/graph/v1/author/[0-9]{1,12}(?:/papers)?",
        rf"/recommendations/v1/papers/forpaper/{_PAPER}",
    ),
    queries={
        "query": _TEXT, "fields": _LIST, "offset": 6, "limit": 4, "year": 9, "publicationDateOrYear": 21,
        "minCitationCount": 8, "publicationTypes": _LIST, "openAccessPdf": 0, "venue": _LIST, "fieldsOfStudy": _LIST,
        "sort": _WORD, "token": 100, "from": _WORD,
    },
    accept="application/json",
    variable="SEMANTIC_SCHOLAR_URL",
    key_header="x-api-key",
)  # fmt: skip
OPENALEX = Capability(
    name="openalex",
    upstream="https://api.openalex.org",
    paths=(
        rf"/{_ENTITY}",
        rf"/{_ENTITY}/[WASITPFwasitpf][0-9]{{1,12}}",
        rf"/works/doi:{_DOI}",
        rf"/autocomplete/{_ENTITY}",
    ),
    queries={
        "search": _TEXT, "filter": _TEXT, "sort": _LIST, "select": _LIST, "group_by": _WORD, "q": _TEXT,
        "page": 6, "per-page": 3, "per_page": 3, "cursor": 200, "sample": 5, "seed": 10,
    },
    accept="application/json",
    variable="OPENALEX_URL",
    key_query="api_key",
)  # fmt: skip
ARXIV = Capability(
    name="arxiv",
    upstream="https://export.arxiv.org",
    paths=(r"/api/query",),
    queries={
        "search_query": _TEXT, "id_list": _TEXT, "start": 6, "max_results": 4, "sortBy": _WORD, "sortOrder": _WORD,
    },
    accept="application/atom+xml",
    variable="ARXIV_URL",
    # Its terms of use ask for this much.
    interval_s=3.0,
)  # fmt: skip

ALL = {one.name: one for one in (SEMANTIC_SCHOLAR, OPENALEX, ARXIV)}
NAMES = (*ALL, LLM)
"""Every name that a spec may hold; what the last one leads to is no upstream of the internet, but our own gateway."""


def granted(network: str) -> tuple[Capability, ...]:
    """Return the services that a spec's `network` asks for, none for `none`; raises for what is no capability."""
    if network == "none":
        return ()
    asked = granted_names(network)
    if not asked or not set(asked) <= set(NAMES):
        raise BadInputError(f"The network is none or allow:NAME,... with NAME of {', '.join(NAMES)}, not {network!r}.")
    return tuple(one for name, one in ALL.items() if name in asked)


def asks_model(network: str) -> bool:
    """Tell whether a spec's `network` asks for the gateway of models."""
    return LLM in granted_names(network)
