"""Images by the hash of what goes into them: built once, under a lock, and imported whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import docker.errors

from fumehood.domain.execution import MIB
from fumehood.errors import SandboxUnavailableError
from sandbox import lab
from sandbox.bubblewrap import PATH
from sandbox.docker_engine import Engine
from sandbox.image import debian
from sandbox.lab import Root

FORMAT = 1
"""Goes into the hash: raised when the same inputs make a different image."""
NAMES = ("plain", "lab", "latex")
BASE = ("python3",)
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "latex": (
        *("texlive-latex-base", "texlive-latex-recommended", "texlive-fonts-recommended"),
        *("lmodern", "chktex", "poppler-utils"),
    )
}
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "latex": ("etc/alternatives", "etc/fonts", "etc/texmf", "var/cache/fontconfig", "var/lib/texmf")
}
"""What an execution sees besides `/usr`."""
_TOP = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MADE = {"dev": 0o755, "etc": 0o755, "in": 0o755, "lab": 0o755, "lab/bin": 0o755, "proc": 0o755, "sys": 0o755}
_MADE |= {"tmp": 0o1777, "work": 0o755}
_LEFT_OUT = (
    *(f"usr/share/{name}" for name in ("bash-completion", "bug", "doc", "info", "lintian", "locale", "man", "menu")),
    *("usr/games", "usr/include", "usr/src", "usr/lib/apt", "usr/lib/udev", "usr/lib/systemd", "usr/lib/dpkg"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the engine has."""

    repository: str
    id: str
    environment: Mapping[str, str]
    links: Mapping[str, str]
    """Below folders that are empty at each start, so they are made then."""


def ensure(engine: Engine, state_dir: Path, run_dir: Path, root: Root) -> Image:
    """Return the image of a root, which is built first where the engine does not have it."""
    if not (found := _find(engine, root)):
        # The plain one costs nothing more, and may be the next one that is asked for.
        build(engine, state_dir, run_dir, [plain(), root])
        found = _find(engine, root)
    if not found:
        raise SandboxUnavailableError(f"The image {root.image} is gone already.", reason="no_image")
    return found


def build(engine: Engine, state_dir: Path, run_dir: Path, roots: Sequence[Root]) -> None:
    """Build those of these images that the engine does not have, from one tree."""
    with _locked(run_dir):
        # What needs packages of its own comes last: they stay in the tree.
        ordered = sorted({root.image: root for root in roots}.values(), key=lambda root: NAMES.index(root.image))
        if missing := [root for root in ordered if not _find(engine, root)]:
            _build(engine, state_dir, missing)


def repository(root: Root) -> str:
    """Return the name that all versions of an image share."""
    return f"fumehood-{root.image}"


def key(root: Root, suite: str) -> str:
    """Return the hash of what goes into an image."""
    told = {
        "format": FORMAT,
        "suite": suite,
        "machine": os.uname().machine,
        "packages": [*BASE, *PACKAGES.get(root.image, ())],
        "contents": root.digest,
        "folders": sorted(root.folders),
        "links": dict(root.links),
        "environment": dict(root.environment),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def plain() -> Root:
    """Return the root that has the system's programs only."""
    return lab.plain()


def latex() -> Root:
    """Return the root with TeX; everything in it comes from packages."""
    return Root(image="latex", links=lab.plain().links)


def _find(engine: Engine, root: Root) -> Image | None:
    try:
        told = engine.client.inspect_image(f"{repository(root)}:{key(root, debian.codename())}")
    except docker.errors.ImageNotFound:
        return None
    at_start = {place: target for place, target in root.links.items() if _is_made_at_start(place)}
    return Image(repository=repository(root), id=told["Id"], environment=root.environment, links=at_start)


def _is_made_at_start(place: str) -> bool:
    return PurePosixPath(place).is_relative_to("/tmp")  # noqa: S108 - inside, where it is the execution's own


def _build(engine: Engine, state_dir: Path, roots: Sequence[Root]) -> None:
    debian.require()
    folder = state_dir / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".building-*"):
        shutil.rmtree(left)
    tree = folder / f".building-{os.getpid()}"
    names, begun = ", ".join(repository(root) for root in roots), time.monotonic()
    _say(f"building {names}, once on this machine ...")
    try:
        debian.make(tree, BASE)
        for root in roots:
            _check_interpreter(tree, root)
            if packages := PACKAGES.get(root.image):
                debian.apt(tree, "install", *packages)
            _import(engine, tree, root)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
    _say(f"{names}: done in {time.monotonic() - begun:.0f} s")


def _check_interpreter(tree: Path, root: Root) -> None:
    for target in root.links.values():
        if target.startswith("/usr/") and not (tree / target.lstrip("/")).exists():
            here = sorted(place.name for place in (tree / "usr" / "bin").glob("python3.[0-9]*"))
            raise SandboxUnavailableError(
                f"The {root.image} was made for {Path(target).name}, and this distribution has {', '.join(here)}.",
                remedy="Run `make setup` with the distribution's own python3, or use --adapter local.",
                reason="no_image",
            )


def _import(engine: Engine, tree: Path, root: Root) -> None:
    """Stream a tree into the engine; it gets its name only when all of it arrived."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    failed: list[BaseException] = []

    def fill() -> None:
        try:
            with os.fdopen(writing, "wb") as file:
                pack(file, tree, root)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failed.append(error)

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    changes = [f"ENV {name}={value}" for name, value in {"PATH": PATH, "LANG": "C.UTF-8", **root.environment}.items()]
    changes += ["WORKDIR /work", f"LABEL fumehood.image={root.image}"]
    try:
        with os.fdopen(reading, "rb") as file:
            told = engine.patient().import_image(src=file, changes=changes, stream_src=True)
    finally:
        filling.join()
    identity = _identity(told)
    if failed or not identity:
        with suppress(docker.errors.APIError):
            engine.client.remove_image(identity)
        why = str(failed[0]) if failed else told.strip()[-300:]
        raise SandboxUnavailableError(f"The image {root.image} could not be imported: {why}", reason="no_image")
    engine.client.tag(identity, repository(root), key(root, debian.codename()))
    size = engine.client.inspect_image(identity)["Size"] // MIB
    _say(f"{repository(root)}: imported in {time.monotonic() - begun:.0f} s, {size} MiB")


def _identity(told: str) -> str:
    """Return the id that stands in the last line of what an import says."""
    for line in reversed(told.splitlines()):
        with suppress(ValueError):
            status = str(json.loads(line).get("status", ""))
            if status.startswith("sha256:"):
                return status
    return ""


def pack(file: IO[bytes], tree: Path, root: Root) -> None:
    """Write what an execution may see as one archive: nobody's but root's, and nothing setuid."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in _MADE.items():
            _add_folder(archive, name, mode)
        for name in ("etc/passwd", "etc/group"):
            # Each execution has its own one mounted over it.
            archive.addfile(_owned_by_root(tarfile.TarInfo(name)))
        added = {"etc", "lab"}
        for name in [*_TOP, *FOLDERS.get(root.image, ())]:
            if (tree / name).is_symlink() or (tree / name).exists():
                _add_parents(archive, name, added)
                archive.add(tree / name, name, filter=_filter)
        for inside, source in sorted(root.folders.items()):
            _add_parents(archive, inside.lstrip("/"), added)
            archive.add(source, inside.lstrip("/"), filter=_owned_by_root)
        for inside, target in sorted(root.links.items()):
            if not _is_made_at_start(inside):
                link = tarfile.TarInfo(inside.lstrip("/"))
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
                archive.addfile(link)


def _add_parents(archive: tarfile.TarFile, name: str, added: set[str]) -> None:
    for parent in reversed(PurePosixPath(name).parents[:-1] if "/" in name else ()):
        if str(parent) not in added:
            _add_folder(archive, str(parent), 0o755)
            added.add(str(parent))


def _add_folder(archive: tarfile.TarFile, name: str, mode: int) -> None:
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, mode
    archive.addfile(folder)


def _filter(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if any(member.name == part or member.name.startswith(f"{part}/") for part in _LEFT_OUT):
        return None
    return _owned_by_root(member)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    # No program in an image may give rights; whoever may read a file may also be anybody.
    member.mode = (member.mode & 0o755) | 0o444 | (0o111 if member.isdir() else 0)
    return member


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / "images.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build ...")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(line: str) -> None:
    print(f"image: {line}", file=sys.stderr, flush=True)
