"""Writes the three constraints files anew from pyproject.toml: `python3 scripts/lock.py [platform] [lab] [coder]`."""

from __future__ import annotations

import subprocess
import sys

from common import ROOT, say
from python_packages import PackageSources, package_sources, uv

COMPILES = {
    "platform": (
        "constraints.txt",
        "3.11",
        ["pyproject.toml", *("--extra", "all"), *("--group", "dev"), *("--group", "stores")],
    ),
    "lab": ("constraints-lab.txt", "3.11", ["--group", "pyproject.toml:lab"]),
    "coder": ("constraints-coder.txt", "3.10", ["--group", "pyproject.toml:coder"]),
}
HEADS = {
    "platform": "Every version of `.venv`; `make lock` writes this file.",
    "lab": "Every version of what an experiment may import, CUDA left to torch's build; `make lock` writes this file.",
    "coder": "Every version of `.venv-coder`; `make lock` writes this file.",
}
ELSEWHERE = ("sys_platform == 'win32'", "sys_platform == 'emscripten'")
CUDA = ("nvidia-", "cuda-", "triton==")


def lock(name: str, sources: PackageSources) -> None:
    """Resolve one environment from the ordinary index, for every Python it may run on."""
    target, version, what = COMPILES[name]
    options = ["--universal", "--python-version", version, "--upgrade", "--quiet", "--no-header", "--no-annotate"]
    if sources.index:
        options += ["--default-index", sources.index]
    # Neither find-links nor extra indexes: what this machine alone can see must not end up in everybody's file.
    command = [uv(), "pip", "compile", *what, *options]
    if name == "platform":
        (build := ROOT / ".setup/build.txt").write_text("hatchling\neditables\n", encoding="utf-8")
        command.append(build)
    told = subprocess.run(
        command, cwd=ROOT, env=sources.environment(), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    kept = [
        line
        for line in told.splitlines()
        if not line.endswith(ELSEWHERE) and not (name == "lab" and line.startswith(CUDA))
    ]
    (ROOT / target).write_text("\n".join([f"# {HEADS[name]}", *kept, ""]), encoding="utf-8")
    say(f"{target}: {len(kept)} packages")


if __name__ == "__main__":
    for asked in sys.argv[1:] or COMPILES:
        lock(asked, package_sources())
