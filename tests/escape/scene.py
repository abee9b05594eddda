"""One case carried out: what is put around the program, what is seen, and what it means."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ulid import ULID

from fumehood.domain.execution import MIB, Ended, Input, Kind, Limits, Outcome, Running, Spec, Verdict
from fumehood.errors import FumehoodError, TamperedError
from sandbox import uids
from sandbox.host import HostSandbox
from tests.escape.cases import LIMITS, Case
from tests.escape.models import CAP_USD, MODEL, ModelHouse
from tests.escape.weakened import Weak
from tests.escape.world import Listeners
from tests.leaks import RUN_DIR, identity, left, processes_of

if TYPE_CHECKING:
    pass

INSIDE = Path(__file__).with_name("inside.py")
NEIGHBOUR = Path(__file__).with_name("neighbour.py")
PATIENCE_S = 40.0
LATE_S = 5.0
"""So much later than its deadline it may end on a machine where much else runs; the targets are measured elsewhere."""
CANCEL_S = 2.0
RESPONSIVE_S = 5.0
NEIGHBOUR_S = 1.0
"""So long it takes at most until the end of a neighbour is known."""
DYING_S = 1.0
"""So long one that was killed may still be listed."""
START_S = 0.05


def _new_name() -> str:
    return f"fh-{ULID()}".lower()


@dataclass
class Seen:
    """What was seen of one execution, inside and outside."""

    output: str = ""
    verdict: str = ""
    outcome: Outcome | None = None
    broken: dict[str, str] = field(default_factory=dict)
    """What is no longer true outside, by the name of the check."""
    error: str = ""
    tampered: bool = False

    @property
    def got(self) -> list[str]:
        """The tricks that succeeded, as the program itself says."""
        return [line for line in self.output.splitlines() if line.startswith("GOT ")]

    @property
    def refused(self) -> list[str]:
        """The tricks that failed, as the program itself says."""
        return [line for line in self.output.splitlines() if line.startswith("refused ")]


@dataclass(kw_only=True)
class Scene:
    """A sandbox, a program, and everything around it that it could get hold of."""

    case: Case
    sandbox: HostSandbox
    state_dir: Path
    folder: Path
    house: Path
    segment: int
    listeners: Listeners | None = None
    neighbour: str = ""
    models: ModelHouse | None = None
    name: str = field(default_factory=_new_name)
    token: str = field(default_factory=lambda: f"canary-{secrets.token_hex(12)}")
    seen: Seen = field(default_factory=Seen)

    @property
    def canary(self) -> Path:
        """A file of the host that anybody could read, if it were shown."""
        return self.house / self.name / "canary"

    def play(self) -> Seen:
        """Carry it out and take it away."""
        self.canary.parent.mkdir()
        self.canary.write_text(self.token, encoding="ascii")
        holder = subprocess.Popen(["sh", "-c", 'sleep 60; : "$0"', self.token], stdin=subprocess.DEVNULL)
        try:
            self._play(holder.pid)
        except FumehoodError as error:
            self.seen.error = str(error)
        finally:
            holder.kill()
            holder.wait()
            self._remove()
        return self.seen

    def spec(self, pid: int) -> Spec:
        """Return what is asked of the sandbox."""
        limits = Limits(**{**LIMITS, **self.case.limits})
        told = {
            "canary": str(self.canary),
            "pid": pid,
            "port": self.listeners.port if self.listeners else 0,
            "abstract": self.listeners.abstract if self.listeners else "",
            "segment": self.segment,
            "neighbour": str(RUN_DIR / identity(self.state_dir) / self.neighbour / "volume" / "work"),
            "state": str(self.state_dir),
            "name": self.name,
            "wall_s": limits.wall_s,
        }
        if self.models:
            told |= {"gateway": self.models.port, "model": MODEL, "cap_usd": CAP_USD}
        files = {
            "work/program.py": self.case.program.read_bytes(),
            "work/inside.py": INSIDE.read_bytes(),
            "in/told.json": json.dumps(told).encode(),
            "in/frozen.txt": b"as it was\n",
        }
        return Spec(
            name=self.name,
            kind=Kind.RUN,
            image="plain",
            command=("python3", "program.py"),
            inputs=tuple(make_input(self.folder, path, data) for path, data in files.items()),
            limits=limits,
            network=self.case.network,
            labels=self.models.labels if self.models else {},
            collect=self.case.collect,
            max_artifacts=100,
            max_artifact_bytes=4 * MIB,
        )

    def _play(self, pid: int) -> None:
        spec = self.spec(pid)
        begun = time.monotonic()
        self.sandbox.launch(spec)
        uid = uids.claims(RUN_DIR, identity(self.state_dir))[self.name]
        if self.case.host:
            HOST[self.case.host](self)
        if "responsive" in self.case.checks:
            self._check_responsive()
        ended = self._wait()
        self.seen.verdict = str(ended.verdict)
        self.seen.output = self.sandbox.follow(self.name).decode("utf-8", "replace")
        if "cpu" in self.case.checks:
            allowed = spec.limits.cpus * ended.usage.wall_s * 1.2 + 0.2
            self._require("cpu", ended.usage.cpu_s <= allowed, f"{ended.usage.cpu_s:.1f} s of {allowed:.1f} s")
        self._look_outside(spec, uid, time.monotonic() - begun)
        try:
            self.seen.outcome = self.sandbox.collect(self.name, self.folder / "out")
        except TamperedError:
            self.seen.tampered = True
        self._require("tampered", self.seen.tampered or not _tampers(self.case), "what was changed was not noticed")
        self._look_for_the_canary()

    def _wait(self) -> Ended:
        patience = time.monotonic() + PATIENCE_S
        while isinstance(state := self.sandbox.inspect(self.name), Running):
            if time.monotonic() > patience:
                self.seen.broken["ends"] = f"it still ran after {PATIENCE_S:g} s"
                HostSandbox.stop(self.sandbox, self.name, Verdict.CANCELLED)
                patience += PATIENCE_S
            time.sleep(0.02)
        return state

    def _look_outside(self, spec: Spec, uid: int, took_s: float) -> None:
        self._require("on time", took_s < spec.limits.wall_s + LATE_S, f"it took {took_s:.1f} s")
        size = len(self.seen.output)
        self._require("output", size <= spec.limits.output_bytes, f"{size} characters")
        self._require("canary", self.canary.read_text(encoding="ascii") == self.token, "it was changed")
        living, patience = processes_of(uid), time.monotonic() + DYING_S
        while living and time.monotonic() < patience:
            time.sleep(START_S)
            living = processes_of(uid)
        self._require("processes", not living, f"processes live on: {living}")
        if self.listeners:
            self._require("listeners", not self.listeners.hits, f"it reached {self.listeners.hits}")
        if self.neighbour:
            time.sleep(NEIGHBOUR_S)
            is_alive = isinstance(self.sandbox.inspect(self.neighbour), Running)
            self._require("neighbour", is_alive, "the neighbour ended")
            said = self.sandbox.follow(self.neighbour)
            self._require("neighbour's files", b"changed" not in said, "the neighbour's file was changed")
        if self.models:
            spent = self.models.spent_usd()
            self._require("cap", spent <= CAP_USD, f"{spent:.3f} of {CAP_USD:.3f} dollars are spent")
        if "disk" in self.case.checks:
            allowed = spec.limits.storage_mib * MIB * 1.02 + MIB
            taken = sum(path.lstat().st_blocks * 512 for path in self._on_disk())
            self._require("disk", taken <= allowed, f"it takes {taken / MIB:.1f} MiB of the host's disk")

    def _on_disk(self) -> list[Path]:
        """Return everything that its state holds on the host's disk."""
        return [path for path in self.state_dir.rglob("*") if self.name in str(path) and not path.is_dir()]

    def _look_for_the_canary(self) -> None:
        out = self.folder / "out"
        taken = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else []
        leaked = [path.name for path in taken if self.token.encode() in path.read_bytes()]
        names = [path.relative_to(out) for path in taken]
        self._require(
            "artifacts",
            len(names) <= self.case.comes,
            f"files came out that should not have: {[str(name) for name in names[:5]]}",
        )
        self._require("secret", self.token not in self.seen.output and not leaked, f"the canary came out {leaked}")

    def _check_responsive(self) -> None:
        while self.sandbox.follow(self.name).count(b"\n") < 1 and isinstance(self.sandbox.inspect(self.name), Running):
            time.sleep(START_S)
        begun = time.monotonic()
        subprocess.run(["true"], check=True)
        took_s = time.monotonic() - begun
        self._require("responsive", took_s < RESPONSIVE_S, f"a program took {took_s:.1f} s to start and end")

    def _require(self, check: str, holds: bool, why: str) -> None:
        if not holds:
            self.seen.broken[check] = why

    def _remove(self) -> None:
        is_kept = False
        if isinstance(self.sandbox, Weak) and self.sandbox.weakness.lacks("release"):
            is_kept = True
            self.sandbox.forget(self.name)
        else:
            self.sandbox.remove(self.name)
        found, patience = _named(left(self.state_dir), self.name), time.monotonic() + LATE_S
        while found and not is_kept and time.monotonic() < patience:
            time.sleep(START_S)
            found = _named(left(self.state_dir), self.name)
        self._require("nothing left", not found, str(found))
        self.sandbox.remove(self.name)


def contained(case: Case, seen: Seen) -> list[str]:
    """Return why the trick was not contained; nothing when it was."""
    found = [f"outside, {name}: {why}" for name, why in seen.broken.items()]
    if seen.error:
        found.append(f"the platform itself failed: {seen.error}")
    if "begun" not in seen.output.splitlines()[:1]:
        found.append("the program never began")
    found += [f"inside: {line}" for line in seen.got]
    if seen.tampered and not _tampers(case):
        found.append("an input was changed")
    if seen.verdict not in case.verdict:
        found.append(f"it {seen.verdict}, and should have {' or '.join(case.verdict)}")
    if case.verdict == ("succeeded",) and not seen.refused:
        found.append("it says of nothing that it was refused")
    return found


def succeeded(case: Case, seen: Seen) -> list[str]:
    """Return why the trick did not succeed without its protection; nothing when it did."""
    found = [] if not seen.error else [f"the weakened adapter failed: {seen.error}"]
    if len(seen.got) < case.gets:
        found.append(f"it got hold of {len(seen.got)} of {case.gets}: {seen.output[-600:]!r}")
    missing = sorted(case.breaks - set(seen.broken))
    if missing:
        found.append(f"still true outside: {', '.join(missing)}")
    return found


def _tampers(case: Case) -> bool:
    """Whether its inputs are left open to it, to see that what it changes is noticed."""
    return "owner of /in" in case.already


def _named(found: Mapping[str, list[str]], name: str) -> list[str]:
    return [f"{kind} {thing}" for kind, things in found.items() for thing in things if name in thing]


def make_input(folder: Path, path: str, data: bytes) -> Input:
    digest = hashlib.sha256(data).hexdigest()
    source = folder / digest
    source.write_bytes(data)
    return Input(path=path, sha256=digest, source=str(source))


def _cancel(scene: Scene) -> None:
    """Stop it once it is ready, and see that it is gone soon."""
    patience = time.monotonic() + PATIENCE_S
    while b"ready" not in scene.sandbox.follow(scene.name) and time.monotonic() < patience:
        time.sleep(0.02)
    begun = time.monotonic()
    scene.sandbox.stop(scene.name, Verdict.CANCELLED)
    while isinstance(scene.sandbox.inspect(scene.name), Running) and time.monotonic() - begun < CANCEL_S:
        time.sleep(0.02)
    is_gone = not isinstance(scene.sandbox.inspect(scene.name), Running)
    scene._require("cancelled in time", is_gone, f"it still ran {CANCEL_S:g} s after it was cancelled")


def _end(scene: Scene) -> None:
    """Write down that it is over as soon as it has asked once, while it still runs."""
    assert scene.models is not None
    patience = time.monotonic() + PATIENCE_S
    while b"asked" not in scene.sandbox.follow(scene.name) and time.monotonic() < patience:
        time.sleep(0.02)
    scene.models.end()


HOST: Mapping[str, Callable[[Scene], None]] = {"cancel": _cancel, "end": _end}
