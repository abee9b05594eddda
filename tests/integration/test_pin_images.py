"""`make pin-images` writes digests that a registry gave, all of them or none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = """#!/bin/sh
# An engine whose registry knows every image but the one named in $ABSENT.
for last; do :; done
case "$last" in "$ABSENT"*) exit 1 ;; esac
[ "$1" = pull ] || echo "${last%%:*}@sha256:0123456789abcdef"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the command reads, and an engine's command of its own."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "compose.yaml", folder)
    (folder / "bin").mkdir()
    (folder / "bin/docker").write_text(ENGINE, encoding="utf-8")
    (folder / "bin/docker").chmod(0o755)
    return folder


def pin(checkout: Path, absent: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "ABSENT": absent}  # noqa: TID251 - a search path
    command = [sys.executable, "-B", checkout / "scripts/stack.py", "pin"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_a_registry_said_is_kept(checkout: Path) -> None:
    (checkout / ".env").write_text("# mine\nFUMEHOOD_PUBLISH=0.0.0.0:80\nREDIS_IMAGE=redis:7\n", encoding="utf-8")
    done = pin(checkout, "nothing")
    assert done.returncode == 0, done.stderr
    lines = (checkout / ".env").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# mine", "FUMEHOOD_PUBLISH=0.0.0.0:80"]
    assert "REDIS_IMAGE=redis@sha256:0123456789abcdef" in lines
    assert len(lines) == 6
    again = pin(checkout, "postgres:")
    assert again.returncode == 0, "what is pinned is not asked for again"


def test_where_a_registry_does_not_answer_nothing_is_written(checkout: Path) -> None:
    done = pin(checkout, "chrislusf")
    assert done.returncode == 3
    assert "no registry gives chrislusf/seaweedfs" in done.stderr
    assert not (checkout / ".env").exists()
