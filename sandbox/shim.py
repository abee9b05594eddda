# It starts with every execution, and pathlib and contextlib alone would double what it imports.
# ruff: noqa: PTH104, PTH108, PTH110, PTH118, PTH123, SIM105
"""The supervisor of one execution: `python -I -S shim.py STATE_FOLDER`, standard library only.

It leaves its parent, starts bwrap from its own main thread, holds the deadline and the output cap, watches the
control group and the storage, and writes `exit.json` last. While it lives it holds the lock on `shim.lock`; it dies
never before its execution, and its execution never survives it.
"""

from __future__ import annotations

import ctypes
import fcntl
import marshal
import os
import resource
import select
import signal
import sys
import time

# The names below are for type checkers; importing them would be a third of the whole start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 65536
START_PATIENCE_S = 20.0
FAST_S, SLOW_S, FAST_FOR_S = 0.02, 0.2, 2.0
NEARLY_FULL = 2 * 1024 * 1024
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_ALL = 1 << 20
_XFSZ = 128 + signal.SIGXFSZ


def main() -> None:
    """Leave the caller, then supervise."""
    folder, lock, ready, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for descriptor in (lock, ready):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    shim = Shim(folder, lock, ready)
    shim.fork(groups)
    with os.fdopen(0, "rb") as file:
        told = file.read()
    if told:
        shim.run(told)


class Shim:
    """One execution, from its start to its `exit.json`."""

    def __init__(self, folder: str, lock: int, ready: int) -> None:
        self.folder, self.lock, self.ready = folder, lock, ready
        self.kept = self.seen = 0
        self.truncated = self.storage_full = False
        self.started_at: float | None = None
        self.started = self.deadline = time.monotonic()
        self.peak_memory = self.peak_storage = self.denied = 0
        self.head = b""

    def fork(self, groups: list[str]) -> None:
        """Make the process that will be bwrap; it joins its groups while the volume is still being made."""
        self.output, given_output = os.pipe()
        self.begun, given_begun = os.pipe()
        order, self.order = os.pipe()
        shim = os.getpid()
        self.child = os.fork()
        if not self.child:
            os.close(self.order)
            become(shim, groups, order, given_output, given_begun)
        for descriptor in (given_output, given_begun, order):
            os.close(descriptor)
        os.set_blocking(self.output, False)
        os.set_blocking(self.begun, False)

    def run(self, told: bytes) -> None:
        """Start it, watch it to its end, and write down what came of it."""
        self.plan: dict[str, Any] = marshal.loads(told)  # noqa: S302 - from our own parent, through a pipe
        self.free = self._free()
        self.log = os.open(self._at("output.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.fchown(self.log, *self.plan["owner"])
        # Opened for reading and writing, so that it never says "hung up" between two callers.
        self.wake = os.open(self._at("wake"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.started = time.monotonic()
        self.deadline = self.started + START_PATIENCE_S
        try:
            with os.fdopen(self.order, "wb") as file:
                file.write(told)
        except BrokenPipeError:
            # It ended already, and said why through its output.
            pass
        self._write("shim.json", {"pid": os.getpid()})
        if os.path.exists(self._at("intent.json")):
            self._kill("")
        self._watch()
        _, status, usage = os.wait4(self.child, 0)
        ended_at = time.time()
        self._empty_group()
        self._drain(until_end=True)
        self._sample()
        if self.started_at is None and os.path.exists(self._at("intent.json")):
            self._say(b".")
        elif self.started_at is None:
            said = self.head.decode(errors="replace").strip() or "bwrap ended without a word"
            self._say(b"!" + said.encode()[:2000])
        self._write_exit(os.waitstatus_to_exitcode(status), ended_at, usage.ru_maxrss * 1024)

    def _watch(self) -> None:
        ended = os.pidfd_open(self.child)
        waiting = select.poll()
        for descriptor in (ended, self.wake, self.output, self.begun):
            waiting.register(descriptor, select.POLLIN)
        next_sample = 0.0
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                self._kill("timed_out" if self.started_at else "lost")
            if now >= next_sample:
                self._sample()
                next_sample = now + (FAST_S if now - self.started < FAST_FOR_S else SLOW_S)
            wait_s = max(0.0, min(self.deadline, next_sample) - now)
            events = dict(waiting.poll(int(wait_s * 1000) + 1))
            if self.begun in events:
                waiting.unregister(self.begun)
                self._note_start()
            if self.output in events and not self._drain():
                waiting.unregister(self.output)
            if self.wake in events:
                os.read(self.wake, CHUNK)
                if os.path.exists(self._at("intent.json")):
                    self._kill("")
            if ended in events:
                os.close(ended)
                return

    def _note_start(self) -> None:
        if os.read(self.begun, 1):
            self.started, self.started_at = time.monotonic(), time.time()
            self.deadline = self.started + self.plan["wall_s"]
            self._say(b".")
            self._write("started.json", {"at": self.started_at})

    def _say(self, word: bytes) -> None:
        if self.ready >= 0:
            try:
                os.write(self.ready, word)
            except OSError:
                # Whoever launched it is gone; the execution goes on and will be adopted.
                pass
            os.close(self.ready)
            self.ready = -1

    def _drain(self, *, until_end: bool = False) -> bool:
        """Take what was printed; False once nobody can print any more."""
        while True:
            try:
                chunk = os.read(self.output, CHUNK)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._keep(chunk)
            if not until_end:
                return True

    def _keep(self, chunk: bytes) -> None:
        cap = self.plan["output_bytes"]
        self.seen += len(chunk)
        part = chunk[: cap - self.kept]
        if self.started_at is None and len(self.head) < CHUNK:
            self.head += part
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
        gauges = self.plan["gauges"]
        path, keys = gauges["memory"]
        self.peak_memory = max(self.peak_memory, sum(read_key(path, key) for key in keys))
        self.denied = read_key(*gauges["forks"])
        free = self._free()
        self.peak_storage = max(self.peak_storage, self.free[0] - free[0])
        self.storage_full = self.storage_full or (
            self.plan["quota"] and (free[0] < nearly_full(self.plan["volume"]) or free[1] == 0)
        )
        if self.denied >= self.plan["denied_forks"]:
            self._kill("too_many_processes")

    def _free(self) -> tuple[int, int]:
        found = os.statvfs(self.plan["volume"])
        return found.f_bfree * found.f_frsize, found.f_ffree

    def _kill(self, reason: str) -> None:
        """Store the reason, if none was stored before, and only then kill."""
        if reason:
            record_intent(self.folder, reason, self.plan["owner"])
        self.deadline = float("inf")
        if self.plan["gauges"]["kill"]:
            try:
                with open(self.plan["gauges"]["kill"], "w", encoding="ascii") as file:
                    file.write("1")
            except OSError:
                pass
        try:
            # Not waited for yet, so the number is still its own; the rest of its namespace dies with it.
            os.kill(self.child, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _empty_group(self) -> None:
        """Wait for the last of the tree; the kernel ends it with the first process of its namespace."""
        patience = time.monotonic() + 10.0
        while time.monotonic() < patience:
            left = [pid for path in self.plan["gauges"]["join"] for pid in read_words(path)]
            if not left:
                return
            if time.monotonic() > patience - 9.5:
                for pid in left:
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except OSError:
                        pass
            time.sleep(0.002)

    def _write_exit(self, status: int, ended_at: float, largest: int) -> None:
        gauges = self.plan["gauges"]
        path, key, unit = gauges["cpu"]
        import json

        try:
            with open(self._at("intent.json"), encoding="utf-8") as file:
                intent = json.load(file)["reason"]
        except FileNotFoundError:
            intent = ""
        kills = read_key(*gauges["oom"])
        peak = read_key(gauges["peak"], "") or max(self.peak_memory, largest)
        memory = self.plan["memory_bytes"] if kills else min(peak, max(self.peak_memory, largest))
        verdict, detail = judge(
            intent=intent, begun=self.started_at is not None, status=status, oom_kills=kills, denied=self.denied,
            storage_full=self.storage_full,
        )  # fmt: skip
        if verdict == "lost" and self.started_at is None:
            detail = self.head.decode(errors="replace").strip() or detail
        begun = self.started_at if self.started_at is not None else ended_at
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
                    "intent": intent, "status": status, "oom_kills": kills, "denied_forks": self.denied,
                    "storage_full": self.storage_full, "output_bytes": self.seen,
                },
            },
            sync=True,
        )  # fmt: skip

    def _write(self, name: str, value: dict[str, Any], *, sync: bool = False) -> None:
        import json  # Not before the program is on its way: this import is another third.

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


def nearly_full(volume: str) -> int:
    """Return the free bytes below which a volume counts as full.

    ext4 keeps a fiftieth for itself, and refuses a large write as a whole while a small one would still fit.
    """
    found = os.statvfs(volume)
    return NEARLY_FULL + found.f_blocks * found.f_frsize // 50


def judge(*, intent: str, begun: bool, status: int, oom_kills: int, denied: int, storage_full: bool) -> tuple[str, str]:
    """Return the verdict and a sentence: our own intent first, then the kernel's events, then the exit code."""
    if intent:
        return intent, ""
    if not begun:
        return "lost", "The program was never started."
    flags = []
    if oom_kills:
        flags.append(f"{oom_kills} processes were ended for want of memory.")
    if denied:
        flags.append(f"{denied} times a process could not be started.")
    if storage_full:
        flags.append("The workspace was full.")
    detail = " ".join(flags)
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
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"reason": reason, "at": time.time()}, file)
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


def become(shim: int, groups: list[str], order: int, output: int, begun: int) -> None:
    """Turn this child into bwrap: in its control group, without root, inside its limits. Never returns."""
    try:
        for path in groups:
            with open(path, "w", encoding="ascii") as file:
                file.write("0")
        with os.fdopen(order, "rb") as orders:
            said = orders.read()
        if not said:
            os._exit(0)
        plan = marshal.loads(said)  # noqa: S302 - from the shim, through a pipe
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(plan["oom_score"]))
        for kind, value in plan["rlimits"].items():
            resource.setrlimit(getattr(resource, kind), (value, value))
        os.setsid()
        told = os.memfd_create("arguments")
        rules = os.memfd_create("rules")
        with open(plan["seccomp"], "rb") as file:
            os.write(rules, file.read())
        # High numbers first, so that none of the fixed ones below is overwritten before it was copied.
        wanted = (os.open("/dev/null", os.O_RDONLY), output, output, begun, told, rules)
        for target, source in enumerate([fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in wanted]):
            os.dup2(source, target, inheritable=True)
        os.closerange(6, _ALL)
        output = 1
        os.write(4, "\0".join([*plan["arguments"], "--seccomp", "5"]).encode() + b"\0")
        os.lseek(4, 0, os.SEEK_SET)
        os.lseek(5, 0, os.SEEK_SET)
        # What Python ignores would stay ignored in the program.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        libc = ctypes.CDLL(None, use_errno=True)
        # A change of user clears the death signal, so it is set only now.
        for option, value in ((_PR_SET_PDEATHSIG, int(signal.SIGKILL)), (_PR_SET_NO_NEW_PRIVS, 1)):
            if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
                raise OSError(ctypes.get_errno(), "prctl")  # noqa: TRY301 - all ends in the one handler below
        if os.getppid() != shim:
            os._exit(1)
        os.execve(plan["bwrap"], ["bwrap", "--args", "4", "--", *plan["command"]], {})  # noqa: S606 - our own list
    except BaseException as error:  # noqa: BLE001 - a forked child must end here, whatever happened
        os.write(output, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


if __name__ == "__main__":
    main()
