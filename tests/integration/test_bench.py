"""`fumehood bench overhead`: every way measured, in turns, and nothing left of it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fumehood.cli import bench, queue_figures
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
        pytest.param("docker", (overhead.BARE, overhead.HARDENED), marks=[pytest.mark.docker, pytest.mark.alone]),
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


@pytest.mark.redis
def test_the_queue_s_figures_are_taken_on_servers_that_are_gone_afterwards(tmp_path: Path) -> None:
    asked = ["--turns", "3", "--clients", "2", "--seconds", "0.5", "--streams", "20", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fumehood", "bench", "queue", *asked],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "FUMEHOOD_STATE_DIR": str(tmp_path / "unused"),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (kept,) = (tmp_path / "bench/results").glob("queue-*.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == told
    rows = {row["name"]: row for row in told["rows"]}
    assert set(rows) == {"submit", "submit until wanted", "submit, crowded"}
    assert rows["submit"]["n"] == rows["submit until wanted"]["n"] == 3
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows.values())
    assert told["accepted_per_s"] > 0
    assert 0 < told["memory_mib"]["before"] < told["memory_mib"]["with_streams"]
    assert [one["name"] for one in told["targets"]] == list(queue_figures.TARGETS)
    # The state folder and the servers were its own.
    assert not (tmp_path / "unused").exists()
    assert processes(f"TMPDIR={tmp_path}") == []


def processes(word: str) -> list[str]:
    """Return the lines of the living processes that have a word in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_the_queue_s_table_says_what_was_met_and_what_was_not() -> None:
    told = {
        "rows": [{"name": "submit", "p50_ms": 20.0, "p95_ms": 51.0, "n": 3}],
        "accepted_per_s": 250.0, "clients": 2, "streams": 5, "memory_mib": {"before": 90.0, "with_streams": 200.0},
        "targets": [
            queue_figures._target(name, measured)
            for name, measured in (("submit_p95_ms", 51.0), ("accepted_per_s", 250.0), ("streams_mib", 200.0))
        ],
    }  # fmt: skip
    lines = list(queue_figures.table(told))
    assert "submit_p95_ms 51.0, at most 50 asked: NOT MET" in lines
    assert "accepted_per_s 250.0, at least 200 asked: met" in lines
    assert "streams_mib 200.0, at most 200 asked: met" in lines
    assert not queue_figures._target("accepted_per_s", 199.9)["met"]


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
