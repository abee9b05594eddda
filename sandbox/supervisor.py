# It starts with every execution, and pathlib and contextlib alone would double what it imports.
# ruff: noqa: PTH104, PTH108, PTH118, PTH123, PTH110, SIM105
"""What the supervisors of both adapters do alike: watch, measure, keep the output, and write down the end.

Standard library only. A script is compiled at each start and a module once, so it also makes their start shorter.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

# The names below are for type checkers; importing them would be a third of the whole start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

CHUNK = 65536
FAST_S, SLOW_S, FAST_FOR_S = 0.02, 0.2, 2.0
NEARLY_FULL = 4 * 1024 * 1024
CLOSEST_S, FILL_RATE = 0.001, 8 * 1024**3
"""A volume is looked at again before it could be full at this rate, in bytes a second, but not more often than that."""
QUIET_S = 0.1
"""Only after this long without a change is it looked at less often: a write that is refused changes nothing either."""
PRIORITY = -10
_XFSZ = 128 + signal.SIGXFSZ


def leave() -> tuple[str, int, int, list[str]]:
    """Become a process of its own; what it was told: the state folder, its lock, whom to tell, and the rest."""
    folder, lock, ready, rest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for descriptor in (lock, ready):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    return folder, lock, ready, rest


def _go_first() -> None:
    """Be woken before what it watches, also on a busy machine; what it starts gets the ordinary priority again."""
    for policy, rank in ((os.SCHED_FIFO, 1), (os.SCHED_OTHER, 0)):
        try:
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(rank))
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            return
        except OSError:
            # Without the right to it, or in a group without real time, it is only later.
            pass


class Supervisor:
    """One execution, watched to its `exit.json`; an adapter says how it is started, heard and ended."""

    def __init__(self, folder: str, lock: int, ready: int) -> None:
        self.folder, self.lock, self.ready = folder, lock, ready
        _go_first()
        self.plan: dict[str, Any] = {}
        self.started_at: float | None = None
        self.started = time.monotonic()
        self.deadline = float("inf")
        self.kept = self.seen = 0
        """Bytes of output that are kept, and that there were."""
        self.truncated = self.storage_full = False
        self.peak_memory = self.peak_storage = self.denied = self.oom_kills = 0
        self.left, self.left_since = -1, 0.0
        """What the volume had left, and how soon it is looked at again."""
        self.unstored = ""
        """Why it is ended, where the disk had no room for that."""
        self.waiting = select.poll()

    def _open(self) -> None:
        """Open the copy of the output, and what wakes it up."""
        self.log = os.open(self._at("output.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.fchown(self.log, *self.plan["owner"])
        # Opened for reading and writing, so that it never says "hung up" between two callers.
        self.wake = os.open(self._at("wake"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _watch(self, ended: int) -> None:
        """Hold deadline and limits until the first process has ended, which its descriptor tells."""
        for descriptor in (ended, self.wake):
            self.waiting.register(descriptor, select.POLLIN)
        if self._is_intended():
            self._kill("")
        next_sample = next_look = 0.0
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                self._kill("timed_out" if self.started_at else "lost")
            if now >= next_sample:
                self._sample()
                next_sample = now + (FAST_S if now - self.started < FAST_FOR_S else SLOW_S)
            if now >= next_look:
                next_look = now + self._look_at_storage()
            self._listen()
            wait_s = max(0.0, min(self.deadline, next_sample, next_look) - now)
            events = dict(self.waiting.poll(wait_s * 1000))
            self._hear(events)
            if self.wake in events:
                os.read(self.wake, CHUNK)
                if self._is_intended():
                    self._kill("")
            if ended in events:
                return

    def _listen(self) -> None:
        """Register what else is to be waited for."""

    def _hear(self, events: dict[int, int]) -> None:
        """Take what came on what was registered."""
        raise NotImplementedError

    def _end(self) -> None:
        """Kill the whole tree."""
        raise NotImplementedError

    def _kill(self, reason: str) -> None:
        """Store the reason, if none was stored before, and only then kill."""
        if reason:
            try:
                record_intent(self.folder, reason, self.plan["owner"])
            except OSError:
                # A full disk of the host keeps nothing alive.
                self.unstored = self.unstored or reason
        self.deadline = float("inf")
        self._end()

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
            # The host's own disk is full: the program must not hang on it.
            self.truncated = True
        if self.seen > cap:
            self.truncated = True
            self._kill("too_much_output")

    def _sample(self) -> None:
        path, keys = self.plan["gauges"]["memory"]
        self.peak_memory = max(self.peak_memory, sum(read_key(path, key) for key in keys))
        self._count()
        self._look_at_storage()
        if self.denied >= self.plan["denied_forks"]:
            self._kill("too_many_processes")

    def _look_at_storage(self) -> float:
        """Read what is left, and return when to look again: what was full for a moment leaves no other trace."""
        left, is_full = room(self.plan["storage"])
        self.peak_storage = max(self.peak_storage, self.plan["storage"]["free"] - left)
        self.storage_full = self.storage_full or (self.plan["quota"] and is_full)
        if not self.plan["quota"] or self.storage_full:
            return SLOW_S
        again_s, now = max(CLOSEST_S, min(SLOW_S, left / FILL_RATE)), time.monotonic()
        if left != self.left:
            self.left, self.left_since = left, now
        return again_s if now - self.left_since < QUIET_S else max(again_s, FAST_S)

    def _count(self) -> None:
        """Read how often the kernel refused something."""
        gauges = self.plan["gauges"]
        self.denied = max(self.denied, read_key(*gauges["forks"]))
        self.oom_kills = max(self.oom_kills, read_key(*gauges["oom"]))

    def _judged(self, intent: str, status: int) -> tuple[str, str]:
        return judge(
            intent=intent, begun=self.started_at is not None, status=status, oom_kills=self.oom_kills,
            denied=self.denied, storage_full=self.storage_full,
        )  # fmt: skip

    def _write_exit(self, status: int, ended_at: float, largest: int = 0) -> None:
        """Write down what came of it; `largest` is the most memory that one of its processes held."""
        gauges, intent = self.plan["gauges"], self._intent()
        path, key, unit = gauges["cpu"]
        verdict, detail = self._judged(intent, status)
        begun = self.started_at if self.started_at is not None else ended_at
        seen = max(self.peak_memory, largest)
        peak = read_key(gauges["peak"], "") or seen
        # The kernel's peak counts cached files too; a limit that was hit is the limit.
        memory = self.plan["memory_bytes"] if self.oom_kills else min(peak, seen or peak)
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

    def _is_intended(self) -> bool:
        return os.path.exists(self._at("intent.json"))

    def _intent(self) -> str:
        import json

        try:
            with open(self._at("intent.json"), encoding="utf-8") as file:
                return str(json.load(file)["reason"])
        except FileNotFoundError:
            return self.unstored

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
        import json  # Not before the program is on its way: this import is another third.

        with open_kept(self._at(f".{name}.shim")) as file:
            json.dump(value, file, sort_keys=True)
            file.truncate()
            os.fchown(file.fileno(), *self.plan["owner"])
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(self._at(f".{name}.shim"), self._at(name))

    def _at(self, name: str) -> str:
        return os.path.join(self.folder, name)


def room(gauge: dict[str, Any]) -> tuple[int, bool]:
    """Return how many bytes a volume has left, and whether it counts as full.

    `statvfs` asks the file system at `path`; `counters` adds up `files` and compares them with `bytes`.
    """
    if gauge["kind"] == "counters":
        left = gauge["bytes"] - sum(read_key(path, "") for path in gauge["files"])
        return left, left < NEARLY_FULL
    found = os.statvfs(gauge["path"])
    left = found.f_bfree * found.f_frsize
    # ext4 keeps a fiftieth for itself, and refuses a large write as a whole while a small one would still fit.
    return left, left < NEARLY_FULL + found.f_blocks * found.f_frsize // 50 or found.f_ffree == 0


def open_kept(path: str) -> TextIO:
    """Open a file for writing in the blocks that were set aside for it, where they were."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    return open(descriptor, "w", encoding="utf-8", closefd=True)


def judge(*, intent: str, begun: bool, status: int, oom_kills: int, denied: int, storage_full: bool) -> tuple[str, str]:
    """Return the verdict and a sentence: our own intent first, then the kernel's events, then the exit code."""
    flags = []
    if oom_kills:
        flags.append(f"{oom_kills} processes were ended for want of memory.")
    if denied:
        flags.append(f"{denied} times a process could not be started.")
    if storage_full:
        flags.append("The workspace was full.")
    detail = " ".join(flags)
    if intent:
        return intent, detail
    if not begun:
        return "lost", "The program was never started."
    if status == 0:
        return "succeeded", detail
    if oom_kills:
        return "out_of_memory", detail
    if denied:
        return "too_many_processes", detail
    if storage_full or status == _XFSZ:
        return "out_of_storage", detail or "A file would have been larger than the workspace."
    if status < 0:
        return "lost", f"The isolation was ended from outside by signal {-status}."
    return "failed", detail


def record_intent(folder: str, reason: str, owner: list[int]) -> None:
    """Store why it is ended; the first reason stays."""
    import json

    temporary = os.path.join(folder, ".intent.shim")
    with open_kept(temporary) as file:
        json.dump({"reason": reason, "at": time.time()}, file)
        file.truncate()
        os.fchown(file.fileno(), *owner)
    try:
        os.link(temporary, os.path.join(folder, "intent.json"))
    except FileExistsError:
        pass
    os.unlink(temporary)


def read_words(path: str) -> list[str]:
    """Return the words of a small file, none when it is gone."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def read_key(path: str, key: str) -> int:
    """Return the number after a key, or the only number of a file."""
    words = read_words(path)
    try:
        return int(words[words.index(key) + 1]) if key else int(words[0])
    except (ValueError, IndexError):
        return 0
