"""The trained model, asked for one character of each stream after another.

The three signatures are fixed; their bodies may change with the experiment.
"""

from __future__ import annotations

from pathlib import Path

import experiment
import numpy as np


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of checkpoints."""
    return experiment.load_model(Path(path) / f"model_{dataset}_{seed}.npz")


def begin(model: object, streams: int) -> object:
    """Return what is known of streams of which nothing was read: their windows, (streams, context)."""
    network, _ = model
    return np.full((streams, network.config.context), experiment.START)


def step(model: object, state: object, characters: list[str]) -> np.ndarray:
    """Take one character of each stream, empty at the beginning, and return the next one's logits.

    They are (streams, alphabet); how they are normalised is no matter.
    """
    network, alphabet = model
    for row, character in enumerate(characters):
        if character:
            state[row, :-1] = state[row, 1:]
            state[row, -1] = alphabet.index(character) + 1
    return network.logits(state)
