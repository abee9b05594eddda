"""The coder's environment `.venv-coder`: Aider, which pins about a hundred packages exactly and wants Python < 3.13.

The platform works without it (its own SEARCH/REPLACE coder takes over), so what goes wrong here ends nothing.
"""

from __future__ import annotations

from common import ROOT, group, key_of, run, say, set_stamp, stamp, timed
from python_packages import QUICK, interpreters, package_sources, uv

VERSIONS = ((3, 12), (3, 11), (3, 10))
FOLDER = ROOT / ".venv-coder"
INSTEAD = "the platform's own coder takes Aider's place"


def ensure() -> None:
    """Make or refresh `.venv-coder` where what it depends on has changed."""
    wanted = group("coder")
    key = key_of(
        wanted=wanted, constraints=(ROOT / "constraints-coder.txt").read_text(encoding="utf-8"), root=ROOT, how=QUICK
    )
    python = FOLDER / "bin/python"
    if stamp("coder") == key and python.exists():
        return
    found = interpreters(VERSIONS)
    if not found:
        say(f"no Python 3.10, 3.11 or 3.12 for Aider; {INSTEAD}")
        return
    sources = package_sources()
    program = uv()
    make = [program, "venv", "--quiet", "--clear", "--python", found[0], FOLDER]
    constraints = ROOT / "constraints-coder.txt"
    fill = [
        program,
        "pip",
        "install",
        *QUICK,
        "--quiet",
        "--python",
        python,
        *sources.options(),
        "--constraints",
        constraints,
        *wanted,
    ]
    with timed("Aider, the model's code editor, into .venv-coder"):
        if run(make, env=sources.environment(), quiet=True) or run(fill, env=sources.environment(), quiet=True):
            say(f"Aider could not be installed (what uv said stands above); {INSTEAD}")
            return
    set_stamp("coder", key)


if __name__ == "__main__":
    ensure()
