"""The platform's environment `.venv`: this project, editable, with its extras and its development tools."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, give_up, interpreters, key_of, must_run, package_sources, pyproject, set_stamp, stamp, timed, uv

VERSIONS = ((3, 12), (3, 11), (3, 13))
FOLDER = ROOT / ".venv"


def ensure() -> None:
    """Make or refresh `.venv` where what it depends on has changed."""
    described = pyproject()
    parts = {name: described.get(name) for name in ("project", "dependency-groups", "build-system")}
    key = key_of(
        parts=parts,
        packages=_packages(described),
        constraints=(ROOT / "constraints.txt").read_text(encoding="utf-8"),
        root=ROOT,
    )
    python = FOLDER / "bin/python"
    if stamp("platform") == key and python.exists() and (FOLDER / "bin/fumehood").exists():
        return
    sources = package_sources()
    program = uv()
    with timed("the platform's Python packages, into .venv"):
        if not python.exists():
            must_run([program, "venv", "--quiet", "--clear", "--python", _interpreter(), FOLDER], "making .venv", env=sources.environment())
        must_run(
            [
                *(program, "pip", "install", "--quiet", "--python", python, *sources.options()),
                *("--constraints", ROOT / "constraints.txt", "--build-constraints", ROOT / "constraints.txt"),
                *("--group", f"{ROOT / 'pyproject.toml'}:dev", "--reinstall-package", "fumehood", "--editable", f"{ROOT}[all]"),
            ],
            "installing the platform's packages",
            env=sources.environment(),
        )
    set_stamp("platform", key)


def _packages(described: dict[str, object]) -> object:
    tools = described["tool"]
    assert isinstance(tools, dict)
    return tools["hatch"]["build"]["targets"]["wheel"]["packages"]


def _interpreter() -> Path:
    found = interpreters(VERSIONS)
    if not found:
        give_up("no Python 3.11 or newer found; on Debian and Ubuntu: sudo apt-get install python3")
    return found[0]


if __name__ == "__main__":
    ensure()
