"""Which driver gives an installation its workspaces: the one that is named, or the first that a probe proves."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fumehood.domain.execution import Input, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import kernel, uids
from sandbox.installation import Installation
from sandbox.storage import disk, mounts, probe
from sandbox.storage.btrfs import SMALLEST_MIB, Btrfs
from sandbox.storage.driver import Driver, Home, Volume
from sandbox.storage.loop import Loop
from sandbox.storage.plain import Plain
from sandbox.storage.probe import Proof
from sandbox.storage.xfs import Xfs

if TYPE_CHECKING:
    from fumehood.settings import Settings

DRIVERS: Mapping[str, type[Loop | Btrfs | Xfs | Plain]] = {
    "xfs": Xfs,
    "loop": Loop,
    "btrfs": Btrfs,
    "none": Plain,
}
AUTO = ("xfs", "loop")
"""What `auto` tries, in this order."""
PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Quota:
    """What holds the storage limit of this installation, or why nothing does."""

    held: bool
    mechanism: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an installation's settings say of its storage."""

    driver: str = "auto"
    pool_mib: int = 0


def wanted(settings: Settings) -> Wanted:
    """Return what the settings say of storage."""
    return Wanted(settings.storage, settings.storage_pool_mib)


class Storage:
    """The workspaces of one installation, whichever driver made them."""

    def __init__(self, installation: Installation, wanted: Wanted) -> None:
        self._installation = installation
        self._wanted = wanted
        self._proofs: dict[str, Proof] = {}

    def driver(self, asked: str = "quota") -> Driver:
        """Return the driver that a spec asks for, or raise with why it does not hold here."""
        wanted = self._wanted.driver if asked == "quota" else asked
        told = []
        for name in AUTO if wanted == "auto" else (wanted,):
            proof = self.prove(name)
            if proof.holds:
                return self._driver(name)
            told.append(f"{name}: {proof.why}")
        raise SandboxUnavailableError(
            f"Storage cannot be limited here ({'; '.join(told)}).",
            remedy="Make one of the drivers loop, btrfs and xfs work, or ask for storage without a quota: none.",
            reason="no_storage",
        )

    def prove(self, name: str, *, afresh: bool = False) -> Proof:
        """Return whether a driver holds, tried once for each file system, boot and kernel."""
        if name == "none":
            return Proof(True, Plain.mechanism)
        if why := self._driver(name).missing():
            return Proof(False, why)
        if not afresh and (known := self._proofs.get(name) or self._remembered(name)):
            self._proofs[name] = known
            return known
        found = self._try(name)
        if found.holds:
            # What did not hold is tried again: the disk may have been full, or busy.
            self._proofs[name] = found
        return found

    def quota(self) -> Quota:
        """Say what holds S5 for a spec that asks for the installation's own driver."""
        try:
            found = self.driver()
        except SandboxUnavailableError as error:
            return Quota(False, str(error))
        return Quota(found.enforces, found.mechanism)

    def make(self, driver: Driver, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> dict[str, Any]:
        """Make a workspace, or leave nothing of it; what a supervisor must know to watch it."""
        try:
            with disk.told_when_full(self._installation.state_dir):
                self._folder()
                driver.make(volume, limits, inputs)
                return driver.gauge(volume)
        except BaseException:
            self.remove(volume.name, volume.target)
            raise

    def remove(self, name: str, target: Path) -> None:
        """Unmount and delete a workspace, whichever driver made it."""
        mounts.unmount(target)
        for driver in DRIVERS:
            self._driver(driver).remove(name)

    def clear(self) -> None:
        """Give back what an interrupted probe left, and what no workspace uses any more."""
        for driver in DRIVERS:
            self._driver(driver).clear()
        if (self._installation.volumes / PROBE).exists():
            with disk.locked(self._installation.run_dir / "storage.lock"):
                self._sweep()

    def _driver(self, name: str) -> Driver:
        home = self._installation
        pool = home.run_dir / f"{home.id}.pool"
        return DRIVERS[name](Home(folder=home.volumes, pool=pool, locks=home.run_dir, pool_mib=self._wanted.pool_mib))

    def _folder(self) -> Path:
        return self._installation.make_folder(self._installation.volumes, mode=0o700)

    def _try(self, name: str) -> Proof:
        home = self._installation
        if os.geteuid() != 0:
            return Proof(False, "only root can make volumes")
        with disk.told_when_full(home.state_dir):
            folder = self._folder() / PROBE
            place = home.make_run_folder(home.folder / PROBE)
            with disk.locked(home.run_dir / "storage.lock"):
                owner = f"{home.id}/{PROBE}"
                try:
                    self._sweep()
                    folder.mkdir(mode=0o700)
                    (place / "volume").mkdir(parents=True)
                    place.chmod(0o711)
                    found = probe.overfill(self._on_trial(name), place / "volume", uids.claim(home.run_dir, owner))
                finally:
                    uids.release(home.run_dir, owner)
                    self._sweep()
        if found.holds:
            self._remember(name, found)
        return found

    def _on_trial(self, name: str) -> Driver:
        """Return a driver with nothing of its own but what the probe gives it, and a pool as small as can be."""
        home = self._installation
        return DRIVERS[name](
            Home(
                folder=home.volumes / PROBE,
                pool=home.folder / PROBE / "pool",
                locks=home.run_dir,
                pool_mib=SMALLEST_MIB,
            )
        )

    def _sweep(self) -> None:
        """Remove all that a probe made; its lock must be held."""
        home = self._installation
        place = home.folder / PROBE
        mounts.unmount(place)
        for folder in (place, home.volumes / PROBE):
            shutil.rmtree(folder, ignore_errors=True)

    def _remembered(self, name: str) -> Proof | None:
        try:
            told = json.loads(self._memory(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return Proof(True, str(told["why"])) if told["machine"] == self._machine() else None

    def _remember(self, name: str, proof: Proof) -> None:
        place = self._memory(name)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"why": proof.why, "machine": self._machine()}), encoding="utf-8")
        temporary.replace(place)

    def _memory(self, name: str) -> Path:
        # What is proved is true of a file system, so installations that share one need not try it twice.
        return self._installation.run_dir / "storage" / f"{self._installation.state_dir.stat().st_dev}-{name}.json"

    def _machine(self) -> list[str]:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        kind, told = kernel.file_system(self._installation.state_dir)
        return [boot, platform.release(), platform.version(), kind, *told]
