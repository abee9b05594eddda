"""`fumehood replay`: a recorded direction again, from its folder, with its programs really run and no model asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.artifacts.signing import Ed25519Signer, load_key, open_envelope, trusted_keys
from fumehood.cli import checks, recorded
from fumehood.cli.apart import apart
from fumehood.cli.children import check_machine
from fumehood.cli.output import Progress
from fumehood.cli.run import follow
from fumehood.domain.direction import Direction
from fumehood.errors import BadInputError, TamperedError
from fumehood.gateway.record import FILE, Record
from fumehood.llm.search_replace import FORMAT
from fumehood.ports import Artifacts
from fumehood.services import drawings, export, repeating, screening, submissions, verification
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
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
    whole, only = recorded.of_direction(folder)
    _check_unchanged(settings, whole)
    _check_drawn(whole)
    record = Record.read(whole)
    asked = recorded.direction_of(whole)
    if asked.parent:
        raise BadInputError(
            "This direction started from another one's experiment, whose code its folder does not hold."
        )
    if out is not None:
        checks.writable(out)
        if not checks.is_new(out):
            raise BadInputError(f"--out {out} is not empty: give another folder.")
    policy = screening.load(settings.policy)
    with apart(settings, "replays", **_coder(settings, record)) as own:
        worlds.prepare_state(own)
        store, artifacts, clock = worlds.store_of(own), worlds.artifacts_of(own), SystemClock()
        try:
            direction = recorded.as_submitted(asked, template or asked.template, artifacts)
            progress.start("checking the sandbox and LaTeX")
            told = check_machine(own, sandbox, progress.say)
            recorded.catalogued(whole, store, artifacts)
            submissions.submit_again(store, clock, direction, policy)
            follow(own, store, direction, str(told["adapter"]), progress, replay=whole.resolve())
            with store.begin(write=False) as tx:
                ended = tx.directions.get(direction.id)
                errors = [one.error for one in tx.experiments.find(direction_id=direction.id)]
            signer = Ed25519Signer(own.state_dir)
            files = export.direction_files(store, artifacts, clock, direction.id, signer)
            found = _compared(whole, files, artifacts, only)
            found.different = [*_ends(asked, ended, errors), *found.different]
            if out is not None:
                export.write(files, artifacts, signer, out)
        finally:
            progress.stop()
            store.close()
    return Replayed(out=out, found=found)


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


def _check_drawn(whole: Path) -> None:
    """Refuse a record of before models wrote notes on figures: it holds no answer to a question that is asked now."""
    for folder in sorted(one.parent for one in whole.glob("experiments/*/idea.json")):
        if any(folder.glob("*.png")) and not (folder / drawings.PRODUCT).is_file():
            raise BadInputError(
                f"The figures of {folder.name} were drawn by a version that asked no model for notes on them, so its"
                " record lacks answers that are needed now: repeat it with the version that made it."
            )


def _coder(settings: Settings, record: Record) -> dict[str, Any]:
    """Return what settings make the coder that made the recorded edits make them again."""
    if all(FORMAT in system for system in record.coders):
        # No interpreter lies there, so that the platform's own coder applies the edits again.
        return {"coder_python": settings.state_dir / "no-coder"}
    if worlds.coder_python(settings) is None:
        raise BadInputError("The edits were made by Aider, whose environment is not there: make it with `make setup`.")
    return {}


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
