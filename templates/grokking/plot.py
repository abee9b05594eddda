"""Figures of all runs in this folder: training curves with the moment of grokking, and the steps of every seed.

    python plot.py

Reads `run_*/final_info.json` and `run_*/train_curves.npz`; writes `train_accuracy.png`, `train_loss.png` and
`steps_by_run.png`.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

# What each run is called in the figures; a run that is not named here appears under its folder's name.
labels = {
    "run_0": "Baseline",
}

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart without red-green
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # so that curves on top of each other can be seen
LOSS, ACCURACY = 0, 1  # columns of a training curve

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


def curves_of(run: Path, dataset: str, column: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A run's steps (points,) and the curves of its seeds (seeds, points), if it has any."""
    path = run / "train_curves.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as curves:
        seeds = [curves[name][:, column] for name in curves.files if name.rpartition("_")[0] == dataset]
        return (curves["steps"], np.stack(seeds)) if seeds else None


def steps_of(info: dict, dataset: str) -> np.ndarray:
    """The evaluator's steps to 99 % (seeds,); none before a run was evaluated."""
    return np.array(info.get(dataset, {}).get("final_info_dict", {}).get("steps_to_99", []), dtype=float)


def plot_curves(runs: list[Path], info: dict[Path, dict], datasets: list[str], column: int, title: str) -> None:
    """One panel for each data set: mean and range over seeds of each run; a tick marks each seed that generalised."""
    figure, grid = plt.subplots(2, 2, figsize=(7.0, 5.0), squeeze=False, sharex=True)
    for axis, dataset in zip(grid.flat, datasets, strict=False):
        for index, run in enumerate(runs):
            found = curves_of(run, dataset, column)
            if found is None:
                continue
            steps, seeds = found
            style = {"color": colour(index), "linestyle": DASHES[index % len(DASHES)], "label": label(run, 40)}
            axis.plot(steps, seeds.mean(axis=0), linewidth=1.4, **style)
            axis.fill_between(steps, seeds.min(axis=0), seeds.max(axis=0), color=colour(index), alpha=0.2, linewidth=0)
            reached = steps_of(info[run], dataset)
            reached = reached[reached < steps[-1]]
            low = 0.03 + 0.07 * index
            axis.vlines(
                reached, low, low + 0.06, transform=axis.get_xaxis_transform(), color=colour(index), linewidth=2
            )
        axis.set_title(dataset)
        if column == LOSS:
            axis.set_yscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in grid[:, 0]:
        axis.set_ylabel(title)
    for axis in grid[-1]:
        axis.set_xlabel("training step")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(2, max(1, len(names))))
    figure.savefig(f"{title.replace('training', 'train').replace(' ', '_')}.png")
    plt.close(figure)


def plot_steps(runs: list[Path], info: dict[Path, dict], datasets: list[str]) -> None:
    """One panel for each data set: every seed as a dot, the geometric mean as a bar; hollow dots never got there."""
    measured = [run for run in runs if any(len(steps_of(info[run], dataset)) for dataset in datasets)]
    if not measured:
        return
    figure, grid = plt.subplots(2, 2, figsize=(7.0, 5.4), squeeze=False, sharex=True)
    for axis, dataset in zip(grid.flat, datasets, strict=False):
        last = max((found[0][-1] for run in runs if (found := curves_of(run, dataset, LOSS))), default=np.inf)
        for index, run in enumerate(measured):
            seeds, tone = steps_of(info[run], dataset), colour(runs.index(run))
            if not len(seeds):
                continue
            spread = index + (np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1))
            there = seeds < last
            axis.scatter(spread[there], seeds[there], s=22, color=tone, alpha=0.75, linewidths=0)
            axis.scatter(spread[~there], seeds[~there], s=22, facecolors="none", edgecolors=tone)
            axis.hlines(np.exp(np.log(seeds).mean()), index - 0.28, index + 0.28, color=tone, linewidth=2)
        axis.set_title(dataset)
        axis.set_xlim(-0.6, len(measured) - 0.4)
        axis.set_ylim(0, 1.08 * last if np.isfinite(last) else None)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(measured) > 4 else {}
        axis.set_xticks(range(len(measured)), [label(run, 24 if slanted else 14) for run in measured], fontsize=8)
        if slanted:
            plt.setp(axis.get_xticklabels(), **slanted)
    figure.supylabel("updates until 99 % of the held-out results are right (lower is better)", fontsize=10)
    figure.savefig("steps_by_run.png")
    plt.close(figure)


def main() -> None:
    runs = find_runs()
    if not runs:
        raise SystemExit("There is no finished run in this folder.")
    info = {run: json.loads((run / "final_info.json").read_text()) for run in runs}
    datasets = list(info[runs[0]])
    plot_curves(runs, info, datasets, ACCURACY, "training accuracy")
    plot_curves(runs, info, datasets, LOSS, "training loss")
    plot_steps(runs, info, datasets)


if __name__ == "__main__":
    main()
