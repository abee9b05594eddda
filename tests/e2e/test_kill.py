"""Everything is killed at seeded moments; going on finishes the work, repeats no finished run and leaves nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from fumehood.settings import Settings
from tests.e2e.conftest import OFFLINE, House
from worker import worlds

pytestmark = [pytest.mark.kill, pytest.mark.local, pytest.mark.latex]
MOMENTS = 10
SHORTEST_S, LONGEST_S = 1.0, 5.0


def measured(house: House) -> dict[str, str]:
    """Return the runs that are finished, and the hash of each one's record."""
    settings = Settings(state_dir=house.state)
    if not (house.state / "fumehood.db").exists():
        return {}
    store = worlds.store_of(settings)
    try:
        with store.begin(write=False) as tx:
            return {run.id: run.record for run in tx.runs.find(result="measured")}
    except OperationalError:
        # Killed before all tables were made; were it later, what was seen before would be missed.
        return {}
    finally:
        store.close()


def test_a_direction_killed_at_ten_moments_ends_as_if_nothing_had_happened(
    make_house: Any, slow_template: Path, tmp_path: Path
) -> None:
    house: House = make_house("killed")
    out = tmp_path / "out"
    asked = ("--template", str(slow_template), *OFFLINE, "--ideas", "1", "--runs", "1")
    arguments = ("run", *asked, "--out", str(out), "--resume")
    moments = random.Random(11)
    seen: dict[str, str] = {}
    for _ in range(MOMENTS):
        process = house.start(*arguments)
        time.sleep(moments.uniform(SHORTEST_S, LONGEST_S))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = measured(house)
        assert seen.items() <= now.items(), "a finished run was repeated"
        seen = now
    done = house.call(*arguments, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["verified"]
    assert seen.items() <= measured(house).items()
    deadline = time.monotonic() + 10
    while house.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert house.left() == []
