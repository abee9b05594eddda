"""What an idea promises before its first run, and what its runs' plans took back of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment, Run
from fumehood.domain.fidelity import Axis, Reading
from fumehood.domain.idea import Idea
from fumehood.ports import Artifacts
from fumehood.services import templates
from fumehood.services.fidelity import quotable
from fumehood.services.world import WriteWorld

REGISTRATION = "registration.json"
_VERSION = re.compile(r"registration_before_run_(\d+)_attempt_(\d+)\.json")
_AXES: tuple[tuple[Axis, re.Pattern[str]], ...] = (
    (Axis.DATA, re.compile(r"\b(?:data\w*|augment\w*|labels?|train(?:ing)? points?)\b", re.IGNORECASE)),
    (
        Axis.BUDGET,
        re.compile(r"\b(?:budget|updates?|steps?|epochs?|batch(?:es| size)?|samples?|flops)\b", re.IGNORECASE),
    ),
    (Axis.METRIC, re.compile(r"\b(?:metrics?|evaluat\w+|measure\w*)\b", re.IGNORECASE)),
)
"""Words of an idea's `changes` that mean an axis; all others mean how the model is built, trained and asked."""


def axes_of(changes: Iterable[str]) -> tuple[Axis, ...]:
    """Return the axes that words such as `sampler`, `loss` or `batch size` mean; without words, the architecture."""
    found = {axis for words in changes for axis in _axes(words)}
    return tuple(axis for axis in Axis if axis in (found or {Axis.ARCHITECTURE}))


def _axes(words: str) -> set[Axis]:
    return {axis for axis, pattern in _AXES if pattern.search(words)} or {Axis.ARCHITECTURE}


def registered(world: WriteWorld, direction: Direction, idea: Idea) -> dict[str, Any]:
    """Return what is registered of an idea now."""
    template, _ = templates.read(direction, world.artifacts)
    return {
        "kind": idea.kind,
        "hypothesis": idea.hypothesis,
        "metric": idea.metric,
        "expected": idea.expected,
        "datasets": list(template.datasets),
        "changes": list(idea.changes),
        "axes": [axis.value for axis in axes_of(idea.changes or template.comparison.may_change)],
        "comparison": "run_0",
        "registered_at": world.clock.now(),
        "amendments": [],
    }


def read(artifacts: Artifacts, experiment: Experiment) -> dict[str, Any]:
    """Return an experiment's registration as it stands, amendments included; empty before there is one."""
    sha = experiment.products.get(REGISTRATION)
    return dict(json.loads(artifacts.get(sha))) if sha else {}


def told(artifacts: Artifacts, experiment: Experiment) -> str:
    """Return what was registered at first as a model reads it: a line for each term."""
    terms = read(artifacts, experiment)
    shown: Mapping[str, str] = {
        "kind": str(terms.get("kind", "")),
        "hypothesis": str(terms.get("hypothesis", "")),
        "primary metric": f"{terms.get('metric', '')}, expected {terms.get('expected', '')}".strip(", "),
        "data sets": ", ".join(terms.get("datasets", ())),
        "may change": ", ".join((*terms.get("changes", ()), *(f"({axis})" for axis in terms.get("axes", ())))),
        "compared with": "the baseline, which is the code below as it is",
    }
    return "\n".join(f"{name}: {words}" for name, words in shown.items() if words)


def amended(world: WriteWorld, experiment: Experiment, run: Run, attempt: int, found: Reading) -> Experiment:
    """Return the experiment with its registration amended where the plan of a run that begins departs from it.

    What was amended before a run holds for the later ones. The version before is kept beside the new one.
    """
    terms = read(world.artifacts, experiment)
    earlier = terms.get("amendments", [])
    known = {*terms.get("axes", ()), *(axis for one in earlier for axis in one["changes"])}
    changes = [axis.value for axis in found.changes if axis.value not in known]
    given_up = {term for one in earlier for term in one["departs"]}
    is_new = set(found.departs) - given_up or found.reason not in {one["reason"] for one in earlier}
    departs = [term.value for term in found.departs] if is_new else []
    if not terms or not (changes or departs):
        return experiment
    amendment = {
        "at": world.clock.now(),
        "by": f"the coder ({world.coder.name})",
        "before": run.folder,
        "attempt": attempt,
        "title": run.title,
        "changes": changes,
        "departs": departs,
        "reason": found.reason,
    }
    data = json.dumps({**terms, "amendments": [*earlier, amendment]}, indent=2).encode()
    before = {f"registration_before_{run.folder}_attempt_{attempt}.json": experiment.products[REGISTRATION]}
    products = {**experiment.products, **before, REGISTRATION: world.artifacts.put(data)}
    return dataclasses.replace(experiment, products=products)


def is_version(product: str) -> bool:
    """Whether a product is an earlier version of the registration."""
    return _VERSION.fullmatch(product) is not None


def shared(products: Mapping[str, str], number: int | None) -> dict[str, str]:
    """Return the versions of a registration that a fork shares: from run `number` on, nothing was amended yet."""
    versions = {tuple(map(int, found.groups())): path for path in products if (found := _VERSION.fullmatch(path))}
    later = sorted(at for at in versions if number is not None and at[0] >= number)
    kept = {path: products[path] for at, path in versions.items() if at not in later}
    newest = versions[later[0]] if later else REGISTRATION
    return kept | ({REGISTRATION: products[newest]} if newest in products else {})


def limitations(artifacts: Artifacts, experiment: Experiment) -> tuple[str, ...]:
    """Return what a paper says of each amendment, a sentence for each."""
    return tuple(map(_sentence, read(artifacts, experiment).get("amendments", ())))


def _sentence(amendment: Mapping[str, Any]) -> str:
    what = []
    if amendment["changes"]:
        what.append(f"it also changes the {' and the '.join(amendment['changes'])}")
    if amendment["departs"]:
        what.append(f"it gives up the registered {' and the registered '.join(amendment['departs'])}")
    title, reason = quotable(amendment["title"]) or "a variant", quotable(amendment["reason"])
    why = f" ({reason[0].lower()}{reason[1:]})" if reason else ""
    return f"Before it was run, one plan departed from the registration ({title}): {' and '.join(what)}{why}."
