"""Figures of all runs in this folder: single forecasts, fitted reproduction numbers, and the log score of every seed.

    python plot.py

Reads `run_*/final_info.json`, `run_*/shown_*.npz` and `run_*/model_*.npz`; writes `forecasts.png`,
`reproduction_numbers.png` and `log_score_by_run.png`.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import nbinom

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


def plot_forecasts(runs: list[Path], datasets: list[str]) -> None:
    """A row for each data set, a panel for each of two outbreaks: what is known, and how each run carries it on."""
    figure, grid = plt.subplots(len(datasets), 2, figsize=(7.0, 2.1 * len(datasets) + 0.8), squeeze=False)
    for row, dataset in zip(grid, datasets, strict=True):
        for place, axis in enumerate(row):
            for index, run in enumerate(runs):
                path = run / f"shown_{dataset}.npz"
                if not path.exists():
                    continue
                with np.load(path, allow_pickle=False) as shown:
                    if f"cases_{place}" not in shown.files:
                        continue
                    cases, curve = shown[f"cases_{place}"], shown[f"curve_{place}"]
                    mean, size = shown[f"forecast_{place}"].T
                if index == 0:
                    axis.plot(np.arange(1, len(cases) + 1), cases, "o", markersize=3.5, color="black", zorder=3)
                weeks = len(curve) + np.arange(1, len(mean) + 1)
                style = {"color": colour(index), "linestyle": DASHES[index % len(DASHES)], "label": label(run, 40)}
                whole = np.concatenate([curve, mean])
                axis.plot(np.arange(1, len(whole) + 1), whole, linewidth=1.3, **style)
                low, high = (nbinom.ppf(share, size, size / (size + mean)) for share in (0.05, 0.95))
                axis.fill_between(weeks, low, high, color=colour(index), alpha=0.18, linewidth=0)
            axis.set_title(f"{dataset}, outbreak {place + 1}")
            axis.set_ylim(bottom=0)
        row[0].set_ylabel("reported cases")
    for axis in grid[-1]:
        axis.set_xlabel("week")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, max(1, len(names))))
    figure.savefig("forecasts.png")
    plt.close(figure)


def by_run(runs: list[Path], datasets: list[str], values: dict[tuple[int, str], np.ndarray], title: str) -> plt.Figure:
    """One panel for each data set: the values of every run as dots, and a bar at their middle."""
    figure, axes = plt.subplots(1, len(datasets), figsize=(7.0, 3.4), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for index in range(len(runs)):
            dots = values.get((index, dataset), np.empty(0))
            if not len(dots):
                continue
            spread = index + (np.linspace(-0.14, 0.14, len(dots)) if len(dots) > 1 else np.zeros(1))
            few = len(dots) < 20
            axis.scatter(
                spread, dots, s=22 if few else 5, color=colour(index), alpha=0.75 if few else 0.4, linewidths=0
            )
            middle = dots.mean() if few else np.median(dots)
            axis.hlines(middle, index - 0.28, index + 0.28, color=colour(index), linewidth=2)
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
    plot_forecasts(runs, datasets)
    numbers, scores = {}, {}
    for index, run in enumerate(runs):
        for dataset in datasets:
            thetas = []
            for path in sorted(run.glob(f"model_{dataset}_*.npz")):
                with np.load(path, allow_pickle=False) as model:
                    thetas.append(model["theta"][:, 0])
            numbers[index, dataset] = np.exp(np.concatenate(thetas)) if thetas else np.empty(0)
            per_seed = info[index].get(dataset, {}).get("final_info_dict", {}).get("log_score", [])
            scores[index, dataset] = np.array(per_seed, dtype=float)
    figure = by_run(runs, datasets, numbers, "fitted reproduction number")
    figure.savefig("reproduction_numbers.png")
    plt.close(figure)
    if any(len(one) for one in scores.values()):
        figure = by_run(runs, datasets, scores, "log score in nats (lower is better)")
        figure.savefig("log_score_by_run.png")
        plt.close(figure)


if __name__ == "__main__":
    main()
