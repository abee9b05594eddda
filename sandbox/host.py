"""What both adapters on this machine do alike: records, volumes, intake and the verbs of the port.

A launch goes the same way everywhere: admitted, recorded, given a user, a control group and a volume, and last told
to a supervisor that was started early. An adapter says what it admits, how it starts and how it ends.
"""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Artifact, Capability, Ended, Outcome, Rejection, Running, Spec, Verdict
from fumehood.domain.extra_packages import request_of
from fumehood.errors import (
    BadInputError,
    ConflictError,
    FumehoodError,
    NotFoundError,
    SandboxUnavailableError,
    TamperedError,
)
from sandbox import cgroups, installation, intake, kernel, lab, oversight, records, traces, uids
from sandbox import limits as translate
from sandbox.cgroups import Hierarchy
from sandbox.egress.door import Door, Opening
from sandbox.egress.rules import Rules
from sandbox.gate import Gate
from sandbox.lab import Root
from sandbox.records import TAIL_BYTES, Record
from sandbox.starting import Starting
from sandbox.storage import disk, layout, mounts
from sandbox.storage.choose import Storage, Wanted
from sandbox.storage.driver import Driver, Volume
from sandbox.traces import Trace

_INSTALL = {"lab": "Run `make setup`.", "latex": "Install it with: apt-get install texlive-latex-extra"}


class HostSandbox(ABC):
    """Runs each execution on this machine: with a host user, a control group and a volume of its own."""

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        roots: Mapping[str, Root] | None = None,
        *,
        ceilings: translate.Ceilings | None = None,
        egress: Rules | None = None,
        storage: Wanted | None = None,
        labs: Path | None = None,
    ) -> None:
        self._installation = installation.find(state_dir, run_dir)
        self._roots = lab.find(state_dir) if roots is None else roots
        self._labs = labs or state_dir / "lab" / "derived"
        self._ceilings = translate.effective_ceilings(ceilings)
        self._storage = Storage(self._installation, storage or Wanted())
        self._groups = cgroups.find()
        self._gate = Gate(run_dir)
        self._door = Door(self._installation, egress or Rules())

    @property
    def installation(self) -> str:
        """The id that everything it makes carries."""
        return self._installation.id

    @abstractmethod
    def capabilities(self) -> tuple[Capability, ...]:
        """Say what holds each promise here."""

    @abstractmethod
    def _admit(self, spec: Spec) -> Hierarchy:
        """Refuse what asks too much, or what cannot be held here; the control groups to use."""

    def _root(self, image: str) -> Root:
        """Return what an image is made of, or raise with the way to get it; derived labs may be built meanwhile."""
        if image in self._roots:
            return self._roots[image]
        if request_of(image):
            if "lab" in self._roots and (found := lab.derived(self._labs, self._roots["lab"], image)):
                return found
            raise SandboxUnavailableError(
                "The lab with the extra packages of this template is not built here, or for another lab.",
                remedy="Start `fumehood serve`, or the run worker, again: it is built before they take any work.",
                reason="no_image",
            )
        raise SandboxUnavailableError(
            f"The image {image} is not installed.", remedy=_INSTALL.get(image, ""), reason="no_image"
        )

    @abstractmethod
    def _begin(self, record: Record, spec: Spec, groups: Hierarchy) -> Starting:
        """Make the control groups and start a supervisor, which waits for its plan."""

    @abstractmethod
    def _write_etc(self, folder: Path, uid: int) -> None:
        """Write the files of `/etc` that an execution sees."""

    @abstractmethod
    def _plan(self, spec: Spec, groups: Hierarchy, uid: int) -> dict[str, Any]:
        """Make ready what the adapter itself needs; what the supervisor must know, beside what all of them must."""

    @abstractmethod
    def _resume(self, record: Record) -> None:
        """Give an execution that has no supervisor one again, or write down that it is lost."""

    @abstractmethod
    def _end(self, name: str) -> None:
        """Kill everything of an execution, whether or not its supervisor lives."""

    @abstractmethod
    def _destroy(self, name: str) -> None:
        """Kill everything of an execution and wait until it is gone, or raise."""

    @abstractmethod
    def _remove_groups(self, name: str) -> None:
        """Remove the control groups, in which no process is left."""

    @abstractmethod
    def _make_ready(self, spec: Spec) -> None:
        """Make what many executions share and may take minutes, before one is counted as being launched."""

    def _go(self, shim: Starting, plan: dict[str, Any]) -> None:
        shim.go(plan)

    def launch(self, spec: Spec) -> None:
        """Start the execution, or adopt the one of that name and spec."""
        groups = self._admit(spec)
        self._door.check(spec)
        driver = self._storage.driver(spec.storage)
        if not driver.enforces:
            # Also where the installation's settings say so, and not the spec.
            self._ceilings.check(replace(spec, storage="none"))
        record = self._record(spec.name)
        with disk.told_when_full(self._installation.state_dir):
            if record.was_started:
                self._launch(record, spec, groups, driver)
            else:
                self._make_ready(spec)
                with self._gate.passed(type(self).__name__) as turn:
                    turn.launched = self._launch(record, spec, groups, driver)

    def _launch(self, record: Record, spec: Spec, groups: Hierarchy, driver: Driver) -> bool:
        with record.locked(make=True):
            if record.adopt(spec):
                if record.was_started or record.read("exit.json"):
                    return False
                # Whoever launched it died on the way; what it made is in an unknown state.
                self._release(record)
            shim: Starting | None = None
            way_out: Opening | None = None
            try:
                uid = uids.claim(self._installation.run_dir, f"{self.installation}/{spec.name}")
                shim = self._begin(record, spec, groups)
                way_out = self._door.begin(record, spec, uid)
                gauge = self._furnish(record, spec, uid, driver)
                if way_out:
                    way_out.go()
                plan = self._shared_plan(spec, driver) | {"storage": gauge} | self._plan(spec, groups, uid)
                # From here on it counts as started, whether or not it has a supervisor yet.
                record.write("plan.json", plan)
                self._go(shim, plan)
            except BaseException:
                for started in (shim, way_out):
                    if started:
                        started.abandon()
                self._release(record)
                record.erase()
                raise
        return True

    def inspect(self, name: str) -> Running | Ended:
        """Tell whether it ended, and how."""
        record = self._record(name)
        if told := record.read("exit.json"):
            return records.ended(told)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        if record.is_supervised() and not self._oversee(record):
            return self._running(record)
        with record.locked(wait=False) as held:
            if told := record.read("exit.json"):
                return records.ended(told)
            if not held:
                # Being launched at this moment, or removed.
                return Running(started_at=None)
            if not record.is_supervised():
                self._oversee(record)
                self._resume(record)
            if told := record.read("exit.json"):
                return records.ended(told)
        return self._running(record)

    def follow(self, name: str, offset: int = 0) -> bytes:
        """Return what the program printed from `offset` on."""
        record = self._record(name)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        return record.output(offset)

    def stop(self, name: str, reason: str) -> None:
        """Store the reason, then end the whole tree."""
        if reason not in set(Verdict):
            raise BadInputError(f"A reason to stop is a verdict, not {reason!r}.")
        record = self._record(name)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        if record.read("exit.json") is None:
            try:
                record.intend(Verdict(reason))
            finally:
                # Neither a full disk nor a hung supervisor nor a hung engine keeps it from ending.
                record.wake()
                self._end(name)

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
                mounts.freeze(volume)
                self._check_inputs(spec, volume)
                with disk.told_when_full(into):
                    artifacts, rejected = self._take_in(spec, volume, into)
            asked, ending = self._door.settle(record)
            return Outcome(
                name=name,
                verdict=ended.verdict,
                exit_code=ended.exit_code,
                usage=ended.usage,
                output_tail=record.output(-TAIL_BYTES).decode("utf-8", "replace"),
                truncated=bool(told.get("truncated")),
                artifacts=artifacts,
                rejected=rejected,
                image=plan.get("image", ""),
                isolation=plan.get("isolation", {}),
                storage=plan.get("driver", ""),
                detail=" ".join(filter(None, (ended.detail, ending))),
                egress=asked,
            )

    def remove(self, name: str) -> None:
        """Leave nothing of it."""
        record = self._record(name)
        with record.locked() as held:
            if held and record.is_supervised():
                record.intend(Verdict.CANCELLED)
                record.wake()
            self._release(record)
            if held:
                record.erase()

    def reap(self, older_than_s: float = 0.0, keep: Sequence[str] = ()) -> tuple[str, ...]:
        """Remove what belongs to this installation and is not in `keep`."""
        removed, found = [], self._traces()
        for name in traces.kinds(found):
            is_young = older_than_s > 0 and traces.age_s(found, name) < older_than_s
            if name in keep or (is_young and not self._record(name).is_forsaken()):
                continue
            # One that cannot be removed must not keep the others; the next round tries it again.
            with suppress(OSError, FumehoodError):
                if not self._is_in_hand(name):
                    self.remove(name)
                    removed.append(name)
        with suppress(OSError, FumehoodError):
            self._storage.clear()
        return tuple(removed)

    def traces(self) -> Mapping[str, tuple[str, ...]]:
        """Return what is on this machine of each execution of this installation."""
        return traces.kinds(self._traces())

    def held(self) -> tuple[str, ...]:
        """Return the executions whose launching process still lives, and for which no row of a database stands."""
        found = [self._record(name) for name in records.names(self._installation)]
        return tuple(one.name for one in found if one.is_held() and not one.has_row)

    def _check_inputs(self, spec: Spec, volume: Path) -> None:
        if changed := layout.changed(volume, spec.inputs):
            raise TamperedError(f"Read-only inputs of {spec.name} changed: {', '.join(changed)}.")

    def _take_in(self, spec: Spec, volume: Path, into: Path) -> tuple[tuple[Artifact, ...], tuple[Rejection, ...]]:
        caps = intake.Caps(artifacts=spec.max_artifacts, total_bytes=spec.max_artifact_bytes)
        owner = (self._installation.uid, self._installation.gid)
        return intake.collect(volume / "work", into, spec.collect, caps, owner=owner)

    def _furnish(self, record: Record, spec: Spec, uid: int, driver: Driver) -> dict[str, Any]:
        """Make the files of an execution and its volume; what a supervisor must know to watch that."""
        home = self._installation
        place = home.make_run_folder(self._place(spec.name))
        volume, etc = place / "volume", place / "etc"
        for folder in (volume, etc):
            folder.mkdir()
            folder.chmod(0o711)
        self._write_etc(etc, uid)
        with suppress(FileExistsError):
            os.mkfifo(record.folder / "wake", 0o600)
        record.keep_room()
        wanted = Volume(name=spec.name, target=volume, uid=uid)
        return self._storage.make(driver, wanted, spec.limits, spec.inputs)

    def _shared_plan(self, spec: Spec, driver: Driver) -> dict[str, Any]:
        home = self._installation
        return {
            "owner": [home.uid, home.gid],
            "volume": str(self._place(spec.name) / "volume"),
            "quota": driver.enforces,
            "driver": driver.name,
            "wall_s": spec.limits.wall_s,
            "output_bytes": spec.limits.output_bytes,
            "memory_bytes": translate.memory_bytes(spec.limits),
            "denied_forks": translate.DENIED_FORKS,
            "isolation": self._isolation(driver),
        }

    def _isolation(self, driver: Driver) -> dict[str, str]:
        told = {found.promise: found.mechanism for found in self.capabilities() if found.held}
        # What this one has, which need not be what others have.
        return told | {"S5": driver.mechanism if not driver.enforces else f"{driver.mechanism}; RLIMIT_FSIZE"}

    def _with_quota(self, found: tuple[Capability, ...]) -> tuple[Capability, ...]:
        """Say for S5 which driver holds it, once everything else that it needs is here."""
        if not any(one.promise == "S5" and one.held for one in found):
            return found
        quota = self._storage.quota()
        return tuple(
            replace(one, held=quota.held, mechanism=f"{quota.mechanism}; {one.mechanism}")
            if one.promise == "S5"
            else one
            for one in found
        )

    def _running(self, record: Record) -> Running:
        self._door.reopen(record)
        return Running(started_at=(record.read("started.json") or {}).get("at"))

    def _oversee(self, record: Record) -> bool:
        """End an execution that is overdue, and a supervisor that does not do its work; whether it was one."""
        if oversight.is_overdue(record):
            # Where a reason is stored already, that one stays.
            self.stop(record.name, Verdict.TIMED_OUT)
        if not oversight.is_hung(record):
            return False
        oversight.end_supervisor(record)
        return True

    def _record_loss(self, record: Record) -> dict[str, Any]:
        self._end(record.name)
        started = (record.read("started.json") or {}).get("at")
        now = time.time()
        # What was to be ended has ended, whoever did it.
        intent = record.read("intent.json") or {}
        told: dict[str, Any] = {"verdict": intent.get("reason", Verdict.LOST), "exit_code": None}
        told["detail"] = "Its supervisor died."
        told |= {"started_at": started, "ended_at": now, "wall_s": now - (started or now), "cpu_s": 0.0}
        told |= {"peak_memory": 0, "peak_storage": 0, "truncated": False}
        record.give_room()
        record.write("exit.json", told, sync=True)
        return told

    def _release(self, record: Record) -> None:
        """Take back everything an execution was given, processes first; the state folder stays."""
        home, name, place = self._installation, record.name, self._place(record.name)
        self._destroy(name)
        self._end_shim(record)
        self._door.close(record)
        mounts.unmount(place)
        self._storage.remove(name, place / "volume")
        shutil.rmtree(place, ignore_errors=True)
        self._remove_groups(name)
        uids.release(home.run_dir, f"{home.id}/{name}")

    def _end_shim(self, record: Record, patience_s: float = 3.0) -> None:
        deadline = time.monotonic() + patience_s
        while record.is_supervised() and time.monotonic() < deadline:
            time.sleep(0.002)
        if record.is_supervised():
            oversight.end_supervisor(record)
        elif not record.exists:
            oversight.end_strays(record)

    def _record(self, name: str) -> Record:
        return records.find(self._installation, name)

    def _place(self, name: str) -> Path:
        return self._installation.folder / name

    def _traces(self) -> list[Trace]:
        """Return everything of ours that is left anywhere on this machine."""
        return traces.find(self._installation, self._groups)

    def _is_in_hand(self, name: str) -> bool:
        """Whether somebody launches, collects or removes it at this moment."""
        record = self._record(name)
        with record.locked(wait=False) as held:
            return not held and record.folder.exists()
