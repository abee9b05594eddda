"""Whether a storage driver really holds here: a small volume is filled past its limit by an unprivileged user."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fumehood.domain.execution import MIB, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox.storage import mounts
from sandbox.storage.driver import Driver, Volume

NAME = "overfill"
SIZE_MIB = 8
_TRIED = 4
"""So many times its limit is written."""
_SPARE = 4 * MIB
"""What a driver's own tables may take beside the limit; a quarter of it may be written before it refuses."""
_PATIENCE_S = 60
_REFUSALS = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a driver holds, and what was seen."""

    holds: bool
    why: str


def overfill(driver: Driver, target: Path, uid: int) -> Proof:
    """Make a volume at `target`, write past its limit as `uid`, and take it away again."""
    if os.geteuid() != 0:
        return Proof(False, "only root can make volumes")
    if why := driver.missing():
        return Proof(False, why)
    volume = Volume(name=NAME, target=target, uid=uid)
    try:
        driver.make(volume, Limits(storage_mib=SIZE_MIB), ())
        return _write_past(driver, target, uid)
    except SandboxUnavailableError as error:
        if error.reason in {"disk_full", "no_space", "too_large"}:
            # That says nothing about the driver.
            raise
        return Proof(False, f"it could not be tried: {error}".rstrip("."))
    except OSError as error:
        return Proof(False, f"it could not be tried: {error}".rstrip("."))
    finally:
        mounts.unmount(target)
        driver.remove(NAME)
        driver.clear()


def _write_past(driver: Driver, target: Path, uid: int) -> Proof:
    limit = SIZE_MIB * MIB
    before = driver.on_disk(NAME)
    said = _fill(target, uid)
    written = (target / "work/fill").stat().st_size if (target / "work/fill").exists() else 0
    lost = max(driver.on_disk(NAME), before)
    if written > limit + _SPARE // 4:
        return Proof(False, f"{written // MIB} MiB were written past a limit of {SIZE_MIB} MiB")
    if not any(refusal in said for refusal in _REFUSALS):
        return Proof(False, f"writing stopped without a word of the quota: {said or 'nothing was said'}")
    if written < limit * 3 // 4:
        return Proof(False, f"writing stopped after {written // 1024} KiB of {SIZE_MIB} MiB already: {said}")
    # What is set aside before anything is written is a pool's; it must not have grown.
    if lost > max(before, limit + _SPARE):
        return Proof(False, f"the host's disk lost {lost // MIB} MiB to a limit of {SIZE_MIB} MiB")
    return Proof(True, f"{written // 1024} of {SIZE_MIB * 1024} KiB were written, then: {said}")


def _fill(target: Path, uid: int) -> str:
    blocks = _TRIED * SIZE_MIB
    command = ["dd", "if=/dev/zero", f"of={target / 'work/fill'}", "bs=1M", f"count={blocks}", "conv=fsync"]
    done = subprocess.run(
        [shutil.which("dd", path="/usr/bin:/bin") or "dd", *command[1:]],
        env={"LC_ALL": "C"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        # Root may be exempt from what it sets for others.
        user=uid,
        group=uid,
        extra_groups=[],
        timeout=_PATIENCE_S,
    )
    for line in done.stderr.decode(errors="replace").splitlines():
        if ": error " in line or ": failed " in line or line.startswith("dd: "):
            return line.rpartition(": ")[2]
    return ""
