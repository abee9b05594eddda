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
TEST = DEMO | {
    "redis-server": "redis-server",
    "postgresql": "pg_ctlcluster",
    "docker.io": "dockerd",
    "debootstrap": "debootstrap",
    "btrfs-progs": "mkfs.btrfs",
    "xfsprogs": "mkfs.xfs",
    "curl": "curl",
}
SETS = {"demo": DEMO, "test": TEST, "check": {}}

TEX_FILES = (".cls", ".sty", ".tfm")
LISTS = Path("/var/lib/apt/lists")
LISTS_AGE_S = 24 * 3600
PROGRAM_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WAIT = ["-o", "DPkg::Lock::Timeout=300"]


def missing(packages: dict[str, str]) -> list[str]:
    """Return the packages that this machine lacks."""
    told = ""
    if shutil.which("dpkg-query"):
        query = ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages]
        told = subprocess.run(query, capture_output=True, text=True).stdout
    installed = {line.split()[0] for line in told.splitlines() if line.endswith(" installed")}
    return [package for package, proof in packages.items() if package not in installed and not is_here(proof)]


def is_here(proof: str) -> bool:
    """Tell whether a program, or a file that TeX finds, is here although its package is not."""
    if proof.endswith(TEX_FILES):
        found = shutil.which("kpsewhich") and subprocess.run(["kpsewhich", proof], capture_output=True).stdout.strip()
        return bool(found)
    # Programs for root lie where an ordinary user's PATH does not look.
    return bool(proof) and any(shutil.which(proof, path=path) for path in (None, PROGRAM_PLACES))


def check_rights(packages: list[str], why: str) -> None:
    """End with the line that a person can type, where packages are missing and this user cannot install them."""
    if not packages:
        return
    if not shutil.which("apt-get"):
        give_up(
            f"{why} needs the like of {', '.join(packages)}; there is no apt-get here, please install them another way"
        )
    if as_root(["true"]) is None:
        install_line = shlex.join(["apt-get", "install", "--no-install-recommends", *packages])
        give_up(
            f"{why} needs system packages, and there is neither root nor password-free sudo here; please run:",
            f"  sudo apt-get update && sudo {install_line}",
        )


def install(packages: list[str], why: str) -> None:
    """Install packages, with the lists of what there is brought up to date at most once."""
    if not packages:
        return
    check_rights(packages, why)
    say(f"installing system packages by apt for {why}: {' '.join(packages)}")
    tries = [True] if not lists_are_fresh() else [False, True]
    for update_first in tries:
        if update_first:
            run(as_root(["apt-get", *WAIT, "-q", "update"]) or [], quiet=True)
        options = [*WAIT, "-q", "-y", "--no-install-recommends"]
        if (
            run(
                as_root(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, "install", *packages]) or [],
                quiet=True,
            )
            == 0
        ):
            say("system packages: done")
            return
    give_up(f"apt could not install {' '.join(packages)}; what it said stands above")


def lists_are_fresh() -> bool:
    """Tell whether apt's package lists are there and not old."""
    lists = list(LISTS.glob("*_Packages*"))
    return bool(lists) and any(time.time() - place.stat().st_mtime < LISTS_AGE_S for place in [LISTS, *lists])


def venv_module() -> list[str]:
    """Return the package of Python's venv module where it is missing: Debian ships it apart from Python."""
    return [] if importlib.util.find_spec("ensurepip") else [f"python3.{sys.version_info.minor}-venv"]


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "demo"
    install(missing(SETS[target]), f"`make {target}`")
