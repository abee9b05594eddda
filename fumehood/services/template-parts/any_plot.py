"""A figure for each metric of the runs in this folder: every seed as a dot, the mean as a bar.

python plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

# What each run is called in the figures; a run that is not named here appears under its folder's name.
labels = {
    "run_0": "Baseline",
}


def main() -> None:
    """Draw the runs that have numbers."""
    runs = [folder for folder in Path().glob("run_*") if (folder / "final_info.json").exists()]
    runs = sorted(runs, key=lambda run: (len(run.name), run.name))
    if not runs:
        raise SystemExit("There is no finished run in this folder.")
    told = [json.loads((run / "final_info.json").read_text()) for run in runs]
    for dataset, first in told[0].items():
        for metric, mean in first["means"].items():
            figure, axis = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
            for index, info in enumerate(told):
                entry = info.get(dataset, {})
                values = entry.get("final_info_dict", {}).get(metric) or [entry.get("means", {}).get(metric, mean)]
                axis.plot([index] * len(values), values, "o", alpha=0.7)
                middle = sum(values) / len(values)
                axis.hlines(middle, index - 0.25, index + 0.25)
            axis.set_xticks(range(len(runs)), [labels.get(run.name, run.name) for run in runs])
            axis.set_title(dataset)
            axis.set_ylabel(metric.replace("_", " "))
            figure.savefig(f"{dataset}_{metric}.png", dpi=200)
            plt.close(figure)


if __name__ == "__main__":
    main()
