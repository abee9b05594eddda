"""What a paper may tell of the idea, its figures and the constants of its code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Experiment, Run
from fumehood.domain.idea import Idea
from fumehood.domain.template import Profile, Template
from fumehood.services.fact_types import FigureFacts, IdeaFacts

DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:[eE][+-]?\d+)?|(?<![\w.])\d+[eE][+-]?\d+")
CAPTION = re.compile(r"^[\s>*#-]*`?([\w.-]+\.png)`?\s*:\s*(\S.*)$", re.MULTILINE)


def idea_facts(idea: Idea) -> IdeaFacts:
    """Return an idea as a paper may tell it."""
    return IdeaFacts(
        name=idea.name,
        title=idea.title,
        kind=idea.kind.value,
        hypothesis=idea.hypothesis,
        plan=idea.experiment,
        metric=idea.metric,
        expected=idea.expected,
        changes=list(idea.changes),
        scores={
            "interestingness": idea.interestingness.value,
            "feasibility": idea.feasibility.value,
            "novelty": idea.novelty_score.value,
        },
        scored_by=idea.scored_by,
        novelty=idea.novelty.value,
        novelty_reason=idea.novelty_reason,
        evidence=[
            {"key": one.key, "title": one.title, "overlap": round(one.overlap, 2), "query": one.query}
            for one in idea.evidence
        ],
    )


def figure_facts(
    experiment: Experiment, shown: Mapping[str, Sequence[str]], measured: Sequence[str]
) -> list[FigureFacts]:
    """Return the figures that exist, with the captions that the notes give them and the runs that they show.

    Args:
        experiment: Whose products they are.
        shown: What is known of the runs of each, by its file.
        measured: Folders of all runs that gave numbers, which a figure of which nothing is known may show.
    """
    captions = dict(CAPTION.findall(experiment.notes))
    files = sorted(path for path in experiment.products if path.endswith(".png") and "/" not in path)
    return [
        FigureFacts(file=path, caption=str(captions.get(path, "")).strip(), runs=list(shown.get(path, measured)))
        for path in files
    ]


def constants(
    direction: Direction, template: Template, profile: Profile, idea: Idea, runs: Sequence[Run], code: str
) -> list[str]:
    """Return the decimals that stand in code, arguments and plans, so that a paper may print them."""
    texts = [direction.text, template.summary, idea.title, idea.experiment, idea.hypothesis, code, *profile.arguments]
    texts += [*profile.evaluate_arguments, *profile.prepare_arguments, *template.prepare.arguments]
    texts += [text for run in runs for text in (run.title, run.description)]
    texts += [f"{profile.limits_of(kind).cpus:g}" for kind in Kind]
    found = {float(match): match for text in texts for match in DECIMAL.findall(text)}
    return [found[value] for value in sorted(found)]
