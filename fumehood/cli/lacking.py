"""What a template that keeps the contract does without, and what that costs its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fumehood.domain.execution import Kind
from fumehood.domain.template import FROZEN_FILES, Template
from fumehood.latex import skeleton
from fumehood.ports import Artifacts
from fumehood.services import data_above, templates


def costs(folder: Path, files: Mapping[str, str], artifacts: Artifacts, template: Template) -> tuple[str, ...]:
    """Return a sentence for each thing that is missing, the dearest first; empty for a template that has it all."""
    return (*_of_data(folder, files, artifacts), *_costs(files, artifacts, template))


def brought_along(folder: Path, files: Mapping[str, str]) -> str:
    """Say which data from above a template's folder are among its files; empty where there are none."""
    places = " and ".join(repr(str(place)) for place in templates.brought_from(folder))
    if not places:
        return ""
    count = sum(path.startswith(templates.DATA) for path in files)
    what = "1 file comes" if count == 1 else f"{count} files come"
    return f"{what} along from {places}, which a program of the template names, and will be in finished folders."


def _of_data(folder: Path, files: Mapping[str, str], artifacts: Artifacts) -> Iterator[str]:
    """Say what the folder itself does not have of the data that its programs read."""
    sources = {path: artifacts.get(sha) for path, sha in files.items() if path.endswith(".py") and "/" not in path}
    named = ", ".join(path for path in sorted(sources) if data_above.levels([sources[path]]))
    data = [path for path in files if path.startswith(templates.DATA)]
    if named and not data:
        yield f"{named} reads ../data above the folder, which is not there: a run finds none at /data either."
    elif said := brought_along(folder, files):
        yield said


def _costs(files: Mapping[str, str], artifacts: Artifacts, template: Template) -> Iterator[str]:
    if not set(FROZEN_FILES) <= set(files):
        yield (
            "No prepare.py and evaluate.py: every number is the program's own word, and no result is ever `better`,"
            " `worse` or `no_difference`."
        )
    metric = template.metrics.get(template.primary or "")
    if metric is None or metric.direction is None:
        yield "No primary metric with a direction in template.toml: nothing says where better lies, or is compared."
    if not any(profile.seeds for profile in template.profiles.values()):
        yield "No seeds in a profile: they are uncontrolled, and there is no spread and no noise floor."
    elif not any(profile.confirm for profile in template.profiles.values()):
        yield "No profile with confirm = true: a result is `promising` at the most."
    if "template.toml" not in files:
        limits = templates.profile_of(template, "cpu").limits_of
        yield f"No template.toml: one size, and the usual limits ({limits(Kind.RUN).wall_s:,.0f} s a run)."
    if "offline.toml" not in files:
        yield "No offline.toml: the offline model has no ideas for it, so that a real one is needed."
    if not skeleton.is_ours(artifacts.get(files["latex/template.tex"]).decode(errors="replace")):
        yield "No gaps of ours (%%FUMEHOOD:ABSTRACT%% ...) in latex/template.tex: papers are set in our own frame."
