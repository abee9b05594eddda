"""Steps of each run, as a bar chart: `python plot.py` beside the folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

LABELS = {"run_0": "Baseline"}

if __name__ == "__main__":
    runs = {path.parent.name: json.loads(path.read_text()) for path in sorted(Path().glob("run_*/final_info.json"))}
    means = [info["addition"]["means"]["steps_to_95"] for info in runs.values()]
    plt.bar([LABELS.get(name, name) for name in runs], means)
    plt.ylabel("updates until 95 % are right")
    plt.savefig("steps.png")
