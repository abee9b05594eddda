"""Figures of all runs in this folder: loss curves, generated samples, and the KL divergence of every seed.

    python plot.py

Reads `run_*/final_info.json`, `run_*/train_loss.npz` and `run_*/samples_<dataset>_<seed>.npy`; writes
`train_loss.png`, `generated_samples.png` and `kl_by_run.png`.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# What each run is called in the figures; a run that is not named here appears under its folder's name.
labels = {
    "run_0": "Baseline",
}

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart without red-green
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # so that curves on top of each other can be seen
SMOOTHING = 9  # points of a loss curve averaged under a Hann window
SHOWN_POINTS = 2000  # samples drawn in one panel

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


def smooth(values: np.ndarray) -> np.ndarray:
    """Average neighbouring points of a curve; its ends are averaged over what there is."""
    window = np.hanning(min(SMOOTHING, len(values)) + 2)[1:-1]
    return np.convolve(values, window, mode="same") / np.convolve(np.ones_like(values), window, mode="same")


def plot_losses(runs: list[Path], info: dict[Path, dict], datasets: list[str]) -> None:
    """One panel for each data set: the mean over seeds of each run, and the range of its seeds."""
    figure, grid = plt.subplots(2, 2, figsize=(7.0, 5.0), squeeze=False)
    for axis, dataset in zip(grid.flat, datasets, strict=False):
        for index, run in enumerate(runs):
            path = run / "train_loss.npz"
            if not path.exists() or dataset not in info[run]:
                continue
            with np.load(path, allow_pickle=False) as curves:
                names = [name for name in curves.files if name.rpartition("_")[0] == dataset]
                seeds = np.stack([smooth(curves[name]) for name in names])  # (seeds, points)
                steps = curves["steps"]
            style = {"color": colour(index), "linestyle": DASHES[index % len(DASHES)], "label": label(run, 40)}
            axis.plot(steps, seeds.mean(axis=0), linewidth=1.4, **style)
            axis.fill_between(steps, seeds.min(axis=0), seeds.max(axis=0), color=colour(index), alpha=0.2, linewidth=0)
        axis.set_title(dataset)
    for axis in grid[:, 0]:
        axis.set_ylabel("training loss")
    for axis in grid[-1]:
        axis.set_xlabel("training step")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(2, max(1, len(names))))
    figure.savefig("train_loss.png")
    plt.close(figure)


def first_samples(run: Path, dataset: str) -> np.ndarray | None:
    """The samples (n, 2) of the run's first seed, if it has any."""
    paths = sorted(run.glob(f"samples_{dataset}_*.npy"), key=lambda path: (len(path.name), path.name))
    return np.load(paths[0], allow_pickle=False)[:SHOWN_POINTS] if paths else None


def plot_samples(runs: list[Path], datasets: list[str]) -> None:
    """A row of panels for each run, a column for each data set; a column shares its axes."""
    drawn = {(run, dataset): first_samples(run, dataset) for run in runs for dataset in datasets}
    if all(points is None for points in drawn.values()):
        return
    size = (1.8 * len(datasets), 1.75 * len(runs) + 0.3)
    figure, grid = plt.subplots(len(runs), len(datasets), figsize=size, squeeze=False)
    for column, dataset in enumerate(datasets):
        present = [drawn[run, dataset] for run in runs if drawn[run, dataset] is not None]
        low, high = np.percentile(np.concatenate(present), [1, 99], axis=0) if present else np.array([[-4], [4.0]])
        middle, reach = (low + high) / 2, 0.62 * np.max(high - low)
        for row, run in enumerate(runs):
            axis: Axes = grid[row, column]
            points = drawn[run, dataset]
            if points is not None:
                axis.scatter(*points.T, s=1.5, color=colour(row), alpha=0.7, linewidths=0, rasterized=True)
            axis.set(
                xlim=middle[0] + np.array([-reach, reach]),
                ylim=middle[-1] + np.array([-reach, reach]),
                xticks=[],
                yticks=[],
            )
            axis.set_aspect("equal")
            axis.spines[["top", "right"]].set_visible(True)
            if row == 0:
                axis.set_title(dataset)
            if column == 0:
                axis.set_ylabel(label(run, 20), fontsize=9)
    figure.savefig("generated_samples.png")
    plt.close(figure)


def plot_kl(runs: list[Path], info: dict[Path, dict], datasets: list[str]) -> None:
    """One panel for each data set: every seed as a dot, the mean as a bar."""
    measured = [run for run in runs if any("kl_divergence" in entry["means"] for entry in info[run].values())]
    if not measured:
        return
    figure, grid = plt.subplots(2, 2, figsize=(7.0, 5.4), squeeze=False, sharex=True)
    for axis, dataset in zip(grid.flat, datasets, strict=False):
        for index, run in enumerate(measured):
            seeds = np.array(info[run].get(dataset, {}).get("final_info_dict", {}).get("kl_divergence", []))
            if not len(seeds):
                continue
            spread = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1)
            tone = colour(runs.index(run))
            axis.scatter(index + spread, seeds, s=22, color=tone, alpha=0.75, linewidths=0)
            axis.hlines(seeds.mean(), index - 0.28, index + 0.28, color=tone, linewidth=2)
        axis.set_title(dataset)
        axis.set_xlim(-0.6, len(measured) - 0.4)
        axis.margins(y=0.15)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(measured) > 4 else {}
        axis.set_xticks(range(len(measured)), [label(run, 24 if slanted else 14) for run in measured], fontsize=8)
        if slanted:
            plt.setp(axis.get_xticklabels(), **slanted)
    figure.supylabel("KL divergence to held-out points (nats, lower is better)", fontsize=10)
    figure.savefig("kl_by_run.png")
    plt.close(figure)


def main() -> None:
    runs = find_runs()
    if not runs:
        raise SystemExit("There is no finished run in this folder.")
    info = {run: json.loads((run / "final_info.json").read_text()) for run in runs}
    datasets = list(info[runs[0]])
    plot_losses(runs, info, datasets)
    plot_samples(runs, datasets)
    plot_kl(runs, info, datasets)


if __name__ == "__main__":
    main()
