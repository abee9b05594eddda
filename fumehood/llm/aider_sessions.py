"""Sessions of Aider: each a fork of one process that has imported it, started when the first is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from fumehood.llm.aider_driver import LENGTH

_DRIVER = Path(__file__).with_name("aider_driver.py")
_TAIL_CHARS = 500
_STARTS = 2
"""A driver that was idle for long may end while it is asked; a new one is."""
_ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "AIDER_ANALYTICS": "false",
    "AIDER_CHECK_UPDATE": "false",
}


class AiderSessions:
    """Runs sessions in the coder environment; the process behind them ends with this object."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._lock = threading.Lock()
        self._driver: _Driver | None = None
        self._last_words = ""

    def run(self, request: dict[str, Any], output: Path, life_s: float) -> dict[str, Any]:
        """Return what a session reported, or why there is none; it is ended after `life_s` seconds.

        What Aider prints goes to `output`.
        """
        deadline = time.monotonic() + life_s
        told = json.dumps({**request, "output": str(output)}).encode()
        session: socket.socket | None = None
        try:
            session = self._begin(deadline)
            if session is None:
                return {"error": f"Aider's driver ended: {self._last_words}"}
            with session:
                session.settimeout(life_s)
                session.sendall(LENGTH.pack(len(told)) + told)
                report = _read(session, deadline)
        except TimeoutError:
            return {"error": f"Aider did not end within {life_s:.0f} s."}
        except OSError as error:
            return {"error": f"Aider could not be started: {error.strerror or error}."}
        if report is None:
            return {"error": f"Aider's session ended without a word: {_tail(output)}"}
        return report

    def _begin(self, deadline: float) -> socket.socket | None:
        """Return a session that has begun, or None when the driver ends before it begins one."""
        for _ in range(_STARTS):
            with contextlib.ExitStack() as held:
                ours, theirs = socket.socketpair()
                held.enter_context(ours)
                driver = self._hand_over(theirs)
                ours.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    begun = ours.recv(1)
                except ConnectionResetError:
                    begun = b""
                except TimeoutError:
                    # One that hangs would hang for the next session, too.
                    self._give_up(driver)
                    raise
                if begun:
                    held.pop_all()
                    return ours
            self._give_up(driver)
        return None

    def _hand_over(self, session: socket.socket) -> _Driver:
        with session, self._lock:
            if self._driver is None:
                self._driver = _Driver(self._python)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._driver.begin(session)
            return self._driver

    def _give_up(self, driver: _Driver) -> None:
        with self._lock:
            self._last_words = driver.last_words()
            if self._driver is driver:
                self._driver = None


class _Driver:
    """The process that has imported Aider."""

    def __init__(self, python: Path) -> None:
        control, theirs = socket.socketpair()
        home = tempfile.TemporaryDirectory(prefix="fumehood-aider-")
        self._said = Path(home.name, "said")
        with theirs, self._said.open("wb") as said:
            try:
                process = subprocess.Popen(
                    [str(python), "-I", str(_DRIVER)],
                    stdin=theirs.fileno(),
                    stdout=said,
                    stderr=said,
                    env={**_ENVIRONMENT, "HOME": home.name},
                    cwd=home.name,
                    start_new_session=True,
                )
            except OSError:
                control.close()
                home.cleanup()
                raise
        self._control = control
        weakref.finalize(self, _end, control, process, home)

    def begin(self, session: socket.socket) -> None:
        socket.send_fds(self._control, [b"+"], [session.fileno()])

    def last_words(self) -> str:
        return _tail(self._said)


def _end(control: socket.socket, process: subprocess.Popen[bytes], home: tempfile.TemporaryDirectory[str]) -> None:
    """End a driver; a session that goes on ends when its caller lets go of its socket."""
    control.close()
    process.kill()
    process.wait()
    home.cleanup()


def _read(session: socket.socket, deadline: float) -> dict[str, Any] | None:
    """Return a report; None where the session ended before it had told one."""
    length = _exactly(session, LENGTH.size, deadline)
    body = _exactly(session, int(LENGTH.unpack(length)[0]), deadline) if length else None
    report = json.loads(body) if body else None
    return report if isinstance(report, dict) else None


def _exactly(session: socket.socket, size: int, deadline: float) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        session.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            part = session.recv(min(size - len(got), 1 << 20))
        except ConnectionResetError:
            part = b""
        if not part:
            return None
        got += part
    return bytes(got)


def _tail(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")[-_TAIL_CHARS:].strip()
    except OSError:
        return ""
