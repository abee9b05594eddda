"""Images by the hash of what goes into them: built once, under a lock, and imported whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker.errors

from fumehood.domain.execution import MIB
from fumehood.errors import SandboxUnavailableError
from sandbox import lab
from sandbox.bubblewrap import PATH
from sandbox.docker_engine import Engine
from sandbox.image import archive, bases, debian
from sandbox.lab import Root

FORMAT = 3
"""Goes into the hash: raised when the same inputs make a different image."""
LABEL = "fumehood"
NAMES = ("plain", "lab", "latex")
BASE = ("python3",)
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "latex": (
        *("texlive-latex-base", "texlive-latex-recommended", "texlive-fonts-recommended"),
        *("lmodern", "chktex", "poppler-utils"),
    )
}
DEBOOTSTRAP = debian.DEBOOTSTRAP
"""The base that is made here, of the packages of this machine's own suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the engine has."""

    repository: str
    id: str
    base: str
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


def build(engine: Engine, state_dir: Path, run_dir: Path, roots: Sequence[Root], base: str = "") -> None:
    """Build those of these images that the engine does not have, from one tree.

    Without a base, one that is there will do whatever it was made from; else it is made from this image, or from
    nothing with `debootstrap`.
    """
    with locked(run_dir):
        # What needs packages of its own comes last: they stay in the tree.
        ordered = sorted({root.image: root for root in roots}.values(), key=lambda root: NAMES.index(root.image))
        given = bases.find(engine, base) if base and base != DEBOOTSTRAP else DEBOOTSTRAP
        found = {root.image: _find(engine, root) for root in ordered}
        missing = [root for root in ordered if not (one := found[root.image]) or (base and one.base != given)]
        if missing:
            _build(engine, state_dir, missing, given)
            for root in missing:
                prune(engine, root)


def repository(root: Root) -> str:
    """Return the name that all versions of an image share."""
    return f"fumehood-{root.image}"


def key(root: Root, suite: str, base: str = "") -> str:
    """Return the hash of what goes into an image; without a base, the name under which it is looked up."""
    told = {
        "format": FORMAT,
        "suite": suite,
        "machine": os.uname().machine,
        "packages": _packages(root),
        "contents": root.digest,
        "variant": root.variant,
        "folders": sorted(root.folders),
        "links": dict(root.links),
        "environment": dict(root.environment),
        "base": base,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _packages(root: Root) -> list[str]:
    return [*BASE, *PACKAGES.get(root.image, ())]


def plain() -> Root:
    """Return the root that has the system's programs only."""
    return lab.plain()


def latex() -> Root:
    """Return the root with TeX; everything in it comes from packages."""
    return Root(image="latex", links=lab.plain().links)


def prune(engine: Engine, root: Root) -> None:
    """Remove the older images of that name which no container uses; one that is not ours stays."""
    new = engine.client.inspect_image(_name(root))["Id"]
    used = {one["ImageID"] for one in engine.client.containers(all=True)} | {new}
    listed = engine.client.images(repository(root), filters={"label": f"{LABEL}.image={root.image}"})
    limit = max((one["Created"] for one in listed if one["Id"] == new), default=0)
    for one in listed:
        if one["Id"] not in used and one["Created"] <= limit:
            # By our names only: one that also has somebody else's stays under that.
            for name in [name for name in one["RepoTags"] or () if name.startswith(f"{repository(root)}:")]:
                # In use since a moment, or removed.
                with suppress(docker.errors.APIError):
                    engine.client.remove_image(name)
                    _say(f"{name}: removed, as there is a newer one")


def _find(engine: Engine, root: Root) -> Image | None:
    try:
        told = engine.client.inspect_image(_name(root))
    except docker.errors.ImageNotFound:
        return None
    at_start = {place: target for place, target in root.links.items() if archive.is_made_at_start(place)}
    base = (told["Config"]["Labels"] or {}).get(f"{LABEL}.base", "")
    return Image(repository=repository(root), id=told["Id"], base=base, environment=root.environment, links=at_start)


def _name(root: Root) -> str:
    return f"{repository(root)}:{key(root, _suite())}"


def _suite() -> str:
    try:
        return debian.codename()
    except SandboxUnavailableError:
        # Such a machine builds from a base, or loads what another one built.
        return "other"


def _build(engine: Engine, state_dir: Path, roots: Sequence[Root], base: str) -> None:
    folder = state_dir / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".building-*"):
        shutil.rmtree(left)
    tree = folder / f".building-{os.getpid()}"
    names, begun = ", ".join(repository(root) for root in roots), time.monotonic()
    _say(f"building {names}, once on this machine ...")
    try:
        if base == DEBOOTSTRAP:
            debian.make(tree, BASE)
        else:
            bases.unpack(engine, base, tree)
            debian.furnish(tree, BASE)
        for root in roots:
            _check_interpreter(tree, root)
            if packages := PACKAGES.get(root.image):
                debian.apt(tree, "install", *packages)
            _import(engine, tree, root, base)
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


def _import(engine: Engine, tree: Path, root: Root, base: str) -> None:
    """Stream a tree into the engine; it gets its name only when all of it arrived."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    failed: list[BaseException] = []

    def fill() -> None:
        try:
            with os.fdopen(writing, "wb") as file:
                archive.pack(file, tree, root, _packages(root))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failed.append(error)

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    changes = [f"ENV {name}={value}" for name, value in {"PATH": PATH, "LANG": "C.UTF-8", **root.environment}.items()]
    suite = debian.codename(tree / "etc" / "os-release")
    labels = {"image": root.image, "base": base, "suite": suite, "key": key(root, suite, base), "variant": root.variant}
    changes += ["WORKDIR /work", *(f'LABEL {LABEL}.{name}="{value}"' for name, value in labels.items())]
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
    for tag in (labels["key"], key(root, _suite())):
        engine.client.tag(identity, repository(root), tag)
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


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Let one process make images at a time."""
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
