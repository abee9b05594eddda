"""What lies in a fresh workspace: `work/`, owned by the execution's uid, and `in/`, which that uid can only read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fumehood.domain.execution import MIB, Input
from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox.storage import disk

BLOCK = 4096


def sizes(inputs: Sequence[Input]) -> list[int]:
    """Return how large each input is, or refuse one that is no file."""
    return [_size(item) for item in inputs]


def held(inputs: Sequence[int]) -> int:
    """Return what files of these sizes take of a volume, their folders included."""
    return sum(-(-size // BLOCK) * BLOCK + BLOCK for size in inputs)


def lay_out(target: Path, inputs: Sequence[Input], uid: int) -> None:
    """Fill a fresh volume: `work/` and `in/`, and each input at its place once its hash was right."""
    target.chmod(0o711)
    with suppress(FileNotFoundError):
        (target / "lost+found").rmdir()
    for part, owner, mode in (("work", uid, 0o700), ("in", 0, 0o750)):
        (target / part).mkdir(mode=mode)
        (target / part).chmod(mode)
        _own(target / part, owner, uid)
    for item in inputs:
        own = item.path.startswith("work/")
        _make_parents(target, item.path, uid if own else 0, uid)
        mode = (0o600 if own else 0o440) | (0o110 if item.executable else 0)
        copy_checked(item, target / item.path, mode)
        _own(target / item.path, uid if own else 0, uid)


def copy_checked(item: Input, place: Path, mode: int) -> None:
    """Copy an input in, and refuse it when its bytes are not those that were promised."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as copy, Path(item.source).open("rb") as source:
            while chunk := source.read(MIB):
                digest.update(chunk)
                copy.write(chunk)
            os.fchmod(copy.fileno(), mode)
    except FileExistsError as error:
        raise BadInputError(f"Two inputs have the place {item.path}.") from error
    except OSError as error:
        if error.errno in disk.FULL:
            raise SandboxUnavailableError(
                f"The inputs do not fit the volume ({item.path} was the first that did not).",
                remedy="Raise the storage limit.",
                reason="too_large",
            ) from error
        raise BadInputError(f"The input {item.path} cannot be read from {item.source} ({error.strerror}).") from error
    if digest.hexdigest() != item.sha256:
        raise BadInputError(f"The input {item.path} is not the file it was said to be: its SHA-256 differs.")


def changed(target: Path, inputs: Sequence[Input]) -> list[str]:
    """Return the read-only inputs whose bytes are no longer those that were put there."""
    found = []
    for item in inputs:
        if item.path.startswith("in/"):
            try:
                with (target / item.path).open("rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == item.sha256
            except OSError:
                same = False
            if not same:
                found.append(item.path)
    return found


def _size(item: Input) -> int:
    try:
        found = Path(item.source).stat()
    except OSError as error:
        raise BadInputError(f"The input {item.path} cannot be read from {item.source} ({error.strerror}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInputError(f"The input {item.path} is not a regular file at {item.source}.")
    return found.st_size


def _make_parents(target: Path, path: str, owner: int, group: int) -> None:
    parts = path.split("/")[:-1]
    for depth in range(2, len(parts) + 1):
        folder = target.joinpath(*parts[:depth])
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o700 if owner else 0o750)
            _own(folder, owner, group)


def _own(path: Path, owner: int, group: int) -> None:
    # Without root there is one user only; the fake adapter lives with that, the real ones refuse before.
    if os.geteuid() == 0:
        os.chown(path, owner, group)
