# It starts with every execution, and pathlib and contextlib alone would double what it imports.
# ruff: noqa: PTH100, PTH104, PTH110, PTH118, PTH120, PTH123, PTH202, SIM105
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

from sandbox.shim import CHUNK, FAST_FOR_S, FAST_S, SLOW_S, judge, nearly_full, read_key, record_intent

START_PATIENCE_S = 60.0
CALL_PATIENCE_S = 30.0
END_PATIENCE_S, INTENDED_PATIENCE_S = 120.0, 5.0
"""So long after the program's death the engine may be away before it is given up."""
RETRY_S = 1.0
_KILLED = {128 + signal.SIGKILL, 128 + signal.SIGTERM, 255}
_FRAME = 8


class EngineError(Exception):
    """The engine did not do what it was asked; the text is its own."""


class AbsentError(EngineError):
    """The engine has no such thing."""


def main() -> None:
    """Leave the caller, then supervise."""
    folder, lock, ready = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for descriptor in (lock, ready):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(0, "rb") as file:
        told = file.read()
    if told:
        DockerShim(folder, marshal.loads(told), lock, ready).run()  # noqa: S302 - from our own parent, through a pipe


class DockerShim:
    """One container, from its start to its `exit.json`."""

    def __init__(self, folder: str, plan: dict[str, Any], lock: int, ready: int) -> None:
        self.folder, self.plan, self.lock, self.ready = folder, plan, lock, ready
        self.engine = Engine(plan["socket"], plan["version"])
        self.init = -1
        self.started_at: float | None = None
        self.deadline = float("inf")
        self.engine_was_gone = self.truncated = self.storage_full = False
        self.peak_memory = self.peak_storage = self.denied = self.oom_kills = 0
        self.free = plan["free"]
        self.stream: socket.socket | None = None
        self.next_try = 0.0
        self.pending = b""
        self.in_body = False
        self.told = self.seen = 0
        """Bytes of output on this stream, and on all of them."""

    def run(self) -> None:
        """Start it, watch it to its end, and write down what came of it."""
        self._write("shim.json", {"pid": os.getpid()})
        self.log = os.open(self._at("output.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.fchown(self.log, *self.plan["owner"])
        # A supervisor before this one may have copied some of it.
        self.seen = self.kept = os.path.getsize(self._at("output.log"))
        # Opened for reading and writing, so that it never says "hung up" between two callers.
        self.wake = os.open(self._at("wake"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._begin()
        except (EngineError, OSError) as error:
            # Nothing is known of how it stands, so no end is written down; whoever looks next tries again.
            self._say(b"!" + str(error).encode()[:2000])
            return
        if self.init >= 0:
            self._say(b".")
            self._watch()
        self._finish()
        self._say(b".")

    def _begin(self) -> None:
        """Bring the container to run, unless it was ended before; one that has ended already is left as it is."""
        if os.path.exists(self._at("intent.json")) and self.plan["fresh"]:
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
            raise EngineError("its first process is not one of this machine; the engine must run beside the platform")

    def _watch(self) -> None:
        waiting = select.poll()
        for descriptor in (self.init, self.wake):
            waiting.register(descriptor, select.POLLIN)
        begun, next_sample = time.monotonic(), 0.0
        if os.path.exists(self._at("intent.json")):
            self._kill("")
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                self._kill("timed_out")
            if now >= next_sample:
                self._sample()
                next_sample = now + (FAST_S if now - begun < FAST_FOR_S else SLOW_S)
            if self.stream is None and now >= self.next_try:
                self._open_stream(waiting)
            wait_s = max(0.0, min(self.deadline, next_sample) - now)
            events = dict(waiting.poll(int(wait_s * 1000) + 1))
            if self.stream and self.stream.fileno() in events and not self._drain():
                waiting.unregister(self.stream)
                self._close_stream()
            if self.wake in events:
                os.read(self.wake, CHUNK)
                if os.path.exists(self._at("intent.json")):
                    self._kill("")
            if self.init in events:
                return

    def _open_stream(self, waiting: select.poll) -> None:
        self.next_try = time.monotonic() + RETRY_S
        try:
            self._ask_for_output(follow=True)
        except OSError:
            self.engine_was_gone = True
        else:
            waiting.register(self._stream(), select.POLLIN)

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
        if self.stream:
            self.stream.close()
            self.stream = None

    def _drain(self, *, until_end: bool = False) -> bool:
        """Take what was printed; False once nothing more will come on this stream."""
        while True:
            try:
                chunk = self._stream().recv(CHUNK)
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

    def _keep(self, chunk: bytes) -> None:
        cap = self.plan["output_bytes"]
        self.seen += len(chunk)
        part = chunk[: max(0, cap - self.kept)]
        try:
            while part:
                written = os.write(self.log, part)
                self.kept += written
                part = part[written:]
        except OSError:
            # The host's own disk is full; the engine still has it.
            self.truncated = True
        if self.seen > cap:
            self.truncated = True
            self._kill("too_much_output")

    def _sample(self) -> None:
        gauges, inner = self.plan["gauges"], self.plan["inner"]
        path, keys = gauges["memory"]
        self.peak_memory = max(self.peak_memory, sum(read_key(path, key) for key in keys))
        # In version 1 what happens is told in the engine's own group only, which goes with the container.
        self.denied = max(self.denied, read_key(*inner["forks"]), read_key(*gauges["forks"]))
        self.oom_kills = max(self.oom_kills, read_key(*inner["oom"]), read_key(*gauges["oom"]))
        if read_key(self.plan["tasks_peak"], "") > self.plan["tasks"]:
            self.denied = max(1, self.denied)
        found = os.statvfs(self.plan["volume"])
        left = found.f_bfree * found.f_frsize
        self.peak_storage = max(self.peak_storage, self.free - left)
        full = left < nearly_full(self.plan["volume"]) or found.f_ffree == 0
        self.storage_full = self.storage_full or (self.plan["quota"] and full)
        if self.denied >= self.plan["denied_forks"]:
            self._kill("too_many_processes")

    def _kill(self, reason: str) -> None:
        """Store the reason, if none was stored before, and only then kill."""
        if reason:
            record_intent(self.folder, reason, self.plan["owner"])
        self.deadline = float("inf")
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
        if state and state["OOMKilled"]:
            self.oom_kills = max(1, self.oom_kills)
        self._write_end(status, max(ended_at, self.started_at or 0.0))

    def _final_state(self) -> dict[str, Any] | None:
        """Return how the engine says that it ended; None when there is no such container, or no answer in time."""
        # Of an execution that we ended ourselves, nothing but the exit code is still unknown.
        is_intended = os.path.exists(self._at("intent.json"))
        patience = time.monotonic() + (INTENDED_PATIENCE_S if is_intended else END_PATIENCE_S)
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

    def _write_end(self, status: int, ended_at: float) -> None:
        gauges = self.plan["gauges"]
        path, key, unit = gauges["cpu"]
        try:
            with open(self._at("intent.json"), encoding="utf-8") as file:
                intent = json.load(file)["reason"]
        except FileNotFoundError:
            intent = ""
        verdict, detail = judge(
            intent=intent, begun=self.started_at is not None, status=status, oom_kills=self.oom_kills,
            denied=self.denied, storage_full=self.storage_full,
        )  # fmt: skip
        if verdict == "failed" and status in _KILLED and self.engine_was_gone:
            verdict, detail = "lost", "The engine went away and took it along."
        begun = self.started_at if self.started_at is not None else ended_at
        peak = read_key(gauges["peak"], "") or self.peak_memory
        # The kernel's peak counts cached files too; a limit that was hit is the limit.
        memory = self.plan["memory_bytes"] if self.oom_kills else min(peak, self.peak_memory or peak)
        self._write(
            "exit.json",
            {
                "verdict": verdict,
                "exit_code": status if status >= 0 else None,
                "started_at": self.started_at,
                "ended_at": ended_at,
                "wall_s": max(0.0, ended_at - begun),
                "cpu_s": read_key(path, key) * unit,
                "peak_memory": memory,
                "peak_storage": max(0, self.peak_storage),
                "detail": detail,
                "truncated": self.truncated,
                "evidence": {
                    "intent": intent, "status": status, "oom_kills": self.oom_kills, "denied_forks": self.denied,
                    "storage_full": self.storage_full, "output_bytes": self.seen,
                },
            },
            sync=True,
        )  # fmt: skip

    def _say(self, word: bytes) -> None:
        if self.ready >= 0:
            try:
                os.write(self.ready, word)
            except OSError:
                # Whoever launched it is gone; the execution goes on and will be adopted.
                pass
            os.close(self.ready)
            self.ready = -1

    def _write(self, name: str, value: dict[str, Any], *, sync: bool = False) -> None:
        temporary = self._at(f".{name}.shim")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, sort_keys=True)
            os.fchown(file.fileno(), *self.plan["owner"])
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, self._at(name))

    def _at(self, name: str) -> str:
        return os.path.join(self.folder, name)


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
