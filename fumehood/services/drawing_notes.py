"""A note for each drawing: what it shows, in a sentence or two of a model that is shown its series and no picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment
from fumehood.domain.idea import Idea
from fumehood.services import drawings, fidelity
from fumehood.services.calls import claims_for, question
from fumehood.services.drawings import Drawings, Drawn
from fumehood.services.world import WriteWorld

ROLE = "drawing"
SYSTEM = "You keep a laboratory notebook."
HEADING = "\n## Figures\n"
MOST = 12
"""Drawings that are noted."""
LONGEST = 400
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


class NoteAnswer(BaseModel):
    """One note as a model gives it."""

    file: str
    note: str = Field(max_length=LONGEST)


class NotesAnswer(BaseModel):
    """Notes as a model gives them."""

    notes: list[NoteAnswer] = Field(max_length=MOST)


def form_for(files: tuple[str, ...]) -> type[NotesAnswer]:
    """Return the form of an answer whose notes are of these drawings and no others."""
    file: Any = Literal[files]
    note: Any = create_model("NoteAnswer", __base__=NoteAnswer, file=(file, ...))
    notes: Any = Annotated[list[note], Field(max_length=MOST)]
    return create_model("NotesAnswer", __base__=NotesAnswer, notes=(notes, ...))


def ask(
    world: WriteWorld,
    direction: Direction,
    experiment: Experiment,
    idea: Idea,
    kept: Drawings,
    drawn: Mapping[str, Drawn | None],
) -> dict[str, str]:
    """Return a note for each drawing whose series are known; nobody is asked about the others."""
    told = {one.file: one for one in kept.drawings if drawn.get(one.file) is not None}
    facts = [
        {"file": file, "runs": {run: kept.runs[run] for run in one.runs}, **drawings.summary(known)}
        for file, one in list(told.items())[:MOST]
        if (known := drawn[file]) is not None
    ]
    if not facts:
        return {}
    prompt = world.prompts.render("drawing", facts=json.dumps({"figures": facts}, ensure_ascii=False))
    claims = claims_for(world, direction, ROLE, experiment=experiment, idea=idea.name, index=idea.index, prompt=prompt)
    call = question(world, claims, prompt, system=SYSTEM, max_tokens=2000, temperature=0.0)
    answer = world.model.answer(call, form_for(tuple(str(one["file"]) for one in facts)))
    return {one.file: text for one in answer.notes if (text := _held(one.note, told[one.file].runs, kept.runs))}


def _held(note: str, shown: tuple[str, ...], titles: Mapping[str, str]) -> str:
    """Return what of a note may stand: no number, no praise, and no run that the drawing does not show."""
    called = {run: [run, title] for run, title in titles.items() if run not in shown}
    kept = [
        one
        for one in _SENTENCE.split(" ".join(note.split()))
        if fidelity.quotable(one) and not drawings.named([one], called)
    ]
    return " ".join(kept)


def added(notes: str, said: Mapping[str, str]) -> str:
    """Return the notebook with the notes at its end, in the place of those of an earlier drawing."""
    lines = "".join(f"{file}: {note}\n" for file, note in sorted(said.items()))
    return notes.partition(HEADING)[0] + (HEADING + lines if lines else "")
