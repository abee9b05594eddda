"""The trained model, asked for the sums of pairs. The three signatures are fixed; their bodies may change."""

from __future__ import annotations

from pathlib import Path

import experiment
import numpy as np


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the weights of a data set and seed from the folder of checkpoints."""
    with np.load(Path(path) / f"model_{dataset}_{seed}.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def load_checkpoint(file: str | Path, dataset: str, seed: int) -> object:
    """Load the weights of a checkpoint that was kept while a data set and seed were trained on."""
    return experiment.read_state(Path(file)).weights


def predict(model: object, inputs: np.ndarray) -> np.ndarray:
    """Return logits (n, symbols) of the sums of pairs (n, 2)."""
    return experiment.forward(model, inputs)[1]
