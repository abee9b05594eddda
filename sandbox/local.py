"""The local adapter: bubblewrap, control groups and loop volumes, with one detached shim for each execution."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fumehood.domain.execution import (
    NAME,
    Capability,
    Ended,
    Outcome,
    Running,
    Spec,
    Verdict,
)
from fumehood.errors import (
    BadInputError,
    ConflictError,
    FumehoodError,
    NotFoundError,
    SandboxUnavailableError,
    TamperedError,
)
from sandbox import (
    admission,
    bubblewrap,
    cgroups,
    installation,
    intake,
    kernel,
    lab,
    machine,
    records,
    seccomp,
    uids,
    volumes,
)
from sandbox import limits as translate
from sandbox.lab import Root
from sandbox.records import Record
from sandbox.starting import Starting

TAIL_BYTES = 16 * 1024
OVERDUE_S = 5.0
"""So long after the deadline anyone who looks ends an execution whose shim did not."""
_OPEN_TO_ALL = ("/usr", "/etc", "/var/lib/texmf", "/var/cache/fontconfig")


class LocalSandbox:
    """Runs each execution under bwrap: a host user, a control group and a volume of its own."""

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        roots: Mapping[str, Root] | None = None,
        *,
        ceilings: translate.Ceilings | None = None,
    ) -> None:
        self._installation = installation.find(state_dir, run_dir)
        self._roots = lab.find(state_dir) if roots is None else roots
        self._ceilings = ceilings or translate.machine_ceilings()
        self._groups = cgroups.find()

    @property
    def installation(self) -> str:
        """The id that everything it makes carries."""
        return self._installation.id

    def launch(self, spec: Spec) -> None:
        """Start the execution, or adopt the one of that name and spec."""
        groups = admission.check(spec, self._ceilings, self._roots, self._groups)
        record = self._record(spec.name)
        with record.locked(make=True):
            if record.adopt(spec):
                if record.was_started or record.read("exit.json"):
                    return
                # Whoever launched it died on the way; what it made is in an unknown state.
                self._release(record)
            shim: Starting | None = None
            try:
                uid = uids.claim(self._installation.run_dir, f"{self.installation}/{spec.name}")
                cgroups.make(groups, self.installation, spec.name, spec.limits)
                gauges = cgroups.gauges(groups, self.installation, spec.name)
                shim = Starting(record, gauges["join"])
                plan = self._prepare(record, spec, uid) | {"gauges": gauges}
                # From here on it counts as started: whoever finds it without a shim finds it lost.
                record.write("plan.json", plan)
                shim.go(plan)
            except BaseException:
                if shim:
                    shim.abandon()
                self._release(record)
                record.erase()
                raise

    def inspect(self, name: str) -> Running | Ended:
        """Tell whether it ended, and how."""
        record = self._record(name)
        if told := record.read("exit.json"):
            return records.ended(told)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        if record.is_supervised():
            return self._running(record)
        with record.locked(wait=False) as held:
            if told := record.read("exit.json"):
                return records.ended(told)
            if not held:
                # Being launched at this moment, or removed.
                return Running(started_at=None)
            return records.ended(self._record_loss(record))

    def follow(self, name: str, offset: int = 0) -> bytes:
        """Return what the program printed from `offset` on."""
        record = self._record(name)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        try:
            with (record.folder / "output.log").open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def stop(self, name: str, reason: str) -> None:
        """Store the reason, then end the whole tree."""
        if reason not in set(Verdict):
            raise BadInputError(f"A reason to stop is a verdict, not {reason!r}.")
        record = self._record(name)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        if record.read("exit.json") is None:
            record.intend(Verdict(reason))
            self._wake(record)
            if self._groups:
                cgroups.kill(self._groups, self._installation.id, name)

    def collect(self, name: str, into: Path) -> Outcome:
        """Let the declared regular files out below `into`."""
        ended = self.inspect(name)
        if isinstance(ended, Running):
            raise ConflictError(f"The execution {name} is still running.")
        record = self._record(name)
        with record.locked() as held:
            if not held:
                raise NotFoundError(f"There is no execution {name}.")
            spec, plan, told = record.spec(), record.read("plan.json") or {}, record.read("exit.json") or {}
            volume = self._place(name) / "volume"
            artifacts, rejected = (), ()  # type: tuple[Any, ...], tuple[Any, ...]
            if volume.is_dir() and kernel.mounts(volume):
                volumes.freeze(volume)
                if changed := volumes.changed(volume, spec.inputs):
                    raise TamperedError(f"Read-only inputs of {name} changed: {', '.join(changed)}.")
                caps = intake.Caps(artifacts=spec.max_artifacts, total_bytes=spec.max_artifact_bytes)
                owner = (self._installation.uid, self._installation.gid)
                artifacts, rejected = intake.collect(volume / "work", into, spec.collect, caps, owner=owner)
            return Outcome(
                name=name,
                verdict=ended.verdict,
                exit_code=ended.exit_code,
                usage=ended.usage,
                output_tail=self._tail(record),
                truncated=bool(told.get("truncated")),
                artifacts=artifacts,
                rejected=rejected,
                image=plan.get("image", ""),
                isolation=plan.get("isolation", {}),
                detail=ended.detail,
            )

    def remove(self, name: str) -> None:
        """Leave nothing of it."""
        record = self._record(name)
        with record.locked() as held:
            if held and record.is_supervised():
                record.intend(Verdict.CANCELLED)
                self._wake(record)
            self._release(record)
            if held:
                record.erase()

    def reap(self, older_than_s: float = 0.0, keep: Sequence[str] = ()) -> tuple[str, ...]:
        """Remove what belongs to this installation and is not in `keep`."""
        removed = []
        for name in sorted(self._known() - set(keep)):
            record = self._record(name)
            told = record.read("spec.json") or {}
            if told and time.time() - told["launched_at"] < older_than_s:
                continue
            # One that cannot be removed must not keep the others; the next round tries it again.
            with suppress(OSError, FumehoodError):
                self.remove(name)
                removed.append(name)
        return tuple(removed)

    def held(self) -> tuple[str, ...]:
        """Return the executions whose launching process still lives."""
        found = records.names(self._installation)
        return tuple(name for name in found if self._record(name).is_held())

    def capabilities(self) -> tuple[Capability, ...]:
        """Say what holds each promise here."""
        return machine.capabilities(self._groups)

    def _prepare(self, record: Record, spec: Spec, uid: int) -> dict[str, Any]:
        home, root = self._installation, self._roots[spec.image]
        place = home.make_run_folder(self._place(spec.name))
        volume, etc = place / "volume", place / "etc"
        for folder in (volume, etc):
            folder.mkdir()
            folder.chmod(0o711)
        bubblewrap.write_etc(etc)
        if spec.storage == "loop":
            volumes.make(home, spec.name, volume, spec.limits, spec.inputs, uid)
        else:
            volumes.make_plain(home, spec.name, volume, spec.inputs, uid)
        (record.folder / "seccomp.bpf").write_bytes(seccomp.program())
        with suppress(FileExistsError):
            os.mkfifo(record.folder / "wake", 0o600)
        return self._plan(spec, root, uid, self._show(place, root))

    def _show(self, place: Path, root: Root) -> dict[str, Path]:
        """Bind what lies in private folders of the host to where the execution's uid can reach it."""
        shown = {}
        for number, (inside, source) in enumerate(sorted(root.folders.items())):
            if any(source.is_relative_to(top) for top in _OPEN_TO_ALL):
                shown[inside] = source
                continue
            shown[inside] = place / f"root{number}"
            shown[inside].mkdir()
            kernel.bind(source, shown[inside], kernel.RDONLY | kernel.NOSUID | kernel.NODEV)
        return shown

    def _plan(self, spec: Spec, root: Root, uid: int, folders: Mapping[str, Path]) -> dict[str, Any]:
        home, place = self._installation, self._place(spec.name)
        isolation = {found.promise: found.mechanism for found in self.capabilities() if found.held}
        if spec.storage == "none":
            isolation["S5"] = "not held: the spec asks for storage without a quota"
        return {
            "uid": uid,
            "owner": [home.uid, home.gid],
            "bwrap": machine.bwrap(),
            "arguments": self._arguments(spec, root, folders),
            "command": [*bubblewrap.STARTER, *spec.command],
            "seccomp": str(home.executions / spec.name / "seccomp.bpf"),
            "volume": str(place / "volume"),
            "quota": spec.storage == "loop",
            "wall_s": spec.limits.wall_s,
            "output_bytes": spec.limits.output_bytes,
            "memory_bytes": translate.memory_bytes(spec.limits),
            "denied_forks": translate.DENIED_FORKS,
            "oom_score": translate.OOM_SCORE,
            "rlimits": {
                "RLIMIT_FSIZE": translate.storage_bytes(spec.limits),
                "RLIMIT_NOFILE": translate.OPEN_FILES,
                "RLIMIT_CORE": 0,
            },
            "image": lab.digest(root),
            "isolation": isolation,
        }

    def _arguments(self, spec: Spec, root: Root, folders: Mapping[str, Path]) -> list[str]:
        place = self._place(spec.name)
        return bubblewrap.arguments(
            volume=place / "volume",
            etc=place / "etc",
            folders=folders,
            links=root.links,
            environment={**root.environment, **spec.environment},
            limits=spec.limits,
        )

    def _running(self, record: Record) -> Running:
        started = record.read("started.json")
        if started is None:
            return Running(started_at=None)
        plan = record.read("plan.json") or {}
        if time.time() > started["at"] + plan.get("wall_s", 0.0) + OVERDUE_S:
            self.stop(record.name, Verdict.TIMED_OUT)
        return Running(started_at=started["at"])

    def _record_loss(self, record: Record) -> dict[str, Any]:
        if self._groups:
            cgroups.kill(self._groups, self._installation.id, record.name)
        started = (record.read("started.json") or {}).get("at")
        now = time.time()
        told: dict[str, Any] = {"verdict": "lost", "exit_code": None, "detail": "Its supervisor died."}
        told |= {"started_at": started, "ended_at": now, "wall_s": now - (started or now), "cpu_s": 0.0}
        told |= {"peak_memory": 0, "peak_storage": 0, "truncated": False}
        record.write("exit.json", told, sync=True)
        return told

    def _release(self, record: Record) -> None:
        """Take back everything an execution was given, processes first; the state folder stays."""
        home, name, place = self._installation, record.name, self._place(record.name)
        if self._groups and not cgroups.kill(self._groups, home.id, name):
            raise SandboxUnavailableError(f"The processes of {name} cannot be ended.", reason="unkillable")
        self._end_shim(record)
        volumes.unmount(place)
        volumes.remove(home, name, place / "volume")
        shutil.rmtree(place, ignore_errors=True)
        if self._groups:
            cgroups.remove(self._groups, home.id, name)
        uids.release(home.run_dir, f"{home.id}/{name}")

    def _end_shim(self, record: Record, patience_s: float = 3.0) -> None:
        deadline = time.monotonic() + patience_s
        while record.is_supervised() and time.monotonic() < deadline:
            time.sleep(0.002)
        told = record.read("shim.json")
        if record.is_supervised() and told:
            with suppress(ProcessLookupError):
                os.kill(told["pid"], signal.SIGKILL)

    def _wake(self, record: Record) -> None:
        try:
            descriptor = os.open(record.folder / "wake", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            # No shim listens; it is not there yet and will see the intent, or it is dead.
            return
        with suppress(BlockingIOError):
            os.write(descriptor, b"!")
        os.close(descriptor)

    def _tail(self, record: Record) -> str:
        try:
            with (record.folder / "output.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def _record(self, name: str) -> Record:
        return records.find(self._installation, name)

    def _place(self, name: str) -> Path:
        return self._installation.folder / name

    def _known(self) -> set[str]:
        """Return every name of ours that is left anywhere on this machine."""
        home = self._installation
        found = {*records.names(home), *uids.claims(home.run_dir, home.id)}
        for folder in (home.folder, home.volumes):
            found.update(path.name.removesuffix(".img") for path in (folder.iterdir() if folder.is_dir() else ()))
        if self._groups:
            found.update(cgroups.names(self._groups, home.id))
        return {name for name in found if NAME.match(name)}
