"""One execution from launch to removal, for the command line and for tests; nothing else waits that long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fumehood.domain.execution import Outcome, Running, Spec, Verdict
from fumehood.errors import NotFoundError, SandboxUnavailableError

if TYPE_CHECKING:
    from fumehood.ports import Sandbox

_FIRST_S, _LAST_S = 0.005, 0.1
ROOM_WAIT_S = 1.0


def execute(
    sandbox: Sandbox,
    spec: Spec,
    into: Path,
    on_output: Callable[[bytes], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a spec to its end, collect below `into` and remove it; an interruption stops and removes it too.

    With `on_wait`, which is told why, it waits as long as other executions of this installation hold the room.
    """
    try:
        _launch(sandbox, spec, on_wait)
    except KeyboardInterrupt:
        # It may have begun all the same.
        with contextlib.suppress(NotFoundError):
            sandbox.stop(spec.name, Verdict.CANCELLED)
        sandbox.remove(spec.name)
        raise
    try:
        offset, wait_s = 0, _FIRST_S
        while True:
            # Asked before what it printed is read, so that the last words are never missed.
            is_running = isinstance(sandbox.inspect(spec.name), Running)
            if on_output is not None:
                chunk = sandbox.follow(spec.name, offset)
                if chunk:
                    on_output(chunk)
                    offset += len(chunk)
            if not is_running:
                return sandbox.collect(spec.name, into)
            time.sleep(wait_s)
            wait_s = min(_LAST_S, wait_s * 1.3)
    except KeyboardInterrupt:
        sandbox.stop(spec.name, Verdict.CANCELLED)
        raise
    finally:
        sandbox.remove(spec.name)


def _launch(sandbox: Sandbox, spec: Spec, on_wait: Callable[[str], None] | None) -> None:
    told = False
    while True:
        try:
            sandbox.launch(spec)
            return
        except SandboxUnavailableError as error:
            if on_wait is None or error.reason != "no_space":
                raise
            if not told:
                on_wait(str(error))
                told = True
        time.sleep(ROOM_WAIT_S)
