"""What a finished folder says that its direction was: whatever does it again begins with this."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fumehood.domain import catalogue
from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.domain.extra_packages import REQUEST, WHEELS
from fumehood.errors import BadInputError, NotFoundError
from fumehood.ports import Artifacts, Store
from fumehood.services import export, extra_packages, templates
from fumehood.services.public_data import FetchedData
from fumehood.settings import Settings
from fumehood.store.plain import CATALOGUE as ENTRY
from fumehood.store.plain import DIRECTION
from worker import worlds


def of_direction(folder: Path) -> tuple[Path, str]:
    """Return the folder of the direction, and the name of the only experiment that is asked for, if one is."""
    if not folder.is_dir():
        raise BadInputError(f"There is no folder {folder}.")
    if (folder / "direction.json").is_file():
        return folder, ""
    folder = folder.resolve()
    above = folder.parent.parent
    if (folder / "idea.json").is_file() and (above / "direction.json").is_file():
        return above, folder.name
    raise BadInputError(f"{folder} is neither a direction's folder nor an experiment's within one.")


def direction_of(folder: Path) -> Direction:
    """Return what was asked for, as a direction's folder says it."""
    try:
        return DIRECTION.value(json.loads((folder / "direction.json").read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{folder / 'direction.json'} does not say what was asked for.") from error


def _of_command(recorded: Direction, files: Mapping[str, str], artifacts: Artifacts) -> dict[str, str]:
    """Keep what says which packages the direction's lab had more, and the wheels that its command added."""
    ours = worlds.artifacts_of(Settings())
    found = {}
    for path, sha in recorded.template_files.items():
        if files.get(path) != sha and (path == REQUEST or path.startswith(WHEELS)):
            try:
                found[path] = artifacts.put_file(ours.path(sha))
            except NotFoundError as error:
                raise BadInputError(f"This installation does not hold the direction's {path}.") from error
    return found


def with_asked(direction: Direction, sources: Mapping[str, Mapping[str, Any]], artifacts: Artifacts) -> Direction:
    """Return a direction as an experiment saw it that was given something of the catalogue, by its record's sources."""
    asked = {name: told for name, told in sources.items() if told["from"] == "catalogue"}
    if not asked:
        return direction
    document = catalogue.written(asked)
    added = {one.place: _ours(one, artifacts) for one in catalogue.read(document).values()}
    added[catalogue.ASKED] = artifacts.put(document)
    return dataclasses.replace(direction, template_files={**direction.template_files, **added})


def catalogued(folder: Path, store: Store, artifacts: Artifacts) -> None:
    """Put into a store what a finished folder says of the catalogue, and hold here what is here of it."""
    path = folder / export.CATALOGUE
    found = [ENTRY.value(told) for told in json.loads(path.read_bytes())] if path.is_file() else []
    with store.begin() as tx:
        tx.catalogue.save(*found)
    for entry in found:
        with contextlib.suppress(BadInputError):
            _ours(entry, artifacts)


def _ours(entry: catalogue.Entry, artifacts: Artifacts) -> str:
    try:
        return artifacts.put_file(worlds.artifacts_of(Settings()).path(entry.sha256))
    except NotFoundError as error:
        raise BadInputError(f"This installation does not hold {entry.id} of the catalogue.") from error


def as_submitted(recorded: Direction, template: str, artifacts: Artifacts) -> Direction:
    """Return the direction as it was when it was submitted, without budgets; its template must be the same still."""
    files = templates.snapshot(templates.find(template, worlds.SHIPPED), artifacts)
    fetched = FetchedData(Settings().data_dir).files(templates.load(files, artifacts, template), artifacts)
    # What was fetched since is no change of a template that did without it.
    files = {path: sha for path, sha in fetched.items() if path in recorded.template_files} | files
    files = extra_packages.settle(files, artifacts, templates.load(files, artifacts, template))
    files |= _of_command(recorded, files, artifacts)
    for path in sorted(files.keys() | recorded.template_files.keys()):
        if files.get(path) != recorded.template_files.get(path):
            raise BadInputError(
                f"The template's {path} is not what it was: name a folder with the old files by --template."
            )
    return dataclasses.replace(
        recorded,
        state=DirectionState.QUEUED,
        hold=Hold.NONE,
        approve=Approve.AUTO,
        budget_usd=None,
        budget_gpu_s=None,
        budget_wall_s=None,
        ended_at=None,
        error="",
    )
