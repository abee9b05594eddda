"""Runs a program as it is, once for each seed, and reads a number off what it prints.

    python experiment.py --out_dir=run_0

`printed.json` says which program, with which arguments, and by which pattern the number is found; the last match of a
run counts. `{seed}` and `{out_dir}` in the arguments are filled in. The number is the program's own word.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path


def measured(told: dict[str, str], arguments: list[str], metric: str) -> float:
    """Run the program once, show what it prints, and return its number."""
    command = [sys.executable, "-u", told["program"], *arguments]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{told['program']} ended with status {process.returncode}.")
    found = re.findall(told["pattern"], "".join(lines))
    if not found:
        raise SystemExit(
            f"{told['program']} printed nothing that {told['pattern']!r} matches, so there is no {metric}."
        )
    value = float(found[-1])
    if not math.isfinite(value):
        raise SystemExit(f"{told['program']} printed {found[-1]}, which is no number that counts.")
    return value


def main() -> None:
    """Write final_info.json of all seeds; one run where the program takes no seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    out_dir = parser.parse_args().out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    told = json.loads(Path("printed.json").read_text(encoding="utf-8"))
    metric, asked = told["metric"], told["arguments"]
    takes_seed = any("{seed}" in one for one in asked)
    seeds = os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",") if takes_seed else ["0"]  # noqa: TID251
    values = [
        measured(told, [one.replace("{seed}", seed).replace("{out_dir}", str(out_dir)) for one in asked], metric)
        for seed in seeds
    ]
    stderrs = {metric: statistics.stdev(values) / math.sqrt(len(values))} if len(values) > 1 else {}
    entry = {"means": {metric: statistics.fmean(values)}, "stderrs": stderrs, "final_info_dict": {metric: values}}
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps({told["dataset"]: entry}, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


if __name__ == "__main__":
    main()
