# It starts with every execution, and pathlib and contextlib alone would double what it imports.
# ruff: noqa: PTH100, PTH120, PTH123, PTH202, SIM105
"""The supervisor of one container: `python -I -S docker_shim.py STATE_FOLDER LOCK READY`, standard library only.

It starts the container, or takes over one that runs without a supervisor, holds the deadline and the output cap,
copies the output, watches the control group and the storage, and writes `exit.json` last. The container outlives it.
"""

from __future__ import annotations

import json
import marshal
import os
import select
import signal
import socket
import sys
import time
from datetime import datetime
from typing import Any

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sandbox.supervisor import CHUNK, Supervisor, leave, read_key

START_PATIENCE_S = 60.0
CALL_PATIENCE_S = 30.0
END_PATIENCE_S, INTENDED_PATIENCE_S = 120.0, 5.0
"""So long after the program's death the engine may be away before it is given up."""
RETRY_S = 1.0
_KILLED = {128 + signal.SIGKILL, 128 + signal.SIGTERM, 255}
_FRAME = 8
CHARGE = 128 * 1024
"""The kernel counts memory in portions of up to this."""


class EngineError(Exception):
    """The engine did not do what it was asked; the text is its own."""


class AbsentError(EngineError):
    """The engine has no such thing."""


def main() -> None:
    """Leave the caller, then supervise."""
    folder, lock, ready, _ = leave()
    with os.fdopen(0, "rb") as file:
        told = file.read()
    if told:
        DockerShim(folder, marshal.loads(told), lock, ready).run()  # noqa: S302 - from our own parent, through a pipe


class DockerShim(Supervisor):
    """One container, from its start to its `exit.json`."""

    def __init__(self, folder: str, plan: dict[str, Any], lock: int, ready: int) -> None:
        super().__init__(folder, lock, ready)
        self.plan = plan
        self.engine = Engine(plan["socket"], plan["version"])
        self.init = -1
        self.engine_was_gone = False
        self.stream: socket.socket | None = None
        self.next_try = 0.0
        self.pending = b""
        self.in_body = False
        self.told = 0
        """Bytes of output on this stream."""

    def run(self) -> None:
        """Start it, watch it to its end, and write down what came of it."""
        self._write("shim.json", {"pid": os.getpid()})
        self._open()
        # A supervisor before this one may have copied some of it.
        self.seen = self.kept = os.path.getsize(self._at("output.log"))
        try:
            self._begin()
        except (EngineError, OSError) as error:
            # Nothing is known of how it stands, so no end is written down; whoever looks next tries again.
            self._say(b"!" + str(error).encode()[:2000])
            return
        if self.init >= 0:
            self._say(b".")
            self.started = time.monotonic()
            self._watch(self.init)
        self._finish()
        self._say(b".")

    def _begin(self) -> None:
        """Bring the container to run, unless it was ended before; one that has ended already is left as it is."""
        if self._is_intended() and self.plan["fresh"]:
            return
        if self.plan["fresh"]:
            self.engine.ask("POST", f"/containers/{self.plan['container']}/start", START_PATIENCE_S)
        state = self.engine.state(self.plan["container"])
        started_at = unix_time(state["StartedAt"]) if state else None
        if state is None or started_at is None:
            return
        self.started_at = started_at
        # Of the time that it has had already, none is given again.
        self.deadline = time.monotonic() + self.plan["wall_s"] - max(0.0, time.time() - started_at)
        self._write("started.json", {"at": started_at})
        if state["Running"]:
            self._open_init(state["Pid"])

    def _open_init(self, pid: int) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                is_ours = self.plan["id"] in file.read()
        except OSError:
            is_ours = False
        if is_ours:
            self.init = descriptor
        elif select.select([descriptor], [], [], 0)[0]:
            os.close(descriptor)
        else:
            why = "its first process is not in its control group on this machine"
            raise EngineError(f"{why}; the engine must run beside the platform, with a runtime that uses the group")

    def _listen(self) -> None:
        if self.stream is not None or time.monotonic() < self.next_try:
            return
        self.next_try = time.monotonic() + RETRY_S
        try:
            self._ask_for_output(follow=True)
        except OSError:
            self.engine_was_gone = True
        else:
            self.waiting.register(self._stream(), select.POLLIN)

    def _hear(self, events: dict[int, int]) -> None:
        if self.stream and self.stream.fileno() in events and not self._drain():
            self._close_stream()

    def _ask_for_output(self, *, follow: bool) -> None:
        """Have the output told from its first byte on; what is known already is passed over."""
        self.told, self.pending, self.in_body = 0, b"", False
        path = f"/containers/{self.plan['container']}/logs?stdout=1&stderr=1&follow={int(follow)}"
        self.stream = self.engine.send("GET", path, CALL_PATIENCE_S)
        self.stream.setblocking(not follow)

    def _stream(self) -> socket.socket:
        assert self.stream is not None, "asked for only while there is one"  # noqa: S101 - narrows the type
        return self.stream

    def _close_stream(self) -> None:
        if self.stream is None:
            return
        try:
            self.waiting.unregister(self.stream)
            self.stream.shutdown(socket.SHUT_RDWR)
        except (KeyError, OSError):
            # One that does not follow was never waited for; or the engine closed it before.
            pass
        self.stream.close()
        self.stream = None

    def _drain(self, *, until_end: bool = False) -> bool:
        """Take what was printed; False once nothing more will come on this stream."""
        while self.stream is not None:
            try:
                chunk = self.stream.recv(CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not chunk:
                return False
            self.pending += chunk
            if not self.in_body and b"\r\n\r\n" in self.pending:
                head, _, self.pending = self.pending.partition(b"\r\n\r\n")
                if b" 200 " not in head.splitlines()[0] + b" ":
                    return False
                self.in_body = True
            if self.in_body:
                self._take_frames()
            if not until_end:
                return True
        return False

    def _take_frames(self) -> None:
        at = 0
        while len(self.pending) - at >= _FRAME:
            end = at + _FRAME + int.from_bytes(self.pending[at + 4 : at + _FRAME], "big")
            if end > len(self.pending):
                break
            text = self.pending[at + _FRAME : end]
            self.told += len(text)
            fresh = self.told - self.seen
            if fresh > 0:
                self._keep(text[-fresh:])
            at = end
        self.pending = self.pending[at:]

    def _count(self) -> None:
        super()._count()
        # In version 1 what happens is told in the engine's own group only, which goes with the container.
        inner = self.plan["inner"]
        self.denied = max(self.denied, read_key(*inner["forks"]))
        self.oom_kills = max(self.oom_kills, read_key(*inner["oom"]))
        if read_key(self.plan["tasks_peak"], "") > self.plan["tasks"]:
            self.denied = max(1, self.denied)

    def _end(self) -> None:
        # What nobody reads any more must not keep the engine; what is missing is fetched after the end.
        self.next_try = float("inf")
        self._close_stream()
        if self.init >= 0:
            try:
                # The first process of its namespace takes all the others along.
                signal.pidfd_send_signal(self.init, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _finish(self) -> None:
        state = self._final_state()
        died_at = time.time()
        self._close_stream()
        if self.started_at is not None and not self.truncated:
            self._fetch_output()
        self._sample()
        status = int(state["ExitCode"]) if state and self.started_at is not None else -signal.SIGKILL
        ended_at = (state and unix_time(state["FinishedAt"])) or died_at
        if (state and state["OOMKilled"]) or (status == 128 + signal.SIGKILL and self._was_at_its_limit()):
            self.oom_kills = max(1, self.oom_kills)
        self._write_exit(status, max(ended_at, self.started_at or 0.0))

    def _was_at_its_limit(self) -> bool:
        """Whether it held all its memory; one that is ended within moments leaves no other trace in version 1."""
        return read_key(self.plan["gauges"]["peak"], "") > int(self.plan["memory_bytes"]) - CHARGE

    def _final_state(self) -> dict[str, Any] | None:
        """Return how the engine says that it ended; None when there is no such container, or no answer in time."""
        # Of an execution that we ended ourselves, nothing but the exit code is still unknown.
        patience = time.monotonic() + (INTENDED_PATIENCE_S if self._is_intended() else END_PATIENCE_S)
        while time.monotonic() < patience:
            try:
                state = self.engine.state(self.plan["container"])
                if state is None or not state["Running"]:
                    return state
                self.engine.ask("POST", f"/containers/{self.plan['container']}/wait", CALL_PATIENCE_S)
            except (EngineError, OSError):
                self.engine_was_gone = True
                time.sleep(RETRY_S / 10)
        return None

    def _fetch_output(self) -> None:
        """Read the whole output once more: a stream that follows may lack the last words."""
        try:
            self._ask_for_output(follow=False)
        except OSError:
            return
        self._stream().settimeout(CALL_PATIENCE_S)
        self._drain(until_end=True)
        self._close_stream()

    def _judged(self, intent: str, status: int) -> tuple[str, str]:
        verdict, detail = super()._judged(intent, status)
        if verdict == "failed" and status in _KILLED and self.engine_was_gone:
            return "lost", "The engine went away and took it along."
        return verdict, detail


class Engine:
    """The few calls to the engine, over its socket; version 1.0 of HTTP, whose answers end with the connection."""

    def __init__(self, place: str, version: str) -> None:
        self.place, self.version = place, version

    def state(self, container: str) -> dict[str, Any] | None:
        """Return how a container stands, or None when there is none."""
        try:
            told: dict[str, Any] = json.loads(self.ask("GET", f"/containers/{container}/json", CALL_PATIENCE_S))
        except AbsentError:
            return None
        except ValueError as error:
            raise EngineError("the engine broke off") from error
        state: dict[str, Any] = told["State"]
        return state

    def ask(self, method: str, path: str, patience_s: float) -> bytes:
        """Return the body of an answer, or raise EngineError with what the engine says."""
        with self.send(method, path, patience_s) as stream:
            told = b""
            while chunk := stream.recv(CHUNK):
                told += chunk
        head, _, body = told.partition(b"\r\n\r\n")
        words = head.split(None, 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if not 200 <= status < 400:
            try:
                why = str(json.loads(body)["message"])
            except (ValueError, KeyError, TypeError):
                why = body.decode(errors="replace") or "the engine broke off"
            raise AbsentError(why) if status == 404 else EngineError(why)
        return body

    def send(self, method: str, path: str, patience_s: float) -> socket.socket:
        """Return a stream on which the answer will come."""
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(patience_s)
            stream.connect(self.place)
            stream.sendall(f"{method} /v{self.version}{path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
        except BaseException:
            stream.close()
            raise
        return stream


def unix_time(text: str) -> float | None:
    """Return a time as the engine writes it, in nanoseconds of UTC; None for its year 1, which means never."""
    whole, _, part = text.rstrip("Z").partition(".")
    if not whole or whole.startswith("0001"):
        return None
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{part or 0}")


if __name__ == "__main__":
    main()
