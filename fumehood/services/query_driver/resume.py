"""Has stretches of a run's training done once more by its own program, each from a checkpoint that it left.

Runs inside a `resume` execution, in the folder of the run's code, with its training data and without its curve:
`python /in/driver/resume.py --stretches=/in/driver/stretches.json -- --updates=600`. A stretch is
`{"dataset": "addition", "seed": 1, "start": 150, "stop": 240, "checkpoint": "1.npz"}`; one from the beginning has no
checkpoint. The files named lie in `starts/` and are read and removed before any code of the experiment starts, so that
a stretch never sees the checkpoint that it should come to: they are done in the order of their ends.
Writes `stretches/<dataset>_<seed>_<start>_<stop>.npz`, each the curve that the program wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In the sandbox it stands beside the other, without a package.
if TYPE_CHECKING or __package__:
    from fumehood.services.query_driver import confinement
else:
    import confinement

STARTS, OUT = Path("starts"), Path("stretches")


def main() -> int:
    """Do all stretches, or say in one sentence which one could not be done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stretches", type=Path, required=True)
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    stretches = sorted(json.loads(asked.stretches.read_text(encoding="utf-8")), key=lambda one: one["stop"])
    starts = {path.name: path.read_bytes() for path in STARTS.iterdir()} if STARTS.is_dir() else {}
    shutil.rmtree(STARTS, ignore_errors=True)
    curves = {}
    confinement.hide()
    for stretch in stretches:
        name = "{dataset}_{seed}_{start}_{stop}".format_map(stretch)
        try:
            curves[f"{name}.npz"] = _done(stretch, starts.get(stretch["checkpoint"], b""), asked.arguments)
        except OSError as error:
            print(f"The stretch {name} left no curve ({error.strerror}).", file=sys.stderr)  # noqa: T201
            return 1
        except subprocess.CalledProcessError as error:
            told = f"experiment.py ended with status {error.returncode} when it was resumed for the stretch {name}."
            print(told, file=sys.stderr)  # noqa: T201 - a program's last word
            return 1
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for file, data in curves.items():
        (OUT / file).write_bytes(data)
    return 0


def _done(stretch: dict[str, Any], start: bytes, arguments: list[str]) -> bytes:
    """Return the curve that the program writes of a stretch; what else it wrote is removed."""
    out = Path("resumed")
    shutil.rmtree(out, ignore_errors=True)
    resumed = []
    if stretch["checkpoint"]:
        held = Path(f"start_{stretch['checkpoint']}")
        held.write_bytes(start)
        resumed = [f"--resume_from={held}"]
    command = [
        *(sys.executable, "experiment.py", f"--out_dir={out}", *resumed, f"--stop_at={stretch['stop']}"),
        *(f"--only_dataset={stretch['dataset']}", *arguments),
    ]
    try:
        subprocess.run(command, env={**os.environ, "FUMEHOOD_SEEDS": str(stretch["seed"])}, check=True)  # noqa: TID251
        return (out / f"curve_{stretch['dataset']}_{stretch['seed']}.npz").read_bytes()
    finally:
        confinement.end_descendants()
        if resumed:
            held.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
