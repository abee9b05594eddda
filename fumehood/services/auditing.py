"""Auditing edits before they run: what is brought is kept with the experiment, told to the coder, and shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment
from fumehood.domain.finding import Finding, FindingKind, Severity
from fumehood.domain.template import FROZEN_FILES
from fumehood.ports import Artifacts
from fumehood.services import extra_packages, templates
from fumehood.services.edit_audit import Rules, audit
from fumehood.services.world import WriteWorld

FINDINGS = "edit_findings.json"
"""Every finding of an experiment's edits, in its finished folder."""
MOST_KEPT = 50
"""Findings of one edit; one that repeats itself a thousand times says no more."""
MOST_TOLD = 8
"""Findings that a coder is told at once; the others come up when these are mended."""
_CONCERNS: Mapping[FindingKind, str] = {
    FindingKind.SEEDS: "seeds of its own, or not all of the given ones",
    FindingKind.METRIC: "a result that is written down as a constant",
    FindingKind.IMPORT: "modules that may not be there",
    FindingKind.ENVIRONMENT: "variables of the environment that cannot be told beforehand",
    FindingKind.DYNAMIC_CODE: "code or names that are made while it runs",
    FindingKind.UNSAFE_LOAD: "files that can run code when they are loaded",
}


def look(
    world: WriteWorld, direction: Direction, experiment: Experiment, files: Mapping[str, str], only: str = ""
) -> tuple[Finding, ...]:
    """Return what an edit's files bring over the code that the direction's experiments start from.

    Nothing that an earlier edit brought is forgotten; but what a person put into a fork's code is no fault of the
    coder's, so that the working copy's own refusals are left out. What is refused comes first. `only` names the one
    file that is asked about.
    """
    start = templates.start_of(direction)
    before = _read(world.artifacts, start, files)
    rules = _rules(world, direction, before, files)
    found = audit(before, _read(world.artifacts, files, start), rules)
    if any(one.severity is Severity.REFUSED for one in found):
        had = {(one.kind, one.what) for one in audit(before, _read(world.artifacts, experiment.files, start), rules)}
        found = tuple(one for one in found if one.severity is Severity.FLAGGED or (one.kind, one.what) not in had)
    asked = [one for one in found if not only or one.path == only]
    return tuple(sorted(asked, key=lambda one: one.severity is not Severity.REFUSED)[:MOST_KEPT])


def _read(artifacts: Artifacts, files: Mapping[str, str], other: Mapping[str, str]) -> dict[str, bytes]:
    """Return the programs' bytes; of other files only whether they changed is asked."""
    return {
        path: artifacts.get(sha) if path.endswith(".py") else sha.encode()
        for path, sha in files.items()
        if path.endswith(".py") or other.get(path) != sha
    }


def _rules(world: WriteWorld, direction: Direction, before: Mapping[str, bytes], files: Mapping[str, str]) -> Rules:
    template, _ = templates.read(direction, world.artifacts)
    # What the template imports is there, whatever the image: its baseline has run.
    named = extra_packages.importable(direction.template_files, world.artifacts, template, world.extra_imports)
    return Rules(
        editable=frozenset({*template.editable, *(path for path in files if path not in direction.template_files)}),
        packages=frozenset(world.packages | named | _imported(before)) if world.packages else frozenset(),
        metrics=frozenset(template.metrics),
        may_ask_model=template.llm is not None,
    )


def _imported(files: Mapping[str, bytes]) -> set[str]:
    own = {PurePosixPath(path).parts[0].removesuffix(".py") for path in files}
    found: set[str] = set()
    for path, data in files.items():
        if path.endswith(".py"):
            try:
                found |= templates.imports(data)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue  # a template of the original kind is not checked before it runs
    return found - own - {path.removesuffix(".py") for path in FROZEN_FILES}


def refused(found: Iterable[Finding]) -> bool:
    """Tell whether an edit with these findings must not run."""
    return any(one.severity is Severity.REFUSED for one in found)


def sentences(found: Sequence[Finding]) -> str:
    """Return what the coder is told, a line each."""
    more = [f"And {len(found) - MOST_TOLD} more."] if len(found) > MOST_TOLD else []
    return "\n".join([*(one.sentence for one in found[:MOST_TOLD]), *more])


def kept(
    world: WriteWorld,
    experiment: Experiment,
    subject: str,
    attempt: int,
    files: Mapping[str, str],
    found: Sequence[Finding],
) -> Experiment:
    """Return the experiment with an edit's findings among its products; without any it stays as it is."""
    if not found:
        return experiment
    # The code's hash says which code it was, also in a fork whose runs have numbers and attempts of their own.
    entry = {
        "subject": subject,
        "attempt": attempt,
        "code": templates.template_hash(files),
        "findings": [{**dataclasses.asdict(one), "sentence": one.sentence} for one in found],
    }
    told = json.dumps([*entries(world.artifacts, experiment), entry], indent=2).encode()
    return dataclasses.replace(experiment, products={**experiment.products, FINDINGS: world.artifacts.put(told)})


def entries(artifacts: Artifacts, experiment: Experiment) -> list[dict[str, Any]]:
    """Return all that was found in an experiment's edits, in order."""
    sha = experiment.products.get(FINDINGS)
    return list(json.loads(artifacts.get(sha))) if sha else []


def flags(artifacts: Artifacts, experiment: Experiment, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the findings of one version of the code, which ran with them."""
    code = templates.template_hash(files)
    found = [one for entry in entries(artifacts, experiment) if entry["code"] == code for one in entry["findings"]]
    return list({one["sentence"]: one for one in found}.values())


def limitations(artifacts: Artifacts, experiment: Experiment, versions: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return what a paper says of the code that was measured or drew its figures, a sentence for each concern."""
    kinds = {FindingKind(one["kind"]) for files in versions for one in flags(artifacts, experiment, files)}
    return tuple(f"The audit of the code flagged {concern}." for kind, concern in _CONCERNS.items() if kind in kinds)
