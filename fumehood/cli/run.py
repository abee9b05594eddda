"""`fumehood run`: the whole pipeline on this machine, with the processes it needs and no services."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fumehood.artifacts.signing import Ed25519Signer, open_envelope, trusted_keys
from fumehood.cli import checks, lacking
from fumehood.cli.children import Children, check_machine, gateway, halt, workers
from fumehood.cli.options import Adapter
from fumehood.cli.output import Progress
from fumehood.domain import caps
from fumehood.domain.caps import Cap
from fumehood.domain.direction import BUDGETS, Direction, DirectionState, Hold
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Event, StepState
from fumehood.errors import (
    BadInputError,
    ConflictError,
    ModelUnavailableError,
    NotFoundError,
    OverBudgetError,
    PolicyError,
    WorkFailedError,
)
from fumehood.ports import Artifacts, Store
from fumehood.services import approvals, export, screening, steps, submissions, templates, verification
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

POLL_S = 0.1
_LIFTED = frozenset({Hold.OVER_BUDGET, Hold.NO_MODEL})
"""By going on; what somebody paused stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a run came to."""

    out: Path
    summary: dict[str, object]
    report: verification.Report


def run(
    settings: Settings,
    asked: submissions.Submission,
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    given: Collection[str] = (),
) -> Finished:
    """Carry a direction out and leave its folder at `out`; go on where an earlier command stopped.

    `given` names what of `asked` a person gave: going on, it may not differ from what the folder's direction has.
    Raises the errors of `fumehood.errors`; every one that can be known beforehand comes before any work starts.
    """
    policy = screening.load(settings.policy)
    if policy.judge:
        checks.provided(settings, policy.judge.model)
    told_before = checks.begun(out, resume=resume)
    known = DirectionId(told_before["id"]) if told_before else None
    if told_before:
        checks.unchanged(told_before, asked, given, out)
        checks.same_packages(settings, told_before, asked, out)
        if (out / export.MANIFEST).is_file():
            return finished(settings, out)
    else:
        planned = checks.draft(asked)
        checks.writable(out)
        checks.models(settings, planned)
        checks.gpus(settings, asked.template, asked.profile, asked.sandbox)
        if said := lacking.brought_along(templates.find(asked.template, worlds.SHIPPED), planned.template_files):
            progress.say(said)
        checks.lab(settings, asked, progress.say)
        if asked.text is not None and checks.is_offline(settings, asked.model):
            progress.say("the offline model answers from the template's playbook and does not read --text")
    checks.room(settings)
    progress.start("checking the sandbox and LaTeX")
    try:
        told = check_machine(settings, _sandbox(told_before, asked), progress.say)
        progress.say(str(told["text"]))
        if not told_before:
            checks.gpus(settings, asked.template, asked.profile, str(told["adapter"]))
        worlds.prepare_state(settings)
        store, artifacts, clock = worlds.store_of(settings), worlds.artifacts_of(settings), SystemClock()
        direction = (
            _find(store, known, out)
            if known
            else submissions.submit(
                *(store, artifacts, clock, asked, worlds.SHIPPED),
                policy=policy,
                known_templates=worlds.known_templates(settings),
            )
        )
        if known:
            checks.models(settings, direction)
        out.mkdir(parents=True, exist_ok=True)
        (out / "direction.json").write_bytes(export.describe(direction))
        if known:
            progress.say(f"going on with {direction.id}")
            direction = _lifted(store, direction, asked)
        follow(settings, store, direction, str(told["adapter"]), progress)
        with store.begin(write=False) as tx:
            direction = tx.directions.get(direction.id)
        raise_for(direction, store, artifacts)
        progress.say(f"writing {out}")
        signer = Ed25519Signer(settings.state_dir)
        export.write(export.direction_files(store, artifacts, clock, direction.id, signer), artifacts, signer, out)
    finally:
        progress.stop()
    return finished(settings, out)


def _sandbox(told_before: Mapping[str, Any] | None, asked: submissions.Submission) -> str:
    """Return the sandbox to work in: going on, the one that the direction began with."""
    begun_in = (told_before or {}).get("sandbox")
    return str(begun_in) if begun_in in get_args(Adapter) else asked.sandbox


def _find(store: Store, known: DirectionId, out: Path) -> Direction:
    try:
        with store.begin(write=False) as tx:
            return tx.directions.get(known)
    except NotFoundError as error:
        raise BadInputError(f"--resume: {out} belongs to {known}, which this state folder does not know.") from error


def _lifted(store: Store, direction: Direction, asked: submissions.Submission) -> Direction:
    """Take over a raised budget, and lift the holds that it or the command itself mends."""
    with store.begin() as tx:
        given = {name: getattr(asked, name) for name in BUDGETS if getattr(asked, name) is not None}
        hold = Hold.NONE if direction.hold in _LIFTED else direction.hold
        direction = dataclasses.replace(direction, hold=hold, **given)
        tx.directions.save(direction)
        for experiment in tx.experiments.find(direction_id=direction.id):
            if experiment.hold in _LIFTED:
                tx.experiments.save(dataclasses.replace(experiment, hold=Hold.NONE))
    return direction


def follow(
    settings: Settings,
    store: Store,
    direction: Direction,
    sandbox: str,
    progress: Progress,
    *,
    replay: Path | None = None,
) -> None:
    """Start the workers and show events until a direction needs no more work; models are asked, or a record is.

    Raises `ConflictError` when another command is carrying the direction out.
    """
    with worlds.only_one(worlds.command_lock(settings, direction.id)) as mine:
        if not mine:
            raise ConflictError(f"Another command is carrying {direction.id} out: wait for it, or stop it first.")
        worlds.build_lab(settings, direction.template_files, worlds.artifacts_of(settings), progress.say)
        _free(store, direction)
        _follow(settings, store, direction, sandbox, progress, replay)


def _free(store: Store, direction: Direction) -> None:
    """Let steps be claimed at once whose workers died with an earlier command, instead of when their leases end."""
    with store.begin() as tx:
        for step in tx.steps.find(direction_id=direction.id, state=StepState.CLAIMED):
            tx.steps.renew(step, until=0.0)


def say_of_room(settings: Settings, progress: Progress, *, waits: bool) -> bool:
    """Show when the disk becomes full, and when it no longer is; return whether work waits for room now."""
    full = checks.is_full(settings)
    if full and not waits:
        progress.say(f"the disk of {settings.state_dir} is full: the work waits until there is room")
    if waits and not full:
        progress.say("there is room again: the work goes on")
    return full


def _follow(
    settings: Settings, store: Store, direction: Direction, sandbox: str, progress: Progress, replay: Path | None
) -> None:
    with store.begin(write=False) as tx:
        past = tx.events.since(direction.id, 0, 1_000_000)
    seen = past[-1].seq if past else 0
    waits = False
    try:
        with Children(settings, (gateway(replay), *workers(sandbox, direction.id))) as children:
            while True:
                with store.begin(write=False) as tx:
                    events = tx.events.since(direction.id, seen)
                for event in events:
                    progress.event(event)
                    seen = event.seq
                if steps.nothing_left(store, direction):
                    return
                children.check()
                waits = say_of_room(settings, progress, waits=waits)
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be what went away
            resumes = "; --resume goes on from here" if direction.ideas else ""
            progress.say(f"interrupted: stopping what runs{resumes}")
        halt(settings, sandbox, direction.id)
        raise


_OPTIONS = {
    "GPU-seconds": "--budget-gpu-s",
    "seconds of executions": "--budget-wall-s",
    caps.WORDS[Cap.EXPERIMENT]: "--budget-experiment-usd",
    caps.WORDS[Cap.CALL]: "--budget-call-usd",
    caps.WORDS[Cap.TOKEN]: "that setting",
}
"""By what a sentence about a budget says, what raises it."""


def raise_for(direction: Direction, store: Store, artifacts: Artifacts) -> None:
    """Raise what a direction's end means for the command's exit status."""
    with store.begin(write=False) as tx:
        holds = {direction.hold, *(one.hold for one in tx.experiments.find(direction_id=direction.id))}
        past = tx.events.since(direction.id, 0, 1_000_000)
    if Hold.OVER_BUDGET in holds:
        why = _last(past, Hold.OVER_BUDGET)
        option = next((name for words, name in _OPTIONS.items() if words in why), "--budget-usd")
        raise OverBudgetError(f"{why}. Raise {option} and give --resume to go on.")
    if Hold.NO_MODEL in holds:
        raise ModelUnavailableError(f"{_last(past, Hold.NO_MODEL)}. Nothing is lost: give --resume to go on.")
    if waiting := approvals.waiting(store, artifacts, direction.id):
        first = waiting[0]
        raise PolicyError(
            f"{first.why[:1].upper()}{first.why[1:]}. Let it go on with `fumehood admin approve {first.id}` and give "
            f"--resume, or end it with `fumehood admin refuse {first.id}`."
        )
    if direction.state is not DirectionState.DONE:
        why = (direction.error or "no reason was kept").rstrip(".")
        if not direction.ideas:
            raise WorkFailedError(f"The baseline {direction.state}: {why}.")
        raise WorkFailedError(
            f"The direction {direction.state}: {why}. This end stays: begin anew with another --out"
            " (make demo: FRESH=1)."
        )


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
