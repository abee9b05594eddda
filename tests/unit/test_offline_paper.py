"""The prose of the paper without a language model follows the data."""

from __future__ import annotations

import re

import pytest

from fumehood.gateway.upstreams import offline_paper
from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.services import placeholders, prose, revision, writeup
from fumehood.services.fact_types import Facts
from fumehood.services.placeholders import Tools
from tests.fakes import papers

TOOLS = Tools(literature=LocalIndex(), typesetter=Latex())
GOOD = dict.fromkeys(papers.BASE, -8.0)
BAD = dict.fromkeys(papers.BASE, 8.0)
CASES = {
    "mixed": papers.make(),
    "good and bad": papers.make([GOOD, BAD]),
    "only bad": papers.make([BAD, BAD]),
    "failed": papers.make([None, {"dino": -1}, None], attempts={}),
    "five": papers.make([{}, {"dino": -2}, GOOD, {"line": 1}, BAD]),
    "no figures": papers.make([{}], figures=()),
}


def paper(facts: Facts) -> dict[str, str]:
    return {section: offline_paper.compose(section, facts, papers.playbook()) for section in writeup.SECTIONS}


@pytest.mark.parametrize("name", CASES)
def test_nothing_in_it_has_to_be_mended(name: str) -> None:
    seen: set[str] = set()
    for section, text in paper(CASES[name]).items():
        fixed, problems = revision.revise(section, text, CASES[name], TOOLS, seen=seen)
        assert problems == (), section
        if section != "title":
            seen |= prose.keys(fixed)


@pytest.mark.parametrize("name", CASES)
def test_every_section_has_something_to_say_and_every_idea_of_the_playbook_can_be_written(name: str) -> None:
    written = paper(CASES[name])
    assert all(written.values())
    assert sum(map(prose.words, written.values())) > 2600


def test_the_same_facts_give_the_same_paper() -> None:
    assert paper(CASES["five"]) == paper(papers.make([{}, {"dino": -2}, GOOD, {"line": 1}, BAD]))


def test_turning_a_result_round_turns_sentence_label_and_abstract() -> None:
    good, bad = paper(papers.make([GOOD])), paper(papers.make([BAD]))
    assert "lower, or" in good["results"]
    assert "higher, or" in bad["results"]
    assert "on the unwanted side" in bad["results"]
    assert "on the unwanted side" not in good["results"]
    assert "is promising by the screen's rule" in good["abstract"]
    assert "No variant lies on the wanted side" in bad["abstract"]
    assert good["conclusion"] != bad["conclusion"]


def test_the_strongest_word_is_promising() -> None:
    for facts in CASES.values():
        for section, text in paper(facts).items():
            assert not re.search(r"\b(better|improves|outperform|superior|significant)", text), section


def test_it_says_that_the_outcome_is_inconclusive_where_readers_look() -> None:
    written = paper(CASES["good and bad"])
    for section in revision.OUTCOME_SECTIONS:
        assert "inconclusive" in written[section].lower()


def test_a_run_that_gave_nothing_is_told_as_a_gap() -> None:
    written = paper(CASES["failed"])
    assert "Four attempts at \\emph{Cosine schedule} ended with an error" in written["results"]
    assert "RuntimeError" in written["results"]
    assert "Two planned variants gave no number." in written["abstract"]


def test_a_mended_run_is_told_with_its_failed_attempt() -> None:
    assert "did not work at once: one earlier attempt" in paper(CASES["mixed"])["results"]


def test_fifteen_works_at_least_are_cited() -> None:
    keys: set[str] = set()
    for section, text in paper(CASES["mixed"]).items():
        keys |= set(placeholders.render(section, text, CASES["mixed"], TOOLS).keys)
    assert len(keys) >= 15


def test_no_run_is_called_by_its_number() -> None:
    for text in paper(CASES["five"]).values():
        assert not re.search(r"\b[Rr]un[ _~]\d", placeholders.MARK.sub("", text))


def test_a_subject_that_it_does_not_know_gives_nothing() -> None:
    assert offline_paper.compose("acknowledgements", CASES["mixed"], {}) == ""


def test_without_a_playbook_it_still_writes() -> None:
    written = {section: offline_paper.compose(section, CASES["mixed"], {}) for section in writeup.SECTIONS}
    assert all(written.values())


def test_its_review_judges_nothing() -> None:
    checks = [{"name": "A", "held": True, "detail": ""}, {"name": "B", "held": False, "detail": "why"}]
    form = offline_paper.review({"checks": checks, "outcome": "inconclusive", "limitations": []})
    assert form["overall"] is None
    assert form["decision"] is None
    assert form["strengths"] == ["Checked and held: A."]
    assert form["weaknesses"] == ["Checked and not held: B: why."]
