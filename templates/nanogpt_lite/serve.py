"""The trained models, asked for one character of each stream after another.

    python serve.py --models=run_0 --count=500

The three signatures are fixed; their bodies may change with the experiment. Nothing here needs training data. Run as a
program, it prints a text that each model of a run writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import experiment
import numpy as np
import torch
from model import Reading, sample


def load(path: str | Path, dataset: str, seed: int) -> object:
    """Load the model of a data set and seed from the folder of checkpoints."""
    return experiment.load_model(Path(path) / f"model_{dataset}_{seed}.pt")


def begin(model: object, streams: int) -> object:
    """Return what is known of streams of which nothing was read."""
    network, _ = model
    return Reading(network, streams)


def step(model: object, state: object, characters: list[str]) -> np.ndarray:
    """Take one character of each stream, empty at the beginning, and return the next one's logits.

    They are float32, (streams, alphabet); how they are normalised is no matter.
    """
    _, codes = model
    if not characters[0]:
        return state.step().cpu().numpy()
    read = torch.tensor([codes[character] for character in characters], device=state.start.device)  # (streams,)
    return state.step(read).cpu().numpy()


def main() -> None:
    """Print a text of every model in a run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="characters")
    args = parser.parse_args()
    for checkpoint in sorted(args.models.glob("model_*.pt")):
        dataset, _, seed = checkpoint.stem.removeprefix("model_").rpartition("_")
        network, codes = load(args.models, dataset, int(seed))
        letters = {code: character for character, code in codes.items()}
        (drawn,) = sample(network, 1, args.count, torch.Generator().manual_seed(int(seed)))
        print(f"--- {dataset} seed {seed}\n{''.join(letters[code] for code in drawn.tolist())}")


if __name__ == "__main__":
    main()
