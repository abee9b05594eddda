"""Settings are read where a program starts, never where a module is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "sandbox", "fumehood")
RUN_BY_ALEMBIC = ROOT / "fumehood/store/migrations/env.py"
IMPORT_ALL = """
import importlib, json, os, sys, traceback
assert not os.environ or set(os.environ) <= {"LC_CTYPE"}, os.environ
told, sys.stdout = sys.stdout, sys.stderr
failures = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException:
        failures[name] = traceback.format_exc(limit=-2)
json.dump({"failures": failures, "torch": "torch" in sys.modules}, told)
"""


def modules(package: str) -> list[str]:
    """Return every module of a package whose folders are packages themselves."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        folders = path.relative_to(ROOT).parts[:-1]
        if path != RUN_BY_ALEMBIC and all(
            (ROOT.joinpath(*folders[: depth + 1]) / "__init__.py").is_file() for depth in range(len(folders))
        ):
            found.append(".".join([*folders, *([] if path.stem == "__init__" else [path.stem])]))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_imported_in_an_empty_environment(package: str, tmp_path: Path) -> None:
    names = modules(package)
    assert package in names
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        input=json.dumps(names),
        env={},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {"failures": {}, "torch": False}
    assert list(tmp_path.iterdir()) == []
