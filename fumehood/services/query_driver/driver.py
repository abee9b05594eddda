"""Asks the model that a run left: imports `serve.py` from `/in/code` and writes its answers below `/work/answers`.

Runs inside a `query` execution, with the checkpoint and the code, without training data or answers:
`python /in/driver.py --kind=sample --count=1000 --datasets=circle,dino --seeds=1,2,3`.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Write `samples_<dataset>_<seed>.npy` ((count, ...) float32) or `predictions_<dataset>_<seed>.npy`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["sample", "predict"], required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--datasets", required=True)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--code", default="/in/code")
    parser.add_argument("--outputs", default="/in/outputs")
    parser.add_argument("--inputs", default="/in/inputs")
    parser.add_argument("--answers", default="answers")
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
                inputs = numpy.load(Path(asked.inputs) / f"{dataset}.npy", allow_pickle=False)
                values = serve.predict(model, inputs)
                name = f"predictions_{dataset}_{seed}.npy"
            numpy.save(answers / name, numpy.asarray(values, dtype=numpy.float32), allow_pickle=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
