"""What this machine offers the local adapter, promise by promise, and how to get what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fumehood.domain.execution import Capability
from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, seccomp, uids

OLDEST_BWRAP = (0, 8, 0)
PROGRAMS = "/usr/bin:/bin:/usr/local/bin"

MECHANISMS = {
    "S1": "bwrap --unshare-net: an empty network namespace, own resolv.conf",
    "S2": "a gateway for each execution, on a unix socket in a folder mounted read-only; named capabilities, "
    "paths and queries from a list, GET only",
    "S3": "memory cgroup, swap equal",
    "S4": "pids cgroup",
    "S5": "RLIMIT_FSIZE",
    "S6": "deadline in a detached shim; SIGKILL of the pid namespace, then of the cgroup",
    "S7": "the shim's capped file, read without ever blocking",
    "S8": "an unused host uid for each execution, dropped to before bwrap; no capabilities, no-new-privileges, "
    "no user namespaces, own seccomp profile, a curated read-only root",
    "S9": "environment from an allow-list; nothing of the host but /usr, the lab and three files of /etc",
    "S10": "volume remounted ro,nosymfollow after exit; walked with O_NOFOLLOW; regular files under globs, capped",
    "S11": "/in is read-only and root's; its hashes are checked again after the run",
    "S12": "no GPU device is passed in; specs that ask for one are refused",
    "S13": "named after the installation and the execution; reaper",
    "S14": "intent stored, shim woken, cgroup killed",
    "S15": "no network, read-only root",
    "S16": "own user, pid, ipc, net, uts and cgroup namespaces; a uid of its own",
}
NOT_HELD: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that this machine does not have, and what depends on it."""

    reason: str
    sentence: str
    remedy: str
    promises: tuple[str, ...]


def lacks(hierarchy: cgroups.Hierarchy | None) -> list[Lack]:
    """Return what keeps the local adapter from holding its promises here; empty on a fit machine."""
    found = []
    everything = tuple(MECHANISMS)
    if os.geteuid() != 0:
        found.append(
            Lack(
                "no_root",
                "The local sandbox needs root for volumes and control groups.",
                "Run it with sudo.",
                everything,
            )
        )
        return found
    if why := _bwrap_lack():
        found.append(Lack("no_bwrap", why[0], why[1], everything))
    if why_not := uids.missing():
        found.append(
            Lack(
                "no_uid",
                f"No unused host user can be taken on: {why_not}.",
                "Start it outside that namespace.",
                ("S8", "S16"),
            )
        )
    if why_not := cgroups.missing(hierarchy):
        remedy = "Start it where root may write control groups (in a container: --cgroupns host, /sys/fs/cgroup rw)."
        found.append(Lack("no_cgroup", f"Control groups cannot be used: {why_not}.", remedy, ("S3", "S4", "S6", "S14")))
    if why_not := seccomp.missing():
        found.append(Lack("no_seccomp", f"System calls cannot be filtered: {why_not}.", "", ("S8",)))
    return found


def require(hierarchy: cgroups.Hierarchy | None) -> cgroups.Hierarchy:
    """Raise for the first thing that is missing; the control groups to use."""
    for lack in lacks(hierarchy):
        raise SandboxUnavailableError(lack.sentence, remedy=lack.remedy, reason=lack.reason)
    assert hierarchy is not None, "its absence is a lack"  # noqa: S101 - narrows the type
    return hierarchy


def capabilities(hierarchy: cgroups.Hierarchy | None) -> tuple[Capability, ...]:
    """Return every promise with what holds it here, or why nothing does."""
    missing: dict[str, str] = dict(NOT_HELD)
    for lack in lacks(hierarchy):
        for promise in lack.promises:
            missing.setdefault(promise, f"{lack.sentence} {lack.remedy}".strip())
    version = f" (v{hierarchy.version})" if hierarchy else ""
    found = []
    for promise in sorted({*MECHANISMS, *NOT_HELD}, key=lambda name: int(name[1:])):
        mechanism = MECHANISMS.get(promise, "") + (version if promise in {"S3", "S4"} else "")
        found.append(
            Capability(promise=promise, held=promise not in missing, mechanism=missing.get(promise, mechanism))
        )
    return tuple(found)


def bwrap() -> str:
    """Return where bwrap is, or an empty string."""
    return shutil.which("bwrap", path=PROGRAMS) or ""


def _bwrap_lack() -> tuple[str, str] | None:
    place = bwrap()
    if not place:
        return "bubblewrap is not installed.", "Install it with: apt-get install bubblewrap"
    version = _bwrap_version(place)
    if version < OLDEST_BWRAP:
        told = ".".join(str(part) for part in version)
        return f"bubblewrap {told} is too old; 0.8.0 or newer is needed.", "Install a newer bubblewrap."
    for name, forbidden in (("kernel/unprivileged_userns_clone", "0"), ("user/max_user_namespaces", "0"),
                            ("kernel/apparmor_restrict_unprivileged_userns", "1")):  # fmt: skip
        file = Path("/proc/sys") / name
        if file.exists() and file.read_text(encoding="ascii").strip() == forbidden:
            key = name.replace("/", ".")
            wanted = "0" if forbidden == "1" else "1" if name.startswith("kernel") else "10000"
            return f"Users may not make namespaces here ({key} = {forbidden}).", f"Run: sysctl -w {key}={wanted}"
    return None


@cache
def _bwrap_version(place: str) -> tuple[int, ...]:
    told = subprocess.run([place, "--version"], capture_output=True, check=False, env={}).stdout.decode(
        errors="replace"
    )
    return tuple(int(part) for part in told.split()[-1].split(".") if part.isdigit()) if told.split() else (0,)
