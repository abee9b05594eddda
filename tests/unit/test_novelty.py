"""The novelty check: what was seen is kept, nothing near proves nothing, and a model's word needs evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fumehood.domain.idea import Idea, Novelty
from fumehood.domain.literature import Hit, Work
from fumehood.errors import NotFoundError
from fumehood.ports import Call
from fumehood.services import ideas, novelty
from tests.fakes.laboratory import Laboratory, script, step_of

WORK = Work(key="ho2020denoising", title="Denoising Diffusion", authors=("Jonathan Ho",), year=2020, venue="NeurIPS")
OTHER = Work(key="other2021", title="Another Work", authors=("Ann Other",), year=2021, venue="ICML")


class Shelf:
    """A literature that finds what a query's first word says, at the overlap that it is told."""

    def __init__(self, **found: Sequence[tuple[Work, float]]) -> None:
        self.found = found
        self.queries: list[str] = []

    def search(self, query: str, limit: int = 10) -> Sequence[Hit]:
        self.queries.append(query)
        hits = self.found.get(query.split(maxsplit=1)[0], ())
        return [Hit(work=work, score=overlap, overlap=overlap) for work, overlap in hits[:limit]]

    def get(self, key: str) -> Work:
        raise NotFoundError(key)

    def bibtex(self, work: Work) -> str:  # noqa: ARG002
        return ""


class Check:
    """One idea, checked with a scripted model over a shelf."""

    def __init__(self, lab: Laboratory, shelf: Shelf) -> None:
        self.lab = lab
        self.world = dataclasses.replace(lab.write, literature=shelf)
        direction = lab.submit(ideas=2)
        change = ideas.propose(self.world, step_of(direction, "propose", index=0))
        lab.save(*change.ideas)
        self.change = novelty.check_novelty(
            self.world, step_of(direction, "check_novelty", idea=change.ideas[0].id, index=0)
        )

    @property
    def idea(self) -> Idea:
        return self.change.ideas[0]


@pytest.fixture
def check(make_lab: Callable[..., Laboratory]) -> Callable[..., Check]:
    def make(shelf: Shelf | None = None, **roles: Any) -> Check:
        return Check(make_lab(model=script(**roles)), shelf or Shelf(near=[(WORK, 0.8)], far=[(OTHER, 0.2)]))

    return make


def queries(*words: str) -> Callable[[Call], dict[str, Any]]:
    return lambda call: {"query": words[call.claims.attempt - 1] if call.claims.attempt <= len(words) else None}


def decided(decision: str, work: str = "") -> dict[str, str]:
    return {"decision": decision, "reason": "because", "work": work}


def test_nothing_near_proves_nothing(check: Callable[..., Check]) -> None:
    found = check(novelty_query=queries("far away"))
    assert (found.idea.novelty, found.idea.evidence) == (Novelty.UNKNOWN, ())
    assert found.idea.goes_on
    assert found.lab.model.asked("novelty_decision") == []
    assert "1 works seen, 0 near" in found.change.events[0].text


def test_without_a_search_nothing_is_known(check: Callable[..., Check]) -> None:
    found = check(novelty_query={"query": "  "})
    assert found.idea.novelty is Novelty.UNKNOWN


@pytest.mark.parametrize("decision", [Novelty.NOVEL, Novelty.NOT_NOVEL, Novelty.UNKNOWN])
@pytest.mark.parametrize("work", ["", WORK.key, WORK.title, WORK.title.upper()])
def test_a_verdict_over_works_that_were_shown_is_taken(
    check: Callable[..., Check], decision: Novelty, work: str
) -> None:
    found = check(novelty_query=queries("near it"), novelty_decision=decided(decision, work))
    assert (found.idea.novelty, found.idea.novelty_reason) == (decision, "because")
    assert [(one.key, one.overlap, one.query) for one in found.idea.evidence] == [(WORK.key, 0.8, "near it")]


@pytest.mark.parametrize("decision", [Novelty.NOVEL, Novelty.NOT_NOVEL])
def test_a_work_that_was_not_shown_is_no_evidence(check: Callable[..., Check], decision: Novelty) -> None:
    found = check(novelty_query=queries("near it"), novelty_decision=decided(decision, "smith2019invented"))
    assert found.idea.novelty is Novelty.UNKNOWN
    assert "not shown" in found.idea.novelty_reason


@pytest.mark.parametrize("decision", [Novelty.UNCHECKED, Novelty.NEAR_DUPLICATE])
def test_a_verdict_that_is_not_the_models_to_give_is_not_taken(check: Callable[..., Check], decision: Novelty) -> None:
    found = check(novelty_query=queries("near it"), novelty_decision=decided(decision))
    assert found.idea.novelty is Novelty.UNKNOWN


def test_the_rounds_are_capped(check: Callable[..., Check]) -> None:
    shelf = Shelf()
    check(shelf, novelty_query=lambda call: {"query": f"round {call.claims.attempt}"})
    assert shelf.queries == [f"round {number}" for number in range(1, novelty.ROUNDS + 1)]
    assert novelty.ROUNDS == 10


def test_a_work_found_twice_is_kept_once_by_its_nearest_query(check: Callable[..., Check]) -> None:
    shelf = Shelf(first=[(WORK, 0.6)], second=[(WORK, 0.9), (OTHER, 0.7)], third=[(WORK, 0.5)])
    found = check(shelf, novelty_query=queries("first", "second", "third"), novelty_decision=decided("novel"))
    assert [(one.key, one.query) for one in found.idea.evidence] == [(WORK.key, "second"), (OTHER.key, "second")]


def test_a_long_query_is_cut(check: Callable[..., Check]) -> None:
    shelf = Shelf()
    check(shelf, novelty_query=queries("word " * 300))
    assert [len(query) for query in shelf.queries] == [novelty.MAX_QUERY]


def test_the_next_idea_follows(check: Callable[..., Check]) -> None:
    assert [(step.name, step.payload) for step in check().change.steps] == [("propose", {"index": 1})]
