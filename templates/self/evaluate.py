"""How well a run tells plans that are one idea from plans that are two, on pairs it never saw: the numbers that count.

    python evaluate.py --outputs=run_0 --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

The same for every size of machine. Needs numpy only, and never sees the experiment's code. A judgement is the
probability that a pair is one idea; from one half on, the pair is taken for one. Metrics, for each data set and seed:
- `log_loss`: the mean negative log probability of the labels, in nats. It is proper: who says what they believe loses
  least. A probability nearer to zero or one than 0.001 is taken for that, so that a pair costs at most 6.9 nats;
- `miss_rate`: the share of the pairs of one idea that are not taken for one;
- `false_refusal_rate`: the share of the pairs of two ideas that are taken for one;
- `auc`: how often a pair of one idea has the higher probability than a pair of two, ties counted half.
Judgements that cannot be judged (missing, misshapen, not finite, no probability) end it with status 1 and one sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np

SUREST = 0.001
"""No probability counts as nearer to zero or one: nobody is surer than that after a few hundred pairs."""


class RefusedError(Exception):
    """These outputs cannot be judged; the message says why."""


def read_judgements(path: Path, count: int) -> np.ndarray:
    """Read probabilities (count,), or refuse them."""
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if values.shape != (count,) or values.dtype.kind != "f":
        raise RefusedError(f"{path.name} must hold floats of shape {(count,)}, not {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    if (values < 0).any() or (values > 1).any():
        raise RefusedError(f"{path.name} holds a value that is no probability.")
    return values.astype(np.float64)


def judge(said: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Compare probabilities (m,) with labels (m,)."""
    bounded = np.clip(said, SUREST, 1 - SUREST)
    one, two = said[same == 1], said[same == 0]
    higher, equal = one[:, None] > two, one[:, None] == two  # (ones, twos)
    return {
        "log_loss": float(-np.log(np.where(same == 1, bounded, 1 - bounded)).mean()),
        "miss_rate": float((one < 0.5).mean()),
        "false_refusal_rate": float((two >= 0.5).mean()),
        "auc": float(higher.mean() + 0.5 * equal.mean()),
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
    """Judge every data set that has held-out labels."""
    metrics = {}
    paths = sorted(args.held_out.glob("*.npz"))
    if not paths:
        raise RefusedError("There is no held-out data.")
    for path in paths:
        values: dict[str, list[float]] = {}
        with np.load(path, allow_pickle=False) as archive:
            for seed in args.seeds:
                if f"same_{seed}" not in archive.files:
                    raise RefusedError(f"{path.name} has no held-out labels for seed {seed}.")
                same = archive[f"same_{seed}"]
                said = read_judgements(args.outputs / f"predictions_{path.stem}_{seed}.npy", len(same))
                for name, value in judge(said, same).items():
                    values.setdefault(name, []).append(value)
        metrics[path.stem] = summary(values)
        print(f"{path.stem}: log loss {', '.join(f'{one:.4f}' for one in values['log_loss'])}")
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
