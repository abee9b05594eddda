"""Is an idea new: a search of works that exist, the evidence kept, and a verdict with its reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from pydantic import BaseModel, Field

from fumehood.domain.direction import Direction
from fumehood.domain.idea import Evidence, Idea, Novelty
from fumehood.domain.step import Step
from fumehood.services import ideas
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, happened
from fumehood.services.world import WriteWorld

ROUNDS = 10
RESULTS = 10
NEAR = 0.5
"""Works that share less of the query's words than this are not near."""
MAX_QUERY = 300


class QueryAnswer(BaseModel):
    """The next search, or none when enough was seen."""

    query: str | None = Field(default=None, max_length=2000)


class DecisionAnswer(BaseModel):
    """The verdict. `work` must be the key or the title of a work that was shown, or empty."""

    decision: Novelty
    reason: str = Field(max_length=2000)
    work: str = Field(default="", max_length=200)


def check_novelty(world: WriteWorld, step: Step) -> Change:
    """Search, decide, and keep what was seen; nothing near proves nothing, and is `unknown`."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        idea = tx.ideas.get(str(step.payload["idea"]))
    system, task = words_of(world, direction)
    evidence: dict[str, Evidence] = {}
    for number in range(1, ROUNDS + 1):
        prompt = world.prompts.render(
            "novelty_query",
            idea=_plain(idea),
            task=task,
            found=_shown(evidence.values()),
            round=str(number),
            rounds=str(ROUNDS),
        )
        claims = claims_for(world, direction, "novelty_query", idea=idea.name, attempt=number, prompt=prompt)
        query = world.model.answer(question(world, claims, prompt, system=system), QueryAnswer).query
        if not query or not query.strip():
            break
        for hit in world.literature.search(query[:MAX_QUERY], RESULTS):
            known = evidence.get(hit.work.key)
            if known is None or hit.overlap > known.overlap:
                evidence[hit.work.key] = Evidence(
                    key=hit.work.key, title=hit.work.title, overlap=round(hit.overlap, 3), query=query[:MAX_QUERY]
                )
    near = tuple(sorted((one for one in evidence.values() if one.overlap >= NEAR), key=lambda one: -one.overlap))
    verdict, reason = Novelty.UNKNOWN, "nothing near was found in the sources at hand"
    if near:
        verdict, reason = _decide(world, direction, idea, near, (system, task))
    idea = dataclasses.replace(idea, novelty=verdict, novelty_reason=reason, evidence=near[:RESULTS])
    text = f"{idea.name}: {verdict.value.replace('_', ' ')} ({len(evidence)} works seen, {len(near)} near)"
    event = happened(world.clock, direction, "idea.checked", text)
    return Change(ideas=(idea,), steps=(ideas.after(direction, int(step.payload["index"])),), events=(event,))


def _decide(
    world: WriteWorld, direction: Direction, idea: Idea, near: tuple[Evidence, ...], words: tuple[str, str]
) -> tuple[Novelty, str]:
    system, task = words
    facts = {"evidence": [dataclasses.asdict(one) for one in near[:RESULTS]]}
    prompt = world.prompts.render(
        "novelty_decision",
        idea=_plain(idea),
        task=task,
        found=_shown(near),
        facts=json.dumps(facts),
    )
    claims = claims_for(world, direction, "novelty_decision", idea=idea.name, prompt=prompt)
    answer = world.model.answer(question(world, claims, prompt, system=system), DecisionAnswer)
    if answer.decision not in {Novelty.NOVEL, Novelty.NOT_NOVEL, Novelty.UNKNOWN}:
        return Novelty.UNKNOWN, "the model gave no usable verdict"
    shown = {one.key.lower() for one in near} | {one.title.lower() for one in near}
    if answer.work.strip() and answer.work.strip().lower() not in shown:
        return Novelty.UNKNOWN, "the model named a work that it was not shown"
    return answer.decision, answer.reason


def _plain(idea: Idea) -> str:
    return f"{idea.title}\n{idea.experiment}"


def _shown(evidence: Iterable[Evidence]) -> tuple[str, ...]:
    """Return a line for each work; a work's own words stay on it."""
    lines = (f"[{one.key}] {' '.join(one.title.split())} (overlap {one.overlap:.2f})" for one in evidence)
    return tuple(lines) or ("none yet",)
