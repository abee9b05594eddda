"""The pool of host user ids that nobody has, one for each execution."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fumehood.errors import SandboxUnavailableError

FIRST = 1_900_000_000
"""Above every range that distributions give to users, containers and services, below the sign bit."""
COUNT = 1000


def claim(run_dir: Path, owner: str) -> int:
    """Take a free uid for `owner` (`<installation>/<execution>`), or give back the one that it already has."""
    with _locked(run_dir) as folder:
        taken = {int(path.name): path.read_text(encoding="utf-8") for path in folder.iterdir()}
        for uid, holder in taken.items():
            if holder == owner:
                return uid
        # A start that depends on what is taken would hand a uid on at once; going round gives late writes time to die.
        start = _last(folder) + 1
        for step in range(COUNT):
            uid = FIRST + (start + step) % COUNT
            if uid not in taken:
                (folder / str(uid)).write_text(owner, encoding="utf-8")
                (folder.parent / "uids.last").write_text(str(uid - FIRST), encoding="utf-8")
                return uid
    raise SandboxUnavailableError(
        f"All {COUNT} user ids for executions are taken.", remedy="Run `fumehood sandbox reap`.", reason="no_uid"
    )


def release(run_dir: Path, owner: str) -> None:
    """Give back what `owner` claimed; nothing happens when it has none."""
    with _locked(run_dir) as folder:
        for path in folder.iterdir():
            if path.read_text(encoding="utf-8") == owner:
                path.unlink()


def claims(run_dir: Path, installation: str) -> dict[str, int]:
    """Return the executions of an installation that hold a uid."""
    prefix = f"{installation}/"
    found: dict[str, int] = {}
    folder = run_dir / "uids"
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            owner = path.read_text(encoding="utf-8")
            if owner.startswith(prefix):
                found[owner.removeprefix(prefix)] = int(path.name)
    return found


def missing() -> str:
    """Say why the pool cannot be used here, or return an empty string."""
    if os.geteuid() != 0:
        return "not root"
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        inside, _, length = (int(word) for word in line.split())
        if inside <= FIRST and inside + length >= FIRST + COUNT:
            return ""
    return f"the user namespace here does not have the user ids from {FIRST} on"


def _last(folder: Path) -> int:
    try:
        return int((folder.parent / "uids.last").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return -1


@contextmanager
def _locked(run_dir: Path) -> Iterator[Path]:
    folder = run_dir / "uids"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(run_dir / "uids.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
