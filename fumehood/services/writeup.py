"""Writing the paper: section by section, then typeset in a container, with the log fed back until it compiles."""

from __future__ import annotations

import dataclasses
import json
import re

from fumehood.domain.execution import Kind, Verdict
from fumehood.domain.experiment import Execution, ExperimentState
from fumehood.domain.step import Step
from fumehood.errors import NotFoundError, WorkFailedError
from fumehood.ports import Prompt
from fumehood.services import paper, prose, revision, templates, trials
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, Next, happened
from fumehood.services.paper import Manuscript, Subject
from fumehood.services.wanting import wanted
from fumehood.services.world import WriteWorld

SECTIONS = (
    "introduction",
    "background",
    "method",
    "experimental_setup",
    "results",
    "related_work",
    "limitations",
    "conclusion",
    "abstract",
    "title",
)
"""In the order in which they are written."""
CORRECTIONS = 5
LOG_TAIL = 3000
LONGEST_SECTION = 40_000
"""Characters of a section; what a model writes beyond is left out, by the paragraph."""
COMPILE = (
    "O='-no-shell-escape -interaction=nonstopmode -file-line-error'; "
    "pdflatex $O main.tex >/dev/null 2>&1; bibtex main >/dev/null 2>&1; "
    "pdflatex $O main.tex >/dev/null 2>&1; pdflatex $O main.tex >/dev/null 2>&1; status=$?; "
    "if grep -q 'Rerun to get' main.log; then pdflatex $O main.tex >/dev/null 2>&1; status=$?; fi; exit $status"
)
_LINE = re.compile(r"^Line (\d+):")
_UNDEFINED = re.compile(r"^The (?:reference|citation) (\S+) is undefined")
_PAGES = re.compile(r"Output written on \S+ \((\d+) pages?,")


def write_section(world: WriteWorld, step: Step) -> Change:
    """Have one section written; what is wrong with it is told once, then mended without the model."""
    subject = paper.read(world, step)
    section = str(step.payload["section"])
    draft = dict(subject.experiment.draft)
    seen = {key for name, text in draft.items() if name not in {section, "title"} for key in prose.keys(text)}
    tools = paper.tools_of(world)
    answer = _ask(world, subject, section)
    text, problems = revision.revise(section, answer, subject.facts, tools, seen=seen)
    if problems:
        again = _ask_again(world, subject, section, revision.tidy(section, answer), problems)
        second, left = revision.revise(section, again, subject.facts, tools, seen=seen)
        if second and len(left) <= len(problems):
            text = second
    draft[section] = text
    experiment = dataclasses.replace(subject.experiment, draft=draft)
    at = SECTIONS.index(section)
    following = (
        _section_next(experiment.id, step, SECTIONS[at + 1]) if at + 1 < len(SECTIONS) else _typeset_next(step, 0)
    )
    words = prose.words(text)
    event = happened(
        world.clock, step, "paper.section", f"{experiment.name}: {section.replace('_', ' ')} written ({words} words)"
    )
    return Change(experiments=(experiment,), steps=(following,), events=(event,))


def typeset(world: WriteWorld, step: Step) -> Change:
    """Put the sections together and want them compiled."""
    subject = paper.read(world, step)
    attempt = int(step.payload.get("round", 0))
    made = paper.manuscript(world, subject)
    products = {
        **subject.experiment.products,
        "latex/main.tex": world.artifacts.put(made.source.encode()),
        "latex/references.bib": world.artifacts.put(made.bibliography.encode()),
        "claims.json": world.artifacts.put(paper.claims_json(made.claims)),
    }
    _, profile = templates.read(subject.direction, world.artifacts)
    figures = {f"work/{entry['file']}": products[entry["file"]] for entry in subject.facts["figures"]}
    compiling = wanted(
        world.clock,
        subject.direction,
        profile,
        Kind.COMPILE,
        experiment_id=subject.experiment.id,
        image="latex",
        command=("sh", "-c", COMPILE),
        inputs={
            "work/main.tex": products["latex/main.tex"],
            "work/references.bib": products["latex/references.bib"],
            **figures,
        },
        collect=("main.pdf", "main.log", "main.blg"),
        environment={
            "openin_any": "p",
            "openout_any": "p",
            "max_print_line": "1000",
            "SOURCE_DATE_EPOCH": str(int(subject.direction.created_at)),
            "FORCE_SOURCE_DATE": "1",
        },
    )
    following = Next(
        name="typeset_done",
        key=f"typeset_done:{subject.experiment.id}:{attempt}",
        direction_id=step.direction_id,
        experiment_id=step.experiment_id,
        payload={"round": attempt},
        waits_for=(compiling.id,),
    )
    experiment = dataclasses.replace(subject.experiment, products=products)
    return Change(experiments=(experiment,), executions=(compiling,), steps=(following,))


def typeset_done(world: WriteWorld, step: Step) -> Change:
    """Keep the PDF, or correct what the log complains of and typeset again."""
    subject = paper.read(world, step)
    with world.store.begin() as tx:
        execution = tx.executions.get(step.waits_for[0])
    if execution.outcome is None or execution.outcome.verdict is Verdict.LOST:
        raise WorkFailedError("The platform could not run LaTeX for this paper.")
    log = _log(world, execution)
    pdf = execution.artifacts.get("main.pdf")
    problems = world.typesetter.check_log(log)
    if pdf is None and not problems:
        problems = (f"LaTeX ended {execution.outcome.verdict} and left no PDF.",)
    attempt = int(step.payload.get("round", 0))
    if not problems and pdf is not None:
        return _finished(world, step, subject, pdf.sha256, log)
    if attempt >= CORRECTIONS:
        raise WorkFailedError(f"The paper could not be typeset in {CORRECTIONS} corrections: {problems[0]}")
    draft = _corrected(world, subject, problems, log)
    if draft == dict(subject.experiment.draft):
        raise WorkFailedError(f"The paper could not be typeset, and nothing in its text could be blamed: {problems[0]}")
    experiment = dataclasses.replace(subject.experiment, draft=draft)
    event = happened(
        world.clock, step, "paper.corrected", f"{experiment.name}: correction {attempt + 1}: {problems[0]}"
    )
    return Change(experiments=(experiment,), steps=(_typeset_next(step, attempt + 1),), events=(event,))


def _finished(world: WriteWorld, step: Step, subject: Subject, pdf: str, log: str) -> Change:
    pages = int((_PAGES.findall(log) or ["0"])[-1])
    experiment = subject.experiment.to(
        ExperimentState.REVIEWING, products={**subject.experiment.products, "paper.pdf": pdf}
    )
    review = Next(
        name="review",
        key=f"review:{experiment.id}",
        direction_id=step.direction_id,
        experiment_id=step.experiment_id,
        payload={"pages": pages},
    )
    event = happened(world.clock, step, "paper.compiled", f"{experiment.name}: paper of {pages} pages compiled")
    return Change(experiments=(experiment,), steps=(review,), events=(event,))


def _ask(world: WriteWorld, subject: Subject, section: str) -> str:
    draft = subject.experiment.draft
    carried = _carried(subject)
    if section == "title":
        prompt = world.prompts.render(
            "title",
            idea=subject.idea.title,
            abstract=prose.plain(draft.get("abstract", "")),
            notes=subject.experiment.notes,
            facts=carried,
        )
    else:
        written = tuple(f"[{name}]\n{draft[name]}" for name in SECTIONS if draft.get(name) and name != section)
        prompt = world.prompts.render(
            "section",
            subject=section,
            written=written or ("(nothing yet)",),
            notes=subject.experiment.notes,
            facts=carried,
        )
    return _said(world, subject, "section", section, prompt)


def _carried(subject: Subject) -> str:
    """Return the facts as a prompt carries them: without what only the platform needs."""
    shown = {name: {"value": one["value"], "digits": one["digits"]} for name, one in subject.facts["numbers"].items()}
    facts = {key: value for key, value in subject.facts.items() if key not in {"notes", "constants"}}
    return json.dumps({**facts, "numbers": shown}, ensure_ascii=False, separators=(",", ":"))


def _ask_again(world: WriteWorld, subject: Subject, section: str, draft: str, problems: tuple[str, ...]) -> str:
    prompt = world.prompts.render(
        "refine",
        subject=section,
        draft=draft,
        problems="\n".join(f"- {one}" for one in problems),
        notes=subject.experiment.notes,
        facts=_carried(subject),
    )
    return _said(world, subject, "refine", section, prompt)


def _said(world: WriteWorld, subject: Subject, role: str, section: str, prompt: Prompt) -> str:
    """Return what a model writes, as much of it as a section can be."""
    system, _ = words_of(world, subject.direction)
    claims = claims_for(
        world,
        subject.direction,
        role,
        experiment=subject.experiment,
        idea=subject.idea.name,
        index=subject.idea.index,
        subject=section,
        prompt=prompt,
    )
    said = world.model.text(question(world, claims, prompt, system=system, max_tokens=8000))
    if len(said) <= LONGEST_SECTION:
        return said
    whole, _, _ = said[:LONGEST_SECTION].rpartition("\n\n")
    return whole


def _log(world: WriteWorld, execution: Execution) -> str:
    kept = execution.artifacts.get("main.log")
    try:
        return world.artifacts.get(kept.sha256).decode("utf-8", "replace") if kept else trials.tail_of(execution)
    except NotFoundError:
        return trials.tail_of(execution)


def _corrected(world: WriteWorld, subject: Subject, problems: tuple[str, ...], log: str) -> dict[str, str]:
    """Have the model mend the first broken section; where it changes nothing, drop the broken paragraphs."""
    made = paper.manuscript(world, subject)
    draft = dict(subject.experiment.draft)
    guilty = _guilty(made, problems)
    if not guilty:
        return draft
    section = guilty[0][0]
    told = (*problems[:10], f"The end of the log: {log[-LOG_TAIL:]}")
    answer = _ask_again(world, subject, section, draft.get(section, ""), told)
    mended, _ = revision.revise(section, answer, subject.facts, paper.tools_of(world))
    if mended and mended != draft.get(section):
        draft[section] = mended
        return draft
    for name, block in guilty:
        blocks = [one for one in prose.blocks(draft.get(name, "")) if one != block]
        draft[name] = "\n\n".join(blocks)
    return draft


def _guilty(made: Manuscript, problems: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return section and draft paragraph of what the log complains of."""
    found: list[tuple[str, str]] = []
    lines = made.source.splitlines()
    for problem in problems:
        at, named = _LINE.match(problem), _UNDEFINED.match(problem)
        for section, block, rendered in made.blocks:
            if not rendered:
                continue
            if (named and f"{{{named[1]}}}" in rendered) or (
                at and _covers(made.source, rendered, int(at[1]), len(lines))
            ):
                found.append((section, block))
    return list(dict.fromkeys(found))


def _covers(source: str, rendered: str, line: int, lines: int) -> bool:
    """Whether a rendered paragraph, with the blank line after it, spans a line of the source."""
    start = source.find(rendered)
    if start < 0 or line > lines:
        return False
    first = source.count("\n", 0, start) + 1
    return first <= line <= first + rendered.count("\n") + 1


def _section_next(experiment: str, step: Step, section: str) -> Next:
    return Next(
        name="write_section",
        key=f"write:{experiment}:{section}",
        direction_id=step.direction_id,
        experiment_id=step.experiment_id,
        payload={"section": section},
    )


def _typeset_next(step: Step, attempt: int) -> Next:
    return Next(
        name="typeset",
        key=f"typeset:{step.experiment_id}:{attempt}",
        direction_id=step.direction_id,
        experiment_id=step.experiment_id,
        payload={"round": attempt},
    )


STEPS = {"write_section": write_section, "typeset": typeset, "typeset_done": typeset_done}
"""The steps of this module by name."""
