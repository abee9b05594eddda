"""The offline model: the same answer each time, from claims, playbook and facts alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.gateway.upstream import UpstreamError
from fumehood.gateway.upstreams.offline import OfflineModel, decide, facts_in, notes_from
from fumehood.llm.prompts import render
from fumehood.services import reading

PLAYBOOK = b"""
[[ideas]]
name = "first_idea"
title = "The first"
experiment = "Try it."
interestingness = 6
interestingness_reason = "because"
feasibility = 8
novelty = 4
kind = "improvement"
hypothesis = "It helps."
metric = "loss"
direction = "lower"
changes = ["lr"]
queries = ["words one", "words two"]
[[ideas.runs]]
title = "A run"
description = "It does this."
[[ideas.runs.attempts]]
reply = "attempt one"
mended = "attempt one, whole"
[[ideas.runs.attempts.open]]
kind = "missing"
file = "experiment.py"
sentence = "A half of it."
[[ideas.runs.attempts]]
reply = "attempt two"
[ideas.plot]
reply = "draw it"
[[ideas]]
name = "Second Idea"
"""


@pytest.fixture
def artifacts() -> MemoryArtifacts:
    return MemoryArtifacts()


def ask(artifacts: MemoryArtifacts, role: str, prompt: str = "?", *, tool: bool = False, **claims: Any) -> Any:
    playbook = claims.pop("playbook", artifacts.put(PLAYBOOK))
    held = Claims(
        tenant=TenantId("t"), direction_id=DirectionId("d"), role=role, model="offline", playbook=playbook, **claims
    )
    body: dict[str, Any] = {"model": "offline", "max_tokens": 99, "messages": [{"role": "user", "content": prompt}]}
    if tool:
        body |= {"tools": [{"name": "answer"}], "tool_choice": {"type": "tool", "name": "answer"}}
    message = OfflineModel(artifacts).send(held, body)
    assert message == OfflineModel(artifacts).send(held, body)
    (block,) = message["content"]
    return block["input"] if block["type"] == "tool_use" else block["text"]


def test_an_idea_is_the_playbook_s_by_its_index(artifacts: MemoryArtifacts) -> None:
    idea = ask(artifacts, "idea", tool=True, index=0)
    assert idea["name"] == "first_idea"
    assert idea["interestingness"] == {"value": 6, "reason": "because"}
    assert idea["novelty_score"] == {"value": 4, "reason": ""}
    assert (idea["expected"], idea["changes"]) == ("lower", ["lr"])
    assert ask(artifacts, "idea", tool=True, index=2) == {"exhausted": True}
    assert json.loads(ask(artifacts, "idea", index=2).split("\n")[1]) == {"exhausted": True}


def test_thinking_it_over_gives_the_same_idea(artifacts: MemoryArtifacts) -> None:
    idea = ask(artifacts, "idea", tool=True, index=0)
    assert ask(artifacts, "reflection", tool=True, index=0) == {**idea, "done": True}
    assert ask(artifacts, "reflection", tool=True, idea="first_idea") == {**idea, "done": True}


def test_queries_come_in_turn_and_end(artifacts: MemoryArtifacts) -> None:
    asked = [ask(artifacts, "novelty_query", tool=True, idea="first_idea", attempt=at) for at in (1, 2, 3)]
    assert [one["query"] for one in asked] == ["words one", "words two", None]


@pytest.mark.parametrize(
    ("overlaps", "decision"),
    [
        ([], "unknown"),
        ([0.49, 0.1], "unknown"),
        ([0.5], "unknown"),
        ([0.94, 0.2], "unknown"),
        ([0.1, 0.95], "not_novel"),
    ],
)
def test_novelty_follows_from_the_overlap(artifacts: MemoryArtifacts, overlaps: list[float], decision: str) -> None:
    evidence = [{"key": "k", "title": f"Work {overlap}", "overlap": overlap} for overlap in overlaps]
    prompt = render("novelty_decision", idea="i", task="t", found="f", facts=json.dumps({"evidence": evidence})).text
    answer = ask(artifacts, "novelty_decision", prompt, tool=True, idea="first_idea")
    assert answer["decision"] == decision
    if overlaps:
        assert f"Work {max(overlaps)}" in answer["reason"]
        assert f"{max(overlaps):.2f}" in answer["reason"]


def test_edits_follow_run_and_attempt_and_end(artifacts: MemoryArtifacts) -> None:
    def edit(run: int, attempt: int) -> str:
        return str(ask(artifacts, "coder", idea="first_idea", run=run, attempt=attempt))

    assert edit(1, 1).endswith("attempt one")
    assert edit(1, 2).endswith("attempt two")
    assert edit(1, 3) == "No further edit."
    assert edit(2, 1) == "ALL_COMPLETED"
    assert ask(artifacts, "plot", idea="first_idea", attempt=1) == "draw it"
    assert ask(artifacts, "plot", idea="second_idea") == "No further edit."


def test_figures_name_the_runs_that_there_are_and_no_others(artifacts: MemoryArtifacts) -> None:
    reply = 'labels = {\n    "run_0": "Baseline",\n    "run_1": "One",\n    "run_2": "Two",\n}\n'
    playbook = artifacts.put(PLAYBOOK.replace(b'"draw it"', json.dumps(reply).encode()))

    def drawn(*runs: str) -> str:
        facts = json.dumps({"runs": runs})
        prompt = render("plot", title="t", experiment="e", runs="r", failure="", facts=facts).text
        return str(ask(artifacts, "plot", prompt, idea="first_idea", attempt=1, playbook=playbook))

    assert drawn("run_0", "run_1", "run_2") == reply
    assert drawn("run_0", "run_2") == reply.replace('    "run_1": "One",\n', "")


def test_a_figures_note_follows_from_its_series(artifacts: MemoryArtifacts) -> None:
    def line(axes: int, label: str, last: float) -> dict[str, Any]:
        return {"axes": axes, "kind": "line", "label": label, "n": 9, "last": last}

    def noted(*series: dict[str, Any]) -> str:
        figure = {
            "file": "loss.png",
            "runs": {"run_0": "Baseline", "run_1": "Cosine schedule"},
            "axes": [{"title": "circle", "x": "training step", "y": "loss"}],
            "series": list(series),
        }
        prompt = render("drawing", facts=json.dumps({"figures": [figure]})).text
        (note,) = ask(artifacts, "drawing", prompt, tool=True)["notes"]
        assert note["file"] == "loss.png"
        return str(note["note"])

    said = "Drawn are the loss over the training step of Baseline and Cosine schedule."
    assert noted() == said
    first = [line(0, "Baseline", 2.0), line(0, "Cosine schedule", 1.0)]
    assert noted(*first) == f"{said} At its end, the curve of Cosine schedule lies lowest."
    second = [line(1, "Baseline", 3.0), line(1, "Cosine schedule", 2.5)]
    assert noted(*first, *second) == f"{said} At its end, the curve of Cosine schedule lies lowest in every panel."
    third = [line(2, "Baseline", 1.0), line(2, "Cosine schedule", 2.5)]
    assert noted(*first, *second, *third).endswith(" lies lowest in two of three panels.")


def test_refining_changes_nothing_and_nothing_more_is_cited(artifacts: MemoryArtifacts) -> None:
    draft = "A line.\n\n\\emph{Another} line.\n"
    prompt = render("refine", subject="method", draft=draft, problems="</draft>\nmore", notes="", facts="{}").text
    assert ask(artifacts, "refine", prompt) == draft
    assert ask(artifacts, "refine", '<facts>\n{"text": "so"}\n</facts>') == "so"
    assert ask(artifacts, "citation", tool=True) == {"queries": []}


def test_notes_quote_the_facts_alone(artifacts: MemoryArtifacts) -> None:
    facts = {"run": 2, "title": "Wider.", "metric": "loss", "value": 0.51234, "baseline": 0.6, "verdict": "succeeded"}
    prompt = render("notes", run="2", output="loss 0.0001", facts=json.dumps(facts)).text
    notes = ask(artifacts, "notes", prompt)
    assert "0.5123" in notes
    assert "0.6 for the baseline" in notes
    assert "0.0001" not in notes
    assert 2 <= notes.count(". ") + 1 <= 4
    assert "record" in notes_from({})


@pytest.mark.parametrize(
    ("role", "claims", "message"),
    [
        ("idea", {"playbook": ""}, "no playbook for this template"),
        ("idea", {"playbook": "0" * 64}, "no playbook for this template"),
        ("coder", {"idea": "unknown"}, "no idea named 'unknown'"),
        ("poet", {}, "no answer for the role 'poet'"),
        ("refine", {}, "not shown"),
    ],
)
def test_what_it_cannot_answer_it_says(
    artifacts: MemoryArtifacts, role: str, claims: dict[str, Any], message: str
) -> None:
    with pytest.raises(UpstreamError, match=message) as caught:
        ask(artifacts, role, **claims)
    assert caught.value.status == 400


@pytest.mark.parametrize("text", [b"not = = toml", b'[[ideas]]\ntitle = "no name"\n', b"ideas = 5", b"\xff"])
def test_a_malformed_playbook_is_told(artifacts: MemoryArtifacts, text: bytes) -> None:
    with pytest.raises(UpstreamError, match="playbook"):
        ask(artifacts, "idea", playbook=artifacts.put(text))


def test_it_never_listens_to_a_prompt(artifacts: MemoryArtifacts) -> None:
    prompt = "Role: coder. You are to write the section now. ALL_COMPLETED"
    assert ask(artifacts, "idea", prompt, tool=True, index=0) == ask(artifacts, "idea", tool=True, index=0)


def test_the_last_block_of_facts_counts() -> None:
    assert facts_in('<facts>\n{"a": 1}\n</facts>\ntext\n<facts>\n{"a": 2}\n</facts>') == {"a": 2}
    assert facts_in('stray\n<facts>\nstray\n<facts>\n{"a": 3}\n</facts>\n') == {"a": 3}
    assert facts_in("none") == {}
    with pytest.raises(UpstreamError, match="not JSON"):
        facts_in("<facts>\n{\n</facts>")


@given(st.text())
def test_no_text_breaks_the_reading_of_facts(text: str) -> None:
    try:
        facts_in(text)
    except UpstreamError as error:
        assert error.status == 400  # noqa: PT017 - either outcome is right


@given(st.lists(st.fixed_dictionaries({"overlap": st.floats(0, 1), "title": st.text()})))
def test_a_verdict_has_always_a_reason(evidence: list[dict[str, Any]]) -> None:
    verdict = decide(list(evidence))
    assert verdict["reason"]
    assert (verdict["decision"] == "unknown") == all(item["overlap"] < 0.95 for item in evidence)
    near = any(item["overlap"] >= 0.5 for item in evidence)
    assert ("a word count cannot judge" in verdict["reason"]) == (near and verdict["decision"] == "unknown")


class TestFidelity:
    """The playbook knows which of its edits are whole, and says so of nothing else."""

    FILES = '<facts>\n{"files": ["experiment.py", "serve.py"]}\n</facts>'

    def told(self, artifacts: MemoryArtifacts, prompt: str = FILES, **claims: Any) -> Any:
        return ask(artifacts, "fidelity", prompt, tool=True, idea="first_idea", run=1, **claims)

    def test_an_edit_that_is_not_whole_is_told_until_it_is_mended(self, artifacts: MemoryArtifacts) -> None:
        point = {"kind": "missing", "file": "experiment.py", "sentence": "A half of it."}
        assert self.told(artifacts, attempt=1, subject="edit")["points"] == [point]
        whole = self.told(artifacts, attempt=1, subject="mended")
        assert [one["kind"] for one in whole["points"]] == ["implemented"]
        assert whole["points"][0]["sentence"] == "As the playbook has it: It does this."
        assert (whole["changes"], whole["departs"]) == (["architecture"], [])
        assert self.told(artifacts, attempt=2, subject="edit") == whole

    def test_it_speaks_of_the_files_that_it_is_shown(self, artifacts: MemoryArtifacts) -> None:
        other = self.told(artifacts, '<facts>\n{"files": ["serve.py"]}\n</facts>', attempt=1, subject="edit")
        assert [(one["kind"], one["file"]) for one in other["points"]] == [("implemented", "serve.py")]
        with pytest.raises(UpstreamError, match="shown no file"):
            self.told(artifacts, "?", attempt=1)

    def test_every_answer_has_the_form_that_is_asked_for(self, artifacts: MemoryArtifacts) -> None:
        for claims in ({"attempt": 1, "subject": "edit"}, {"attempt": 9, "subject": "mended"}):
            reading.form_for(["experiment.py", "serve.py"]).model_validate(self.told(artifacts, **claims))

    def test_the_coder_mends_what_went_back_and_has_no_more(self, artifacts: MemoryArtifacts) -> None:
        heading = "RUN: A run | It does this.\n\n"
        given = {"idea": "first_idea", "run": 1}
        assert ask(artifacts, "coder", attempt=1, **given) == f"{heading}attempt one"
        assert ask(artifacts, "coder", attempt=1, subject="mended", **given) == f"{heading}attempt one, whole"
        assert ask(artifacts, "coder", attempt=2, subject="mended", **given) == "No further edit."
