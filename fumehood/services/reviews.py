"""Reviewing the paper: checks that a program can make, and a judgement where a model can give one."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fumehood.domain.claim import Claim
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.step import Step
from fumehood.services import log_line, paper, prose
from fumehood.services.calls import claims_for, question, words_of
from fumehood.services.change import Change, Next, happened
from fumehood.services.paper import Subject
from fumehood.services.revision import OUTCOME_SECTIONS
from fumehood.services.world import WriteWorld

MIN_PAGES = 5
HEADINGS = (
    "Introduction",
    "Related Work",
    "Background",
    "Method",
    "Experimental Setup",
    "Results",
    "Limitations",
    "Conclusion",
)
NAMES = {
    "summary": "Summary",
    "strengths": "Strengths",
    "weaknesses": "Weaknesses",
    "originality": "Originality",
    "quality": "Quality",
    "clarity": "Clarity",
    "significance": "Significance",
    "questions": "Questions",
    "limitations": "Limitations",
    "ethical_concerns": "Ethical Concerns",
    "soundness": "Soundness",
    "presentation": "Presentation",
    "contribution": "Contribution",
    "overall": "Overall",
    "confidence": "Confidence",
    "decision": "Decision",
}
"""The form's fields as they are printed in `review.json`."""
_FIGURE = re.compile(r"\\includegraphics(?:\[[^\]]*\])?\{([^}]*)\}")


MOST_POINTS = 30
"""Of each list of a review."""
Point = Annotated[str, Field(max_length=2000)]


class Form(BaseModel):
    """A review as a conference asks for it."""

    model_config = ConfigDict(extra="ignore")

    summary: str = Field(max_length=6000)
    strengths: list[Point] = Field(max_length=MOST_POINTS)
    weaknesses: list[Point] = Field(max_length=MOST_POINTS)
    originality: int = Field(ge=1, le=4)
    quality: int = Field(ge=1, le=4)
    clarity: int = Field(ge=1, le=4)
    significance: int = Field(ge=1, le=4)
    questions: list[Point] = Field(max_length=MOST_POINTS)
    limitations: list[Point] = Field(max_length=MOST_POINTS)
    ethical_concerns: bool
    soundness: int = Field(ge=1, le=4)
    presentation: int = Field(ge=1, le=4)
    contribution: int = Field(ge=1, le=4)
    overall: int = Field(ge=1, le=10)
    confidence: int = Field(ge=1, le=5)
    decision: Literal["Accept", "Reject"]


class CheckedForm(BaseModel):
    """A review by a program that judges nothing: what needs a judgement stays None."""

    model_config = ConfigDict(extra="forbid")

    summary: str = Field(max_length=6000)
    strengths: list[Point] = Field(max_length=MOST_POINTS)
    weaknesses: list[Point] = Field(max_length=MOST_POINTS)
    originality: None
    quality: None
    clarity: None
    significance: None
    questions: list[Point] = Field(max_length=MOST_POINTS)
    limitations: list[Point] = Field(max_length=MOST_POINTS)
    ethical_concerns: None
    soundness: None
    presentation: None
    contribution: None
    overall: None
    confidence: None
    decision: None


class Check(BaseModel):
    """One thing that a program can find out about a paper."""

    name: str
    held: bool
    detail: str = ""


def review(world: WriteWorld, step: Step) -> Change:
    """Check the paper, have it judged where a model can, and hand it on to be verified."""
    subject = paper.read(world, step)
    checks = checks_of(world, subject, int(step.payload.get("pages", 0)))
    form = _judged(world, subject, checks)
    experiment = subject.experiment.to(
        ExperimentState.VERIFYING,
        products={**subject.experiment.products, "review.json": world.artifacts.put(_json(subject, form, checks))},
    )
    verify = Next(
        name="verify",
        key=f"verify:{experiment.id}",
        direction_id=step.direction_id,
        experiment_id=step.experiment_id,
    )
    overall = form["overall"] if form["overall"] is not None else "not judged"
    held = sum(check.held for check in checks)
    text = f"{experiment.name}: reviewed; overall {overall}; {held} of {len(checks)} checks held"
    event = happened(world.clock, experiment, "paper.reviewed", text)
    return Change(experiments=(experiment,), steps=(verify,), events=(event,))


def checks_of(world: WriteWorld, subject: Subject, pages: int) -> list[Check]:
    """Return what a program can find out about the paper that was compiled."""
    products, facts = subject.experiment.products, subject.facts
    source = world.artifacts.get(products["latex/main.tex"]).decode()
    body = source.split(r"\begin{document}", 1)[-1]
    claims = [Claim(**one) for one in json.loads(world.artifacts.get(products["claims.json"]))]
    return [
        _sections(body),
        _sentences(body),
        *_figures(body, [entry["file"] for entry in facts["figures"]]),
        _numbers(claims, subject),
        _outcome(subject),
        _disclosed(body),
        Check(name=f"The PDF has at least {MIN_PAGES} pages", held=pages >= MIN_PAGES, detail=f"{pages} pages"),
    ]


def _sections(body: str) -> Check:
    wrong = [name for name in HEADINGS if body.count(f"\\section{{{name}}}") != 1]
    return Check(name="Every section stands once", held=not wrong, detail=", ".join(wrong))


def _sentences(body: str) -> Check:
    prose_only = re.sub(r"\\begin\{(figure|table|equation|align)\*?\}.*?\\end\{\1\*?\}", "", body, flags=re.DOTALL)
    prose_only = re.sub(r"\\(?:sub)*section\*?\{[^}]*\}|\\(?:begin|end)\{(?:abstract|document)\}", "\n\n", prose_only)
    _, again = prose.without_repeats(prose_only, set())
    return Check(
        name="No sentence stands twice", held=not again, detail="; ".join(prose.plain(one)[:80] for one in again)
    )


def _figures(body: str, files: list[str]) -> list[Check]:
    shown = _FIGURE.findall(body)
    unknown = [file for file in shown if file not in files]
    missing = [file for file in files if file not in shown]
    unnamed = [file for file in shown if f"\\ref{{fig:{file.rsplit('.', 1)[0]}}}" not in body]
    return [
        Check(
            name="Every figure shown exists, and every figure is shown",
            held=not unknown and not missing,
            detail=", ".join([*unknown, *missing]),
        ),
        Check(name="Every figure is referred to", held=not unnamed, detail=", ".join(unnamed)),
    ]


def _numbers(claims: list[Claim], subject: Subject) -> Check:
    wrong = [claim for claim in claims if not paper.claim_holds(claim, subject)]
    named = "; ".join(f"{claim.id} prints {claim.text} for {claim.source} {claim.pointer}" for claim in wrong[:5])
    return Check(
        name=f"Each of {len(claims)} printed numbers is its record's, rounded",
        held=bool(claims) and not wrong,
        detail=named,
    )


def _outcome(subject: Subject) -> Check:
    outcome, draft = subject.facts["outcome"], subject.experiment.draft
    silent = [name for name in sorted(OUTCOME_SECTIONS) if outcome not in prose.plain(draft.get(name, "")).lower()]
    return Check(
        name="Title, abstract and conclusion say the outcome",
        held=bool(outcome) and not silent,
        detail=", ".join(silent),
    )


def _disclosed(body: str) -> Check:
    return Check(name="The paper says how it was made", held="produced automatically by Fumehood" in body)


def _judged(world: WriteWorld, subject: Subject, checks: list[Check]) -> dict[str, Any]:
    system, _ = words_of(world, subject.direction)
    source = world.artifacts.get(subject.experiment.products["latex/main.tex"]).decode()
    prompt = world.prompts.render(
        "review",
        # A reviewer has no use for the log's root, which would be another one when the call is repeated elsewhere.
        paper=log_line.without(source.split(r"\begin{document}", 1)[-1]),
        examples="",
        facts=json.dumps(
            {
                "checks": [check.model_dump() for check in checks],
                "outcome": subject.facts["outcome"],
                "label": subject.facts["label"],
                "limitations": subject.facts["limitations"],
            },
            ensure_ascii=False,
        ),
    )
    claims = claims_for(
        world,
        subject.direction,
        "review",
        experiment=subject.experiment,
        idea=subject.idea.name,
        index=subject.idea.index,
        prompt=prompt,
    )
    call = question(world, claims, prompt, system=system, temperature=0.1)
    judges = not subject.direction.review_model.startswith("offline")
    return world.model.answer(call, Form if judges else CheckedForm).model_dump()


def _json(subject: Subject, form: dict[str, Any], checks: list[Check]) -> bytes:
    shape = {
        "AI-generated": True,
        "reviewer": subject.direction.review_model,
        **{printed: form[name] for name, printed in NAMES.items()},
        "not judged": [printed for name, printed in NAMES.items() if form[name] is None],
        "checks": [check.model_dump() for check in checks],
    }
    return json.dumps(shape, indent=2, ensure_ascii=False).encode() + b"\n"


STEPS = {"review": review}
"""The steps of this module by name."""
