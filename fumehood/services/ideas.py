"""Proposing ideas: an archive that is never lost, reflection, scores with reasons, near-duplicates refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from fumehood.domain.catalogue import Entry, EntryKind
from fumehood.domain.direction import Direction
from fumehood.domain.idea import Evidence, Idea, IdeaKind, Novelty, Score
from fumehood.domain.ids import IdeaId, idea_name
from fumehood.domain.step import Event, Step
from fumehood.domain.template import Template
from fumehood.services import catalogue, feedback, lineage, screening, templates
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, Next, happened
from fumehood.services.world import WriteWorld

REFLECTIONS = 3
"""Rounds in all, the first included, as in the original system."""
NEAR = 0.6
"""Two plans that share this part of their content words are one idea under two names."""


class ScoreAnswer(BaseModel):
    """A score as a model gives it."""

    value: int = Field(ge=1, le=10)
    reason: str = Field(max_length=1000)


class IdeaAnswer(BaseModel):
    """An idea as a model gives it."""

    exhausted: bool = False
    done: bool = False
    name: str = Field(default="", max_length=200)
    title: str = Field(default="", max_length=300)
    experiment: str = Field(default="", max_length=8000)
    interestingness: ScoreAnswer | None = None
    feasibility: ScoreAnswer | None = None
    novelty_score: ScoreAnswer | None = None
    kind: IdeaKind = IdeaKind.IMPROVEMENT
    hypothesis: str = Field(default="", max_length=2000)
    metric: str = Field(default="", max_length=200)
    expected: str = Field(default="", pattern="^(lower|higher|)$")
    changes: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=20)
    requests: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=20)


def propose(world: WriteWorld, step: Step) -> Change:
    """Ask for the next idea, have it thought over, and refuse it when the archive has it already."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        archive = tx.ideas.find(direction_id=direction.id)
        guidance = feedback.said(tx, direction.id)
        inherited = lineage.told(tx, world.artifacts, direction)
    index = int(step.payload["index"])
    following = after(direction, index)
    answer, reflections = _ask(world, direction, archive, index, guidance, inherited)
    if answer.exhausted or not answer.title.strip() or not answer.experiment.strip():
        event = happened(world.clock, direction, "idea.none", f"idea {index + 1}: the model had no further idea")
        return Change(steps=(_schedule(direction),), events=(event,))
    idea = _idea(world, direction, archive, index, answer, reflections)
    twin = nearest(idea, archive)
    if twin and twin.overlap >= NEAR:
        idea = dataclasses.replace(
            idea,
            novelty=Novelty.NEAR_DUPLICATE,
            novelty_reason=f"shares {twin.overlap:.0%} of its content words with the earlier idea {twin.key}",
            evidence=(twin,),
        )
        event = happened(
            world.clock, direction, "idea.refused", f"{idea.name}: refused as a near-duplicate of {twin.key}"
        )
        return Change(ideas=(idea,), steps=(following,), events=(event,))
    event = happened(world.clock, direction, "idea.proposed", f"{idea.name}: {idea.title}")
    told = screening.of_idea(idea)
    found = screening.screen(world, direction, told)
    idea = screening.marked(world.policy, idea, found)
    entries = screening.entry(world.clock, world.policy, direction, told, found)
    events = (event, *screening.events(world.clock, world.policy, direction, found, idea.name))
    idea, lacking = _looked_up(world, direction, idea)
    events = (*events, *lacking)
    if idea.is_refused or not direction.novelty:
        return Change(ideas=(idea,), steps=(following,), events=events, audit=entries)
    check = Next(
        name="check_novelty",
        key=f"check_novelty:{idea.id}",
        direction_id=direction.id,
        payload={"idea": idea.id, "index": index},
    )
    return Change(ideas=(idea,), steps=(check,), events=events, audit=entries)


def _looked_up(world: WriteWorld, direction: Direction, idea: Idea) -> tuple[Idea, tuple[Event, ...]]:
    """Return an idea that waits for an admin where it asks for what it cannot have, and what people read of it."""
    template = templates.load(direction.template_files, world.artifacts, direction.template)
    with world.store.begin(write=False) as tx:
        _, why = catalogue.given(tx, direction, template, idea.requests)
    if not why or not idea.goes_on:
        return idea, ()
    return idea.lacking(why), (happened(world.clock, direction, "idea.waits", f"{idea.name}: {why}"),)


def _ask(
    world: WriteWorld, direction: Direction, archive: Sequence[Idea], index: int, guidance: str, found: str
) -> tuple[IdeaAnswer, int]:
    system, task = words_of(world, direction)
    code = world.artifacts.get(templates.start_of(direction)["experiment.py"]).decode(errors="replace")
    seeds = templates.seed_ideas(direction.template_files, world.artifacts)
    earlier = [*seeds, *({"Name": one.name, "Title": one.title, "Experiment": one.experiment} for one in archive)]
    template = templates.load(direction.template_files, world.artifacts, direction.template)
    with world.store.begin(write=False) as tx:
        offered = catalogue.offered(tx, direction, template)
    given: dict[str, str | tuple[str, ...]] = {
        "task": task,
        "direction": direction.text,
        "code": code,
        "metrics": _metrics(template),
        "may_change": ", ".join(template.comparison.may_change) or "anything in the editable files",
        "catalogue": "\n".join(map(_offered, offered)) or "nothing",
        "archive": tuple(json.dumps(one) for one in earlier),
        "parent": found,
    }
    prompt = world.prompts.render("idea", **given, guidance=guidance, number=str(index + 1), total=str(direction.ideas))
    claims = claims_for(world, direction, "idea", index=index, prompt=prompt)
    answer = world.model.answer(question(world, claims, prompt, system=system), IdeaAnswer)
    for number in range(2, REFLECTIONS + 1):
        if answer.exhausted:
            return answer, number - 1
        again = world.prompts.render(
            "reflection",
            **given,
            idea=answer.model_dump_json(exclude={"done", "exhausted"}),
            round=str(number),
            rounds=str(REFLECTIONS),
        )
        claims = claims_for(world, direction, "reflection", index=index, attempt=number, prompt=again)
        thought = world.model.answer(question(world, claims, again, system=system), IdeaAnswer)
        if thought.title.strip() and thought.experiment.strip():
            # What a thought leaves out stays as it was.
            told = thought.model_dump(exclude={"exhausted", "done"}, exclude_unset=True)
            answer = IdeaAnswer.model_validate(answer.model_dump() | {name: one for name, one in told.items() if one})
        if thought.done:
            return answer, number
    return answer, REFLECTIONS


def _offered(entry: Entry) -> str:
    where = " (in the folder that FUMEHOOD_MODELS names)" if entry.kind is EntryKind.MODEL else ""
    size = f"{entry.format} of {entry.bytes:,} bytes"
    return f"{entry.id}: {entry.title}; {entry.kind}{where}, {size}, licence: {entry.licence}"


def _metrics(template: Template) -> str:
    lines = [
        f"{name}: {metric.title or name}, {metric.direction or 'no'} is better, measured by the {metric.source}"
        + (" (primary)" if metric.primary else "")
        for name, metric in template.metrics.items()
    ]
    return "\n".join(lines) or "those that experiment.py writes"


def _idea(
    world: WriteWorld, direction: Direction, archive: Sequence[Idea], index: int, answer: IdeaAnswer, reflections: int
) -> Idea:
    name = free_name(answer.name or answer.title, {one.name for one in archive})
    missing = ScoreAnswer(value=1, reason="not given")
    template = templates.load(direction.template_files, world.artifacts, direction.template)
    return Idea(
        id=IdeaId(world.clock.new_id("idea")),
        direction_id=direction.id,
        index=index,
        name=name,
        title=answer.title.strip(),
        experiment=answer.experiment.strip(),
        interestingness=_score(answer.interestingness or missing),
        feasibility=_score(answer.feasibility or missing),
        novelty_score=_score(answer.novelty_score or missing),
        scored_by="playbook" if direction.model == "offline" else "model",
        kind=answer.kind,
        hypothesis=answer.hypothesis.strip(),
        metric=answer.metric if answer.metric in template.metrics or not template.metrics else "",
        expected=answer.expected,
        changes=tuple(answer.changes),
        # Of a template that takes nothing, nothing was offered.
        requests=catalogue.asked(answer.requests) if template.catalogue.takes_any else (),
        reflections=reflections,
        created_at=world.clock.now(),
    )


def free_name(text: str, taken: Collection[str]) -> str:
    """Return a name for an idea, with a number after it where the plain one is taken."""
    base = name = idea_name(text)
    number = 2
    while name in taken:
        name = f"{base[:36]}_{number}"
        number += 1
    return name


def _score(answer: ScoreAnswer) -> Score:
    return Score(value=answer.value, reason=answer.reason)


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry meaning, lower-case, cut to their first six letters as a crude stem."""
    return frozenset(word[:6] for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 3 and word not in _STOP)


_STOP_WORDS = """
    about above after again against also among because been before being below between both compare each every from
    have into keep kept leave less like make more most only other over same should than that their them then there
    these they this those through under until very were what when where which while will with without would your
"""
_STOP = frozenset(_STOP_WORDS.split())


def nearest(idea: Idea, archive: Sequence[Idea]) -> Evidence | None:
    """Return the earlier idea that shares most of its words with this one (Dice's coefficient), if there is any."""
    own = content_words(f"{idea.title} {idea.experiment}")
    best: Evidence | None = None
    for one in archive:
        other = content_words(f"{one.title} {one.experiment}")
        overlap = 2 * len(own & other) / max(1, len(own) + len(other))
        if best is None or overlap > best.overlap:
            best = Evidence(key=one.name, title=one.title, overlap=round(overlap, 3))
    return best


def after(direction: Direction, index: int) -> Next:
    """Return the step that follows the idea of this index: the next idea, or the experiments."""
    if index + 1 >= direction.ideas:
        return _schedule(direction)
    return Next(
        name="propose",
        key=f"propose:{direction.id}:{index + 1}",
        direction_id=direction.id,
        payload={"index": index + 1},
    )


def _schedule(direction: Direction) -> Next:
    return Next(name="schedule", key=f"schedule:{direction.id}", direction_id=direction.id)
