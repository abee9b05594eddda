"""Nats per character of answers that were given before each character was read.

    python evaluate.py --outputs=answers --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

Reads the answers `logits_<dataset>_<seed>.npy` that a model gave, (characters, alphabet), and the texts
`<dataset>.json` that it was asked about; writes `metrics.json`. It normalises the answers itself, so that what they
add up to is no matter. Answers that cannot be judged (missing, misshapen, not finite) end it with status 1 and one
sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np

ROWS = 65_536
"""Answers that are read at a time."""


class RefusedError(Exception):
    """These answers cannot be judged; the message says why."""


def read_answers(path: Path, shape: tuple[int, int]) -> np.ndarray:
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
    return values


def nats(logits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Negative log-probability of each character that came, (N,), of logits (N, alphabet) and places (N,)."""
    parts = []
    for first in range(0, len(places), ROWS):
        values = logits[first : first + ROWS].astype(np.float64)
        raised = values - values.max(axis=1, keepdims=True)
        came = raised[np.arange(len(raised)), places[first : first + ROWS]]
        parts.append(np.log(np.exp(raised).sum(axis=1)) - came)
    return np.concatenate(parts)


def summary(values: dict[str, list[float]]) -> dict[str, dict]:
    """Mean, standard error over seeds (of one seed there is none), and the values themselves."""
    several = {name: per_seed for name, per_seed in values.items() if len(per_seed) > 1}
    return {
        "means": {name: statistics.fmean(per_seed) for name, per_seed in values.items()},
        "stderrs": {name: statistics.stdev(one) / math.sqrt(len(one)) for name, one in several.items()},
        "final_info_dict": values,
    }


def evaluate(args: argparse.Namespace) -> dict[str, dict]:
    """Judge every data set that has held-out text."""
    metrics = {}
    paths = sorted(args.held_out.glob("*.json"))
    if not paths:
        raise RefusedError("There is no held-out text.")
    for path in paths:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            code = {character: place for place, character in enumerate(told["alphabet"])}
            texts = {seed: np.array([code[one] for one in told["text"][str(seed)]]) for seed in args.seeds}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"{path.name} of the held-out texts cannot be read ({error!r}).") from None
        values: dict[str, list[float]] = {"nats_per_character": [], "late_nats_per_character": []}
        for seed, places in texts.items():
            if len(places) % args.block:
                raise RefusedError(f"{path.name} has {len(places)} characters for seed {seed}, no whole streams.")
            logits = read_answers(args.outputs / f"logits_{path.stem}_{seed}.npy", (len(places), len(code)))
            streams = nats(logits, places).reshape(-1, args.block)  # (streams, block)
            values["nats_per_character"].append(float(streams.mean()))
            values["late_nats_per_character"].append(float(streams[:, args.block // 2 :].mean()))
        metrics[path.stem] = summary(values)
        shown = ", ".join(f"{value:.4f}" for value in values["nats_per_character"])
        print(f"{path.stem}: {shown} nats per character")
    return metrics


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, required=True, help="logits_<dataset>_<seed>.npy")
    parser.add_argument("--held_out", type=Path, required=True, help="<dataset>.json of --part=answers")
    parser.add_argument("--train", type=Path, required=True, help="what --part=train wrote; not needed here")
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--block", type=int, default=256, help="characters of a stream")
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
