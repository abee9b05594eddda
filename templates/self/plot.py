"""Figures of all runs in this folder: overlaps of labelled pairs, and the log loss and miss rate of every seed.

    python plot.py

Reads `run_*/final_info.json`, `run_*/shown_*.npz` and `run_*/model_*.npz`; writes `overlaps.png`,
`log_loss_by_run.png` and `miss_rate_by_run.png`.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

# What each run is called in the figures; a run that is not named here appears under its folder's name.
labels = {
    "run_0": "Baseline",
}

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart without red-green
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # so that curves on top of each other can be seen

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
    }
)


def find_runs() -> list[Path]:
    """The finished runs, in the order of their numbers."""
    runs = [folder for folder in Path().glob("run_*") if (folder / "final_info.json").exists()]
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def label(run: Path, width: int) -> str:
    """The run's name in the figures, broken into short lines."""
    return textwrap.fill(labels.get(run.name, run.name), width)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def plot_overlaps(runs: list[Path], datasets: list[str]) -> None:
    """A column for each data set, a row for each run: overlaps of pairs of one idea and of two, and thresholds."""
    figure, grid = plt.subplots(
        len(runs), len(datasets), figsize=(7.0, 1.5 * len(runs) + 0.9), squeeze=False, sharex=True, sharey="col"
    )
    bins = np.linspace(0, 1, 26)
    for row, run in zip(grid, runs, strict=True):
        for axis, dataset in zip(row, datasets, strict=True):
            path = run / f"shown_{dataset}.npz"
            if not path.exists():
                continue
            with np.load(path, allow_pickle=False) as shown:
                overlap, same = shown["overlap"], shown["same"]
            axis.hist(
                overlap[same == 0], bins, histtype="step", linestyle=DASHES[1], color=colour(2), label="two ideas"
            )
            axis.hist(overlap[same == 1], bins, histtype="stepfilled", alpha=0.35, color=colour(1), label="one idea")
            for place, threshold in enumerate(thresholds(run, dataset)):
                axis.axvline(threshold, color="black", linewidth=0.8, label="" if place else "thresholds of all seeds")
            axis.set_xlim(0, 1)
        row[0].set_ylabel(f"{label(run, 18)}\npairs", fontsize=8)
    for axis, dataset in zip(grid[0], datasets, strict=True):
        axis.set_title(dataset)
    for axis in grid[-1]:
        axis.set_xlabel("overlap")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.savefig("overlaps.png")
    plt.close(figure)


def thresholds(run: Path, dataset: str) -> list[float]:
    """The threshold of each seed of a run's data set."""
    found = []
    for path in sorted(run.glob(f"model_{dataset}_*.npz")):
        with np.load(path, allow_pickle=False) as model:
            found.append(float(model["threshold"]))
    return found


def by_run(runs: list[Path], datasets: list[str], values: dict[tuple[int, str], np.ndarray], title: str) -> plt.Figure:
    """One panel for each data set: the values of every run as dots, and a bar at their mean."""
    figure, axes = plt.subplots(1, len(datasets), figsize=(7.0, 3.4), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for index in range(len(runs)):
            dots = values.get((index, dataset), np.empty(0))
            if not len(dots):
                continue
            spread = index + (np.linspace(-0.14, 0.14, len(dots)) if len(dots) > 1 else np.zeros(1))
            axis.scatter(spread, dots, s=22, color=colour(index), alpha=0.75, linewidths=0)
            axis.hlines(dots.mean(), index - 0.28, index + 0.28, color=colour(index), linewidth=2)
        axis.set_title(dataset)
        axis.set_xlim(-0.6, len(runs) - 0.4)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_xticks(range(len(runs)), [label(run, 24) for run in runs], fontsize=8)
        plt.setp(axis.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    axes[0, 0].set_ylabel(title)
    return figure


def main() -> None:
    runs = find_runs()
    if not runs:
        raise SystemExit("There is no finished run in this folder.")
    info = [json.loads((run / "final_info.json").read_text()) for run in runs]
    datasets = list(info[0])
    plot_overlaps(runs, datasets)
    titles = {"log_loss": "log loss in nats (lower is better)", "miss_rate": "miss rate"}
    for name, title in titles.items():
        values = {
            (index, dataset): np.array(one.get(dataset, {}).get("final_info_dict", {}).get(name, []), dtype=float)
            for index, one in enumerate(info)
            for dataset in datasets
        }
        if any(len(dots) for dots in values.values()):
            figure = by_run(runs, datasets, values, title)
            figure.savefig(f"{name}_by_run.png")
            plt.close(figure)


if __name__ == "__main__":
    main()
