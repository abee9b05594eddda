"""`fumehood doctor` names the mechanism of each promise on each adapter, and ends with 3 where one cannot be held."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fumehood.cli import machine
from sandbox import cgroups, docker_promises

PROMISES = [f"S{number}" for number in range(1, 17)]
ADAPTERS = [pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)]


def doctor(*words: str, before: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        *before,
        sys.executable,
        "-c",
        "import sys; from fumehood.cli.main import main; sys.exit(main())",
        "doctor",
        *words,
    ]
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=given, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_promise_has_its_mechanism(adapter: str, lab_dir: Path, tmp_path: Path) -> None:
    given = {"FUMEHOOD_STATE_DIR": str(tmp_path / "state"), "FUMEHOOD_LAB_DIR": str(lab_dir)}
    done = doctor("--sandbox", adapter, "--json", **given)
    told = json.loads(done.stdout)
    assert told["adapter"] == adapter
    assert [one["promise"] for one in told["promises"]] == PROMISES
    assert all(one["mechanism"] for one in told["promises"])
    assert [one["promise"] for one in told["promises"] if not one["held"]] == []
    assert (done.returncode, told["ready"]) == (0, True), told["problems"]
    lines = doctor("--sandbox", adapter, **given).stdout.splitlines()
    held = [line.split()[0] for line in lines if line.startswith("  ") and " held: " in line]
    assert held == PROMISES


@pytest.mark.docker
def test_a_promise_that_cannot_be_held_is_status_three(lab_dir: Path, tmp_path: Path) -> None:
    given = {"FUMEHOOD_STATE_DIR": str(tmp_path / "state"), "FUMEHOOD_LAB_DIR": str(lab_dir)}
    done = doctor("--sandbox", "docker", FUMEHOOD_DOCKER_RUNTIME="runsc-of-nobody", **given)
    assert done.returncode == 3
    assert done.stdout.count("NOT HELD: The runtime of containers is runc or runsc") == len(PROMISES)
    assert "not ready: The runtime of containers is runc or runsc" in done.stdout


@pytest.mark.local
def test_what_held_when_it_was_proved_and_does_not_now_is_said(lab_dir: Path, tmp_path: Path) -> None:
    given = {"FUMEHOOD_STATE_DIR": str(tmp_path / "state"), "FUMEHOOD_LAB_DIR": str(lab_dir)}
    assert json.loads(doctor("--sandbox", "local", "--json", **given).stdout)["ready"]
    mask = 'mount --bind /dev/null /dev/loop-control && exec "$@"'
    done = doctor("--sandbox", "local", "--json", before=("unshare", "-m", "sh", "-c", mask, "sh"), **given)
    told = json.loads(done.stdout)
    assert (done.returncode, told["ready"]) == (3, False)
    assert [one["promise"] for one in told["promises"] if not one["held"]] == ["S5"]


def test_each_promise_without_a_mechanism_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(docker_promises.NOT_HELD, "S2", "nothing holds it")
    told = [dataclasses.asdict(one) for one in docker_promises.capabilities(cgroups.find())]
    assert "S2 cannot be held here: nothing holds it." in machine._not_held(told)
