"""How well a run's models answer for rows that they never saw: the numbers that count.

    python evaluate.py --outputs=answers --held_out=held_out --train=train --out_dir=results --seeds=1,2,3

`rmse`, where the targets are numbers: the root of the mean square of the differences. `error_rate`, where they are
classes: the share of answers, rounded to the nearest class, that are wrong. Answers that are missing, misshapen or not
finite end it with status 1 and one sentence. It never sees the experiment's code.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RefusedError(Exception):
    """These answers cannot be judged; the message says why."""


def read_answers(path: Path, count: int) -> NDArray[Any]:
    """Read a model's answers (count,), or refuse them."""
    try:
        with path.open("rb") as file:
            values = numpy.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise RefusedError(f"{path.name} is missing.") from None
    except Exception as error:  # noqa: BLE001 - a hostile header can fail in the tokeniser, in the parser, in a cast
        raise RefusedError(f"{path.name} is not a plain .npy array ({type(error).__name__}).") from None
    if values.shape != (count,) or values.dtype.kind != "f":
        raise RefusedError(f"{path.name} must hold floats of shape {(count,)}, not {values.dtype} {values.shape}.")
    if not numpy.isfinite(values).all():
        raise RefusedError(f"{path.name} holds values that are not finite.")
    return numpy.asarray(values, dtype=numpy.float64)


def judge(answers: NDArray[Any], targets: NDArray[Any]) -> tuple[str, float]:
    """Return the metric's name and value."""
    if targets.dtype.kind == "i":
        return "error_rate", float((numpy.rint(answers) != targets).mean())
    return "rmse", float(numpy.sqrt(numpy.mean((answers - targets) ** 2)))


def main() -> int:
    """Write metrics.json, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--outputs", "--held_out", "--train", "--out_dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    asked = parser.parse_args()
    metrics: dict[str, Any] = {}
    try:
        for path in sorted(asked.held_out.glob("*.npz")):
            values = []
            with numpy.load(path, allow_pickle=False) as held_out:
                for seed in asked.seeds:
                    targets = held_out[f"y_{seed}"]
                    answers = read_answers(asked.outputs / f"predictions_{path.stem}_{seed}.npy", len(targets))
                    name, value = judge(answers, targets)
                    values.append(value)
            stderrs = {name: statistics.stdev(values) / math.sqrt(len(values))} if len(values) > 1 else {}
            means = {name: statistics.fmean(values)}
            metrics[path.stem] = {"means": means, "stderrs": stderrs, "final_info_dict": {name: values}}
            print(f"{path.stem}: {name} {', '.join(f'{value:.4g}' for value in values)}")
    except RefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    asked.out_dir.mkdir(parents=True, exist_ok=True)
    (asked.out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
