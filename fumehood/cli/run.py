"""`fumehood run`: the whole pipeline on this machine, with the processes it needs and no services."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.signing import Ed25519Signer, open_envelope, trusted_keys
from fumehood.cli import handover
from fumehood.cli.children import Children, check_machine, halt
from fumehood.cli.output import Progress
from fumehood.domain.direction import Direction, DirectionState, Hold
from fumehood.domain.ids import ID, DirectionId
from fumehood.domain.step import Event, StepState
from fumehood.errors import (
    BadInputError,
    ConflictError,
    MachineUnfitError,
    ModelUnavailableError,
    NotFoundError,
    OverBudgetError,
    WorkFailedError,
)
from fumehood.gateway.keys import Keys
from fumehood.gateway.prices import Prices
from fumehood.ports import Store
from fumehood.services import directions, export, steps, verification
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

POLL_S = 0.1
MIN_FREE_BYTES = 512 * 1024 * 1024
_LIFTED = frozenset({Hold.OVER_BUDGET, Hold.NO_MODEL})
"""By going on; what somebody paused stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a run came to."""

    out: Path
    summary: dict[str, object]
    report: verification.Report


def run(settings: Settings, asked: directions.Submission, out: Path, *, resume: bool, progress: Progress) -> Finished:
    """Carry a direction out and leave its folder at `out`; go on where an earlier command stopped.

    Raises the errors of `fumehood.errors`; every one that can be known beforehand comes before any work starts.
    """
    known = _begun(out, resume=resume)
    if known and (out / export.MANIFEST).is_file():
        return finished(settings, out)
    if known is None:
        _check_input(asked)
        _writable(out)
        _check_models(settings, asked.model, asked.review_model or asked.model)
    _room(settings)
    progress.start("checking the sandbox and LaTeX")
    try:
        told = check_machine(settings, asked.sandbox, progress.say)
        progress.say(str(told["text"]))
        worlds.prepare_state(settings)
        store, artifacts, clock = worlds.store_of(settings), worlds.artifacts_of(settings), SystemClock()
        direction = (
            _find(store, known, out) if known else directions.submit(store, artifacts, clock, asked, worlds.SHIPPED)
        )
        if known:
            _check_models(settings, direction.model, direction.review_model)
        out.mkdir(parents=True, exist_ok=True)
        (out / "direction.json").write_bytes(export.describe(direction))
        if known:
            progress.say(f"going on with {direction.id}")
            direction = _lifted(store, direction, asked)
        follow(settings, store, direction, str(told["adapter"]), progress)
        with store.begin(write=False) as tx:
            direction = tx.directions.get(direction.id)
        raise_for(direction, store)
        progress.say(f"writing {out}")
        signer = Ed25519Signer(settings.state_dir)
        export.write(export.direction_files(store, artifacts, direction.id, signer), artifacts, signer, out)
    finally:
        progress.stop()
    return finished(settings, out)


def _begun(out: Path, *, resume: bool) -> DirectionId | None:
    """Return the direction that the folder belongs to; None for a folder that is new or empty."""
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
    except OSError as error:
        raise BadInputError(f"--out {out} cannot be used: {error.strerror}.") from error
    if not out.is_dir():
        raise BadInputError(f"--out {out} is not a folder.")
    if not resume:
        raise BadInputError(f"--out {out} is not empty: give another folder, or --resume to go on with it.")
    try:
        known = json.loads((out / "direction.json").read_bytes())["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"--resume: {out} holds no direction.json that names a direction.") from error
    if not isinstance(known, str) or not ID.fullmatch(known):
        raise BadInputError(f"--resume: {out} holds no direction.json that names a direction.")
    return DirectionId(known)


def _check_input(asked: directions.Submission) -> None:
    """Refuse bad input before anything is made: the draft is thrown away, with what it would have kept."""
    with tempfile.TemporaryDirectory(prefix="fumehood-check-") as scratch:
        directions.draft(LocalArtifacts(Path(scratch)), SystemClock(), asked, worlds.SHIPPED)


def _writable(out: Path) -> None:
    there = out.absolute()
    while not there.exists():
        there = there.parent
    try:
        # Tried, not asked for: root may write anywhere, but not on a disk that is read only.
        tempfile.TemporaryDirectory(prefix=".fumehood-", dir=there).cleanup()
    except OSError as error:
        raise BadInputError(f"--out {out} cannot be written: {there} is not a folder that you may write to.") from error


def _check_models(settings: Settings, *models: str) -> None:
    """Refuse what the gateway would refuse, before any work was done for it."""
    for model in models:
        kind = model.partition("-")[0]
        if kind == "offline":
            continue
        if kind != "claude":
            raise BadInputError(f"There is no model {model!r}: give `offline`, or one such as `claude-sonnet-4-5`.")
        if "anthropic" not in {*handover.names(), *Keys(settings.state_dir).list()}:
            raise BadInputError(f"The model {model} needs a key: give it with `fumehood keys set anthropic`.")
        Prices.shipped().of(model)


def _room(settings: Settings) -> None:
    there = settings.state_dir
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        raise MachineUnfitError(
            f"The disk of {settings.state_dir} has {free // 2**20} MiB free and {MIN_FREE_BYTES // 2**20} are needed.",
            remedy="Make room, or set FUMEHOOD_STATE_DIR to a folder on a larger disk.",
        )


def _find(store: Store, known: DirectionId, out: Path) -> Direction:
    try:
        with store.begin(write=False) as tx:
            return tx.directions.get(known)
    except NotFoundError as error:
        raise BadInputError(f"--resume: {out} belongs to {known}, which this state folder does not know.") from error


def _lifted(store: Store, direction: Direction, asked: directions.Submission) -> Direction:
    """Take over a raised budget, and lift the holds that it or the command itself mends."""
    with store.begin() as tx:
        budget = asked.budget_usd if asked.budget_usd is not None else direction.budget_usd
        hold = Hold.NONE if direction.hold in _LIFTED else direction.hold
        direction = dataclasses.replace(direction, budget_usd=budget, hold=hold)
        tx.directions.save(direction)
        for experiment in tx.experiments.find(direction_id=direction.id):
            if experiment.hold in _LIFTED:
                tx.experiments.save(dataclasses.replace(experiment, hold=Hold.NONE))
    return direction


def follow(settings: Settings, store: Store, direction: Direction, sandbox: str, progress: Progress) -> None:
    """Start the workers and show events until a direction needs no more work.

    Raises `ConflictError` when another command is carrying the direction out.
    """
    with worlds.only_one(settings.state_dir / "directions" / f"{direction.id}.lock") as mine:
        if not mine:
            raise ConflictError(f"Another command is carrying {direction.id} out: wait for it, or stop it first.")
        _free(store, direction)
        _follow(settings, store, direction, sandbox, progress)


def _free(store: Store, direction: Direction) -> None:
    """Let steps be claimed at once whose workers died with an earlier command, instead of when their leases end."""
    with store.begin() as tx:
        for step in tx.steps.find(direction_id=direction.id, state=StepState.CLAIMED):
            tx.steps.renew(step, until=0.0)


def _follow(settings: Settings, store: Store, direction: Direction, sandbox: str, progress: Progress) -> None:
    with store.begin(write=False) as tx:
        past = tx.events.since(direction.id, 0, 1_000_000)
    seen = past[-1].seq if past else 0
    try:
        with Children(settings, sandbox, direction.id) as children:
            while True:
                with store.begin(write=False) as tx:
                    events = tx.events.since(direction.id, seen)
                for event in events:
                    progress.event(event)
                    seen = event.seq
                if steps.nothing_left(store, direction):
                    return
                children.check()
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        progress.say("interrupted: stopping what runs; --resume goes on from here")
        halt(settings, sandbox, direction.id)
        raise


def raise_for(direction: Direction, store: Store) -> None:
    """Raise what a direction's end means for the command's exit status."""
    with store.begin(write=False) as tx:
        holds = {direction.hold, *(one.hold for one in tx.experiments.find(direction_id=direction.id))}
        past = tx.events.since(direction.id, 0, 1_000_000)
    if Hold.OVER_BUDGET in holds:
        raise OverBudgetError(f"{_last(past, Hold.OVER_BUDGET)}. Raise --budget-usd and give --resume to go on.")
    if Hold.NO_MODEL in holds:
        raise ModelUnavailableError(f"{_last(past, Hold.NO_MODEL)}. Nothing is lost: give --resume to go on.")
    if direction.state is not DirectionState.DONE:
        raise WorkFailedError(f"The direction {direction.state}: {direction.error or 'no reason was kept'}")


def _last(past: Sequence[Event], hold: Hold) -> str:
    """Return why the work was held last, without its full stop."""
    told = [event.text for event in past if event.kind == hold.value]
    return told[-1].removeprefix("held: ").rstrip(".") if told else "The work is held"


def finished(settings: Settings, out: Path) -> Finished:
    """Verify a finished folder and return what it says."""
    trusted = trusted_keys(settings.state_dir)
    report = verification.verify_folder(
        verification.open_folder(out), lambda envelope, kind: open_envelope(envelope, trusted, kind)
    )
    try:
        summary = json.loads((out / "summary.json").read_bytes())
    except (OSError, ValueError):
        summary = {}
    return Finished(out=out, summary=summary, report=report)
