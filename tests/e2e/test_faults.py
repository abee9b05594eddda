"""The offline model fails every third call, and what comes of a direction is what comes of it otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fumehood.gateway.upstreams.faults import FAULTS
from tests.e2e.conftest import OFFLINE, Demo, House, substance

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]


def test_a_model_that_fails_every_third_call_changes_nothing(
    demo: Demo, make_house: Any, small_template: Path, tmp_path: Path
) -> None:
    house: House = make_house("faults", FUMEHOOD_OFFLINE_FAULTS=json.dumps(list(FAULTS)))
    out = tmp_path / "out"
    asked = ("--template", str(small_template), *OFFLINE)
    done = house.call("run", *asked, "--ideas", "2", "--runs", "2", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["verified"]
    calls = [json.loads(line) for path in out.rglob("llm_calls.jsonl") for line in path.read_text().splitlines()]
    stops = {call["reply"].get("stop_reason") for call in calls if call["status"] == 200}
    assert {"refusal", "max_tokens"} <= stops
    told = "\n".join(path.read_text() for path in (house.state / "logs").glob("gateway*"))
    assert [name for name in FAULTS if f"a fault on purpose: {name}" not in told] == []
    assert substance(out) == substance(demo.out)
    assert house.left() == []
