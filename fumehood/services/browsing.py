"""Reading what there is: one value, one page of a list, one file of an experiment."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.experiment import Experiment, Run
from fumehood.domain.idea import Idea
from fumehood.domain.ids import ULID, DirectionId, ExperimentId, TenantId
from fumehood.domain.step import Event
from fumehood.errors import NotFoundError
from fumehood.ports import Artifacts, Collection, Store, Transaction
from fumehood.services import auditing, drawings, export, fidelity, registering, results, templates

T = TypeVar("T")
PAPER = "paper.pdf"
REVIEWS = ("review.json", "review_revised.json")
JSON_PRODUCTS = frozenset(
    {*REVIEWS, "claims.json", "registration.json", "rebuttal.json", "verification.json"}
    | {auditing.FINDINGS, fidelity.FIDELITY, drawings.PRODUCT}
)
"""Files of an experiment that the platform wrote itself."""
MAX_DIFF_BYTES = 512 * 1024
MAX_DIFF_LINES = 5_000
"""Longer files are only named: comparing them could take very long."""
_ARTIFACT = re.compile(rf"art_({ULID})_([0-9a-f]{{32}})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One file of an experiment's folder."""

    id: str
    path: str
    sha256: str
    is_product: bool
    """Whether the platform made it, beside what runs left and models wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an experiment did to one file of its template."""

    path: str
    kind: str
    """`added`, `changed` or `removed`."""
    diff: str
    """Unified; empty where a side is no text or too long."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What one tenant may see; whatever is another's is not there."""

    store: Store
    tenant: TenantId

    def direction(self, key: str) -> Direction:
        """Return a direction; `NotFoundError` when there is none."""
        with self.store.begin(write=False) as tx:
            return self._direction(tx, key)

    def directions(self, state: DirectionState | None, after: str | None, limit: int) -> tuple[Direction, ...]:
        """Return a page of the directions, oldest first."""
        equal = {"tenant": self.tenant} | ({} if state is None else {"state": state})
        with self.store.begin(write=False) as tx:
            return tx.directions.page(after, limit, **equal)

    def ideas(self, key: str, after: str | None, limit: int) -> tuple[Idea, ...]:
        """Return a page of a direction's ideas."""
        with self.store.begin(write=False) as tx:
            self._direction(tx, key)
            return tx.ideas.page(after, limit, direction_id=DirectionId(key))

    def idea(self, key: str) -> Idea:
        """Return an idea; `NotFoundError` when there is none."""
        _check("idea", "idea", key)
        with self.store.begin(write=False) as tx:
            found = _one(tx.ideas, "idea", key)
            self._owned(tx, "idea", found.direction_id)
            return found

    def experiments(self, key: str, after: str | None, limit: int) -> tuple[Experiment, ...]:
        """Return a page of a direction's experiments."""
        with self.store.begin(write=False) as tx:
            self._direction(tx, key)
            return tx.experiments.page(after, limit, direction_id=DirectionId(key))

    def experiment(self, key: str) -> Experiment:
        """Return an experiment; `NotFoundError` when there is none."""
        with self.store.begin(write=False) as tx:
            return self._experiment(tx, key)

    def runs(self, key: str) -> list[Run]:
        """Return an experiment's baseline, where it has one, and its runs."""
        with self.store.begin(write=False) as tx:
            return export.runs_of(tx, self._experiment(tx, key))

    def run(self, key: str) -> Run:
        """Return a run; `NotFoundError` when there is none."""
        _check("run", "run", key)
        with self.store.begin(write=False) as tx:
            found = _one(tx.runs, "run", key)
            self._owned(tx, "run", found.direction_id)
            return found

    def files(self, key: str) -> list[Stored]:
        """Return the stored files of an experiment's folder, by path."""
        with self.store.begin(write=False) as tx:
            found = self._experiment(tx, key)
            stored = export.stored_files(found, export.runs_of(tx, found))
        return [
            Stored(id=artifact_id(found.id, path), path=path, sha256=sha, is_product=path in found.products)
            for path, sha in sorted(stored.items())
        ]

    def file(self, key: str) -> Stored:
        """Return the file with this id; `NotFoundError` when there is none."""
        parts = _ARTIFACT.match(key)
        missing = NotFoundError("There is no artifact with this id.")
        if parts is None:
            raise missing
        try:
            found = [one for one in self.files(f"exp_{parts[1]}") if one.id == key]
        except NotFoundError:
            raise missing from None
        if not found:
            raise missing
        return found[0]

    def product(self, key: str, path: str, missing: str) -> str:
        """Return the SHA-256 of an experiment's product; `NotFoundError` with the sentence given without one."""
        found = self.experiment(key).products
        if path not in found:
            raise NotFoundError(missing)
        return found[path]

    def source(self, key: str) -> dict[str, str]:
        """Return the paper's sources, path to SHA-256: the LaTeX, the references and the figures."""
        found = self.experiment(key).products
        if "latex/main.tex" not in found:
            raise NotFoundError("This experiment has no paper yet, so there is no source of one.")
        chosen = {path: sha for path, sha in found.items() if path.startswith("latex/") or path.endswith(".png")}
        # The figures lie beside the source, where it was compiled.
        return {path.removeprefix("latex/"): sha for path, sha in sorted(chosen.items())}

    def difference(self, artifacts: Artifacts, key: str) -> list[Change]:
        """Return what an experiment changed in the code of its template."""
        found = self.experiment(key)
        return changes(artifacts, self.direction(found.direction_id), found)

    def findings(self, artifacts: Artifacts, key: str) -> list[dict[str, Any]]:
        """Return what the audit found in an experiment's edits, those that were refused included."""
        return auditing.entries(artifacts, self.experiment(key))

    def readings(self, artifacts: Artifacts, key: str) -> list[dict[str, Any]]:
        """Return what was found of an experiment's edits and results beside their plans, in order."""
        return fidelity.entries(artifacts, self.experiment(key))

    def summaries(
        self, artifacts: Artifacts, after: str | None, limit: int, only: str | None = None
    ) -> list[tuple[str, Mapping[str, object]]]:
        """Return a page of the results table, or one direction's row: a direction's id and its row."""
        with self.store.begin(write=False) as tx:
            if only is not None:
                return [(only, results.summary(tx, artifacts, self._direction(tx, only)))]
            page = tx.directions.page(after, limit, tenant=self.tenant)
            return [(one.id, results.summary(tx, artifacts, one)) for one in page]

    def _direction(self, tx: Transaction, key: str) -> Direction:
        _check("direction", "dir", key)
        self._owned(tx, "direction", DirectionId(key))
        return tx.directions.get(key)

    def _experiment(self, tx: Transaction, key: str) -> Experiment:
        _check("experiment", "exp", key)
        found = _one(tx.experiments, "experiment", key)
        self._owned(tx, "experiment", found.direction_id)
        return found

    def _owned(self, tx: Transaction, noun: str, direction: DirectionId) -> None:
        if not tx.directions.count(id=direction, tenant=self.tenant):
            raise NotFoundError(f"There is no {noun} with this id.")


def is_json(product: str) -> bool:
    """Whether the platform wrote a product, named by its path, as JSON."""
    return product in JSON_PRODUCTS or registering.is_version(product)


def changes(artifacts: Artifacts, direction: Direction, experiment: Experiment) -> list[Change]:
    """Return what an experiment changed in the code of its direction's template."""
    before, after = templates.start_of(direction), experiment.files
    return [
        Change(path=path, kind=_kind(path, before, after), diff=_diff(artifacts, path, before, after))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _one(collection: Collection[T], noun: str, key: str) -> T:
    # In the same words as of another tenant's, so that nobody learns which ids there are.
    found = collection.find(id=key)
    if not found:
        raise NotFoundError(f"There is no {noun} with this id.")
    return found[0]


def artifact_id(experiment_id: ExperimentId, path: str) -> str:
    """Return the id of a file of an experiment, so that nobody can ask for bytes that belong to none."""
    return f"art_{experiment_id.removeprefix('exp_')}_{hashlib.sha256(path.encode()).hexdigest()[:32]}"


def _kind(path: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if path not in before:
        return "added"
    return "changed" if path in after else "removed"


def _diff(artifacts: Artifacts, path: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    old, new = (_lines(artifacts, side.get(path)) for side in (before, after))
    if old is None or new is None:
        return ""
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
    )


def _lines(artifacts: Artifacts, sha: str | None) -> list[str] | None:
    if sha is None:
        return []
    if artifacts.path(sha).stat().st_size > MAX_DIFF_BYTES:
        return None
    try:
        lines = artifacts.get(sha).decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= MAX_DIFF_LINES else None


def events(store: Store, key: str, seq: int, limit: int) -> tuple[Sequence[Event], bool]:
    """Return a direction's events after `seq`, and whether none will follow them."""
    with store.begin(write=False) as tx:
        found = tx.events.since(DirectionId(key), seq, limit)
        return found, len(found) < limit and tx.directions.get(key).is_final


def newest_event(store: Store, key: str) -> int:
    """Return the number of a direction's newest event."""
    with store.begin(write=False) as tx:
        return tx.events.newest(DirectionId(key))


def _check(noun: str, prefix: str, key: str) -> None:
    # Whatever is no id never comes to the database, which may not even be able to be asked for it.
    if not re.fullmatch(rf"{prefix}_{ULID}", key):
        raise NotFoundError(f"There is no {noun} with this id.")
