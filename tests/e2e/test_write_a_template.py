"""The how-to about writing a template: each of its commands does what it says, one after the other."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import COMMAND, House
from tests.fakes.drafter import Drafter, functions
from tests.fakes.provider import KEY, Provider, serving

pytestmark = [pytest.mark.slow, pytest.mark.local]
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "write-a-template.md"
BLOCK = re.compile(r"^```(?P<kind>\w*)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_block_is_a_file_or_commands() -> None:
    found = [(block["kind"], bool(block["file"])) for block in BLOCK.finditer(HOW_TO.read_text(encoding="utf-8"))]
    assert found.count(("python", True)) == 4
    assert set(found) == {("python", True), ("sh", False)}


@pytest.mark.kill
def test_its_commands_lead_from_a_program_to_a_template(make_house: Any, tmp_path: Path) -> None:
    with serving(Provider(Drafter(functions("harvest.csv", "yield"))).app) as url:
        house: House = make_house("how-to", FUMEHOOD_ANTHROPIC_BASE_URL=url, ANTHROPIC_API_KEY=KEY)
        follow(house, tmp_path)


def follow(house: House, tmp_path: Path) -> None:
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
    for name in ("harvest", "descent", "drafted", "topic"):
        assert (work / name / "approval.json").is_file()
        assert not (work / name / "draft.json").exists()
    assert (work / "harvest" / "model.py").read_bytes() == (work / "harvest.py").read_bytes()
    assert (work / "descent" / "descent.py").read_bytes() == (work / "descent.py").read_bytes()
    whole = "".join(said)
    assert whole.count("harvest rmse: ") == 5
    assert "sort `functions`, drafted by claude-sonnet-4-6" in whole
    assert whole.count("\nholds: ") == 11
    assert "drafted keeps the template contract" in whole
    assert "printed loss: " in whole
    assert "no result can ever be `better`" in whole
    assert "not approved" in whole
    assert "refused" in whole
    assert "topic is a template now" in whole
    assert "The lab lacks rounding" in whole
    assert "rounded keeps the template contract" in whole
    # One row of the table differs: what was approved is no longer what would be measured by.
    table = work / "harvest" / "data" / "table.csv"
    table.write_text(table.read_text().replace("0", "1", 1))
    refused = house.call("template", "check", str(work / "harvest"))
    assert refused.returncode == 1
    assert "data/table.csv is not what was approved" in refused.stdout


SLOW = "import time\nprint('loss: 1', flush=True)\ntime.sleep(60)\n"
NEW = ("template", "new", "--from", "prints.py", "--out", "made", "--sandbox", "local")


def test_what_was_not_given_is_asked_for_on_the_terminal_and_so_is_the_approval(
    make_house: Any, tmp_path: Path
) -> None:
    house: House = make_house("asked")
    (tmp_path / "prints.py").write_text("print('loss: 1.25')\n")
    ours, theirs = pty.openpty()
    os.write(ours, b"A small one\nLower it.\nloss\nlower\nloss: ([0-9.]+)\ny\n")
    try:
        environment = {**house.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*COMMAND, *NEW], cwd=tmp_path, env=environment, stdin=theirs, capture_output=True, text=True, timeout=600
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    asked = done.stderr
    questions = ("template called", "to be studied", "number called", "Which is better", "By which pattern", "Freeze")
    places = [asked.index(question) for question in questions]
    assert places == sorted(places)
    assert done.stdout.count("printed loss: 1.25 (self-reported)") == 2  # before the last question, and at the end
    assert 'title = "A small one"' in (tmp_path / "made" / "template.toml").read_text()
    assert (tmp_path / "made" / "approval.json").is_file()


@pytest.mark.kill
def test_ctrl_c_while_the_baseline_runs_leaves_a_draft_to_go_on_with_and_nothing_else(
    make_house: Any, tmp_path: Path
) -> None:
    house: House = make_house("interrupted")
    (tmp_path / "prints.py").write_text(SLOW)
    given = ("--task", "Lower it.", "--metric", "loss", "--better", "lower", "--pattern", "loss: ([0-9.]+)")
    environment = {**house.environment(), "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("w") as file:
        started = subprocess.Popen(
            [*COMMAND, *NEW, *given],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    deadline = time.monotonic() + 300
    while "attempt 1 started" not in log.read_text() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(120) == 130, log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "made", "prints.py"]
    assert (tmp_path / "made" / "draft.json").is_file()
    assert not (tmp_path / "made" / "approval.json").exists()
    assert house.left() == []
    (tmp_path / "made" / "prints.py").write_text("print('loss: 2')\n")
    again = ("template", "new", "--resume", "--out", "made", "--approve", "--sandbox", "local")
    done = subprocess.run(
        [*COMMAND, *again], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "printed loss: 2 (self-reported)" in done.stdout
