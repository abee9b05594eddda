# It starts with every execution, and pathlib and contextlib alone would double what it imports.
# ruff: noqa: PTH100, PTH120, PTH123, SIM105
"""The supervisor of one execution: `python -I -S shim.py STATE_FOLDER LOCK READY GROUP...`, standard library only.

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

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sandbox.supervisor import CHUNK, Supervisor, leave, read_words

START_PATIENCE_S = 20.0
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_ALL = 1 << 20


def main() -> None:
    """Leave the caller, then supervise."""
    folder, lock, ready, groups = leave()
    shim = Shim(folder, lock, ready)
    shim.fork(groups)
    with os.fdopen(0, "rb") as file:
        told = file.read()
    if told:
        shim.run(told)


class Shim(Supervisor):
    """One execution under bwrap, from its start to its `exit.json`."""

    head = b""
    """What was said before the program began."""

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
        self.plan = marshal.loads(told)  # noqa: S302 - from our own parent, through a pipe
        self._open()
        self.started = time.monotonic()
        self.deadline = self.started + START_PATIENCE_S
        try:
            with os.fdopen(self.order, "wb") as file:
                file.write(told)
        except BrokenPipeError:
            # It ended already, and said why through its output.
            pass
        self._write("shim.json", {"pid": os.getpid()})
        ended = os.pidfd_open(self.child)
        self.heard = {self.output, self.begun}
        self._watch(ended)
        os.close(ended)
        _, status, usage = os.wait4(self.child, 0)
        ended_at = time.time()
        self._empty_group()
        self._drain(until_end=True)
        self._sample()
        if self.started_at is None and self._is_intended():
            self._say(b".")
        elif self.started_at is None:
            said = self.head.decode(errors="replace").strip() or "bwrap ended without a word"
            self._say(b"!" + said.encode()[:2000])
        self._write_exit(os.waitstatus_to_exitcode(status), ended_at, usage.ru_maxrss * 1024)

    def _listen(self) -> None:
        for descriptor in self.heard:
            self.waiting.register(descriptor, select.POLLIN)

    def _hear(self, events: dict[int, int]) -> None:
        if self.begun in events:
            self._forget(self.begun)
            self._note_start()
        if self.output in events and not self._drain():
            self._forget(self.output)

    def _forget(self, descriptor: int) -> None:
        self.waiting.unregister(descriptor)
        self.heard.discard(descriptor)

    def _note_start(self) -> None:
        if os.read(self.begun, 1):
            self.started, self.started_at = time.monotonic(), time.time()
            self.deadline = self.started + self.plan["wall_s"]
            self._say(b".")
            self._write("started.json", {"at": self.started_at})

    def _drain(self, *, until_end: bool = False) -> bool:
        """Take what was printed; False once nobody can print any more."""
        while True:
            try:
                chunk = os.read(self.output, CHUNK)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            if self.started_at is None and len(self.head) < CHUNK:
                self.head += chunk
            self._keep(chunk)
            if not until_end:
                return True

    def _end(self) -> None:
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

    def _judged(self, intent: str, status: int) -> tuple[str, str]:
        verdict, detail = super()._judged(intent, status)
        if verdict == "lost" and self.started_at is None:
            detail = self.head.decode(errors="replace").strip() or detail
        return verdict, detail


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
