"""How well a run's models answer for pairs they never saw, and when they began to: the numbers that count.

    python evaluate.py --outputs=run_0 --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

Small machine: add `--last_step` and `--evaluate_every` of the profile `tiny` in template.toml.

Needs numpy only, and never sees the experiment's code. Metrics, for each data set and seed, over held-out pairs:
- `steps_to_99`: updates until the curve of answers is first right for more than 99 % of them; where it never is, the
  last step;
- `steps_to_50`: the same for half of them;
- `val_accuracy`: the share of them that the last model gets right: the result is above every other symbol;
- `val_loss`: its mean negative log probability of the results, in nats.
Answers and curves that cannot be judged (missing, misshapen, not finite, of another length) end it with status 1 and
one sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np

STEPS = {"steps_to_99": 0.99, "steps_to_50": 0.5}
SHOWN = ("steps_to_99", "val_accuracy")


class RefusedError(Exception):
    """These outputs cannot be judged; the message says why."""


def read_array(file: object, name: str) -> np.ndarray:
    """Read a plain array, or refuse it."""
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{name} is not a plain .npy array ({type(error).__name__}).") from None


def read_logits(path: Path, pairs: int, symbols: int) -> np.ndarray:
    """Read the last model's answers (pairs, symbols), or refuse them."""
    try:
        with path.open("rb") as file:
            logits = read_array(file, path.name)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    if logits.shape != (pairs, symbols) or logits.dtype.kind != "f":
        raise RefusedError(
            f"{path.name} must hold floats of shape {(pairs, symbols)}, not {logits.dtype} {logits.shape}."
        )
    if not np.isfinite(logits).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    return logits.astype(np.float64)


def read_curve(path: Path, pairs: int, expected: np.ndarray) -> np.ndarray:
    """Read the symbols taken for the results at the expected steps, (E, pairs), or refuse them."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            steps, taken = archive["steps"], archive["predictions"]
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # as above, and whatever is wrong with an archive
        raise RefusedError(f"{path.name} is not a plain archive of a curve ({type(error).__name__}).") from None
    if steps.dtype.kind not in "iu" or not np.array_equal(steps, expected):
        told = f"{expected[0]}, {2 * expected[0]} ... {expected[-1]}"
        raise RefusedError(f"{path.name} must hold whole steps, {told}.")
    if taken.shape != (len(steps), pairs) or taken.dtype.kind not in "iu":
        raise RefusedError(f"{path.name} must hold whole numbers of shape {(len(steps), pairs)}, not {taken.shape}.")
    return taken


def accuracy_and_loss(logits: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
    """Judge logits (n, symbols) by the results (n,); a symbol is an answer only where it is above all others."""
    right = logits[np.arange(len(answers)), answers]  # (n,)
    accuracy = float(((logits >= right[:, None]).sum(axis=1) == 1).mean())
    highest = logits.max(axis=1)  # (n,) taken off first, since large logits would drown the rest
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return accuracy, float((total + (highest - right)).mean())


def steps_until(steps: np.ndarray, accuracies: np.ndarray, share: float) -> int:
    """The first step (of E) at which the accuracy is above a share; the last one where it never is."""
    above = np.flatnonzero(accuracies > share)
    return int(steps[above[0]] if len(above) else steps[-1])


def summary(values: dict[str, list[float]]) -> dict[str, dict]:
    """Mean, standard error over seeds (of one seed there is none), and the values themselves."""
    several = {name: per_seed for name, per_seed in values.items() if len(per_seed) > 1}
    return {
        "means": {name: statistics.fmean(per_seed) for name, per_seed in values.items()},
        "stderrs": {name: statistics.stdev(one) / math.sqrt(len(one)) for name, one in several.items()},
        "final_info_dict": values,
    }


def evaluate(args: argparse.Namespace) -> dict[str, dict]:
    """Judge every data set that has held-out pairs."""
    metrics = {}
    paths = sorted(args.held_out.glob("*.npz"))
    if not paths:
        raise RefusedError("There is no held-out data.")
    steps = np.arange(args.evaluate_every, args.last_step + 1, args.evaluate_every)  # (E,)
    for path in paths:
        values: dict[str, list[float]] = {name: [] for name in (*STEPS, "val_accuracy", "val_loss")}
        with np.load(path, allow_pickle=False) as archive:
            held_out = {name: archive[name] for name in archive.files}
        for seed in args.seeds:
            if f"answers_{seed}" not in held_out:
                raise RefusedError(f"{path.name} has no held-out pairs for seed {seed}.")
            answers, name = held_out[f"answers_{seed}"], f"{path.stem}_{seed}"
            logits = read_logits(args.outputs / f"predictions_{name}.npy", len(answers), int(held_out["symbols"]))
            accuracy, loss = accuracy_and_loss(logits, answers)
            taken = read_curve(args.outputs / f"curve_{name}.npz", len(answers), steps)
            accuracies = (taken == answers).mean(axis=1)  # (E,)
            for metric, share in STEPS.items():
                values[metric].append(steps_until(steps, accuracies, share))
            values["val_accuracy"].append(accuracy)
            values["val_loss"].append(loss)
        metrics[path.stem] = summary(values)
        shown = "; ".join(f"{metric} {', '.join(f'{one:.4g}' for one in values[metric])}" for metric in SHOWN)
        print(f"{path.stem}: {shown}")
    return metrics


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--outputs", type=Path, required=True, help="predictions_<dataset>_<seed>.npy and curve_<dataset>_<seed>.npz"
    )
    parser.add_argument("--held_out", type=Path, required=True, help="<dataset>.npz of --part=answers")
    parser.add_argument("--train", type=Path, required=True, help="<dataset>.npz of --part=train, which is not needed")
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--last_step", type=int, default=7500, help="updates of a whole training")
    parser.add_argument("--evaluate_every", type=int, default=50, help="updates between two points of a curve")
    args = parser.parse_args()
    if args.evaluate_every < 1 or args.last_step < 1 or args.last_step % args.evaluate_every:
        parser.error("--last_step must be a multiple of --evaluate_every")
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
