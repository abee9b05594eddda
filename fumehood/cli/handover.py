"""Provider keys found in the environment: handed to the gateway's process, and gone from everywhere else.

An environment lies open in `/proc` for as long as its process lives, so the command starts itself again without them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fumehood.gateway.keys import VARIABLES, checked, handed

_NUMBER = "FUMEHOOD_HANDED_KEYS"
"""Tells the command that was started again which of its open files holds the keys."""
_NAME = "fumehood-keys"


def leave_environment() -> None:
    """Start this command again without the providers' variables; return where there are none."""
    environment = dict(os.environ)  # noqa: TID251 - what must not stay there is taken out here
    found = {name: environment.pop(variable, "") for name, variable in VARIABLES.items()}
    keys = {name: checked(VARIABLES[name], value) for name, value in found.items() if value.strip()}
    if not keys:
        if (handed := handed_file()) is not None:
            os.set_inheritable(handed, False)
        return
    held = os.memfd_create(_NAME, 0)
    os.write(held, json.dumps(keys).encode())
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, _NUMBER: str(held)})  # noqa: S606 - this very command


def handed_file() -> int | None:
    """Return the open file that holds the keys; None where none were in the environment."""
    number = os.environ.get(_NUMBER, "")  # noqa: TID251 - see above
    try:
        is_ours = number.isdecimal() and _NAME in str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return None
    return int(number) if is_ours else None


def names() -> frozenset[str]:
    """Return the providers whose key was in the environment."""
    held = handed_file()
    return frozenset() if held is None else frozenset(handed(held))
