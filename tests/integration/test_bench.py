"""`fumehood bench overhead`: every way measured, in turns, and nothing left of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fumehood.cli import bench
from fumehood.errors import MachineUnfitError
from sandbox import overhead
from sandbox.overhead import Row, percentile
from tests import leaks

ROOT = Path(__file__).parents[2]
BOTH = ("whole execution", "launch until the program runs", "collect and remove")
ENDINGS = ("end until it is seen", "deadline until the end")


@pytest.mark.parametrize(
    ("adapter", "bare"),
    [
        pytest.param("local", (), marks=pytest.mark.local),
        pytest.param("docker", (overhead.BARE, overhead.HARDENED), marks=pytest.mark.docker),
    ],
)
def test_it_measures_each_way_and_leaves_nothing(adapter: str, bare: tuple[str, ...], tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-m", "fumehood", "bench", "overhead", "--adapter", adapter, "-n", "3", "--json"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FUMEHOOD_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (kept,) = (tmp_path / "bench/results").glob("overhead-*.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == told
    rows = {row["name"]: row for row in told["rows"]}
    assert set(rows) == {*bare, *(f"{adapter}: {part}" for part in (*BOTH, *ENDINGS))}
    assert all(row["n"] == 3 and 0 <= row["p50_ms"] <= row["p95_ms"] for row in rows.values())
    whole, launch = rows[f"{adapter}: {BOTH[0]}"], rows[f"{adapter}: {BOTH[1]}"]
    assert launch["p50_ms"] < whole["p50_ms"]
    assert [one["name"] for one in told["targets"]] == list(overhead.TARGETS)[0 if bare else 2 :]
    assert all(one["met"] == (one["measured"] <= one["most"]) for one in told["targets"])
    assert leaks.left(state) == {}
    leaks.remove_empty_run_folders(tmp_path)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([5.0, 1.0, 3.0], percent) for percent in (1, 50, 95)] == [1.0, 3.0, 5.0]
    assert percentile(list(range(1, 101)), 95) == 95
    with pytest.raises(MachineUnfitError):
        percentile([], 50)


def test_the_table_says_what_was_met_and_what_was_not() -> None:
    rows = {overhead.BARE: [100.0] * 3, "docker: whole execution": [150.0, 160.0, 400.0]}
    rows |= {f"docker: {name}": [10.0] for name in ENDINGS}
    told = overhead._told({name: Row(name, took) for name, took in rows.items()}, 3)
    lines = list(bench.table(told))
    assert any(line.startswith("docker: whole execution") and line.endswith("1.60") for line in lines)
    assert "docker: overhead_p50_ms 60.0, at most 60 asked: met" in lines
    assert "docker: overhead_p95_ms 300.0, at most 150 asked: NOT MET" in lines


def test_with_neither_adapter_there_is_nothing_to_measure() -> None:
    with pytest.raises(MachineUnfitError, match="Neither"):
        overhead.measure(None, None, 3)
