"""Nats per character of answers that were given before each character was read.

    python evaluate.py --outputs=answers --held_out=held_out --train=train --out_dir=results --seeds=1,2

Normalises the answers itself, so that what they add up to is no matter; what is not finite is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np


class RefusedError(Exception):
    """These answers cannot be judged; the message says why."""


def read_logits(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read the answers of a text: (characters, alphabet), or refuse them."""
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if values.shape != shape or values.dtype.kind != "f":
        raise RefusedError(f"{path.name} must hold floats of shape {shape}, not {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    return values.astype(np.float64)


def nats(logits: np.ndarray, places: np.ndarray) -> float:
    """Mean negative log-probability of the characters that came, of logits (N, alphabet) and places (N,)."""
    raised = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(raised).sum(axis=1)) - raised[np.arange(len(places)), places]).mean())


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--outputs", "--held_out", "--train", "--out_dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    args = parser.parse_args()
    metrics = {}
    try:
        for path in sorted(args.held_out.glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            values = []
            for seed in args.seeds:
                text = told["text"][str(seed)]
                places = np.array([told["alphabet"].index(character) for character in text])
                shape = (len(text), len(told["alphabet"]))
                values.append(nats(read_logits(args.outputs / f"logits_{path.stem}_{seed}.npy", shape), places))
            metrics[path.stem] = {
                "means": {"nats_per_character": statistics.fmean(values)},
                "stderrs": {"nats_per_character": statistics.stdev(values) / math.sqrt(len(values))}
                if len(values) > 1
                else {},
                "final_info_dict": {"nats_per_character": values},
            }
            print(f"{path.stem}: {', '.join(f'{value:.4f}' for value in values)} nats per character")
    except RefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
