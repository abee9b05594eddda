"""What may be asked of each capability, and what may not."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.errors import BadInputError
from sandbox.egress import capabilities
from sandbox.egress.capabilities import ALL, asks_model, granted
from sandbox.egress.request import MAX_QUERY, RefusedError, Wanted, read, within
from sandbox.egress.rules import Rules

HOST = [(b"host", b"egress")]


def ask(target: str, method: bytes = b"GET", headers: list[tuple[bytes, bytes]] | None = None) -> Wanted:
    return read(method, target.encode("latin-1"), HOST if headers is None else headers, b"1.1", ALL)


def refused(target: str, method: bytes = b"GET", headers: list[tuple[bytes, bytes]] | None = None) -> int:
    with pytest.raises(RefusedError) as caught:
        ask(target, method, headers)
    return caught.value.status


PAPER = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "target",
    [
        "/semantic-scholar/graph/v1/paper/search?query=a%20b&fields=title,year&limit=10&offset=0&year=2020-2024",
        "/semantic-scholar/graph/v1/paper/search/bulk?query=x&token=abc",
        f"/semantic-scholar/graph/v1/paper/{PAPER}",
        f"/semantic-scholar/graph/v1/paper/{PAPER}/references?limit=100",
        f"/semantic-scholar/graph/v1/paper/{PAPER}/citations",
        "/semantic-scholar/graph/v1/paper/DOI:10.18653/v1/N18-3011",
        "/semantic-scholar/graph/v1/paper/arXiv:2106.15928v2",
        "/semantic-scholar/graph/v1/paper/CorpusId:215416146",
        "/semantic-scholar/graph/v1/author/search?query=a",
        "/semantic-scholar/graph/v1/author/1741101/papers",
        f"/semantic-scholar/recommendations/v1/papers/forpaper/{PAPER}?limit=3&from=recent",
        "/openalex/works?search=diffusion&filter=publication_year:2020,type:article&per-page=5&sort=cited_by_count:desc",
        "/openalex/works/W2741809807",
        "/openalex/works/doi:10.7717/peerj.4375?select=id,title",
        "/openalex/authors/A5023888391",
        "/openalex/autocomplete/works?q=tiktok",
        "/arxiv/api/query?search_query=all:electron+AND+ti:proton&start=0&max_results=10&sortBy=relevance",
        "/arxiv/api/query?id_list=2106.15928,1234.5678",
    ],
)
def test_what_a_capability_is_for_is_allowed(target: str) -> None:
    wanted = ask(target)
    name = target.split("/")[1]
    assert wanted.capability is ALL[name]
    assert wanted.path == urlsplit(target.removeprefix(f"/{name}")).path
    assert sorted(parse_qsl(urlsplit(target).query)) == list(wanted.query)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 403),
        ("", 403),
        ("/semantic-scholar", 403),
        ("/semantic-scholar/", 403),
        ("/Semantic-Scholar/graph/v1/paper/search", 403),
        ("/semantic-scholar/graph/v1/paper/batch", 403),
        ("/semantic-scholar/graph/v1/paper/search/", 403),
        ("/semantic-scholar/graph/v1/paper/" + "a" * 39, 403),
        ("/semantic-scholar/datasets/v1/release", 403),
        ("/semantic-scholar/graph/v1/paper/DOI:10.1234/a/../../../x", 403),
        ("/semantic-scholar/graph/v1/paper/URL:http://evil.example", 403),
        ("/openalex/works/https://doi.org/10.7717/peerj.4375", 403),
        ("/openalex/works/W1/ngrams", 403),
        ("/openalex/text?title=x", 403),
        ("/openalex/works?mailto=a@b.example", 403),
        ("/openalex/works?api_key=mine", 403),
        ("/arxiv/pdf/2106.15928", 403),
        ("/arxiv/api/query;x=y", 403),
        ("/arxiv/api/query?max_results=99999", 403),
        ("/arxiv/api/query?search_query=a%00b", 403),
        ("/arxiv/api/query?search_query=a%0d%0aHost:%20x", 403),
        ("/arxiv/api/query?search_query=%ff", 400),
        ("/arxiv/api/query?search_query=%zz", 400),
        ("/arxiv/api/query?search_query", 400),
        ("/arxiv/api/query?start=1#x", 400),
        ("/arxiv/api/query?search_query=" + "a" * 500, 414),
        ("/arxiv/api/query?search_query=" + "a" * 301, 403),
        ("/arxiv/" + "a" * 1100, 414),
        ("/arxiv/api/qu%65ry", 403),
        ("/arxiv/api/./query", 403),
        ("/arxiv//api/query", 403),
        ("/arxiv/api\\query", 403),
        ("/arxiv/api/qu\xe9ry", 400),
        ("http://export.arxiv.org/api/query", 403),
        ("export.arxiv.org:443", 403),
        ("*", 403),
    ],
)
def test_everything_else_is_refused(target: str, status: int) -> None:
    assert refused(target) == status


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"TRACE", b"PRI", b"get"])
def test_only_get_is_answered(method: bytes) -> None:
    assert refused("/arxiv/api/query", method) == 405


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"content-length", b"0"), 413),
        ((b"transfer-encoding", b"chunked"), 413),
        ((b"expect", b"100-continue"), 413),
        ((b"upgrade", b"websocket"), 403),
        ((b"http2-settings", b"AAMAAABk"), 403),
        ((b"proxy-authorization", b"Basic eA=="), 403),
        ((b"host", b"evil.example"), 403),
        ((b"host", b"egress.evil.example"), 403),
        ((b"host", b"localhost@evil.example"), 403),
        ((b"host", b""), 403),
    ],
)
def test_headers_that_could_mean_more_are_refused(header: tuple[bytes, bytes], status: int) -> None:
    assert refused("/arxiv/api/query", headers=[*HOST, header]) == status


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.0"])
def test_other_versions_are_refused(version: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read(b"GET", b"/arxiv/api/query", HOST, version, ALL)
    assert caught.value.status == 505


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=200))
def test_no_path_leads_anywhere_but_into_the_tables(text: str) -> None:
    for name, capability in ALL.items():
        try:
            wanted = ask(f"/{name}/{text}")
        except RefusedError:
            continue
        assert capability.allows(wanted.path)
        assert not {"..", ".", ""} & set(wanted.path.split("/")[1:])


@given(st.text(max_size=150))
def test_a_value_goes_up_as_it_was_meant_and_nothing_more(text: str) -> None:
    from urllib.parse import quote

    try:
        wanted = within(capabilities.ARXIV, "/api/query", f"search_query={quote(text, safe='')}")
    except RefusedError:
        return
    target = wanted.target()
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target
    assert parse_qsl(urlsplit(target).query, keep_blank_values=True) == [("search_query", text)]


def test_the_order_of_a_query_does_not_make_another_request() -> None:
    one, other = ask("/arxiv/api/query?start=1&max_results=2"), ask("/arxiv/api/query?max_results=2&start=1")
    assert one.key == other.key
    assert one.key != ask("/arxiv/api/query?start=12&max_results=").key


def test_a_query_is_never_longer_than_the_cap() -> None:
    assert all(length <= MAX_QUERY for one in ALL.values() for length in one.queries.values())


def test_no_table_lets_a_program_name_the_key() -> None:
    assert all(one.key_query not in one.queries for one in ALL.values())


def test_a_grant_names_capabilities_and_nothing_else() -> None:
    assert granted("none") == ()
    assert [one.name for one in granted("allow:arxiv,semantic-scholar")] == ["semantic-scholar", "arxiv"]
    for network in ("allow:", "allow", "arxiv", "allow:ARXIV", "allow:arxiv,", "allow: arxiv", "relay:asks:x", ""):
        with pytest.raises(BadInputError):
            granted(network)
    assert (granted("allow:llm"), asks_model("allow:llm")) == ((), True)
    assert [one.name for one in granted("allow:arxiv,llm")] == ["arxiv"]
    assert not any(asks_model(network) for network in ("none", "allow:arxiv", "relay:asks:llm"))


@pytest.mark.parametrize(
    "rules",
    [
        {"mode": "on"},
        {"requests": 0},
        {"requests": 100_000},
        {"upstreams": {"arxiv": "http://export.arxiv.org"}},
        {"upstreams": {"arxiv": "https://user@export.arxiv.org"}},
        {"upstreams": {"arxiv": "https://export.arxiv.org/mirror"}},
        {"upstreams": {"arxiv": "https://"}},
        {"upstreams": {"arxiv": "https://host:99999"}},
        {"upstreams": {"nowhere": "https://export.arxiv.org"}},
        {"doubles": {"arxiv": "http://10.0.0.1:80"}},
        {"doubles": {"arxiv": "http://localhost:8000"}},
        {"doubles": {"arxiv": "http://127.0.0.1"}},
        {"doubles": {"arxiv": "https://127.0.0.1:8000"}},
        {"doubles": {"arxiv": "http://127.0.0.1:8000/x"}},
    ],
)
def test_rules_that_could_not_be_meant_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(BadInputError):
        Rules(**rules)  # type: ignore[arg-type]


def test_an_upstream_is_its_own_unless_the_rules_say_otherwise() -> None:
    base = Rules().base(capabilities.ARXIV)
    assert (base.scheme, base.host, base.port, base.is_double) == ("https", "export.arxiv.org", 443, False)
    mirror = Rules(upstreams={"arxiv": "https://mirror.example:8443"}).base(capabilities.ARXIV)
    assert (mirror.host, mirror.port, mirror.is_double) == ("mirror.example", 8443, False)
    double = Rules(doubles={"arxiv": "http://127.0.0.1:8000"}).base(capabilities.ARXIV)
    assert (double.scheme, double.host, double.port, double.is_double) == ("http", "127.0.0.1", 8000, True)
