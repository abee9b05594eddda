"""System packages by apt: only what is missing, named before it is installed.

`python3 scripts/system_packages.py demo|test` checks, and installs where root's rights can be had.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import as_root, give_up, run, say

DEMO = {
    "bubblewrap": "bwrap",
    "libseccomp2": "",
    "e2fsprogs": "mkfs.ext4",
    "util-linux": "losetup",
    "texlive-latex-base": "article.cls",
    "texlive-latex-recommended": "booktabs.sty",
    "texlive-fonts-recommended": "ptmr8t.tfm",
    "lmodern": "lmodern.sty",
    "chktex": "chktex",
    "poppler-utils": "pdftotext",
}
"""Package, and what proves that the machine has the same from elsewhere: a program, or a file that TeX finds."""
TEST = DEMO | {"redis-server": "redis-server", "docker.io": "dockerd", "debootstrap": "debootstrap"}
SETS = {"demo": DEMO, "test": TEST}

LISTS = Path("/var/lib/apt/lists")
LISTS_AGE_S = 24 * 3600
PROGRAM_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing(packages: dict[str, str]) -> list[str]:
    """Return the packages that this machine lacks."""
    told = ""
    if shutil.which("dpkg-query"):
        query = ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages]
        told = subprocess.run(query, capture_output=True, text=True).stdout
    installed = {line.split()[0] for line in told.splitlines() if line.endswith(" installed")}
    return [package for package, proof in packages.items() if package not in installed and not at_hand(proof)]


def at_hand(proof: str) -> bool:
    """Tell whether a program, or a file that TeX finds, is here although its package is not."""
    if "." in proof and shutil.which("kpsewhich"):
        return bool(subprocess.run(["kpsewhich", proof], capture_output=True, text=True).stdout.strip()) or on_path(proof)
    return bool(proof) and on_path(proof)


def on_path(program: str) -> bool:
    """Tell whether a program is here; those for root lie where an ordinary user's PATH does not look."""
    return shutil.which(program) is not None or shutil.which(program, path=PROGRAM_PLACES) is not None


def install(packages: list[str], why: str) -> None:
    """Install packages, or end with the line that a person can type."""
    if not shutil.which("apt-get"):
        give_up(f"{why} needs {', '.join(packages)}: this machine has no apt-get, please install them with its own tool")
    update = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", "update"]
    options = ["-o", "DPkg::Lock::Timeout=300", "-q", "-y", "--no-install-recommends"]
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, "install", *packages]
    root_command, root_update = as_root(command), as_root(update)
    if root_command is None or root_update is None:
        typed = shlex.join(["apt-get", "install", "--no-install-recommends", *packages])
        give_up(f"{why} needs system packages, and there is no root or password-free sudo here. Please run:", f"  sudo apt-get update && sudo {typed}")
    say(f"installing system packages by apt for {why}: {' '.join(packages)}")
    fresh = lists_are_fresh()
    if not fresh:
        run(root_update, quiet=True)
    if run(root_command, quiet=True) == 0:
        return
    if fresh:
        say("apt failed; trying again with fresh package lists")
        run(root_update, quiet=True)
        if run(root_command, quiet=True) == 0:
            return
    give_up(f"apt could not install {' '.join(packages)}; what it said stands above")


def lists_are_fresh() -> bool:
    """Tell whether apt's package lists are there and not old."""
    lists = [place for place in LISTS.glob("*Packages*") if place.is_file()] if LISTS.is_dir() else []
    return any(time.time() - place.stat().st_mtime < LISTS_AGE_S for place in [*lists, *LISTS.glob("*InRelease")]) if lists else False


def ensure(set_name: str) -> None:
    """Bring in what a demo, or the tests, need."""
    lacking = missing(SETS[set_name])
    if lacking:
        install(lacking, f"`make {set_name}`")


def ensure_venv_module() -> None:
    """Bring in Python's venv module: Debian ships it apart from Python."""
    if importlib.util.find_spec("ensurepip") is None:
        install([f"python3.{sys.version_info.minor}-venv"], "making Python environments")


if __name__ == "__main__":
    ensure(sys.argv[1] if len(sys.argv) > 1 else "demo")
