"""Every process and server of an installation killed at seeded moments, and an account that would find a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import account, chaos
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.machine import Lease
from fumehood.store.memory import MemoryStore

ROOT = Path(__file__).parents[2]
KILLS, DIRECTIONS, SEED = 20, 3, 7


def test_a_seed_draws_the_same_kills_and_each_victim_as_often() -> None:
    drawn = chaos.schedule(SEED, 200)
    assert drawn == chaos.schedule(SEED, 200)
    assert drawn[:KILLS] == chaos.schedule(SEED, KILLS)
    assert drawn != chaos.schedule(SEED + 1, 200)
    times = [sum(kill.victim == victim for kill in drawn) for victim in chaos.VICTIMS]
    assert times == [25] * 8


def test_the_account_finds_what_was_lost_done_twice_or_kept() -> None:
    store = MemoryStore()
    made = Direction(
        id=DirectionId("dir_1"), tenant=TenantId("ten_1"), template="t", text="", model="offline",
        review_model="offline", profile="tiny", ideas=1, runs=1, state=DirectionState.FAILED, error="it broke",
    )  # fmt: skip
    entry = LedgerEntry(
        id="evt_1", call_id="call_1", tenant=made.tenant, direction_id=made.id, kind="reserved", role="idea",
        model="offline", running=1,
    )  # fmt: skip
    with store.begin() as tx:
        tx.directions.save(made)
        tx.ledger.add(entry)
        tx.leases.save(Lease(id="exec_1:0", tenant=made.tenant, execution_id=ExecutionId("exec_1")))
        told = account.directions(tx, ["dir_2"])
        assert [line.split(" is ")[0] for line in told[:1]] == ["the direction dir_2 was accepted and"]
        assert "dir_1 was made without" in told[1]
        assert "failed" in told[2]
        assert "has the runs []" in account.done_once(tx, {})[0]
        kept = account.given_back(tx)
    assert "exec_1:0" in kept[0]
    assert "running=1" in kept[1]
    assert "call_1" in kept[-1]


@pytest.mark.kill
@pytest.mark.local
@pytest.mark.latex
@pytest.mark.redis
@pytest.mark.s3
def test_whatever_is_killed_each_direction_ends_once_and_nothing_is_left(lab_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.chaos", "--kills", str(KILLS), "--directions", str(DIRECTIONS)]
    done = subprocess.run(
        [*command, "--seed", str(SEED), "--results", str(tmp_path)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FUMEHOOD_LAB_DIR": str(lab_dir), "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [place] = tmp_path.glob("chaos-*.json")
    told = json.loads(place.read_text(encoding="utf-8"))
    assert (told["seed"], told["wrong"], told["ends"]) == (SEED, [], {"done": DIRECTIONS})
    assert sum(told["kills"].values()) == KILLS
    assert told["starts_seen"] == sum(account.ONCE.values()) * DIRECTIONS
