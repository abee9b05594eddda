"""What an execution sees besides its workspace: the system's programs, and for `lab` packages and interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from fumehood.domain.extra_packages import EXTRA, SITE, request_of
from fumehood.errors import SandboxUnavailableError

DERIVED_FORMAT = 1
"""Goes into a derived lab's name: raised when the same packages are made into something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One image of the local adapter: folders shown read-only, links, and environment."""

    image: str
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Place inside to folder on the host, beside `/usr`."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Place inside to what it points to."""
    environment: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    """Empty where it is found only when asked for."""
    variant: str = ""
    """The build of torch in it: `cpu` or `cuda`."""
    base: Root | None = None
    """What it is derived from: it has that, and some packages more."""


def digest(root: Root) -> str:
    """Return what stands in records for this root."""
    if root.digest:
        return root.digest
    return f"{root.image}@{_latex_version() if root.image == 'latex' else _system_version()}"


def find(state_dir: Path, lab_dir: Path | None = None) -> dict[str, Root]:
    """Return the images of this machine: `plain` always, `lab` and `latex` where they are installed."""
    roots = {"plain": plain()}
    folder = lab_dir or newest(state_dir / "lab")
    if folder is not None and (folder / "lab.json").is_file():
        roots["lab"] = lab(folder)
    if Path("/usr/bin/pdflatex").exists():
        roots["latex"] = latex()
    return roots


def newest(folder: Path) -> Path | None:
    """Return the lab that `current` points to, or else the one that was finished last."""
    if (folder / "current" / "lab.json").is_file():
        return (folder / "current").resolve()
    found = sorted(folder.glob("*/lab.json"), key=lambda place: place.stat().st_mtime) if folder.is_dir() else []
    return found[-1].parent if found else None


def plain() -> Root:
    """Return the root that holds the system's programs only."""
    return Root(image="plain", links=_python_links(Path("/usr/bin/python3")))


def latex() -> Root:
    """Return the root with TeX's trees, what finds fonts, and the links that `bibtex` and `awk` go through."""
    places = ("/etc/texmf", "/var/lib/texmf", "/etc/fonts", "/var/cache/fontconfig", "/etc/alternatives")
    folders = {place: Path(place) for place in places if Path(place).is_dir()}
    return Root(image="latex", folders=folders, links=_python_links(Path("/usr/bin/python3")))


def lab(folder: Path) -> Root:
    """Return the root of a lab: its packages, and the interpreter that they were installed for."""
    told = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
    folders = {SITE: (folder / "site-packages").resolve()}
    environment = {"PYTHONPATH": SITE, "PYTHONDONTWRITEBYTECODE": "1"}
    links = _font_links(folder, folders, environment)
    interpreter = Path(told["python"]).resolve()
    if not interpreter.exists():
        raise SandboxUnavailableError(
            f"The lab at {folder} was built for {told['python']}, which is gone.",
            remedy="Run `make setup`.",
            reason="no_image",
        )
    if interpreter.is_relative_to("/usr"):
        links |= _python_links(interpreter)
    else:
        prefix = interpreter.parent.parent
        folders["/lab/python"] = prefix
        links |= _python_links(Path("/lab/python") / interpreter.relative_to(prefix))
        if any((prefix / "lib").glob("libpython*.so*")):
            environment["LD_LIBRARY_PATH"] = "/lab/python/lib"
    return Root(
        image="lab",
        folders=folders,
        links=links,
        environment=environment,
        digest=digest_of(told),
        variant=str(told.get("torch", "")),
    )


def derived(labs: Path, base: Root, image: str) -> Root | None:
    """Return a root that has extra packages beside the lab's, where it was built; `labs` is where such are."""
    folder = place_of(labs, base.digest, request_of(image))
    try:
        told = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
        os.utime(folder / "lab.json")
    except OSError:
        return None
    return replace(
        base,
        image=image,
        folders={**base.folders, EXTRA: (folder / "site-packages").resolve()},
        # Last, so that nothing comes in the place of what the lab has.
        environment={**base.environment, "PYTHONPATH": f"{SITE}:{EXTRA}"},
        digest=digest_of(told),
        base=base,
    )


def digest_of(told: Mapping[str, Any]) -> str:
    """Return what stands in records for the lab that a `lab.json` describes."""
    return f"lab@sha256:{told['hash']}"


def derived_imports(labs: Path, base: Path, image: str) -> frozenset[str]:
    """Return what a derived lab adds to the names that can be imported; nothing where it is not to be seen here."""
    try:
        of_base = json.loads((base / "lab.json").read_text(encoding="utf-8"))
        folder = place_of(labs, digest_of(of_base), request_of(image))
        return frozenset(json.loads((folder / "lab.json").read_text(encoding="utf-8"))["imports"])
    except OSError:
        return frozenset()


def place_of(labs: Path, base_digest: str, request: str) -> Path:
    """Return the folder of the lab that is derived from a lab for a request, by what both are."""
    told = json.dumps({"format": DERIVED_FORMAT, "base": base_digest, "request": request}, sort_keys=True)
    return labs / hashlib.sha256(told.encode()).hexdigest()


def _font_links(folder: Path, folders: dict[str, Path], environment: dict[str, str]) -> dict[str, str]:
    """Show the lab's list of fonts, where it has one; without it each execution makes its own."""
    lists = [path.name for path in (folder / "mpl").glob("fontlist-*.json")]
    if not lists:
        return {}
    folders["/lab/mpl"] = (folder / "mpl").resolve()
    # The folder itself must be writable, or Matplotlib takes another one.
    environment["MPLCONFIGDIR"] = "/tmp/matplotlib"  # noqa: S108 - inside, where it is the execution's own
    return {f"/tmp/matplotlib/{name}": f"/lab/mpl/{name}" for name in lists}  # noqa: S108


def _python_links(interpreter: Path) -> dict[str, str]:
    return {"/lab/bin/python": str(interpreter), "/lab/bin/python3": str(interpreter)}


@cache
def _latex_version() -> str:
    told = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "texlive-base"], capture_output=True, check=False)
    if told.returncode == 0 and told.stdout:
        return told.stdout.decode(errors="replace").strip()
    shown = subprocess.run(["/usr/bin/pdflatex", "--version"], capture_output=True, check=False).stdout
    return f"sha256:{hashlib.sha256(shown).hexdigest()}"


@cache
def _system_version() -> str:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return "unknown"
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{told.get('ID', 'linux')}-{told.get('VERSION_ID', '0')}".replace('"', "")
