"""Builds a derived lab: whole or not at all, once, under a lock, and again from nothing where that was interrupted.

It holds the extra packages only; an execution sees them beside the lab, which is never touched. Nothing of a package is
run here: the first time that happens is in the sandbox.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.extra_packages import ExtraPackages, Pin, normal, of_wheel, pin, request_of
from fumehood.errors import BadInputError, MachineUnfitError
from sandbox import lab
from sandbox.derived import content
from sandbox.derived.pip import Pip

KEPT_S = 30 * 24 * 3600.0
"""How long a derived lab stays that nobody asks for."""
_COMPILES_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A derived lab that is wanted."""

    image: str
    """As executions name it."""
    packages: ExtraPackages
    wheels: Mapping[str, Path] = field(default_factory=dict)
    """File name of each wheel that is given to a file that holds it."""


def ensure(labs: Path, base: Path, asked: Asked, say: Callable[[str], None]) -> Path:
    """Return the folder of a lab that is derived from the one at `base`; it is built where it is not there yet.

    Raises:
        BadInputError: What is asked for cannot be had, or not beside the lab; the sentence says what and why.
        MachineUnfitError: It cannot be got or written here.
    """
    told = json.loads((base / "lab.json").read_text(encoding="utf-8"))
    place = lab.place_of(labs, lab.digest_of(told), request_of(asked.image))
    if not is_whole(place):
        try:
            labs.mkdir(parents=True, exist_ok=True)
            with _locked(labs, say):
                if not is_whole(place):
                    _build(place, base, told, asked, say)
                    prune(labs)
        except OSError as error:
            raise MachineUnfitError(
                f"Labs with extra packages go to {labs}, which cannot be written to ({error.strerror}).",
                remedy="Make room there, or set FUMEHOOD_DERIVED_LABS_DIR to a folder that you may write to.",
            ) from error
    os.utime(place / "lab.json")
    return place


def is_whole(place: Path) -> bool:
    """Tell whether a derived lab is there; half of one never has this name."""
    return (place / "lab.json").is_file()


def _build(place: Path, base: Path, told: Mapping[str, object], asked: Asked, say: Callable[[str], None]) -> None:
    for left in place.parent.glob(".building-*"):
        shutil.rmtree(left, ignore_errors=True)
    begun, fresh = time.monotonic(), place.parent / f".building-{secrets.token_hex(6)}"
    named = ", ".join([*(one.line.split()[0] for one in asked.packages.pins), *asked.packages.wheels])
    say(f"lab: getting {named} beside the lab, once on this machine ...")
    try:
        site, wheels, scratch = fresh / "site-packages", fresh / "wheels", fresh / "scratch"
        for folder in (fresh, wheels, scratch):
            folder.mkdir()
        has = _versions(told)
        wanted = missing(asked.packages, has)
        pip = Pip(Path(str(told["python"])), base / "site-packages", scratch)
        _gather(pip, place.with_suffix(".lock"), asked, wanted, has, wheels)
        taken = {path.name: _hash_of(path) for path in sorted(wheels.iterdir())}
        pip.unpack(sorted(wheels.iterdir()), site)
        _, own = pip.about()
        content.check(site, base / "site-packages", own)
        # Programs that are started by name; nothing of them is on an execution's path.
        shutil.rmtree(site / "bin", ignore_errors=True)
        for folder in (wheels, scratch):
            shutil.rmtree(folder)
        _compile(pip.interpreter, site)
        _describe(fresh, told, asked, taken)
        _make_readable(fresh)
        fresh.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    say(f"lab: {', '.join(taken) or 'nothing more than the lab has'}: done in {time.monotonic() - begun:.0f} s")


def _versions(told: Mapping[str, object]) -> dict[str, str]:
    listed = told["packages"]
    parts = (str(one).partition("==") for one in (listed if isinstance(listed, list) else []))
    return {normal(name): version for name, _, version in parts}


def missing(asked: ExtraPackages, has: Mapping[str, str]) -> tuple[Pin, ...]:
    """Return the pins that the lab lacks; `BadInputError` where it has another version, or a wheel's package."""
    found = []
    for one in asked.pins:
        version = has.get(one.name)
        if version is None:
            found.append(one)
        elif one.version not in {version, version.partition("+")[0]}:
            raise BadInputError(
                f"The lab has {one.name} {version}, which is never replaced: {one.name}=={one.version} cannot be had."
            )
    for name in asked.wheels:
        if (known := of_wheel(name).name) in has:
            raise BadInputError(f"The lab has {known} {has[known]}, which is never replaced: {name} cannot be had.")
    return tuple(found)


def _gather(pip: Pip, lock: Path, asked: Asked, wanted: tuple[Pin, ...], has: Mapping[str, str], into: Path) -> None:
    """Put every wheel into a folder: those that were given, those that were asked for, and what these need."""
    for name, sha in asked.packages.wheels.items():
        shutil.copyfile(asked.wheels[name], into / name)
        if _hash_of(into / name) != sha:
            raise BadInputError(f"The wheel {name} is not the one that was asked for: its hash is another one.")
    if lock.is_file():
        # Removed since, and built again: from the same wheels.
        pip.fetch([pin(line) for line in lock.read_text(encoding="utf-8").splitlines()], into)
        return
    given = [into / name for name in asked.packages.wheels]
    found = (
        pip.resolve([*(f"{one.name}=={one.version}" for one in wanted), *map(str, given)], has)
        if wanted or given
        else []
    )
    for one in wanted:
        if one.hashes and not any(other.name == one.name and set(other.hashes) <= set(one.hashes) for other in found):
            raise BadInputError(f"The wheel of {one.name}=={one.version} has another hash than those that are given.")
    shas = set(asked.packages.wheels.values())
    fetched = [one for one in found if not shas & set(one.hashes)]
    pip.fetch(fetched, into)
    fresh = lock.with_suffix(f".{secrets.token_hex(4)}")
    fresh.write_text("".join(f"{one.line}\n" for one in fetched), encoding="utf-8")
    fresh.replace(lock)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compile(interpreter: Path, site: Path) -> None:
    """Spare each execution that; what does not compile says so when it is imported."""
    command = [str(interpreter), "-I", "-S", "-m", "compileall", "-qq", str(site)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMPILES_S)


def _describe(folder: Path, told: Mapping[str, object], asked: Asked, wheels: Mapping[str, str]) -> None:
    parts = json.dumps([lab.DERIVED_FORMAT, told["hash"], sorted(wheels.items())])
    described = {
        "hash": hashlib.sha256(parts.encode()).hexdigest(),
        "base": told["hash"],
        "request": request_of(asked.image),
        "packages": content.packages(folder / "site-packages"),
        "imports": sorted(content.modules(folder / "site-packages")),
        "wheels": dict(wheels),
    }
    (folder / "lab.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _make_readable(folder: Path) -> None:
    """Let every user read what lies below, as each sandbox has a user of its own, and nobody have rights by it."""
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for file in files:
            place = Path(parent, file)
            place.chmod(0o755 if place.stat().st_mode & 0o100 else 0o644)


def prune(labs: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Remove the derived labs that nobody has asked for in a month, and that no execution sees at this moment."""
    for place in list(labs.glob("*/lab.json")):
        folder = place.parent
        if place.stat().st_mtime > time.time() - KEPT_S or _is_shown(folder.name, mounts):
            continue
        # Out of reach first: whoever launched meanwhile is seen by then, and keeps what it has.
        gone = folder.with_name(f".removing-{folder.name.removeprefix('.removing-')}")
        with suppress(OSError):
            folder.replace(gone)
            if not _is_shown(gone.name, mounts):
                shutil.rmtree(gone, ignore_errors=True)


def _is_shown(name: str, mounts: Path) -> bool:
    key = re.escape(name.removeprefix(".removing-"))
    return re.search(rf"/(?:\.removing-)?{key}/", mounts.read_text(encoding="utf-8")) is not None


@contextmanager
def _locked(labs: Path, say: Callable[[str], None]) -> Iterator[None]:
    descriptor = os.open(labs / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("lab: waiting for another build ...")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
