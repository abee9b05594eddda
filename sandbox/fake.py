"""A sandbox without isolation, for unit tests: a plain child process in a temporary folder, watched by a thread."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.execution import MIB, Capability, Ended, Outcome, Running, Spec, Usage, Verdict
from fumehood.domain.extra_packages import request_of
from fumehood.errors import BadInputError, ConflictError, NotFoundError, SandboxUnavailableError, TamperedError
from sandbox import admission, intake, machine, records, supervisor
from sandbox import limits as translate
from sandbox.egress.capabilities import asks_model, granted
from sandbox.installation import Installation, find
from sandbox.records import TAIL_BYTES
from sandbox.storage import layout

POLL_S = 0.02
_MARK = "FUMEHOOD_FAKE_EXECUTION"
_PLACE = re.compile(r"(?<![\w./-])/(work|in)(?=/|$|[\s:,;'\"])")


@dataclass(slots=True)
class _Run:
    spec: Spec
    folder: Path
    process: subprocess.Popen[bytes]
    thread: threading.Thread | None = None
    launched_at: float = 0.0
    intent: str = ""
    seen: int = 0
    truncated: bool = False
    peak_memory: int = 0
    peak_storage: int = 0
    storage_full: bool = False
    ended: Ended | None = None
    over: threading.Event = field(default_factory=threading.Event)


class FakeSandbox:
    """Keeps the port's contract without keeping anything in: only for programs that a test wrote itself.

    `/work` and `/in` in a command and its environment become the places they have in the temporary folder.
    """

    def __init__(
        self, state_dir: Path, *, ceilings: translate.Ceilings | None = None, python: Path | None = None
    ) -> None:
        self._home: Installation = find(state_dir, state_dir / "run")
        self._ceilings = translate.effective_ceilings(ceilings)
        self._python = python or Path(sys.executable)
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()

    def launch(self, spec: Spec) -> None:
        """Start the execution, or adopt the one of that name and spec."""
        self._check(spec)
        with self._lock:
            known = self._runs.get(spec.name)
            if known is not None:
                if records.digest(known.spec) != records.digest(spec):
                    raise ConflictError(f"The name {spec.name} is taken by an execution with another spec.")
                return
            folder = Path(tempfile.mkdtemp(prefix="fake-", dir=self._home.make_folder(self._home.executions)))
            try:
                layout.lay_out(folder, spec.inputs, os.getuid())
                self._runs[spec.name] = self._start(spec, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def inspect(self, name: str) -> Running | Ended:
        """Tell whether it ended, and how."""
        run = self._run(name)
        return run.ended or Running(started_at=run.launched_at)

    def follow(self, name: str, offset: int = 0) -> bytes:
        """Return what the program printed from `offset` on."""
        with (self._run(name).folder / "output.log").open("rb") as file:
            file.seek(offset)
            return file.read()

    def stop(self, name: str, reason: str) -> None:
        """Store the reason, then end the whole tree."""
        if reason not in set(Verdict):
            raise BadInputError(f"A reason to stop is a verdict, not {reason!r}.")
        run = self._run(name)
        if run.ended is None:
            self._kill(run, reason)

    def collect(self, name: str, into: Path) -> Outcome:
        """Let the declared regular files out below `into`."""
        run = self._run(name)
        if run.ended is None:
            raise ConflictError(f"The execution {name} is still running.")
        if changed := layout.changed(run.folder, run.spec.inputs):
            raise TamperedError(f"Read-only inputs of {name} changed: {', '.join(changed)}.")
        caps = intake.Caps(artifacts=run.spec.max_artifacts, total_bytes=run.spec.max_artifact_bytes)
        artifacts, rejected = intake.collect(run.folder / "work", into, run.spec.collect, caps)
        return Outcome(
            name=name,
            verdict=run.ended.verdict,
            exit_code=run.ended.exit_code,
            usage=run.ended.usage,
            output_tail=self.follow(name)[-TAIL_BYTES:].decode("utf-8", "replace"),
            truncated=run.truncated,
            artifacts=artifacts,
            rejected=rejected,
            image=f"{run.spec.image}@fake",
            isolation={},
            storage="none",
            detail=run.ended.detail,
        )

    def remove(self, name: str) -> None:
        """Leave nothing of it."""
        with self._lock:
            run = self._runs.pop(name, None)
        if run is not None:
            self._kill(run, Verdict.CANCELLED)
            run.over.wait(10)
            if run.thread is not None:
                run.thread.join(10)
            shutil.rmtree(run.folder, ignore_errors=True)

    def reap(self, older_than_s: float = 0.0, keep: Sequence[str] = ()) -> tuple[str, ...]:
        """Remove everything that is not in `keep`."""
        before = time.time() - older_than_s
        found = [name for name, run in self._runs.items() if name not in keep and run.launched_at <= before]
        for name in found:
            self.remove(name)
        return tuple(sorted(found))

    def traces(self) -> Mapping[str, tuple[str, ...]]:
        """Return what there is of each execution."""
        return dict.fromkeys(sorted(self._runs), ("state",))

    def held(self) -> tuple[str, ...]:
        """Return the executions whose launching process still lives: all, since they live in this one."""
        return tuple(self._runs)

    def capabilities(self) -> tuple[Capability, ...]:
        """Say that nothing is held."""
        promises = [*machine.MECHANISMS, *machine.NOT_HELD]
        return tuple(Capability(promise=name, held=False, mechanism="nothing: a fake for tests") for name in promises)

    def _check(self, spec: Spec) -> None:
        admission.check_text(spec)
        self._ceilings.check(spec)
        if asks_model(spec.network):
            raise SandboxUnavailableError("The fake sandbox reaches no model.", reason="capability_unsupported")
        if granted(spec.network):
            raise SandboxUnavailableError("The fake sandbox gives no network.", reason="network_unsupported")
        if spec.gpus:
            raise SandboxUnavailableError("The fake sandbox passes no GPU in.", reason="gpu_runtime_missing")
        if spec.image not in {"plain", "lab", "latex"} and not request_of(spec.image):
            raise SandboxUnavailableError(f"The image {spec.image} is not installed.", reason="no_image")

    def _start(self, spec: Spec, folder: Path) -> _Run:
        binaries = folder / "bin"
        binaries.mkdir()
        for name in ("python", "python3"):
            # A script, not a link: an interpreter of a virtual environment finds its packages by its own path.
            (binaries / name).write_text(f'#!/bin/sh\nexec "{self._python}" "$@"\n', encoding="utf-8")
            (binaries / name).chmod(0o755)
        told: Mapping[str, str] = {
            "PATH": f"{binaries}:/usr/bin:/bin",
            "HOME": str(folder / "work"),
            "LANG": "C.UTF-8",
            **{name: _translated(value, folder) for name, value in spec.environment.items()},
            _MARK: spec.name,
        }
        (folder / "output.log").touch()
        # The shell counts files in blocks of 512 bytes, and sets the limits before the program begins.
        limited = f'ulimit -f {translate.storage_bytes(spec.limits) // 512} && ulimit -c 0 && exec "$@"'
        process = subprocess.Popen(
            ["/bin/sh", "-c", limited, "sandbox", *(_translated(word, folder) for word in spec.command)],
            cwd=folder / "work",
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # What Python ignores would stay ignored in the program.
            restore_signals=True,
        )
        run = _Run(spec, folder, process, launched_at=time.time())
        run.thread = threading.Thread(target=self._supervise, args=(run,), daemon=True)
        run.thread.start()
        return run

    def _supervise(self, run: _Run) -> None:
        started = time.monotonic()
        pipe = run.process.stdout
        assert pipe is not None, "asked for in Popen"  # noqa: S101 - narrows the type
        os.set_blocking(pipe.fileno(), False)
        next_sample = started
        with selectors.DefaultSelector() as waiting, (run.folder / "output.log").open("ab", buffering=0) as log, pipe:
            waiting.register(pipe, selectors.EVENT_READ)
            while run.process.poll() is None:
                if time.monotonic() - started > run.spec.limits.wall_s:
                    self._kill(run, Verdict.TIMED_OUT)
                if time.monotonic() >= next_sample:
                    self._sample(run)
                    next_sample = time.monotonic() + POLL_S
                if waiting.select(POLL_S):
                    self._keep(run, log.fileno(), pipe.fileno())
                    if not waiting.get_map():
                        time.sleep(POLL_S)
            self._kill(run, "")
            while self._keep(run, log.fileno(), pipe.fileno()):
                pass
        self._sample(run)
        self._end(run, time.monotonic() - started)

    def _keep(self, run: _Run, log: int, pipe: int) -> int:
        try:
            chunk = os.read(pipe, supervisor.CHUNK)
        except BlockingIOError:
            return 0
        cap = run.spec.limits.output_bytes
        os.write(log, chunk[: max(0, cap - run.seen)])
        run.seen += len(chunk)
        if run.seen > cap:
            run.truncated = True
            if run.ended is None and run.process.poll() is None:
                self._kill(run, Verdict.TOO_MUCH_OUTPUT)
        if not chunk:
            time.sleep(POLL_S / 4)
        return len(chunk)

    def _sample(self, run: _Run) -> None:
        limits = run.spec.limits
        members = _members(run.spec.name)
        memory = sum(_resident(pid) for pid in members)
        run.peak_memory = max(run.peak_memory, memory)
        used = sum(found.st_blocks * 512 for found in _tree(run.folder / "work"))
        run.peak_storage = max(run.peak_storage, used)
        run.storage_full = run.storage_full or used >= translate.storage_bytes(limits) - MIB
        if memory > translate.memory_bytes(limits):
            self._kill(run, Verdict.OUT_OF_MEMORY)
        elif len(members) > limits.processes:
            self._kill(run, Verdict.TOO_MANY_PROCESSES)
        elif used > translate.storage_bytes(limits):
            self._kill(run, Verdict.OUT_OF_STORAGE)

    def _end(self, run: _Run, wall_s: float) -> None:
        status = run.process.returncode
        # A program that ended by a signal is 128 + its number, as a shell says it.
        code = status if status >= 0 else 128 - status
        verdict, detail = supervisor.judge(
            intent=run.intent, begun=True, status=code, oom_kills=0, denied=0, storage_full=run.storage_full
        )
        usage = Usage(
            wall_s=round(wall_s, 3),
            peak_memory_mib=round(run.peak_memory / MIB, 2),
            peak_storage_mib=round(run.peak_storage / MIB, 2),
        )
        run.ended = Ended(
            verdict=Verdict(verdict),
            exit_code=None if run.intent else code,
            started_at=run.launched_at,
            ended_at=run.launched_at + wall_s,
            usage=usage,
            detail=detail,
        )
        run.over.set()

    def _kill(self, run: _Run, reason: str) -> None:
        if reason and not run.intent:
            run.intent = reason
        deadline = time.monotonic() + 5
        while (members := _members(run.spec.name)) and time.monotonic() < deadline:
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def _run(self, name: str) -> _Run:
        run = self._runs.get(name)
        if run is None:
            records.find(self._home, name)
            raise NotFoundError(f"There is no execution {name}.")
        return run


def _translated(word: str, folder: Path) -> str:
    return _PLACE.sub(lambda found: f"{folder}/{found.group(1)}", word)


def _members(name: str) -> list[int]:
    """Return the living processes that carry the execution's name in their environment."""
    wanted, found = f"{_MARK}={name}".encode(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _tree(folder: Path) -> list[os.stat_result]:
    found = []
    for top, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                found.append(os.lstat(Path(top, name)))
    return found
