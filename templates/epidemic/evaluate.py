"""How well a run's forecasts foretold the weeks that it never saw: the numbers that count.

    python evaluate.py --outputs=run_0 --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

The same for every size of machine. Needs numpy and scipy only, and never sees the experiment's code. A forecast is the
mean and the size of a negative binomial distribution. Metrics, for each data set and seed, over all forecast weeks:
- `log_score`: the mean negative log probability of what was reported, as a density of log(1 + cases), in nats. The
  score is proper: who says what they believe loses least. It is cut off at 15 nats a week;
- `log_error`: the root of the mean square of log(1 + mean) - log(1 + cases);
- `coverage_gap`: how far the share of weeks inside the central 90 % interval is from what such an interval of this
  distribution promises.
Forecasts that cannot be judged (missing, misshapen, not finite, not above zero) end it with status 1 and one sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
from scipy.stats import nbinom

WORST = 15.0
"""Nats that a week can cost at most: an outbreak that was missed is missed, however surely."""
LARGEST = 1e9
"""No population here has so many people; a mean or a size above it is taken for it."""
TAIL = 0.05


class RefusedError(Exception):
    """These outputs cannot be judged; the message says why."""


def read_forecasts(path: Path, count: int) -> np.ndarray:
    """Read means and sizes (count, 2), or refuse them."""
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if values.shape != (count, 2) or values.dtype.kind != "f":
        raise RefusedError(f"{path.name} must hold floats of shape {(count, 2)}, not {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    if (values <= 0).any():
        raise RefusedError(f"{path.name} holds a mean or a size that is not above zero.")
    return np.minimum(values.astype(np.float64), LARGEST)


def judge(forecasts: np.ndarray, cases: np.ndarray) -> dict[str, float]:
    """Compare forecasts (m, 2) with what was reported (m,)."""
    mean, size = forecasts.T
    chance = size / (size + mean)  # as scipy writes the distribution
    nats = -nbinom.logpmf(cases, size, chance) - np.log1p(cases)  # the second term makes it a density of log(1 + cases)
    below, upto = nbinom.cdf(cases - 1, size, chance), nbinom.cdf(cases, size, chance)
    # The share of each count's probability that lies within the two tails' bounds, since counts come in steps.
    within = np.clip(np.minimum(upto, 1 - TAIL) - np.maximum(below, TAIL), 0, None) / np.maximum(upto - below, 1e-300)
    return {
        "log_score": float(np.minimum(np.nan_to_num(nats, nan=WORST, posinf=WORST), WORST).mean()),
        "log_error": float(np.sqrt(np.mean((np.log1p(mean) - np.log1p(cases)) ** 2))),
        "coverage_gap": abs(float(np.clip(within, 0, 1).mean()) - (1 - 2 * TAIL)),
    }


def summary(values: dict[str, list[float]]) -> dict[str, dict]:
    """Mean, standard error over seeds (of one seed there is none), and the values themselves."""
    several = {name: per_seed for name, per_seed in values.items() if len(per_seed) > 1}
    return {
        "means": {name: statistics.fmean(per_seed) for name, per_seed in values.items()},
        "stderrs": {name: statistics.stdev(one) / math.sqrt(len(one)) for name, one in several.items()},
        "final_info_dict": values,
    }


def evaluate(args: argparse.Namespace) -> dict[str, dict]:
    """Judge every data set that has held-out weeks."""
    metrics = {}
    paths = sorted(args.held_out.glob("*.npz"))
    if not paths:
        raise RefusedError("There is no held-out data.")
    for path in paths:
        values: dict[str, list[float]] = {}
        with np.load(path, allow_pickle=False) as archive:
            for seed in args.seeds:
                if f"cases_{seed}" not in archive.files:
                    raise RefusedError(f"{path.name} has no held-out weeks for seed {seed}.")
                cases = archive[f"cases_{seed}"]
                forecasts = read_forecasts(args.outputs / f"predictions_{path.stem}_{seed}.npy", len(cases))
                for name, value in judge(forecasts, cases).items():
                    values.setdefault(name, []).append(value)
        metrics[path.stem] = summary(values)
        print(f"{path.stem}: log score {', '.join(f'{one:.4f}' for one in values['log_score'])}")
    return metrics


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, required=True, help="predictions_<dataset>_<seed>.npy")
    parser.add_argument("--held_out", type=Path, required=True, help="<dataset>.npz of --part=answers")
    parser.add_argument("--train", type=Path, required=True, help="<dataset>.npz of --part=train, which is not needed")
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    args = parser.parse_args()
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
