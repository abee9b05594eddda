"""Every operation of the API is tried by schemathesis, in a pytest of its own: each collection would wait for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EACH_OPERATION = Path(__file__).with_name("each_operation.py")


def test_every_answer_is_as_described() -> None:
    command = [sys.executable, "-m", "pytest", "--quiet", str(EACH_OPERATION)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
