"""Asks the model that a run left: imports `serve.py` from `/in/code` and writes its answers below `/work/answers`.

Runs inside a `query` execution, with the checkpoint and the code, without training data or answers:
`python /in/driver.py --kind=sample --count=1000 --datasets=circle,dino --seeds=1,2,3`.

Where a run writes down a curve, `--recall=classes` or `--recall=values` asks each checkpoint that it kept, too, at
`checkpoints/<dataset>/<seed>/<step>.<suffix>`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Write `samples_<dataset>_<seed>.npy` ((count, ...) float32) or `predictions_<dataset>_<seed>.npy`.

    Of checkpoints, `recalled_<dataset>_<seed>_<step>.npy`: (n,) int64 classes, or what `predict` gave as float32.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["sample", "predict"], required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--datasets", required=True)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--code", default="/in/code")
    parser.add_argument("--outputs", default="/in/outputs")
    parser.add_argument("--inputs", default="/in/inputs")
    parser.add_argument("--answers", default="answers")
    parser.add_argument("--recall", choices=["classes", "values"])
    parser.add_argument("--checkpoints", default="/in/checkpoints")
    asked = parser.parse_args()
    sys.path.insert(0, asked.code)
    import numpy
    import serve  # type: ignore[import-not-found]

    answers = Path(asked.answers)
    answers.mkdir(exist_ok=True)
    for dataset in asked.datasets.split(","):
        for seed in map(int, asked.seeds.split(",")):
            model = serve.load(asked.outputs, dataset, seed)
            if asked.kind == "sample":
                values = serve.sample(model, asked.count, seed)
                name = f"samples_{dataset}_{seed}.npy"
            else:
                values = serve.predict(model, _inputs(asked.inputs, dataset, seed))
                name = f"predictions_{dataset}_{seed}.npy"
            numpy.save(answers / name, numpy.asarray(values, dtype=numpy.float32), allow_pickle=False)
            for file in sorted(Path(asked.checkpoints, dataset, str(seed)).glob("*")) if asked.recall else ():
                model = serve.load_checkpoint(str(file), dataset, seed)
                values = numpy.asarray(serve.predict(model, _inputs(asked.inputs, dataset, seed)), dtype=numpy.float32)
                recalled = values.argmax(axis=-1) if asked.recall == "classes" else values
                numpy.save(answers / f"recalled_{dataset}_{seed}_{file.stem}.npy", recalled, allow_pickle=False)
    return 0


def _inputs(folder: str, dataset: str, seed: int) -> Any:
    """Return the inputs of a data set: those of the seed, where each has its own."""
    import numpy

    of_seed = Path(folder) / f"{dataset}_{seed}.npy"
    path = of_seed if of_seed.exists() else Path(folder) / f"{dataset}.npy"
    return numpy.load(path, allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main())
