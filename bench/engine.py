"""What the engine adds to a run: everything but executions, models and the coder's process; and what an edit costs.

    .venv/bin/python -m bench.engine --runs 6 --lasts 10

`fumehood run` with the offline model, the local sandbox, Aider where it is installed, and a template whose experiment
sleeps for so long. Read from what the database keeps:

- `overhead`: from the moment a run's code was edited until its notes are asked for, less the wall time of its
  executions;
- `edit`: from the answered notes of one run until the code of the next is edited and read, less the time of the model's
  calls for both. The first run's edit starts the coder's process and is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.chaos import own_folder
from fumehood.domain.experiment import Execution, Run
from fumehood.domain.ledger import ModelCall
from fumehood.domain.step import Event
from fumehood.settings import Settings
from tests.fakes import quick
from tests.installation import lab_of
from worker import worlds

RESULTS = Path("bench/results")
TARGETS = {"overhead_s": 1.5, "overhead_of_60_s": 0.05, "edit_s": 1.0}
"""The most that is asked for: seconds a run, that as a share of a run of 60 s, and seconds an edit."""
RUN = '''
[[ideas.runs]]
title = "Scale {new}"
description = "The scale becomes {new}."

[[ideas.runs.attempts]]
reply = """
experiment.py
```python
<<<<<<< SEARCH
SCALE = {old}
=======
SCALE = {new}
>>>>>>> REPLACE
```
"""
'''


def playbook(runs: int) -> str:
    """Return what the offline model answers: one idea with so many runs."""
    scales = [round(1.0 - number / 100, 2) for number in range(runs + 1)]
    idea, _, _ = quick.FIRST.partition("[[ideas.runs]]")
    return idea + "".join(RUN.format(old=old, new=new) for old, new in itertools.pairwise(scales))


def carried_out(folder: Path, runs: int, lasts_s: float) -> dict[str, Any]:
    """Carry a direction out and return its figures."""
    template = quick.write_quick_template(folder / "templates", lasts_s=lasts_s)
    (template / "offline.toml").write_text(playbook(runs))
    state = folder / "state"
    inherited = dict(os.environ)  # noqa: TID251 - a command inherits what a person has
    environment = {**inherited, "FUMEHOOD_STATE_DIR": str(state), "FUMEHOOD_LAB_DIR": str(lab_of(Settings()))}
    words = [
        *(sys.executable, "-m", "fumehood", "run", "--template", str(template), "--profile", "tiny"),
        *("--model", "offline", "--sandbox", "local", "--ideas", "1", "--runs", str(runs)),
        *("--out", str(folder / "out"), "--json"),
    ]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The direction ended with status {done.returncode}: {done.stderr[-2000:]}")
    store = worlds.store_of(Settings(state_dir=state))
    try:
        with store.begin(write=False) as tx:
            (direction,) = tx.directions.find()
            (experiment,) = tx.experiments.find()
            measured = sorted(tx.runs.find(experiment_id=experiment.id), key=lambda run: run.index)
            events = [one for one in tx.events.since(direction.id, 0) if one.experiment_id == experiment.id]
            calls = tx.calls.find(experiment_id=experiment.id)
            executions = {run.id: tx.executions.find(run_id=run.id) for run in measured}
    finally:
        store.close()
    edited = _times(events, "code.edited")
    rows = [_row(run, edited, executions[run.id], calls) for run in measured]
    return {"coder": _coder(events), "runs": rows}


def _times(events: list[Event], kind: str) -> dict[int, float]:
    """Return when each run's event of a kind happened, by the run's number."""
    found: dict[int, float] = {}
    for event in events:
        if event.kind == kind:
            word = next(one for one in event.text.replace(":", " ").split() if one.startswith("run_"))
            found[int(word.removeprefix("run_"))] = event.at
    return found


def _coder(events: list[Event]) -> str:
    text = next(event.text for event in events if event.kind == "code.edited")
    return text.partition(": ")[2].split()[0]


def _row(
    run: Run, edited: Mapping[int, float], executions: tuple[Execution, ...], calls: tuple[ModelCall, ...]
) -> dict[str, Any]:
    """Return one run's figures; an edit is that of the run after it."""
    notes = next(call for call in calls if call.role == "notes" and json.loads(call.claims)["run"] == run.index)
    wall_s = sum(one.outcome.usage.wall_s for one in executions if one.outcome)
    row: dict[str, Any] = {
        "run": run.index,
        "executions_s": round(wall_s, 3),
        "overhead_s": round(notes.at - edited[run.index] - wall_s, 3),
        "edit_s": None,
    }
    if run.index + 1 in edited:
        asked = [c for c in calls if c.role in {"coder", "fidelity"} and json.loads(c.claims)["run"] == run.index + 1]
        spent = sum(call.duration_s for call in asked)
        row["edit_s"] = round(edited[run.index + 1] - notes.at - notes.duration_s - spent, 3)
    return row


def judged(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each target beside the median of what was measured."""
    overhead = statistics.median(row["overhead_s"] for row in told["runs"])
    edits = [row["edit_s"] for row in told["runs"] if row["edit_s"] is not None]
    measured = {
        "overhead_s": overhead,
        "overhead_of_60_s": overhead / 60,
        "edit_s": statistics.median(edits) if edits else float("nan"),
    }
    return [
        {"name": name, "measured": round(value, 4), "asked": TARGETS[name], "met": value <= TARGETS[name]}
        for name, value in measured.items()
    ]


def table(told: Mapping[str, Any]) -> Iterator[str]:
    """Return the figures as lines."""
    yield f"{'run':>5} {'executions s':>13} {'overhead s':>11} {'next edit s':>12}   coder {told['coder']}"
    for row in told["runs"]:
        edit = "" if row["edit_s"] is None else f"{row['edit_s']:.3f}"
        yield f"{row['run']:5} {row['executions_s']:13.3f} {row['overhead_s']:11.3f} {edit:>12}"
    for one in told["targets"]:
        said = "met" if one["met"] else "NOT MET"
        yield f"{one['name']} {one['measured']:.3f}, at most {one['asked']:g} asked: {said}"


def main() -> int:
    """Measure, print, and keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--lasts", type=float, default=10.0, help="seconds that an experiment sleeps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with own_folder() as folder:
        told = carried_out(folder, asked.runs, asked.lasts)
    told |= {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "lasts_s": asked.lasts,
        "targets": judged(told),
    }
    print("\n".join(table(told)))
    asked.results.mkdir(parents=True, exist_ok=True)
    place = asked.results / f"engine-{told['at'][:10]}.json"
    place.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
