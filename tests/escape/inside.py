"""What every hostile program has beside it: how it says what it got hold of, and what was refused."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOLD = Path("/in/told.json")
_libc = ctypes.CDLL(None, use_errno=True)


def say(*words: object) -> None:
    """Print a line at once, whatever becomes of this process."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode("utf-8", "backslashreplace"))


def got(name: str, what: object = "") -> None:
    """Say that a trick succeeded."""
    say("GOT", name, str(what)[:200].replace("\n", " "))


def refused(name: str, why: object = "") -> None:
    """Say that a trick failed."""
    say("refused", name, str(why)[:200].replace("\n", " "))


def attempt(name: str, act: Callable[[], object]) -> bool:
    """Try something; whether it succeeded."""
    try:
        found = act()
    except Exception as error:
        refused(name, f"{type(error).__name__}: {error}")
        return False
    got(name, found)
    return True


def call(number: int, *arguments: Any) -> int:
    """Make a system call by its number on x86-64."""
    ctypes.set_errno(0)
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    done = int(_libc.syscall(ctypes.c_long(number), *plain))
    if done == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def reaches(name: str, number: int, *arguments: Any, refusal: int = errno.EPERM) -> None:
    """Try a system call that cannot succeed: any answer but the filter's own comes from the kernel behind it."""
    try:
        got(name, call(number, *arguments))
    except OSError as error:
        (refused if error.errno == refusal else got)(name, f"{errno.errorcode.get(error.errno or 0)}")


def told() -> dict[str, Any]:
    """Return what an attacker may know of the host: where canaries lie and who listens."""
    found: dict[str, Any] = json.loads(TOLD.read_text(encoding="utf-8"))
    return found


if __name__ != "__main__":
    say("begun")
