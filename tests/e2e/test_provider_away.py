"""A provider that refuses, is away or overloaded: a paper is begun, stopped and gone on with, and costs time only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fumehood.cli.servers import lasting_port
from fumehood.gateway.keys import VARIABLES
from tests.e2e.conftest import House
from tests.e2e.test_real_model import SMALL
from tests.fakes.provider import Asked, Failure, Provider, Reply, serving
from tests.fakes.researcher import Researcher
from tests.fakes.watching import CANARIES, SECRETS, Watch

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]


def failed(told: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence of a command that ended with status 1."""
    assert told.returncode == 1, (told.stdout[-2000:], told.stderr[-2000:])
    (sentence,) = told.stderr.strip().splitlines()
    return sentence


def test_a_provider_that_fails_at_every_turn_costs_time_only(
    make_house: Any, small_template: Path, tmp_path: Path
) -> None:
    asked = ("run", "--template", str(small_template), *SMALL)
    port = lasting_port()
    researcher = Researcher()
    provider = Provider(researcher)
    settings = {
        "FUMEHOOD_ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "FUMEHOOD_MODEL_TRIES": "2",
        "FUMEHOOD_CODER_PYTHON": str(tmp_path / "none"),  # our own coder; the paper above is Aider's where it is there
    }
    wrong: House = make_house("away", **settings, ANTHROPIC_API_KEY="sk-ant-test-wrong")
    out = tmp_path / "out"

    with serving(provider.app, port):
        refused = failed(wrong.call(*asked, "--out", str(out)))
    assert "Anthropic refuses the platform's key" in refused
    assert "fumehood keys set anthropic" in refused
    assert len(provider.asked) == 1

    # The key comes by the environment alone, and no process that works with it has it there.
    given = {variable: CANARIES[name] for name, variable in VARIABLES.items()}
    house = House(state=wrong.state, lab=wrong.lab, settings={**settings, **given})
    unreached = failed(house.call(*asked, "--resume", "--out", str(out)))
    assert "The provider could not be reached (ConnectionRefusedError)" in unreached
    assert unreached.endswith("give --resume to go on.")

    def overloaded(asked: Asked) -> Reply:
        if "You carry out a registered research idea" in json.dumps(asked.body):
            return Failure(529, "overloaded_error", "Overloaded")
        return researcher(asked)

    provider.script = overloaded
    with serving(provider.app, port):
        assert "Overloaded" in failed(house.call(*asked, "--resume", "--out", str(out)))
        provider.script = researcher
        ideas = researcher.roles.count("idea")
        with Watch(SECRETS, after_s=2.0) as watch:
            done = house.call(*asked, "--resume", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["verified"]
    assert ideas == researcher.roles.count("idea") == 1
    assert (watch.sandboxes > 0, watch.met) == (True, set())
    assert not (house.state / "keys/providers.json").exists()
    assert house.left() == []
