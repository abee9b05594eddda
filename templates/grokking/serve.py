"""The trained models, asked for results: `load` one, then `predict` with it.

    python serve.py --models=run_0 --inputs=inputs

The three signatures are fixed; their bodies may change with the experiment. Nothing here needs training data. Run as a
program, it writes `predictions_<dataset>_<seed>.npy` for every model of a run, as the platform does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import experiment
import numpy as np
import torch


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of a run."""
    return load_checkpoint(Path(path) / f"model_{dataset}_{seed}.pt", dataset, seed)


def load_checkpoint(file: str | Path, dataset: str, seed: int) -> object:  # noqa: ARG001 - for models that differ
    """Load what the model of a data set and seed was when this checkpoint was written."""
    return experiment.load_model(Path(file))


def predict(model: object, inputs: np.ndarray) -> np.ndarray:
    """Return logits (n, symbols) of the results of pairs (n, 2)."""
    logits = experiment.predict(model, torch.from_numpy(np.asarray(inputs, dtype=np.int64)))
    return logits.cpu().numpy().astype(np.float32)


def main() -> None:
    """Write the answers of every model in a run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True, help="<dataset>_<seed>.npy of --part=inputs")
    args = parser.parse_args()
    for checkpoint in sorted(args.models.glob("model_*.pt")):
        name = checkpoint.stem.removeprefix("model_")
        dataset, _, seed = name.rpartition("_")
        answers = predict(load(args.models, dataset, int(seed)), np.load(args.inputs / f"{name}.npy"))
        np.save(args.models / f"predictions_{name}.npy", answers)
        print(f"{dataset} seed {seed}: {len(answers)} answers")


if __name__ == "__main__":
    main()
