"""How far a run's samples are from held-out points: the numbers that count.

    python evaluate.py --outputs=run_0 --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

Small machine: add `--samples=1000`. Needs numpy and scipy only, and never sees the experiment's code.
Metrics, for each data set and seed:
- `kl_divergence`: KL(held-out || samples) in nats by nearest neighbours (Wang, Kulkarni and Verdu, 2009);
- `reverse_kl`: KL(samples || held-out), by the same estimate: large where samples lie where no data are;
- `copying`: how much nearer the samples lie to training points than held-out points do, as a mean log ratio in nats.
Samples that cannot be judged (missing, misshapen, not finite, all alike, or training points over again) end it with
status 1 and one sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

RESOLUTION = 1e-6
"""Distances below this are not told apart: float32 points of these shapes are spaced about this far."""
MOST_REPEATED = 0.25
"""Share of samples that belong to a training point above which there is no result, where chance does not reach it."""
CHANCE_SDS = 4.0
"""Standard deviations of that share which chance alone is given."""
MOST_COPIES, COPY = 0.05, 10 * RESOLUTION
"""Share of samples that may lie this near to a training point, which no new one does but by a rare chance."""
WORKERS = min(4, os.cpu_count() or 1)


class RefusedError(Exception):
    """These outputs cannot be judged; the message says why."""


def read_samples(path: Path, count: int) -> np.ndarray:
    """Read the first `count` samples of a file, or refuse it."""
    try:
        with path.open("rb") as file:
            points = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind != "f":
        raise RefusedError(f"{path.name} must hold floats of shape (n, 2), not {points.dtype} {points.shape}.")
    if len(points) < count:
        raise RefusedError(f"{path.name} holds {len(points)} samples, and {count} are needed.")
    points = points[:count].astype(np.float64)  # (m, 2)
    if not np.isfinite(points).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    if np.ptp(points, axis=0).max() <= RESOLUTION:
        raise RefusedError(f"{path.name} holds the same point over and over.")
    return points


def read_archive(path: Path, *names: str) -> list[np.ndarray]:
    """Read arrays of the platform's own data."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise RefusedError(f"{path.name} of the held-out or training data cannot be read ({error}).") from None


def neighbour_distance(tree: cKDTree, points: np.ndarray, rank: int) -> np.ndarray:
    """Distance of each point (n, 2) to its rank-th neighbour in the tree: (n,), never below the resolution."""
    distances, _ = tree.query(points, k=[rank], workers=WORKERS)  # (n, 1)
    return np.maximum(distances[:, 0], RESOLUTION)


def leaf_by_leaf(tree: cKDTree) -> np.ndarray:
    """Return a tree's points (n, d) so that neighbours follow each other: asked in this order, memory is near."""
    return tree.data[tree.indices]


def kl_divergence(points: cKDTree, others: cKDTree, neighbours: int) -> float:
    """Estimate KL(points || others) from how much farther the k-th of the others is than the k-th other point.

    A distance of zero would count as an infinite density, so that repeating held-out points paid; distances are
    floored at the resolution instead, on both sides.
    """
    asked = leaf_by_leaf(points)
    among = neighbour_distance(points, asked, neighbours + 1)  # (n,) rank 1 is the point itself
    towards = neighbour_distance(others, asked, neighbours)  # (n,)
    return float(points.m * np.mean(np.log(towards / among)) + math.log(others.n / (points.n - 1)))


def copying(train: cKDTree, held_out: cKDTree, samples: cKDTree) -> float:
    """Mean log distance to the nearest training point: that of held-out points less that of samples.

    Near zero or below for samples that are new; each hundredth of the samples that repeats a training point adds
    about a tenth, since its distance counts as the resolution.
    """
    new, drawn = (np.log(neighbour_distance(train, leaf_by_leaf(points), 1)).mean() for points in (held_out, samples))
    return float(new - drawn)


def repeated(train: cKDTree, held_out: cKDTree, samples: cKDTree) -> tuple[float, float]:
    """Share of the samples that belong to a training point, and the most that is let through.

    Training and held-out points are draws of one distribution. So the nearest point to a new sample is a training point
    as often as points are, wherever the sample lies and however sharp or blurred the model is; what is more than that
    was repeated. Each nearest point counts once, since samples on one heap have the same.
    """
    chance = train.n / (train.n + held_out.n)
    away, old = train.query(samples.data, workers=WORKERS)  # (m,), (m,)
    away_new, new = held_out.query(samples.data, workers=WORKERS)
    nearest = np.where(away <= away_new, old, train.n + new)
    copies = float(np.mean((away < COPY) & (nearest < train.n)))
    if copies > MOST_COPIES:
        return copies, MOST_COPIES
    distinct = np.unique(nearest)
    share = float((np.mean(distinct < train.n) - chance) / (1 - chance))
    sd = math.sqrt(chance / ((1 - chance) * len(distinct)))
    return share, max(MOST_REPEATED, CHANCE_SDS * sd)


def summary(values: dict[str, list[float]]) -> dict[str, dict]:
    """Mean, standard error over seeds (of one seed there is none), and the values themselves."""
    several = {name: per_seed for name, per_seed in values.items() if len(per_seed) > 1}
    return {
        "means": {name: statistics.fmean(per_seed) for name, per_seed in values.items()},
        "stderrs": {name: statistics.stdev(one) / math.sqrt(len(one)) for name, one in several.items()},
        "final_info_dict": values,
    }


def evaluate(args: argparse.Namespace) -> dict[str, dict]:
    """Judge every data set that has held-out points."""
    metrics = {}
    paths = sorted(args.held_out.glob("*.npz"))
    if not paths:
        raise RefusedError("There is no held-out data.")
    for path in paths:
        held_out, seeds = read_archive(path, "held_out", "seeds")  # (seeds, n, 2), (seeds,)
        (train,) = read_archive(args.train / path.name, "points")  # (n, 2)
        known, rows = cKDTree(train), {int(seed): held_out[i] for i, seed in enumerate(seeds)}
        values: dict[str, list[float]] = {"kl_divergence": [], "reverse_kl": [], "copying": []}
        for seed in args.seeds:
            if seed not in rows:
                raise RefusedError(f"{path.name} has no held-out points for seed {seed}.")
            samples = cKDTree(read_samples(args.outputs / f"samples_{path.stem}_{seed}.npy", args.samples))
            new = cKDTree(rows[seed])
            values["kl_divergence"].append(kl_divergence(new, samples, args.neighbours))
            values["reverse_kl"].append(kl_divergence(samples, new, args.neighbours))
            values["copying"].append(copying(known, new, samples))
            share, limit = repeated(known, new, samples)
            if share > limit:
                raise RefusedError(f"samples_{path.stem}_{seed}.npy repeats training points: about {share:.0%} of it.")
        metrics[path.stem] = summary(values)
        shown = ", ".join(f"{value:.4f}" for value in values["kl_divergence"])
        print(f"{path.stem}: kl_divergence {shown}; copying {metrics[path.stem]['means']['copying']:.4f}")
    return metrics


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, required=True, help="samples_<dataset>_<seed>.npy")
    parser.add_argument("--held_out", type=Path, required=True, help="<dataset>.npz of --part=answers")
    parser.add_argument("--train", type=Path, required=True, help="<dataset>.npz of --part=train")
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--samples", type=int, default=10_000, help="how many samples of each file are used")
    parser.add_argument("--neighbours", type=int, default=5, help="k of the estimators")
    args = parser.parse_args()
    if not 1 <= args.neighbours < args.samples:
        parser.error("--neighbours must be at least 1 and below --samples")
    try:
        metrics = evaluate(args)
    except RefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
