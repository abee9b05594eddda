"""The share of held-out sums that a model gets wrong.

    python evaluate.py --outputs=answers --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

The model was asked for the whole table; only pairs that its seed did not train on are counted. What is not finite is
refused, and so are answers that do not tell the symbols apart.
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
            wrong = []
            with np.load(path, allow_pickle=False) as held_out:
                for seed in args.seeds:
                    pairs, sums = held_out[f"pairs_{seed}"], held_out[f"sums_{seed}"]
                    logits = read_logits(args.outputs / f"predictions_{path.stem}_{seed}.npy")
                    ours = logits[pairs[:, 0], pairs[:, 1]]  # (n, symbols)
                    right = ours[np.arange(len(sums)), sums]
                    # A symbol is an answer only where it is above all others.
                    wrong.append(float(((ours >= right[:, None]).sum(axis=1) > 1).mean()))
            spread = {"error": statistics.stdev(wrong) / math.sqrt(len(wrong))} if len(wrong) > 1 else {}
            means = {"error": statistics.fmean(wrong)}
            metrics[path.stem] = {"means": means, "stderrs": spread, "final_info_dict": {"error": wrong}}
            print(f"{path.stem}: {', '.join(f'{value:.4f}' for value in wrong)} of the sums are wrong")
    except RefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
