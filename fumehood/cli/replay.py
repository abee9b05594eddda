"""`fumehood replay`: a recorded direction again, from its folder, with its programs really run and no model asked."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.artifacts.signing import SECRET_FILE, Ed25519Signer, load_key, open_envelope, trusted_keys
from fumehood.cli import checks
from fumehood.cli.children import check_machine
from fumehood.cli.output import Progress
from fumehood.cli.run import follow
from fumehood.domain.direction import Approve, Direction, DirectionState, Hold
from fumehood.errors import BadInputError, TamperedError
from fumehood.gateway.record import FILE, Record
from fumehood.llm.search_replace import FORMAT
from fumehood.ports import Artifacts
from fumehood.services import export, repeating, screening, submissions, templates, verification
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from fumehood.store.plain import DIRECTION
from worker import worlds


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay came to."""

    out: Path | None
    found: repeating.Repeated


def replay(
    settings: Settings, folder: Path, *, template: str, sandbox: str, out: Path | None, progress: Progress
) -> Replayed:
    """Repeat what a folder records in a state folder of its own, which is thrown away, and compare.

    Everything that can be known beforehand is refused before any work starts, in one sentence.
    """
    whole, only = _of_direction(folder)
    _check_unchanged(settings, whole)
    record = Record.read(whole)
    recorded = _direction(whole)
    if out is not None:
        checks.writable(out)
        if not checks.is_new(out):
            raise BadInputError(f"--out {out} is not empty: give another folder.")
    policy = screening.load(settings.policy)
    with _own_state(settings, record) as own:
        worlds.prepare_state(own)
        store, artifacts, clock = worlds.store_of(own), worlds.artifacts_of(own), SystemClock()
        try:
            direction = _again(recorded, template or recorded.template, artifacts)
            progress.start("checking the sandbox and LaTeX")
            told = check_machine(own, sandbox, progress.say)
            submissions.submit_again(store, clock, direction, policy)
            follow(own, store, direction, str(told["adapter"]), progress, replay=whole.resolve())
            with store.begin(write=False) as tx:
                ended = tx.directions.get(direction.id)
                errors = [one.error for one in tx.experiments.find(direction_id=direction.id)]
            signer = Ed25519Signer(own.state_dir)
            files = export.direction_files(store, artifacts, clock, direction.id, signer)
            found = _compared(whole, files, artifacts, only)
            found.different = [*_ends(recorded, ended, errors), *found.different]
            if out is not None:
                export.write(files, artifacts, signer, out)
        finally:
            progress.stop()
            store.close()
    return Replayed(out=out, found=found)


def _of_direction(folder: Path) -> tuple[Path, str]:
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


def _check_unchanged(settings: Settings, folder: Path) -> None:
    """Refuse a folder that is not what was signed; whose key it was does not matter, since nothing is believed."""
    enclosed = folder / export.PUBLIC_KEY
    trusted = {**trusted_keys(settings.state_dir), **(load_key(str(enclosed)) if enclosed.is_file() else {})}
    if not (folder / FILE).is_file():
        raise BadInputError(f"{folder / FILE} is missing, and without it no call can be repeated.")
    report = verification.verify_folder(
        verification.open_folder(folder), lambda envelope, kind: open_envelope(envelope, trusted, kind)
    )
    if not report.holds:
        raise TamperedError(f"{folder} cannot be repeated: {report.problems[0]}.")


def _direction(folder: Path) -> Direction:
    try:
        recorded = DIRECTION.value(json.loads((folder / "direction.json").read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{folder / 'direction.json'} does not say what was asked for.") from error
    if recorded.parent:
        raise BadInputError(
            "This direction started from another one's experiment, whose code its folder does not hold."
        )
    return recorded


def _again(recorded: Direction, template: str, artifacts: Artifacts) -> Direction:
    """Return the direction as it was when it was submitted, without budgets; its template must be the same still."""
    files = templates.snapshot(templates.find(template, worlds.SHIPPED), artifacts)
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


@contextmanager
def _own_state(settings: Settings, record: Record) -> Iterator[Settings]:
    """Make a state folder for the replay alone; data are drawn from the installation's secret, as they were here."""
    folder = settings.state_dir / "replays" / secrets.token_hex(6)
    place = folder / SECRET_FILE
    folder.mkdir(parents=True, mode=0o700)
    place.parent.mkdir(mode=0o700)
    if (settings.state_dir / SECRET_FILE).is_file():
        shutil.copy2(settings.state_dir / SECRET_FILE, place)
    told: dict[str, Any] = {
        "state_dir": folder,
        "lab_dir": worlds.lab_folder(settings).resolve(),
        "database_url": "",
        "s3_endpoint": "",
        "metrics_port": 0,
    }
    if all(FORMAT in system for system in record.coders):
        # No interpreter lies there, so that the platform's own coder applies the edits again.
        told["coder_python"] = folder / "no-coder"
    elif worlds.coder_python(settings) is None:
        shutil.rmtree(folder)
        raise BadInputError("The edits were made by Aider, whose environment is not there: make it with `make setup`.")
    try:
        yield settings.model_copy(update=told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compared(whole: Path, files: dict[str, str], artifacts: Artifacts, only: str) -> repeating.Repeated:
    old = verification.open_folder(whole)
    new = verification.Folder(paths=tuple(files), read=lambda path: artifacts.get(files[path]))
    names = sorted({path.split("/")[1] for one in (old, new) for path in one.paths if path.startswith("experiments/")})
    found = repeating.Repeated()
    for name in [only] if only else names:
        one = repeating.compare(old.below(f"experiments/{name}/"), new.below(f"experiments/{name}/"), name)
        found.same += one.same
        found.different += one.different
        found.measured += one.measured
    return found


def _ends(recorded: Direction, ended: Direction, errors: list[str]) -> list[str]:
    why = [error for error in (ended.error, *errors) if "record" in error]
    if why:
        return list(dict.fromkeys(why))
    return [] if ended.state is recorded.state else [f"the direction was {recorded.state} and is {ended.state}"]


def lines_of(done: Replayed) -> Iterator[str]:
    """Return what a replay came to as lines for a person."""
    yield from (f"same     {one}" for one in done.found.same)
    yield from (f"measured {one}" for one in done.found.measured)
    yield from (f"DIFFERS  {one}" for one in done.found.different)
    code = "code and text are the same" if done.found.holds else "code or text differ"
    yield f"{code}; {len(done.found.measured)} printed numbers were measured otherwise"
