"""The local literature index: its data, its search and its BibTeX."""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fumehood.domain.literature import Work
from fumehood.errors import NotFoundError
from fumehood.literature.index import CONFERENCES, LocalIndex, bibtex, load

WORKS = load()
ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
DOI = re.compile(r"10\.\d{4,9}/\S+")
KEY = re.compile(r"[a-z]+\d{4}[a-z][a-z0-9]*")


@pytest.fixture(scope="module")
def index() -> LocalIndex:
    return LocalIndex()


def keys(index: LocalIndex, query: str, limit: int = 10) -> list[str]:
    return [hit.work.key for hit in index.search(query, limit)]


def arxiv_year(number: str) -> int:
    two = int(number.rpartition("/")[2][:2])
    return 1900 + two if two > 90 else 2000 + two


def imbalance(text: str) -> int:
    """0 when every brace closes one that was opened before it."""
    depth = 0
    for char in text:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return depth
    return depth


def test_there_are_enough_works() -> None:
    assert len(WORKS) >= 150


@pytest.mark.parametrize("field", ["key", "title", "arxiv", "doi"])
def test_no_two_works_share_what_names_them(field: str) -> None:
    values = Counter(str(value).lower() for work in WORKS if (value := getattr(work, field)))
    assert [value for value, count in values.items() if count > 1] == []


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_every_work_is_well_formed(work: Work) -> None:
    assert KEY.fullmatch(work.key)
    assert str(work.year) in work.key
    assert work.arxiv or work.doi
    assert work.arxiv is None or ARXIV.fullmatch(work.arxiv)
    assert work.doi is None or DOI.fullmatch(work.doi)
    assert work.arxiv is None or abs(arxiv_year(work.arxiv) - work.year) <= 2
    assert 1 <= len(work.authors) <= 8
    assert not work.et_al or len(work.authors) == 8
    for text in (work.title, work.venue, work.abstract, work.checked, *work.authors, *work.topics):
        assert text
        assert text == text.strip()
    assert "\\" not in work.title
    assert "$" not in work.title
    assert 40 <= len(work.abstract) <= 400


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_every_entry_is_ascii_with_balanced_braces(work: Work) -> None:
    entry = bibtex(work)
    assert entry.isascii()
    assert entry.count("?") == work.title.count("?")
    assert imbalance(entry) == 0
    assert entry.startswith((f"@article{{{work.key},\n", f"@inproceedings{{{work.key},\n"))
    assert (entry.count("  journal = "), entry.count("  booktitle = ")) in {(1, 0), (0, 1)}
    assert entry.endswith("\n}\n")
    assert f"arXiv:{work.arxiv}" in entry or work.arxiv is None
    assert ("arXiv preprint" in entry) == (work.venue == "arXiv")
    assert "https://" in entry


def test_an_entry_escapes_what_latex_reads_as_commands() -> None:
    work = Work(
        key="odd2020odd",
        title="50% of R&D_costs {rise} by $5 #1 ~ ^ \\ \u2013 Ω",
        authors=("Łukasz Kaiser", "Valentin De Bortoli", "Ngân Vũ"),
        et_al=True,
        year=2020,
        venue="Nature",
        doi="10.1000/a_b",
    )
    entry = bibtex(work)
    assert r"50\% of R\&D\_costs \textbraceleft{}rise\textbraceright{} by \$5 \#1 " in entry
    assert r" \textasciitilde{} \textasciicircum{} \textbackslash{} -- ?}}" in entry
    assert entry.count("{") == entry.count("}")
    assert r"author = {{\L}ukasz Kaiser and De Bortoli, Valentin and Ng{\^{a}}n V{\~{u}} and others}" in entry
    assert "journal = {Nature}" in entry
    assert "doi = {10.1000/a_b}" in entry
    assert "url = {https://doi.org/10.1000/a_b}" in entry


def test_the_method_and_the_function_give_one_entry(index: LocalIndex) -> None:
    work = index.get("ho2020denoising")
    assert index.bibtex(work) == bibtex(work)
    assert "title = {{Denoising Diffusion Probabilistic Models}}" in bibtex(work)
    assert bibtex(work).startswith("@inproceedings{")
    assert "booktitle = {NeurIPS}" in bibtex(work)
    assert "note = {arXiv:2006.11239}" in bibtex(work)


@pytest.mark.parametrize("venue", sorted({work.venue for work in WORKS}))
def test_a_venue_is_proceedings_or_a_journal(venue: str) -> None:
    journals = {"JMLR", "TMLR", "TACL", "PNAS", "Nature", "Science", "Machine Learning", "Artificial Life", "arXiv"}
    journals |= {"Ecology", "Journal of Documentation", "Program"}
    journals |= {"ACM Computing Surveys", "ACM SIGIR Forum", "Acta Numerica", "Neural Computation", "PLoS Medicine"}
    journals |= {"IEEE Transactions on Information Theory", "Journal of Statistical Planning and Inference"}
    journals |= {"Physical Review E", "Stochastic Processes and their Applications", "The American Statistician"}
    journals |= {"Journal of the American Statistical Association", "Nature Methods", "PLOS Computational Biology"}
    journals |= {"PLoS ONE", "Proceedings of the Royal Society A", "Proceedings of the Royal Society B"}
    assert (venue in CONFERENCES) != (venue in journals)


def test_a_title_finds_its_work_first(index: LocalIndex) -> None:
    hit = index.search("denoising diffusion probabilistic models")[0]
    assert hit.work.key == "ho2020denoising"
    assert hit.overlap == 1.0


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_every_work_is_the_first_found_by_its_title(index: LocalIndex, work: Work) -> None:
    assert keys(index, work.title)[0] == work.key


@pytest.mark.parametrize(
    ("query", "near"),
    [
        ("learned adaptive noise schedule for low-dimensional diffusion", "sahoo2024diffusion"),
        ("learned adaptive noise schedule for low-dimensional diffusion", "kingma2021variational"),
        ("grokking in modular arithmetic with weight decay", "power2022grokking"),
        ("kNN estimator of the Kullback-Leibler divergence", "wang2009divergence"),
        ("Datasaurus dataset", "matejka2017same"),
        ("cosine annealing of the learning rate with restarts", "loshchilov2017sgdr"),
        ("do random seeds change deep learning results?", "picard2021torch"),
        ("reward hacking by agents", "skalse2022defining"),
        ("exponential moving averages of weights", "moralesbrotons2024exponential"),
    ],
)
def test_a_subject_finds_works_on_it(index: LocalIndex, query: str, near: str) -> None:
    assert near in keys(index, query)


def test_inflected_words_meet_their_stem(index: LocalIndex) -> None:
    assert keys(index, "samplers") == keys(index, "sampler")
    assert index.search("noised noises")[0].overlap == 1.0


def test_hits_come_best_first_and_no_more_than_asked(index: LocalIndex) -> None:
    hits = index.search("diffusion noise", limit=5)
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 and 0 < hit.overlap <= 1 for hit in hits)
    assert index.search("diffusion", limit=0) == []


def test_overlap_tells_the_near_from_the_far(index: LocalIndex) -> None:
    far = index.search("trombone acoustics in baroque diffusion of cathedral limestone")
    assert max(hit.overlap for hit in far) < 0.4
    near = index.search("consistency distillation of one-step diffusion samplers")
    assert max(hit.overlap for hit in near) >= 0.6


@pytest.mark.parametrize(
    "query", ["", "   ", "the of and", "xyzzy flurbington qwopper", "🦖🦕", "!!!", "\x00", "___", "\ud800"]
)
def test_a_query_that_says_nothing_known_finds_nothing(index: LocalIndex, query: str) -> None:
    assert index.search(query) == []


@pytest.mark.parametrize(
    "query",
    [
        'a "quoted" phrase',
        '"unbalanced',
        "AND OR NEAR(",
        "NOT",
        "diffusion AND NOT noise*",
        "title : diffusion",
        "{title abstract}: noise ^start",
        "noise + schedule - adaptive",
        "NEAR(diffusion noise, 2)",
        "'; DROP TABLE works; --",
        "diffusion \x00 noise",
        "diffusion 🦖 noise",
        "\ud800 diffusion",
        "扩散模型 диффузия ﬁ ǅ ²",
        "diffusion noise schedule " * 400,
        " ".join(f"word{n}" for n in range(2000)),
        "x" * 10_000,
        "(" * 5000,
    ],
)
def test_any_text_may_be_asked(index: LocalIndex, query: str) -> None:
    for hit in index.search(query):
        assert 0 < hit.overlap <= 1


def test_a_word_of_the_query_language_is_only_a_word(index: LocalIndex) -> None:
    assert index.search("NEAR(diffusion noise, 2)")[0].overlap > 0
    assert keys(index, '"diffusion" noise*') == keys(index, "diffusion noise")


def test_a_work_is_got_by_its_key(index: LocalIndex) -> None:
    assert index.get("vaswani2017attention").title == "Attention Is All You Need"
    with pytest.raises(NotFoundError, match="nobody1900nothing"):
        index.get("nobody1900nothing")


def test_all_gives_the_file_in_order(index: LocalIndex) -> None:
    assert index.all() == WORKS


def test_an_index_of_given_works_knows_only_them() -> None:
    one = WORKS[0]
    index = LocalIndex([one])
    assert [hit.work for hit in index.search(one.title)] == [one]
    assert LocalIndex([]).search("diffusion") == []


def test_threads_share_one_index(index: LocalIndex) -> None:
    queries = ["diffusion noise schedule", "grokking", "peer review", "attention"] * 25
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: keys(index, query), queries)) == [keys(index, query) for query in queries]


def test_it_is_built_in_no_time() -> None:
    started = time.thread_time()
    LocalIndex()
    assert time.thread_time() - started < 1
