"""Figures of all runs in this folder: loss curves, and the nats per character of every seed.

    python plot.py

Reads `run_*/final_info.json` and `run_*/losses.npz`; writes `train_loss.png`, `val_loss.png` and `nats_by_run.png`.
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
SMOOTHING = 9  # points of a training curve averaged under a Hann window

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


def read_curves(run: Path, part: str, dataset: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A run's curves of a data set: iterations (points,), and nats per character (seeds, points)."""
    path = run / "losses.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        found = [archive[name] for name in archive.files if name.rpartition("_")[0] == f"{part}_{dataset}"]
    if not found:
        return None
    return found[0][0], np.stack([curve[1] for curve in found])


def panels(datasets: list[str], height: float) -> tuple[plt.Figure, list[plt.Axes]]:
    """A figure with one panel for each data set."""
    figure, grid = plt.subplots(1, len(datasets), figsize=(max(4.6, 3.2 * len(datasets)), height), squeeze=False)
    for axis, dataset in zip(grid.flat, datasets, strict=True):
        axis.set_title(dataset)
    return figure, list(grid.flat)


def plot_curves(runs: list[Path], datasets: list[str], part: str, title: str, name: str) -> None:
    """The mean over seeds of each run, and the range of its seeds."""
    figure, axes = panels(datasets, 3.6)
    for axis, dataset in zip(axes, datasets, strict=True):
        for index, run in enumerate(runs):
            curves = read_curves(run, part, dataset)
            if curves is None:
                continue
            steps, seeds = curves
            if part == "train":
                seeds = np.stack([smooth(one) for one in seeds])
            style = {"color": colour(index), "linestyle": DASHES[index % len(DASHES)], "label": label(run, 40)}
            axis.plot(steps, seeds.mean(axis=0), linewidth=1.4, **style)
            axis.fill_between(steps, seeds.min(axis=0), seeds.max(axis=0), color=colour(index), alpha=0.2, linewidth=0)
        axis.set_xlabel("training iteration")
    axes[0].set_ylabel(title)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(2 if len(datasets) == 1 else 3, max(1, len(names)))
    )
    figure.savefig(f"{name}.png")
    plt.close(figure)


def plot_nats(runs: list[Path], info: dict[Path, dict], datasets: list[str]) -> None:
    """One panel for each data set: every seed as a dot, the mean as a bar."""
    metric = "nats_per_character"
    measured = [run for run in runs if any(metric in entry["means"] for entry in info[run].values())]
    if not measured:
        return
    figure, axes = panels(datasets, 3.6)
    for axis, dataset in zip(axes, datasets, strict=True):
        for index, run in enumerate(measured):
            seeds = np.array(info[run].get(dataset, {}).get("final_info_dict", {}).get(metric, []))
            if not len(seeds):
                continue
            spread = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1)
            tone = colour(runs.index(run))
            axis.scatter(index + spread, seeds, s=22, color=tone, alpha=0.75, linewidths=0)
            axis.hlines(seeds.mean(), index - 0.28, index + 0.28, color=tone, linewidth=2)
        axis.set_xlim(-0.6, len(measured) - 0.4)
        axis.margins(y=0.15)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(measured) > 3 else {}
        axis.set_xticks(range(len(measured)), [label(run, 24 if slanted else 14) for run in measured], fontsize=8)
        if slanted:  # with nothing to set, it prints everything that could be
            plt.setp(axis.get_xticklabels(), **slanted)
    figure.supylabel("nats per held-out character (lower is better)", fontsize=10)
    figure.savefig("nats_by_run.png")
    plt.close(figure)


def main() -> None:
    runs = find_runs()
    if not runs:
        raise SystemExit("There is no finished run in this folder.")
    info = {run: json.loads((run / "final_info.json").read_text()) for run in runs}
    datasets = list(info[runs[0]])
    plot_curves(runs, datasets, "train", "training loss (nats per character)", "train_loss")
    plot_curves(runs, datasets, "validation", "validation loss (nats per character)", "val_loss")
    plot_nats(runs, info, datasets)


if __name__ == "__main__":
    main()
