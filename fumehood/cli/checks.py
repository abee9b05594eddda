"""What a command refuses before any work: bad input, a place that cannot be written, what this machine cannot do."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fumehood.artifacts.local import LocalArtifacts
from fumehood.cli import handover
from fumehood.domain.direction import Direction
from fumehood.domain.ids import ID
from fumehood.errors import BadInputError, MachineUnfitError
from fumehood.gateway.keys import VARIABLES, Keys
from fumehood.gateway.models import Models
from fumehood.services import extra_packages, submissions, templates
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

MIN_FREE_BYTES = 512 * 1024 * 1024
FULL_BYTES = 8 * 1024 * 1024
PLAYBOOK = "offline.toml"


def is_new(out: Path) -> bool:
    """Say whether there is nothing at a place, or an empty folder."""
    try:
        return not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise BadInputError(f"--out {out} cannot be used: {error.strerror}.") from error


def begun(out: Path, *, resume: bool) -> Mapping[str, Any] | None:
    """Return what a folder says of the direction that it belongs to; None for a folder that is new or empty."""
    if is_new(out):
        return None
    if not out.is_dir():
        raise BadInputError(f"--out {out} is not a folder.")
    if not resume:
        raise BadInputError(f"--out {out} is not empty: give another folder, or --resume to go on with it.")
    try:
        told = json.loads((out / "direction.json").read_bytes())
        known = told["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"--resume: {out} holds no direction.json that names a direction.") from error
    if not isinstance(known, str) or not ID.fullmatch(known):
        raise BadInputError(f"--resume: {out} holds no direction.json that names a direction.")
    return dict(told)


_SHOWN: Mapping[str, Callable[[Any], object]] = {
    "template": lambda value: Path(value).resolve().name,
    "text": lambda value: str(value).strip(),
    "novelty": lambda value: {True: "on", False: "off"}.get(value, value),
}
"""How an option's value is compared and shown, where that is not as it stands."""


def unchanged(told: Mapping[str, Any], asked: submissions.Submission, given: Collection[str], out: Path) -> None:
    """Refuse what a person gave that the folder's direction has otherwise: going on would leave it out silently.

    A budget may change; what was not given is taken from the folder.
    """
    for name, value in dataclasses.asdict(asked).items():
        if name not in given or name not in told or name.startswith("budget_"):
            continue
        show = _SHOWN.get(name, str)
        mine, there = str(show(value)), str(show(told[name]))
        if mine != there:
            option = f"--{name.replace('_', '-')} {textwrap.shorten(mine, 60, placeholder='...')}"
            has = textwrap.shorten(there, 60, placeholder="...")
            raise BadInputError(
                f"{option}: the direction in {out} has {has}; leave the option out to go on, or give another --out."
            )


def draft(asked: submissions.Submission) -> Direction:
    """Refuse bad input before anything is made: the draft's files are thrown away, with what it would have kept."""
    if not asked.template:
        shipped = ", ".join(templates.names(worlds.SHIPPED))
        raise BadInputError(f"--template is missing: give a folder, or one that ships with Fumehood ({shipped}).")
    with tempfile.TemporaryDirectory(prefix="fumehood-check-") as scratch:
        return submissions.draft(LocalArtifacts(Path(scratch)), SystemClock(), asked, worlds.SHIPPED)


def lab(settings: Settings, asked: submissions.Submission, say: Callable[[str], None]) -> None:
    """Build the lab with the packages that are asked for beside it, or refuse them before anything is made."""
    with tempfile.TemporaryDirectory(prefix="fumehood-check-") as scratch:
        artifacts = LocalArtifacts(Path(scratch))
        direction = submissions.draft(artifacts, SystemClock(), asked, worlds.SHIPPED)
        worlds.build_lab(settings, direction.template_files, artifacts, say)


def same_packages(settings: Settings, told: Mapping[str, Any], asked: submissions.Submission, out: Path) -> None:
    """Refuse packages that the lab of a folder's direction does not have: going on, it keeps the lab it began with."""
    if not (asked.packages or asked.wheels):
        return
    files = dict(told.get("template_files") or {})
    try:
        has = extra_packages.holds(files, worlds.artifacts_of(settings), asked.packages, asked.wheels)
    except OSError as error:
        raise BadInputError(f"The wheel {error.filename} cannot be read: {error.strerror}.") from error
    if not has:
        raise BadInputError(
            f"--packages and --wheel: the direction in {out} began with others; leave them out to go on, or give"
            " another --out."
        )


def gpus(settings: Settings, template: str, profile: str, sandbox: str) -> None:
    """Refuse a profile whose runs need GPUs, where none was named, or none is passed in by this sandbox.

    Asked before any work with the sandbox that was asked for, and once more with the one that answers here.
    """
    with tempfile.TemporaryDirectory(prefix="fumehood-check-") as scratch:
        artifacts = LocalArtifacts(Path(scratch))
        files = templates.snapshot(templates.find(template, worlds.SHIPPED), artifacts)
        needed = templates.profile_of(templates.load(files, artifacts, template), profile).gpus
    if not needed:
        return
    wants = f"A run of the profile {profile} needs {'a GPU' if needed == 1 else f'{needed} GPUs'}"
    if sandbox == "local":
        raise MachineUnfitError(
            f"{wants}, and the local sandbox passes none in.", remedy="Give --sandbox docker, or another --profile."
        )
    if len(settings.gpus) < needed:
        named = f"only {len(settings.gpus)} named" if settings.gpus else "none is named"
        raise MachineUnfitError(
            f"{wants}, and {named} in FUMEHOOD_GPUS.",
            remedy="Name those of this machine there, as Docker calls them, or give another --profile.",
        )


def writable(out: Path) -> None:
    """Refuse a place where nothing can be written."""
    there = out.absolute()
    while not there.exists():
        there = there.parent
    try:
        # Tried, not asked for: root may write anywhere, but not on a disk that is read only.
        tempfile.TemporaryDirectory(prefix=".fumehood-", dir=there).cleanup()
    except OSError as error:
        raise BadInputError(f"--out {out} cannot be written: {there} is not a folder that you may write to.") from error


def models(settings: Settings, direction: Direction) -> None:
    """Refuse what the gateway would refuse, before any work was done for it."""
    for model in (direction.model, direction.review_model):
        provided(settings, model)
    # A review needs none: it says what was checked.
    if is_offline(settings, direction.model) and PLAYBOOK not in direction.template_files:
        raise BadInputError(
            "The offline model has no playbook for this template: give --model claude-sonnet-4-6 or another, "
            "see `fumehood keys set`."
        )


def provided(settings: Settings, model: str) -> None:
    """Refuse a model that the gateway does not know, or has no key or no price for."""
    key = table(settings).source_of(model).key
    if key and key not in {*handover.names(), *Keys(settings.state_dir).list()}:
        wins = f", or in {VARIABLES[key]}, which wins" if key in VARIABLES else ""
        raise BadInputError(f"The model {model} needs a key: give it with `fumehood keys set {key}`{wins}.")


def table(settings: Settings) -> Models:
    """Return the models that the gateway would know."""
    return Models.shipped(settings.models, allow_unknown=settings.allow_unpriced)


def is_offline(settings: Settings, model: str) -> bool:
    """Say whether a model is the offline one, which answers from the template's playbook."""
    return table(settings).source_of(model).kind == "offline"


def room(settings: Settings) -> None:
    """Refuse a disk that is nearly full."""
    free = _free_bytes(settings)
    if free < MIN_FREE_BYTES:
        raise MachineUnfitError(
            f"The disk of {settings.state_dir} has {free // 2**20} MiB free and {MIN_FREE_BYTES // 2**20} are needed.",
            remedy="Make room, or set FUMEHOOD_STATE_DIR to a folder on a larger disk.",
        )


def is_full(settings: Settings) -> bool:
    """Say whether the disk has so little room left that work has to wait for more."""
    return _free_bytes(settings) < FULL_BYTES


def _free_bytes(settings: Settings) -> int:
    there = settings.state_dir
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
