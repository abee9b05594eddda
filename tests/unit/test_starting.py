"""A supervisor that starts: what it says is heard, and one that hangs is not waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fumehood.errors import SandboxUnavailableError
from sandbox import installation, records
from sandbox.records import Record
from sandbox.starting import Starting

HEAR = "import os, sys\nos.read(0, 1000)\n"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """An execution that is about to be launched."""
    found = records.find(installation.find(tmp_path / "state", tmp_path / "run"), f"fh-{'0' * 26}")
    found.installation.make_folder(found.folder)
    return found


def program(folder: Path, text: str) -> Path:
    place = folder / "supervisor.py"
    place.write_text(HEAR + text, encoding="utf-8")
    return place


def test_one_that_begins_its_program_is_heard(record: Record, tmp_path: Path) -> None:
    Starting(record, program=program(tmp_path, "os.write(int(sys.argv[3]), b'.')")).go({})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("os.write(int(sys.argv[3]), b'!no such image')", "no such image"),
        ("raise SystemExit('out of luck')", "out of luck"),
        ("pass", "ended before it began"),
    ],
)
def test_one_that_cannot_says_why(record: Record, tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SandboxUnavailableError, match=why) as caught:
        Starting(record, program=program(tmp_path, text)).go({})
    assert caught.value.reason == "setup_failed"


def test_one_that_hangs_is_not_waited_for(record: Record, tmp_path: Path) -> None:
    # As a supervisor does, it leaves a child behind and says nothing.
    text = "import time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3)\n    os._exit(0)\n"
    with pytest.raises(SandboxUnavailableError, match="did not say in time") as caught:
        Starting(record, program=program(tmp_path, text)).go({}, patience_s=0.3)
    assert caught.value.reason == "setup_failed"
    assert record.is_supervised()
