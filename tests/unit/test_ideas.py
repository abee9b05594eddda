"""Proposing ideas: the archive grows, thinking over ends, and the same idea under another name is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fumehood.domain.idea import Idea, IdeaKind, Novelty, Score
from fumehood.domain.ids import DirectionId, IdeaId
from fumehood.ports import Call
from fumehood.services import ideas
from fumehood.services.ideas import IdeaAnswer, content_words, nearest
from tests.fakes.laboratory import IDEAS, SCORE, Laboratory, script, step_of

FULL = {**IDEAS[0], "interestingness": SCORE, "feasibility": SCORE, "novelty_score": SCORE}


def idea(title: str, experiment: str = "", **changes: Any) -> Idea:
    score = Score(value=5, reason="")
    given = Idea(
        id=IdeaId(f"idea_{title}"),
        direction_id=DirectionId("dir_1"),
        index=0,
        name=title.lower().replace(" ", "_")[:20] or "x",
        title=title,
        experiment=experiment,
        interestingness=score,
        feasibility=score,
        novelty_score=score,
        scored_by="model",
    )
    return dataclasses.replace(given, **changes)


class Proposing:
    """A laboratory that proposes an idea at a time."""

    def __init__(self, lab: Laboratory, **submitted: Any) -> None:
        self.lab = lab
        self.direction = lab.submit(**{"ideas": 3, **submitted})

    def propose(self, index: int) -> Any:
        change = ideas.propose(self.lab.write, step_of(self.direction, "propose", index=index))
        self.lab.save(*change.ideas)
        return change


@pytest.fixture
def proposing(make_lab: Callable[..., Laboratory]) -> Callable[..., Proposing]:
    def make(*, submitted: dict[str, Any] | None = None, **roles: Any) -> Proposing:
        return Proposing(make_lab(model=script(**roles)), **(submitted or {}))

    return make


class TestPropose:
    def test_an_idea_is_kept_with_everything_that_it_promises(self, proposing: Callable[..., Proposing]) -> None:
        change = proposing().propose(0)
        (kept,) = change.ideas
        assert (kept.name, kept.kind, kept.expected, kept.changes) == (
            "smaller_scale",
            IdeaKind.IMPROVEMENT,
            "lower",
            ("scale",),
        )
        assert (kept.interestingness, kept.scored_by) == (Score(value=5, reason="ordinary"), "playbook")
        assert [step.name for step in change.steps] == ["check_novelty"]

    def test_another_model_than_the_offline_one_scores_as_a_model(self, proposing: Callable[..., Proposing]) -> None:
        (kept,) = proposing(submitted={"model": "a-model"}).propose(0).ideas
        assert kept.scored_by == "model"

    def test_the_prompt_shows_seed_ideas_and_the_archive(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing()
        bench.propose(0)
        bench.propose(1)
        last = bench.lab.model.asked("idea")[-1]
        assert "A seed" in last.prompt
        assert "A Smaller Scale for Circles" in last.prompt
        assert last.claims.index == 1

    def test_without_the_novelty_check_the_next_idea_follows_at_once(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing(submitted={"novelty": False})
        assert [(step.name, step.payload) for step in bench.propose(0).steps] == [("propose", {"index": 1})]
        assert [step.name for step in bench.propose(2).steps] == ["schedule"]

    def test_missing_scores_are_the_lowest_and_say_so(self, proposing: Callable[..., Proposing]) -> None:
        (kept,) = proposing(idea=IDEAS[0]).propose(0).ideas
        assert kept.feasibility == Score(value=1, reason="not given")

    @pytest.mark.parametrize("answer", [{"exhausted": True}, {}, {**FULL, "title": " "}, {**FULL, "experiment": ""}])
    def test_no_further_idea_ends_the_proposing(
        self, proposing: Callable[..., Proposing], answer: dict[str, Any]
    ) -> None:
        change = proposing(idea=answer, reflection={"done": True}).propose(1)
        assert change.ideas == ()
        assert [step.name for step in change.steps] == ["schedule"]

    @pytest.mark.parametrize("score", [0, 11, 4.5])
    def test_a_score_is_from_one_to_ten(self, score: float) -> None:
        with pytest.raises(ValidationError):
            IdeaAnswer.model_validate({**FULL, "feasibility": {"value": score, "reason": ""}})


class TestReflection:
    def test_it_ends_when_nothing_is_to_be_changed(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing(reflection={**FULL, "title": "Better", "done": True})
        (kept,) = bench.propose(0).ideas
        assert (kept.title, kept.reflections) == ("Better", 2)
        assert len(bench.lab.model.asked("reflection")) == 1

    def test_it_goes_on_to_the_last_round_and_no_further(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing(reflection=lambda call: {**FULL, "title": f"Round {call.claims.attempt}"})
        (kept,) = bench.propose(0).ideas
        assert (kept.title, kept.reflections) == ("Round 3", ideas.REFLECTIONS)
        assert [call.claims.attempt for call in bench.lab.model.asked("reflection")] == [2, 3]

    def test_an_empty_thought_changes_nothing(self, proposing: Callable[..., Proposing]) -> None:
        (kept,) = proposing(reflection={}).propose(0).ideas
        assert kept.title == IDEAS[0]["title"]

    def test_a_thought_may_leave_out_what_stays(self, proposing: Callable[..., Proposing]) -> None:
        thought = {"title": "Sharper", "experiment": "A sharper plan.", "done": True}
        (kept,) = proposing(idea=FULL, reflection=thought).propose(0).ideas
        assert (kept.title, kept.name, kept.feasibility.value) == ("Sharper", "smaller_scale", 5)

    def test_an_exhausted_model_is_not_asked_to_think(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing(idea={"exhausted": True})
        bench.propose(0)
        assert bench.lab.model.asked("reflection") == []


class TestNames:
    def test_names_become_folder_names_and_never_collide(self, proposing: Callable[..., Proposing]) -> None:
        plans = iter(["alpha bravo charlie", "delta echo foxtrot", "hotel india juliet"])

        def same_name(_: Call) -> dict[str, Any]:
            plan = next(plans)
            return {**FULL, "name": "../../Wider Net!" + "x" * 40, "title": plan, "experiment": plan}

        bench = proposing(idea=same_name)
        for index in range(3):
            bench.propose(index)
        names = [one.name for one in bench.lab.ideas()]
        assert len(set(names)) == 3
        assert all(len(name) <= 40 and name.startswith("wider_net") for name in names)

    def test_an_idea_without_a_name_is_called_by_its_title(self, proposing: Callable[..., Proposing]) -> None:
        (kept,) = proposing(idea={**FULL, "name": ""}).propose(0).ideas
        assert kept.name == "a_smaller_scale_for_circles"


class TestNearDuplicates:
    def test_one_is_refused_kept_in_the_archive_and_the_next_is_asked_for(
        self, proposing: Callable[..., Proposing]
    ) -> None:
        bench = proposing(idea=FULL)
        bench.propose(0)
        change = bench.propose(1)
        (twin,) = change.ideas
        assert (twin.name, twin.novelty, twin.goes_on) == ("smaller_scale_2", Novelty.NEAR_DUPLICATE, False)
        assert twin.evidence[0].key == "smaller_scale"
        assert "100% of its content words" in twin.novelty_reason
        assert [step.name for step in change.steps] == ["propose"]
        assert len(bench.lab.ideas()) == 2

    def test_other_words_for_another_thing_are_not_refused(self, proposing: Callable[..., Proposing]) -> None:
        bench = proposing()
        for index in range(3):
            bench.propose(index)
        assert [one.novelty for one in bench.lab.ideas()] == [Novelty.UNCHECKED] * 3


WORDS = st.text(alphabet=st.sampled_from("abcdefgh XYZ.é-7\n"), max_size=60)


class TestWords:
    @given(text=st.text(max_size=200))
    def test_content_words_are_short_stems_whatever_the_text(self, text: str) -> None:
        found = content_words(text)
        assert all(4 <= len(word) <= 6 and word == word.lower() for word in found)
        assert content_words(f"{text} {text}") == found
        assert content_words(text.upper()) >= {word for word in found if word.isascii()} or not text.isascii()

    @given(text=st.text(alphabet="abc xyz", max_size=60), other=st.text(alphabet="abc xyz", max_size=60))
    def test_the_words_of_two_texts_are_the_words_of_both(self, text: str, other: str) -> None:
        assert content_words(f"{text} {other}") == content_words(text) | content_words(other)

    def test_grammar_and_short_words_say_nothing(self) -> None:
        assert content_words("Does this work with the new net and without it?") == {"does", "work"}

    @given(one=WORDS, plan=WORDS, other=WORDS)
    def test_nearness_is_the_same_from_both_sides_and_between_nothing_and_all(
        self, one: str, plan: str, other: str
    ) -> None:
        there, back = nearest(idea(one, plan), [idea(other)]), nearest(idea(other), [idea(one, plan)])
        assert there is not None
        assert back is not None
        assert there.overlap == back.overlap
        assert 0.0 <= there.overlap <= 1.0

    @given(text=WORDS)
    def test_an_idea_is_nearest_to_itself(self, text: str) -> None:
        found = nearest(idea(text), [idea("wholly different"), idea(text)])
        assert found is not None
        assert found.overlap == 1.0 or not content_words(text)

    def test_without_an_archive_nothing_is_near(self) -> None:
        assert nearest(idea("Anything"), []) is None
