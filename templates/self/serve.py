"""What was learnt, asked about other pairs: `load` one, then `predict` with it.

    python serve.py --models=run_0 --inputs=inputs

The two signatures are fixed; their bodies may change with the experiment. Nothing here needs the training pairs. Run as
a program, it writes `predictions_<dataset>_<seed>.npy` for every model of a run, as the platform does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import experiment
import numpy as np


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of a run."""
    return experiment.load_model(Path(path) / f"model_{dataset}_{seed}.npz")


def predict(model: object, inputs: np.ndarray) -> np.ndarray:
    """Return the probability that the plans of each pair (m, 2, longest) are one idea: (m,)."""
    return experiment.predict(model, inputs)


def main() -> None:
    """Write the judgements of every model in a run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True, help="<dataset>_<seed>.npy of --part=inputs")
    args = parser.parse_args()
    for path in sorted(args.models.glob("model_*.npz")):
        name = path.stem.removeprefix("model_")
        dataset, _, seed = name.rpartition("_")
        told = predict(load(args.models, dataset, int(seed)), np.load(args.inputs / f"{name}.npy"))
        np.save(args.models / f"predictions_{name}.npy", told.astype(np.float32))
        print(f"{dataset} seed {seed}: {len(told)} judgements")


if __name__ == "__main__":
    main()
