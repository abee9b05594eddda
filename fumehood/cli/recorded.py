"""What a finished folder says that its direction was: whatever does it again begins with this."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.domain.extra_packages import REQUEST, WHEELS
from fumehood.errors import BadInputError, NotFoundError
from fumehood.ports import Artifacts
from fumehood.services import extra_packages, templates
from fumehood.services.public_data import FetchedData
from fumehood.settings import Settings
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
