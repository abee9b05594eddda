"""What the set-up steps share: places, one-line messages, stamps, and root's rights."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".setup"
CANNOT = 3
"""Exit status where this machine lacks something that only a person can give it."""


def say(line: str) -> None:
    """Tell in one line what a step does; standard error, so that a command's own output stays clean."""
    print(f"set-up: {line}", file=sys.stderr, flush=True)


def give_up(*lines: str) -> NoReturn:
    """End with the lines that say what is missing and how to get it."""
    for line in lines:
        say(line)
    raise SystemExit(CANNOT)


def run(command: list[str | Path], *, env: dict[str, str] | None = None, quiet: bool = False) -> int:
    """Run a command to its end and return its exit status; its output is shown only when it failed, if quiet."""
    if not quiet:
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode
    ended = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if ended.returncode:
        sys.stderr.write(ended.stdout + ended.stderr)
    return ended.returncode


def must_run(command: list[str | Path], what: str, *, env: dict[str, str] | None = None) -> None:
    """Run a command, or end with the command itself so that a person can look into it."""
    if run(command, env=env, quiet=True):
        say(f"{what} failed; the command was: {shlex.join(str(part) for part in command)}")
        raise SystemExit(1)


# root


def as_root(command: list[str]) -> list[str] | None:
    """Return the command as it must be started to have root's rights, or None where there are none to be had."""
    if os.geteuid() == 0:
        return command
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n", *command]
    return None


# stamps: a step whose inputs have not changed is not done again


def key_of(**inputs: object) -> str:
    """Return one hash over everything that a step's outcome depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def stamp(step: str) -> str:
    """Return the key that a step was last finished with."""
    with contextlib.suppress(OSError):
        return (STAMPS / step).read_text(encoding="utf-8").strip()
    return ""


def set_stamp(step: str, key: str) -> None:
    """Remember that a step was finished with this key."""
    STAMPS.mkdir(exist_ok=True)
    fresh = STAMPS / f"{step}.new"
    fresh.write_text(key + "\n", encoding="utf-8")
    fresh.replace(STAMPS / step)


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Hold a lock on a file, so that two set-ups at once do each step one after the other."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up that holds {place}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    say(f"{what} ...")
    start = time.monotonic()
    yield
    say(f"{what}: done in {time.monotonic() - start:.0f} s")


# what pyproject.toml says


def pyproject() -> dict[str, Any]:
    """Return the project's own description."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return [entry for entry in pyproject()["dependency-groups"][name] if isinstance(entry, str)]


def state_dir() -> Path:
    """Return where the platform keeps its state; the same rule as fumehood.settings."""
    told = os.environ.get("FUMEHOOD_STATE_DIR")
    if told:
        return Path(told).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/fumehood")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "fumehood"
