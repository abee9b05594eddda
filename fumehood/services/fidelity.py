"""Whether runs do what their plans say: what was found is kept with the experiment, told to the coder, and shown."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from fumehood.domain.experiment import Experiment, Run
from fumehood.domain.fidelity import Axis, Finder, Point, PointKind, Reading, Term
from fumehood.ports import Artifacts
from fumehood.services import counts, curves, facts, independence, templates
from fumehood.services.edit_effects import Measured, compared, untrained
from fumehood.services.idea_facts import DECIMAL
from fumehood.services.revision import OVERCLAIMS

FIDELITY = "fidelity.json"
"""Every reading of an experiment's edits and results, in its finished folder."""
MOST_TOLD = 8
"""Open points that a coder is told at once."""
MOST_SAID = 6
"""Open points of one run that its paper tells one by one."""
_RUN = re.compile(r"\brun[ _~]\d+\b", re.IGNORECASE)
_SAYS: Mapping[PointKind, str] = {
    PointKind.MISSING: "A part of the plan is missing in the code",
    PointKind.WITHOUT_EFFECT: "A part of the change has no effect",
    PointKind.DISAGREES: "A self-reported number is not the measured one",
    PointKind.UNPROVEN: "A number rests on the run's own word",
    PointKind.ENTANGLED: "Seeds that are trained together were not independent, so each was trained by itself",
}


class Stage(StrEnum):
    """When a version of the code was looked at."""

    EDIT = "edit"
    """Before it ran."""
    MENDED = "mended"
    """Before it ran, after open points had gone back to the coder."""
    RESULTS = "results"
    """When its numbers were there."""


BEFORE = (Stage.EDIT, Stage.MENDED)
"""The stages at which nothing has run yet."""


def kept(
    artifacts: Artifacts,
    experiment: Experiment,
    run: str,
    attempt: int,
    stage: Stage,
    files: Mapping[str, str],
    found: Reading,
    *,
    went_back: bool = False,
) -> Experiment:
    """Return the experiment with a reading among its products; one that found nothing is left out."""
    if found == Reading():
        return experiment
    entry = {
        "subject": run,
        "attempt": attempt,
        "stage": stage.value,
        "code": templates.template_hash(files),
        "went_back": went_back,
        "points": [{**dataclasses.asdict(one), "open": one.is_open} for one in found.points],
        "changes": list(found.changes),
        "departs": list(found.departs),
        "reason": found.reason,
    }
    told = json.dumps([*entries(artifacts, experiment), entry], indent=2).encode()
    return dataclasses.replace(experiment, products={**experiment.products, FIDELITY: artifacts.put(told)})


def entries(artifacts: Artifacts, experiment: Experiment) -> list[dict[str, Any]]:
    """Return all readings of an experiment, in order."""
    sha = experiment.products.get(FIDELITY)
    return list(json.loads(artifacts.get(sha))) if sha else []


def last(artifacts: Artifacts, experiment: Experiment, run: str, files: Mapping[str, str], *stages: Stage) -> Reading:
    """Return the newest reading of a version of a run's code at one of these stages; an empty one without any."""
    code = templates.template_hash(files)
    for entry in reversed(entries(artifacts, experiment)):
        if (entry["subject"], entry["code"]) == (run, code) and entry["stage"] in stages:
            return Reading(
                points=tuple(map(_point, entry["points"])),
                changes=tuple(map(Axis, entry["changes"])),
                departs=tuple(map(Term, entry["departs"])),
                reason=entry["reason"],
            )
    return Reading()


def _point(told: Mapping[str, Any]) -> Point:
    return Point(
        kind=PointKind(told["kind"]), path=told["path"], sentence=told["sentence"], found_by=Finder(told["found_by"])
    )


def sentences(points: Sequence[Point]) -> str:
    """Return open points as the coder and people read them, a line each."""
    lines = [f"{one.kind.value.replace('_', ' ')} ({one.path}): {one.sentence}" for one in points[:MOST_TOLD]]
    return "\n".join([*lines, *([f"And {len(points) - MOST_TOLD} more."] if len(points) > MOST_TOLD else [])])


def of_results(artifacts: Artifacts, run: Run, baseline: Run, others: Iterable[Run]) -> Reading:
    """Return what a measured run's results say of its edit, beside the baseline's and the experiment's other runs'."""
    rivals = [baseline, *(one for one in others if one.id != run.id)]
    points = compared(_measured(artifacts, run), [_measured(artifacts, one) for one in rivals])
    names = untrained(_parameters(artifacts, run), _parameters(artifacts, baseline))
    if names:
        told = f"{run.folder} reports parameters that never got a gradient: {', '.join(names)}."
        points = (*points, Point(kind=PointKind.WITHOUT_EFFECT, path=run.folder, sentence=told))
    return Reading(points=(*points, *_own_words(artifacts, run, baseline)))


def _own_words(artifacts: Artifacts, run: Run, baseline: Run) -> Iterator[Point]:
    """Yield what a run says of itself that the platform measured otherwise, or could not see."""
    record, base = (facts.predicate(artifacts.get(one.record)) if one.record else {} for one in (run, baseline))
    if told := counts.disagreement(record, base):
        yield Point(kind=PointKind.DISAGREES, path=run.folder, sentence=f"{run.folder} {told}.")
    if (missing := counts.unknown(record, base)) and record:
        told = f"{run.folder} leaves unknown what the baseline has: its {' and its '.join(missing)}."
        yield Point(kind=PointKind.UNPROVEN, path=run.folder, sentence=told)
    if curves.updates(base) and curves.updates(record) == 0:
        told = f"{run.folder} makes updates of its own, which the platform cannot count as those of the baseline."
        yield Point(kind=PointKind.UNPROVEN, path=run.folder, sentence=told)
    if told := independence.sentence(record):
        yield Point(kind=PointKind.ENTANGLED, path=run.folder, sentence=f"{run.folder} {told}.")
    for one in (record.get("disagreements") or [])[:MOST_TOLD]:
        told = f"{run.folder} reports another {one['metric']} of {one['dataset']} than the evaluator measured."
        yield Point(kind=PointKind.DISAGREES, path=run.folder, sentence=told)
    for name, entry in (record.get("metrics") or {}).items():
        if entry.get("axis") == curves.Axis.SELF:
            told = f"{run.folder} reached its {name} at steps that it alone counts: {entry['axis_reason']}."
            yield Point(kind=PointKind.UNPROVEN, path=run.folder, sentence=told)


def _measured(artifacts: Artifacts, run: Run) -> Measured:
    return Measured(run=run, metrics=facts.predicate(artifacts.get(run.record))["metrics"] if run.record else {})


def _parameters(artifacts: Artifacts, run: Run) -> bytes:
    return artifacts.get(run.outputs["parameters.json"]) if "parameters.json" in run.outputs else b""


def open_points(artifacts: Artifacts, experiment: Experiment, run: Run) -> tuple[Point, ...]:
    """Return what is still open of a run: of the version that was measured, before it ran and by its results."""
    before = last(artifacts, experiment, run.folder, run.files, *BEFORE)
    after = last(artifacts, experiment, run.folder, run.files, Stage.RESULTS)
    return (*before.open, *after.open)


def noted(points: Sequence[Point]) -> str:
    """Return open points as lines of the notebook, which the next edit's prompt shows; empty without any."""
    return "".join(f"Open: {line}\n" for line in sentences(points).splitlines())


def limitations(artifacts: Artifacts, experiment: Experiment, runs: Iterable[Run]) -> tuple[str, ...]:
    """Return what a paper says of what stayed open in the runs that were measured, a sentence for each point."""
    said: list[str] = []
    for run in runs:
        points = open_points(artifacts, experiment, run)
        said += [f"{_SAYS[one.kind]} ({_title(run)}){_quoted(one, run)}." for one in points[:MOST_SAID]]
        if len(points) > MOST_SAID:
            said.append(f"More points stayed open in the same variant ({_title(run)}).")
    return tuple(dict.fromkeys(said))


def _title(run: Run) -> str:
    return quotable(run.title) or "a variant"


def _quoted(point: Point, run: Run) -> str:
    text = re.sub(r"^Line \d+: ", "", point.sentence).removeprefix(f"{run.folder} ")
    words = quotable(text)
    return f": {words[0].lower() + words[1:]}" if words else ""


def quotable(text: str) -> str:
    """Return words as a paper may print them, without a full stop; empty where they hold what only a record may say.

    Runs have names in papers, and no numbers. A model wrote most of the words: decimals would pass for measured
    numbers, praise for a result, marks for placeholders.
    """
    words = _RUN.sub("another variant", " ".join(text.replace("`", "").split()).rstrip("."))
    claims = DECIMAL.search(words) or OVERCLAIMS.search(words) or "%" in words or "per cent" in words
    return "" if claims or any(mark in words for mark in ("[[", "]]", "\\", "{", "}")) else words[:300]
