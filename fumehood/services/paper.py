"""A manuscript: what is known about an experiment, and its sections put together into one source."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fumehood.domain.claim import Claim
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, Run
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ExperimentId
from fumehood.domain.step import Step
from fumehood.domain.template import Template
from fumehood.errors import BadInputError, NotFoundError
from fumehood.services import (
    confirmation_report,
    drawings,
    export,
    log_line,
    numbers,
    placeholders,
    prose,
    statistics,
    tables,
    templates,
)
from fumehood.services import facts as gathering
from fumehood.services.fact_types import Facts
from fumehood.services.log_line import Printed
from fumehood.services.placeholders import Tools
from fumehood.services.world import WriteWorld

ORDER = (
    "abstract",
    "introduction",
    "related_work",
    "background",
    "method",
    "experimental_setup",
    "results",
    "limitations",
    "conclusion",
)
"""The sections in the order of the page; the title stands beside them."""
HOME_OF_TABLES = {"results": "results", "confirmation": "results", "setup": "experimental_setup"}
"""Tables that every paper has, and where one goes that its text forgot."""
UNREAD = (
    " Somebody gave this study a direction in words of their own. The offline model did not read the direction's text:"
    " its idea is the playbook's, and would have been the same under any other text."
)
_REF = re.compile(r"\\(?:eq)?ref\{([^}]*)\}")
_LABEL = re.compile(r"\\label\{([^}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a paper is about."""

    direction: Direction
    experiment: Experiment
    idea: Idea
    template: Template
    facts: Facts
    records: Mapping[str, Mapping[str, Any]]
    """By the run's folder, in a record's shape also where there is no record; and `confirmation.json`."""
    log: Printed
    """What the installation's log has been until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manuscript:
    """A paper ready to be compiled."""

    source: str
    bibliography: str
    claims: tuple[Claim, ...]
    blocks: tuple[tuple[str, str, str], ...]
    """Section, paragraph of its draft, and that paragraph as rendered: to find who wrote a broken line."""


def read(world: WriteWorld, step: Step) -> Subject:
    """Gather everything about a step's experiment; the outcome is decided here when no rule has decided it yet."""
    with world.store.begin() as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        direction = experiment.seen(tx.directions.get(experiment.direction_id))
        idea = experiment.planned(tx.ideas.get(experiment.idea_id))
        runs = [run for run in export.runs_of(tx, experiment) if run.arm is Arm.SCREEN]
        logged = log_line.now(tx)
    if experiment.outcome is None:
        label, outcome = statistics.conclude(measured=sum(bool(run.final_info) and run.index > 0 for run in runs))
        experiment = dataclasses.replace(experiment, outcome=outcome, label=experiment.label or label)
    template, _ = templates.read(direction, world.artifacts)
    final_infos = {run.folder: json.loads(world.artifacts.get(run.final_info)) for run in runs if run.final_info}
    signed = {run.folder: gathering.predicate(world.artifacts.get(run.record)) for run in runs if run.record}
    code = _code(world, runs)
    confirmed = _confirmation(world, experiment)
    facts = gathering.gather(
        direction,
        template,
        idea,
        experiment,
        runs,
        final_infos,
        signed,
        coder=world.coder.name,
        code=code,
        own_text=_is_own_text(world, direction),
        confirmation=confirmed,
        shown=_shown(world, experiment),
    )
    records = {
        folder: signed.get(folder) or gathering.record_of(final_info, template)
        for folder, final_info in final_infos.items()
    }
    if confirmed is not None:
        records[confirmation_report.PRODUCT] = confirmed
    return Subject(
        direction=direction,
        experiment=experiment,
        idea=idea,
        template=template,
        facts=facts,
        records=records,
        log=logged,
    )


def _confirmation(world: WriteWorld, experiment: Experiment) -> dict[str, Any] | None:
    kept = experiment.products.get(confirmation_report.PRODUCT)
    return dict(json.loads(world.artifacts.get(kept))) if kept else None


def _shown(world: WriteWorld, experiment: Experiment) -> dict[str, tuple[str, ...]]:
    kept = experiment.products.get(drawings.PRODUCT)
    return {one.file: one.runs for one in drawings.read(world.artifacts.get(kept)).drawings} if kept else {}


def _is_own_text(world: WriteWorld, direction: Direction) -> bool:
    """Whether somebody gave the direction's text; without one it is the template's task."""
    try:
        _, task = templates.prompt_of(direction.template_files, world.artifacts)
    except BadInputError:
        return bool(direction.text.strip())
    return direction.text.strip() != task.strip()


def _code(world: WriteWorld, runs: list[Run]) -> str:
    shas = dict.fromkeys(sha for run in runs for path, sha in run.files.items() if path.endswith(".py"))
    found = []
    for sha in shas:
        try:
            found.append(world.artifacts.get(sha).decode(errors="replace"))
        except NotFoundError:
            continue
    return "\n".join(found)


def tools_of(world: WriteWorld) -> Tools:
    """Return what rendering needs."""
    return Tools(literature=world.literature, typesetter=world.typesetter)


def manuscript(world: WriteWorld, subject: Subject) -> Manuscript:
    """Render and put together every section of the draft."""
    facts, tools = subject.facts, tools_of(world)
    drafts = _completed({name: subject.experiment.draft.get(name, "") for name in ORDER}, facts, tools)
    parts: dict[str, str] = {}
    claims: list[Claim] = []
    keys: list[str] = []
    shown: set[str] = set()
    blocks: list[tuple[str, str, str]] = []
    for name in ORDER:
        rendered_blocks = []
        for block in prose.blocks(drafts[name]):
            rendered = placeholders.render(name, block, facts, tools, shown=shown, first=len(claims) + 1)
            shown |= placeholders.floats_of(block)
            claims += rendered.claims
            keys += rendered.keys
            rendered_blocks.append(rendered.latex)
            blocks.append((name, block, rendered.latex))
        parts[name] = "\n\n".join(one for one in rendered_blocks if one)
    cited = sorted(set(keys))
    title = subject.experiment.draft.get("title") or tools.typesetter.escape(subject.idea.title)
    skeleton = subject.direction.template_files.get("latex/template.tex", "")
    source = tools.typesetter.assemble(
        world.artifacts.get(skeleton).decode(errors="replace") if skeleton else "",
        parts | {"disclosure": disclosure(subject, tools)},
        title=title,
        keywords=(subject.template.title, subject.direction.model, facts["outcome"] or "no outcome"),
    )
    bibliography = "\n\n".join(world.literature.bibtex(world.literature.get(key)).strip() for key in cited) + "\n"
    return Manuscript(source=source, bibliography=bibliography, claims=tuple(claims), blocks=tuple(blocks))


def disclosure(subject: Subject, tools: Tools) -> str:
    """Return who wrote what, and where all runs are logged, as LaTeX."""
    escape = tools.typesetter.escape
    return _authors(subject, tools) + escape(_hands(subject.experiment)) + log_line.latex(subject.log)


def _hands(experiment: Experiment) -> str:
    """Return whose method a replication repeats, and what a person did to a study that is a fork."""
    if experiment.replicates:
        return (
            " This study repeats a confirmed one of the same direction: its coder was shown the method section of that"
            " study's paper and the template's code, and nothing else of it."
        )
    if not experiment.forked_from:
        return ""
    told = f" This study shares the steps before {experiment.from_step} with an earlier one of the same direction."
    return told + (f" A person then changed {', '.join(experiment.edited)}." if experiment.edited else "")


def _authors(subject: Subject, tools: Tools) -> str:
    escape = tools.typesetter.escape
    if subject.facts["model"]["offline"]:
        return (
            "No language model took part in this study (the offline model). Its idea, its edits and the prose that"
            " does not depend on a result come from a playbook that was written beforehand with the template and not"
            " for this study; the sentences about results were put together by a program from the records."
            + ("" if subject.facts["model"]["direction_text_used"] else UNREAD)
        )
    return (
        f"The language model {escape(subject.direction.model)} proposed the idea, edited the code and wrote the text; "
        f"its edits were applied by {escape(subject.facts['coder'] or 'the platform')}."
    )


def claims_json(claims: tuple[Claim, ...]) -> bytes:
    """Return the claims as they lie beside the paper: a list, in the order of the text."""
    return json.dumps([dataclasses.asdict(claim) for claim in claims], indent=2, ensure_ascii=False).encode() + b"\n"


def claim_holds(claim: Claim, subject: Subject) -> bool:
    """Whether a claim's printed number is its record's number, rounded."""
    record = subject.records.get(claim.source.split("/")[0])
    if record is None:
        return False
    try:
        value = numbers.resolve(
            claim.pointer, record, subject.records.get(numbers.BASELINE_FOLDER), subject.template.metrics
        )
    except NotFoundError:
        return False
    return numbers.rounded(value, claim.digits) == claim.text


def _completed(drafts: dict[str, str], facts: Facts, tools: Tools) -> dict[str, str]:
    """Add the floats that the text forgot, and take out what is said twice or points nowhere."""
    everything = "\n\n".join(drafts.values())
    placed = placeholders.floats_of(everything)
    for entry in facts["figures"]:
        stem = entry["file"].rsplit(".", 1)[0]
        if f"figure:{entry['file']}" not in placed:
            drafts["results"] += f"\n\n[[figure: {entry['file']}]]"
        if f"\\ref{{fig:{stem}}}" not in everything:
            words = tools.typesetter.escape(stem.replace("_", " "))
            drafts["results"] += (
                f"\n\nFigure~\\ref{{fig:{stem}}} shows the {words} as the experiment's own program drew it."
            )
    for name, home in HOME_OF_TABLES.items():
        if f"table:{name}" not in placed and tables.has(name, facts):
            drafts[home] += f"\n\n[[table: {name}]]"
    drafts["limitations"] = _stated(drafts["limitations"], facts, tools)
    everything = "\n\n".join(drafts.values())
    labels = set(_LABEL.findall(everything))
    for mark in placeholders.floats_of(everything):
        kind, _, name = mark.partition(":")
        labels.add(f"fig:{name.rsplit('.', 1)[0]}" if kind == "figure" else f"tab:{name}")
    seen: set[str] = set()
    for name, text in drafts.items():
        kept, _ = prose.without_repeats(text, seen)
        drafts[name] = prose.rebuilt(kept, lambda one: one if set(_REF.findall(one)) <= labels else "")
    return drafts


def _stated(text: str, facts: Facts, tools: Tools) -> str:
    """Add those limitations of the facts that the section does not tell in their own words."""
    said = prose.normalised(text)
    escape = tools.typesetter.escape
    silent = [
        escape(one)
        for one in facts["limitations"]
        if prose.normalised(escape(one)) not in said and prose.normalised(one) not in said
    ]
    return "\n\n".join(part for part in (text, " ".join(silent)) if part)
