"""A direction of many ideas, killed on the way and resumed: every idea ends, and nothing is run twice.

    .venv/bin/python -m bench.ideas --ideas 10 --kills 3

`fumehood run` with the offline model, the local sandbox and a template whose executions take a moment. Each idea's run
is confirmed on fresh seeds and sealed data. The command and all its processes are killed (SIGKILL) at seeded moments
and started again with `--resume`. Exits 1 when an experiment did not end well, when a finished run was repeated, when
an execution's program was begun more than once, or when the folder does not verify.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from bench.account import Starts
from bench.chaos import own_folder
from fumehood.settings import Settings
from tests.fakes.quick import write_quick_template
from tests.installation import lab_of
from worker import worlds

RESULTS = Path("bench/results")
RULE = {
    "SCREEN_SEEDS": "2", "LOOKS": "[4, 8]", "SCREEN_BASELINE": "4", "CONFIRM_BASELINE": "6",
}  # fmt: skip
SHORTEST_S, LONGEST_S = 6.0, 25.0
"""Between two kills: long enough for the command to be under way again."""


class Direction:
    """The command, its state folder, and what the database says of its runs."""

    def __init__(self, folder: Path, lab: Path, ideas: int) -> None:
        self._folder, self._lab = folder, lab
        self.state, self.out = folder / "state", folder / "out"
        template = write_quick_template(folder / "templates", ideas=ideas, confirm=True)
        asked = ("--template", str(template), "--profile", "tiny", "--model", "offline", "--sandbox", "local")
        self._words = ("run", *asked, "--ideas", str(ideas), "--runs", "1", "--out", str(self.out), "--resume")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command as the leader of a group of its own."""
        with (self._folder / "log").open("ab") as log, (self._folder / "told.json").open("wb") as told:
            return subprocess.Popen(
                [sys.executable, "-m", "fumehood", *self._words, "--json"],
                env=self._environment(),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=log,
            )

    def told(self) -> dict[str, Any]:
        """Return what the command said last."""
        return dict(json.loads((self._folder / "told.json").read_text()))

    def said(self) -> str:
        """Return the end of its log."""
        return (self._folder / "log").read_text(errors="replace")[-2000:]

    def verifies(self) -> bool:
        """Whether `fumehood verify` finds nothing in the finished folder."""
        words = [sys.executable, "-m", "fumehood", "verify", str(self.out)]
        return subprocess.run(words, env=self._environment(), capture_output=True, check=False).returncode == 0

    def measured(self) -> Mapping[str, str]:
        """Return the finished runs, with the hash of each one's record."""
        store = worlds.store_of(Settings(state_dir=self.state))
        try:
            with store.begin(write=False) as tx:
                return {run.id: run.record for run in tx.runs.find(result="measured")}
        except OperationalError:
            # Killed before all tables were made; were it later, what was seen before would be missed.
            return {}
        finally:
            store.close()

    def begun_again(self) -> tuple[int, int]:
        """Return how many executions there were, and how many of them the platform lost and began again."""
        store = worlds.store_of(Settings(state_dir=self.state))
        try:
            with store.begin(write=False) as tx:
                rows = tx.executions.find()
        finally:
            store.close()
        return len(rows), sum(row.losses for row in rows)

    def _environment(self) -> dict[str, str]:
        inherited = dict(os.environ)  # noqa: TID251 - a command inherits what a person has
        mine = {f"FUMEHOOD_CONFIRM__{name}": value for name, value in RULE.items()}
        return {**inherited, **mine, "FUMEHOOD_STATE_DIR": str(self.state), "FUMEHOOD_LAB_DIR": str(self._lab)}


def carry_out(folder: Path, lab: Path, ideas: int, kills: int, seed: int = 7) -> dict[str, Any]:
    """Carry a direction out through its kills; every figure, and what was wrong."""
    direction, moments = Direction(folder, lab, ideas), random.Random(seed)  # noqa: S311 - moments, no secret
    begun, made = time.monotonic(), 0
    seen: dict[str, str] = {}
    wrong: list[str] = []
    with Starts(direction.state / "executions") as starts:
        for _ in range(kills):
            process = direction.start()
            time.sleep(moments.uniform(SHORTEST_S, LONGEST_S))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                made += 1
            process.wait()
            now = direction.measured()
            if not seen.items() <= now.items():
                wrong.append("a finished run was repeated")
            seen = dict(now)
        last = direction.start()
        if status := last.wait():
            wrong.append(f"the last command ended with status {status}: {direction.said()}")
    again = {name: count for name, count in starts.seen().items() if count > 1}
    if again:
        wrong.append(f"begun more than once: {', '.join(sorted(again))}")
    if not seen.items() <= direction.measured().items():
        wrong.append("a finished run was repeated")
    lines = [] if wrong else direction.told()["summary"]["experiments"]
    wrong += [f"{line['name']} is {line['state']}: {line['error']}" for line in lines if line["state"] != "done"]
    if not wrong and len(lines) != ideas:
        wrong.append(f"{len(lines)} experiments of {ideas}")
    if not wrong and not direction.verifies():
        wrong.append("the finished folder does not verify")
    executions, lost = direction.begun_again()
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "ideas": ideas, "kills": made, "seed": seed, "took_s": round(time.monotonic() - begun, 1),
        "runs": len(direction.measured()), "executions": executions, "starts_seen": sum(starts.seen().values()),
        "lost_and_begun_again": lost, "labels": {line["name"]: line["label"] for line in lines}, "wrong": wrong,
    }  # fmt: skip


def main() -> int:
    """Carry it out, print, and keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ideas", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with own_folder() as folder:
        told = carry_out(folder, lab_of(Settings()), asked.ideas, asked.kills, asked.seed)
    for name, value in told.items():
        print(f"{name:22} {value}")
    asked.results.mkdir(parents=True, exist_ok=True)
    place = asked.results / f"ideas-{told['at'][:10]}.json"
    place.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {place}")
    return 1 if told["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
