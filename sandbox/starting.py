"""The start of a shim: begun early, so that its interpreter is up when the volume is, and told its plan last."""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fumehood.errors import SandboxUnavailableError
from sandbox.records import Record

_SHIM = Path(__file__).with_name("shim.py")
# What this process may not write, a shim may not either: root's bytecode would lie in a user's checkout for good.
PATIENCE_S = 240.0
"""Longer than a supervisor waits for an engine that is slow to start and to tell how it went."""
_FLAGS = ("-I", "-S", *(("-B",) if sys.dont_write_bytecode else ()))


class Starting:
    """A shim that waits for its plan; without one it ends and nothing was done."""

    def __init__(self, record: Record, groups: Sequence[str] = (), program: Path = _SHIM, name: str = "shim") -> None:
        self._log = record.folder / f"{name}.log"
        lock = os.open(record.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._heard, said = os.pipe()
        try:
            # The lock belongs to the open file, so it passes to the shim and is given up when the shim dies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._log.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, *_FLAGS, str(program), str(record.folder), str(lock), str(said), *groups],
                    pass_fds=(lock, said),
                    cwd="/",
                    env={},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._heard)
            raise
        finally:
            os.close(lock)
            os.close(said)

    def go(self, plan: dict[str, Any], patience_s: float = PATIENCE_S) -> None:
        """Tell it the plan and wait until the program begins; raises with what bwrap said when it cannot."""
        with suppress(BrokenPipeError):
            self._process.communicate(marshal.dumps(plan))
        word = self._word(patience_s)
        if word != b".":
            log = self._log.read_text(encoding="utf-8", errors="replace").strip()
            why = word[1:].decode(errors="replace") or log[-500:] or "its supervisor ended before it began."
            raise SandboxUnavailableError(f"The isolation could not be set up: {why}", reason="setup_failed")

    def _word(self, patience_s: float) -> bytes:
        """Return what it says before it goes its own way; one that hangs is not waited for."""
        told, deadline = b"", time.monotonic() + patience_s
        try:
            while select.select([self._heard], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not (chunk := os.read(self._heard, 65536)):
                    return told
                told += chunk
        finally:
            os.close(self._heard)
        return b"!its supervisor did not say in time that the program began."

    def abandon(self) -> None:
        """Let it end without a plan; nothing happens when it was told one."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.communicate()
            os.close(self._heard)
