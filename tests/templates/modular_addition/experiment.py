"""A quadratic network that learns addition modulo 23 from half of its table. Numpy only.

    python experiment.py --out_dir=run_0

Reads `$FUMEHOOD_DATA/addition.npz` and the seeds in `$FUMEHOOD_SEEDS`, each of which has a split of its own. Writes
`model_addition_<seed>.npz`, `parameters.json` and, last, `final_info.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

DATASET = "addition"


@dataclass(frozen=True)
class Config:
    """Everything that can be set; each field is also a command-line argument."""

    hidden: int = 128
    updates: int = 600
    learning_rate: float = 0.02
    weight_decay: float = 1.0
    symbols: int = 23


Weights = dict[str, np.ndarray]


def build(config: Config, rng: np.random.Generator) -> Weights:
    """Fresh weights: two embeddings (symbols, hidden) and an output (hidden, symbols)."""
    shape = (config.symbols, config.hidden)
    return {
        "left": rng.normal(0, config.symbols**-0.5, shape),
        "right": rng.normal(0, config.symbols**-0.5, shape),
        "out": rng.normal(0, config.hidden**-0.5, shape[::-1]),
    }


def forward(weights: Weights, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inner sums (n, hidden) and the logits (n, symbols) of pairs (n, 2)."""
    inner = weights["left"][pairs[:, 0]] + weights["right"][pairs[:, 1]]
    return inner, inner**2 @ weights["out"]


def train(config: Config, pairs: np.ndarray, sums: np.ndarray, seed: int) -> tuple[Weights, float]:
    """Train on all pairs at once with AdamW; returns the weights and the last loss in nats."""
    weights = build(config, np.random.default_rng(seed))
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    identity, rows = np.eye(config.symbols), np.arange(len(pairs))
    left, right = identity[pairs[:, 0]], identity[pairs[:, 1]]  # (n, symbols)
    for step in range(1, config.updates + 1):
        inner, logits = forward(weights, pairs)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        loss = float(-np.log(chances[rows, sums] + 1e-30).mean())
        chances[rows, sums] -= 1
        chances /= len(pairs)
        back = (chances @ weights["out"].T) * 2 * inner
        gradients = {"left": left.T @ back, "right": right.T @ back, "out": (inner**2).T @ chances}
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.99 * second[name] + 0.01 * gradient**2
            change = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
            weights[name] = weights[name] * (1 - config.learning_rate * config.weight_decay)
            weights[name] -= config.learning_rate * change
    return weights, loss


def main() -> None:
    """Train a model for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    args = parser.parse_args()
    config = Config(**{item.name: getattr(args, item.name) for item in fields(Config)})
    args.out_dir.mkdir(parents=True, exist_ok=True)
    losses = []
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    with np.load(Path(os.environ["FUMEHOOD_DATA"]) / f"{DATASET}.npz", allow_pickle=False) as data:  # noqa: TID251
        for seed in seeds:
            weights, loss = train(config, data[f"pairs_{seed}"], data[f"sums_{seed}"], seed)
            np.savez(args.out_dir / f"model_{DATASET}_{seed}.npz", **weights)
            losses.append(loss)
            print(f"seed {seed}: {loss:.4f} nats in training", flush=True)
    counts = {"parameters": sum(value.size for value in weights.values()), "updates": config.updates}
    (args.out_dir / "parameters.json").write_text(json.dumps(counts) + "\n")
    info = {DATASET: {"means": {"train_loss": statistics.fmean(losses)}, "final_info_dict": {"train_loss": losses}}}
    (args.out_dir / "final_info.json").write_text(json.dumps(info, indent=2) + "\n")


if __name__ == "__main__":
    main()
