"""The fitted models, asked for answers. The two signatures are fixed; their bodies may change."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import model
import numpy


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of a run."""
    fitted: object = pickle.loads((Path(path) / f"model_{dataset}_{seed}.pkl").read_bytes())  # noqa: S301 - its own
    return fitted


def predict(fitted: object, inputs: Any) -> Any:
    """Return the answers (n,) for features (n, d): numbers, or the places of classes."""
    return numpy.asarray(model.predict(fitted, inputs), dtype=numpy.float64)
