"""The how-to about writing a template: each of its commands does what it says, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import House

pytestmark = [pytest.mark.slow, pytest.mark.local]
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "write-a-template.md"
BLOCK = re.compile(r"^```(?P<kind>\w*)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_block_is_a_file_or_commands() -> None:
    found = [(block["kind"], bool(block["file"])) for block in BLOCK.finditer(HOW_TO.read_text(encoding="utf-8"))]
    assert found.count(("python", True)) == 3
    assert set(found) == {("python", True), ("sh", False)}


def test_its_commands_lead_from_a_program_to_a_template(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("how-to")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "fumehood"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m fumehood "$@"\n')
    command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = house.environment()
    environment |= {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}", "PYTHONPATH": str(ROOT)}
    said = []
    for block in BLOCK.finditer(HOW_TO.read_text(encoding="utf-8")):
        if block["file"]:
            (work / block["file"]).write_text(block["text"])
            continue
        for line in block["text"].splitlines():
            done = subprocess.run(
                ["/bin/sh", "-euc", line],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
    for name in ("harvest", "descent", "topic"):
        assert (work / name / "approval.json").is_file()
        assert not (work / name / "draft.json").exists()
    assert (work / "harvest" / "model.py").read_bytes() == (work / "harvest.py").read_bytes()
    assert (work / "descent" / "descent.py").read_bytes() == (work / "descent.py").read_bytes()
    whole = "".join(said)
    assert whole.count("harvest rmse: ") == 4
    assert "printed loss: " in whole
    assert "no result can ever be `better`" in whole
    assert "not approved" in whole
    assert "refused" in whole
    assert "topic is a template now" in whole
    # One row of the table differs: what was approved is no longer what would be measured by.
    table = work / "harvest" / "data" / "table.csv"
    table.write_text(table.read_text().replace("0", "1", 1))
    refused = house.call("template", "check", str(work / "harvest"))
    assert refused.returncode == 1
    assert "data/table.csv is not what was approved" in refused.stdout
