"""The trained models, asked for samples: `load` one, then `sample` from it.

    python serve.py --models=run_0 --count=10000

The two signatures are fixed; their bodies may change with the experiment. Nothing here needs training data. Run as a
program, it writes `samples_<dataset>_<seed>.npy` for every model of a run, as the platform does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import experiment
import numpy as np
import torch


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of checkpoints."""
    return experiment.load_model(Path(path) / f"model_{dataset}_{seed}.pt")


def sample(model: object, n: int, seed: int) -> np.ndarray:
    """Draw n points from a loaded model: float32, (n, 2)."""
    denoiser, schedule = model
    points = experiment.sample(denoiser, schedule, n, torch.Generator().manual_seed(seed))
    return points.cpu().numpy().astype(np.float32)


def main() -> None:
    """Write samples of every model in a run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    args = parser.parse_args()
    for checkpoint in sorted(args.models.glob("model_*.pt")):
        _, dataset, seed = checkpoint.stem.split("_")
        points = sample(load(args.models, dataset, int(seed)), args.count, int(seed))
        np.save(args.models / f"samples_{dataset}_{seed}.npy", points)
        print(f"{dataset} seed {seed}: {len(points)} samples")


if __name__ == "__main__":
    main()
