"""The prose of the paper without a language model follows the data."""

from __future__ import annotations

import copy
import re

import pytest

from fumehood.domain.idea import Novelty
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
    assert "does not lie on the wanted side" in bad["abstract"]
    assert "No variant lies on the wanted side" in paper(CASES["only bad"])["abstract"]
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
    assert "an unchanged baseline and one variant on four data sets" in written["abstract"]


def test_the_scale_counts_what_was_measured() -> None:
    facts = CASES["five"]
    runs = [dict(run) for run in facts["runs"]]
    runs[0] |= {"metrics": {}, "attempts": [{"verdict": "failed", "error": "ValueError"}]}
    abstract = paper({**facts, "runs": runs})["abstract"]
    assert (
        f"We measure an unchanged baseline and {['', 'one', 'two', 'three', 'four'][len(runs) - 1]} variants"
        in abstract
    )


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


@pytest.mark.parametrize("novelty", list(Novelty))
def test_nothing_is_called_novel_and_a_search_is_told_only_where_there_was_one(novelty: Novelty) -> None:
    far = paper(papers.make(idea=papers.idea(novelty=novelty, evidence=())))["related_work"]
    assert ("The literature was not searched" in far) == (novelty is Novelty.UNCHECKED)
    assert ("the search found no work close enough" in far) == (novelty is not Novelty.UNCHECKED)
    near = paper(papers.make(idea=papers.idea(novelty=novelty)))["related_work"]
    assert "None of them was found" not in near
    assert ("listed by a count of shared words, and nobody judged" in near) == (novelty is not Novelty.UNCHECKED)


@pytest.mark.parametrize("shift", [GOOD, BAD, {}, {"dino": -2}])
def test_one_variant_is_never_told_as_several(shift: dict[str, float]) -> None:
    written = " ".join(paper(papers.make([shift], direction=papers.direction(runs=1))).values())
    for wrong in ("several variants", "one variants", "all one", "number of variants", "every variant", "No variant"):
        assert wrong not in written
    assert "the one variant that was carried out, of two in the plan" in written
    assert "Of the two variants in the plan, one was carried out, for the study was limited to one variant" in written
    assert "One variant of the plan was not carried out" in written


def test_two_are_both_and_a_whole_plan_is_told_as_planned() -> None:
    written = paper(papers.make([GOOD, GOOD]))
    assert "Both contrasts lie" in written["results"]
    assert "on which both variants were looked at" in written["results"]
    assert "every variant that was planned" in written["introduction"]
    assert "not carried out" not in written["limitations"]
    assert "All three contrasts lie" in paper(papers.make([GOOD, GOOD, GOOD]))["results"]


@pytest.mark.parametrize(("noise", "p", "said"), [(0.5, 0.01, "clearer"), (5.0, 0.2, "less sure"), (5.0, 0.01, "")])
def test_the_raw_gap_does_not_speak_against_the_contrast(noise: float, p: float, said: str) -> None:
    facts = copy.deepcopy(papers.make([GOOD]))
    run = facts["runs"][0]
    assert run["contrast"]
    run["metrics"]["kl_divergence"]["noise"], run["contrast"]["p"] = noise, p
    results = paper(facts)["results"]
    assert said in results
    assert bool(said) == ("weighs each data set by its own spread and counts" in results or "clearer" in results)
    assert "by chance" not in results
    assert "chance alone" not in results
    assert results.count("dominated by the noisiest data set, here dino") == 1


@pytest.mark.parametrize(("dino", "told"), [(4.3, True), (0.6, False)])
def test_a_data_set_that_the_baseline_does_not_learn_is_named(dino: float, told: bool) -> None:
    facts = copy.deepcopy(papers.make())
    facts["baseline"]["metrics"]["kl_divergence"]["datasets"]["dino"]["mean"] = dino
    assert ("The baseline itself does not learn dino (" in paper(facts)["limitations"]) == told


def test_what_was_not_measured_is_not_said() -> None:
    written = " ".join(paper(CASES["mixed"]).values())
    for wrong in ("more than many published gains", "limited capacity or from finite", "Grey points"):
        assert wrong not in written
    assert "may be the luck of the seeds" in written


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
