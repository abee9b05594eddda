"""When a model had learnt most of the held-out sums, and the share that it gets wrong at the end.

    python evaluate.py --outputs=answers --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

The model was asked for the whole table; only pairs that its seed did not train on are counted. What is not finite is
refused, and so are answers that do not tell the symbols apart. The step is read off the curve that the run wrote down
while it trained: the first evaluation at which 95 % of the sums are right, or the last step where there is none.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np

MODULUS = 23
RIGHT = 0.95
MOST_EVALUATIONS = 60
LAST_STEP = 600


class RefusedError(Exception):
    """These answers cannot be judged; the message says why."""


def read_logits(path: Path) -> np.ndarray:
    """Read the answers for the whole table, (23, 23, 23): left, right, sum; or refuse them."""
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if values.shape != (MODULUS**2, MODULUS) or values.dtype.kind != "f":
        shape = (MODULUS**2, MODULUS)
        raise RefusedError(f"{path.name} must hold floats of shape {shape}, not {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    return values.astype(np.float64).reshape(MODULUS, MODULUS, MODULUS)


def read_curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what a run wrote down: steps (E,) and the symbols it answered (E, 529); or refuse it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            steps, answers = archive["steps"], archive["predictions"]
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} holds no steps and predictions ({type(error).__name__}).") from None
    if steps.ndim != 1 or not 0 < len(steps) <= MOST_EVALUATIONS or steps.dtype.kind not in "iu":
        raise RefusedError(f"{path.name} must hold 1 to {MOST_EVALUATIONS} steps, not {steps.dtype} {steps.shape}.")
    if answers.shape != (len(steps), MODULUS**2) or answers.dtype.kind not in "iu":
        shape = (len(steps), MODULUS**2)
        raise RefusedError(f"{path.name} must hold classes of shape {shape}, not {answers.dtype} {answers.shape}.")
    steps = steps.astype(np.int64)
    if steps[0] < 1 or steps[-1] > LAST_STEP or (np.diff(steps) < 1).any():
        raise RefusedError(f"{path.name} must hold steps that grow from 1 on, and none above {LAST_STEP}.")
    return steps, answers


def steps_to(path: Path, pairs: np.ndarray, sums: np.ndarray) -> float:
    """The first step at which enough of the held-out sums are right; the last there can be where there is none."""
    steps, answers = read_curve(path)
    ours = answers[:, pairs[:, 0] * MODULUS + pairs[:, 1]]  # (E, n)
    reached = np.flatnonzero((ours == sums).mean(axis=1) >= RIGHT)
    return float(steps[reached[0]]) if len(reached) else float(LAST_STEP)


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--outputs", "--held_out", "--train", "--out_dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    args = parser.parse_args()
    metrics = {}
    try:
        for path in sorted(args.held_out.glob("*.npz")):
            wrong, learnt = [], []
            with np.load(path, allow_pickle=False) as held_out:
                for seed in args.seeds:
                    pairs, sums = held_out[f"pairs_{seed}"], held_out[f"sums_{seed}"]
                    logits = read_logits(args.outputs / f"predictions_{path.stem}_{seed}.npy")
                    ours = logits[pairs[:, 0], pairs[:, 1]]  # (n, symbols)
                    right = ours[np.arange(len(sums)), sums]
                    # A symbol is an answer only where it is above all others.
                    wrong.append(float(((ours >= right[:, None]).sum(axis=1) > 1).mean()))
                    learnt.append(steps_to(args.outputs / f"curve_{path.stem}_{seed}.npz", pairs, sums))
            found = {"steps_to_95": learnt, "error": wrong}
            metrics[path.stem] = {
                "means": {name: statistics.fmean(values) for name, values in found.items()},
                "stderrs": {
                    name: statistics.stdev(values) / math.sqrt(len(values))
                    for name, values in found.items()
                    if len(values) > 1
                },
                "final_info_dict": found,
            }
            print(f"{path.stem}: learnt at {', '.join(f'{value:.0f}' for value in learnt)}")
    except RefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
