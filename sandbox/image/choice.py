"""What of a tree goes into an image: the packages that executions need, and of these no part that they do not.

A distribution's smallest tree holds what installs and administers a system: package tools, mounting, users, a second
scripting language. An execution needs none of it, so the image is made of the packages asked for and of what these
depend on, and some dependencies that only matter for installing are cut.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = (
    *("base-files", "coreutils", "dash", "diffutils", "findutils", "grep", "libc-bin", "mawk", "sed"),
    # Programs and libraries that the lab's packages start or load, and no Debian package of the image asks for.
    *("libsmartcols1", "libstdc++6", "tzdata"),
)
CUT = frozenset(
    (
        *("adduser", "apt", "bsdutils", "debconf", "debianutils", "dpkg", "e2fsprogs", "fdisk", "gpgv"),
        *(
            "init-system-helpers",
            "libpam-modules",
            "libpam-modules-bin",
            "libpam-runtime",
            "libpam0g",
            "login",
            "mount",
        ),
        *("passwd", "perl", "perl-base", "sensible-utils", "sysvinit-utils", "ucf", "util-linux", "xdg-utils"),
    )
)
"""Asked for by packages that stay, for their installation or a desktop only; what only these need goes with them."""
KEPT = frozenset(("usr/bin/flock", "usr/bin/getopt", "usr/bin/lscpu", "usr/bin/setsid"))
"""Of the packages cut: what scripts use, and by what joblib counts cores."""
LEFT_OUT = (
    *(f"usr/share/{name}" for name in ("bash-completion", "bug", "doc", "info", "lintian", "locale", "man", "menu")),
    *("usr/bin/chroot", "usr/games", "usr/include", "usr/sbin/*", "usr/src", "usr/lib/*/gconv", "usr/lib/*/perl*"),
    *("usr/lib/apt", "usr/lib/dpkg", "usr/lib/systemd", "usr/lib/udev", "usr/share/perl*", "var/lib/dpkg"),
)
LEFT_OUT_OF_PACKAGES = (
    *(
        "*/torch/bin/*Test",
        "*/torch/bin/test_*",
        "*/torch/bin/*.ptl",
        "*/torch/bin/*.pt",
        "*/torch/bin/upgrader_models",
    ),
    *("*/torch/lib/lib*_test.so", "*/torch/lib/libshm_windows", "*/torch/lib/*.a", "*/torch/test"),
    *("*/joblib/test", "*/sympy/parsing/autolev/test-examples", "*/tests"),
    *("*.pyi", "*/matplotlib/mpl-data/sample_data"),
)
"""Of the lab: programs and data by which its packages test themselves, and what only type checkers read."""
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ALTERNATIVES = "/etc/alternatives/"


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package: what it needs, each need with its alternatives, and the names it also goes by."""

    name: str
    needs: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()
    files: frozenset[str] = field(default=frozenset())


def installed(tree: Path) -> dict[str, Package]:
    """Return what dpkg says is installed in a tree, with the files of each package as they really lie."""
    found: dict[str, Package] = {}
    table = tree / "var/lib/dpkg/status"
    if not table.is_file():
        return found
    status = table.read_text(encoding="utf-8", errors="replace")
    merged = _merged(tree)
    for stanza in status.split("\n\n"):
        told = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
        if "Package" not in told or not told.get("Status", "").endswith(" installed"):
            continue
        needs = [*_needs(told.get("Pre-Depends", "")), *_needs(told.get("Depends", ""))]
        provides = [name for names in _needs(told.get("Provides", "")) for name in names]
        files = _files(tree, told["Package"], told.get("Architecture", ""), merged)
        found[told["Package"]] = Package(told["Package"], tuple(needs), tuple(provides), frozenset(files))
    return found


def needed(packages: Mapping[str, Package], wanted: Iterable[str]) -> set[str]:
    """Return the packages wanted and all that they need, without what is cut."""
    providers: dict[str, list[str]] = {}
    for package in packages.values():
        for name in package.provides:
            providers.setdefault(name, []).append(package.name)
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found or name in CUT or name not in packages:
            continue
        found.add(name)
        for alternatives in packages[name].needs:
            for other in alternatives:
                waiting += [other] if other in packages else providers.get(other, [])
    return found


def left_out(tree: Path, wanted: Iterable[str]) -> frozenset[str]:
    """Return the files of a tree that belong to packages which nothing wanted needs."""
    packages = installed(tree)
    kept = needed(packages, [*TOOLS, *wanted])
    stays = {file for name in kept for file in packages[name].files}
    goes = {file for name, package in packages.items() if name not in kept for file in package.files}
    return frozenset(goes - stays - KEPT)


def is_left_out(name: str, dropped: frozenset[str]) -> bool:
    """Tell whether a file of the tree stays out of the image."""
    return name in dropped or any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)


def is_test(name: str) -> bool:
    """Tell whether a file of the lab serves only to test or to type-check its package."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT_OF_PACKAGES)


def direct(tree: Path, link: str, dropped: frozenset[str]) -> str:
    """Return where a link of the tree leads, past the distribution's table of alternatives; empty when nowhere."""
    if not link.startswith(_ALTERNATIVES):
        return link
    place = tree / link.lstrip("/")
    target = str(place.readlink()) if place.is_symlink() else ""
    inside = _really(target.lstrip("/"), _merged(tree))
    return target if inside and (tree / inside).exists() and not is_left_out(inside, dropped) else ""


def _needs(text: str) -> list[tuple[str, ...]]:
    groups = [[re.split(r"[\s(:]", one.strip())[0] for one in group.split("|")] for group in text.split(",")]
    return [tuple(name for name in group if name) for group in groups if any(group)]


def _merged(tree: Path) -> set[str]:
    return {name for name in _MERGED if (tree / name).is_symlink()}


def _really(name: str, merged: set[str]) -> str:
    """Return where a file lies, past the links from `/bin` and its like to `/usr`."""
    return f"usr/{name}" if name.split("/", maxsplit=1)[0] in merged else name


def _files(tree: Path, name: str, architecture: str, merged: set[str]) -> list[str]:
    for place in (f"{name}.list", f"{name}:{architecture}.list"):
        listed = tree / "var/lib/dpkg/info" / place
        if listed.is_file():
            lines = [line.lstrip("/") for line in listed.read_text(encoding="utf-8", errors="replace").splitlines()]
            lines = [_really(line, merged) for line in lines]
            # Folders are shared between packages, and empty ones harm nobody.
            return [line for line in lines if line and not ((tree / line).is_dir() and not (tree / line).is_symlink())]
    return []
