"""The platform's environment `.venv`: this project, editable, with its extras and its development tools."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, give_up, key_of, must_run, pyproject, set_stamp, stamp, timed
from python_packages import QUICK, interpreters, package_sources, uv, version_of

VERSIONS = ((3, 12), (3, 11), (3, 13))
FOLDER = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"


def ensure() -> None:
    """Make or refresh `.venv` where what it depends on has changed."""
    described = pyproject()
    parts = {name: described.get(name) for name in ("project", "dependency-groups", "build-system")}
    key = key_of(
        parts=parts,
        packages=described["tool"]["hatch"],
        constraints=CONSTRAINTS.read_text(encoding="utf-8"),
        root=ROOT,
        how=QUICK,
    )
    python = FOLDER / "bin/python"
    if stamp("platform") == key and python.exists() and (FOLDER / "bin/fumehood").exists():
        return
    sources = package_sources()
    program = uv()
    with timed("the platform's Python packages, into .venv"):
        if version_of(python) not in VERSIONS:
            make = [program, "venv", "--quiet", "--clear", "--python", _interpreter(), FOLDER]
            must_run(make, "making .venv", env=sources.environment())
        fill = [program, "pip", "install", *QUICK, "--quiet", "--python", python, *sources.options()]
        fill += ["--constraints", CONSTRAINTS, "--build-constraints", CONSTRAINTS]
        fill += [
            "--group",
            f"{ROOT / 'pyproject.toml'}:dev",
            "--reinstall-package",
            "fumehood",
            "--editable",
            f"{ROOT}[all]",
        ]
        must_run(fill, "installing the platform's packages", env=sources.environment())
    set_stamp("platform", key)


def _interpreter() -> Path:
    found = interpreters(VERSIONS)
    if not found:
        give_up("no Python 3.11 or newer found; on Debian and Ubuntu: sudo apt-get install python3")
    return found[0]


if __name__ == "__main__":
    ensure()
