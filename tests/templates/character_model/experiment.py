"""A character model: a window of the last characters, an embedding, one hidden layer, a softmax. Numpy only.

    python experiment.py --out_dir=run_0

Reads `$FUMEHOOD_DATA/tales.json` and the seeds in `$FUMEHOOD_SEEDS`. Writes `model_tales_<seed>.npz`,
`parameters.json` and, last, `final_info.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

DATASET = "tales"
START = 0
"""The window's filling before a stream begins; characters count from 1."""


@dataclass(frozen=True)
class Config:
    """Everything that can be set; each field is also a command-line argument."""

    context: int = 4
    embedding: int = 12
    hidden: int = 64
    updates: int = 900
    batch: int = 128
    learning_rate: float = 0.01
    symbols: int = 28


class Model:
    """Weights, and what they say of the next character."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config = config
        width = config.context * config.embedding
        self.weights = {
            "embed": rng.normal(0, 0.5, (config.symbols + 1, config.embedding)),
            "first": rng.normal(0, width**-0.5, (width, config.hidden)),
            "bias": np.zeros(config.hidden),
            "last": rng.normal(0, config.hidden**-0.5, (config.hidden, config.symbols)),
            "offset": np.zeros(config.symbols),
        }

    def logits(self, windows: np.ndarray) -> np.ndarray:
        """What comes next after windows (B, context): (B, symbols)."""
        return self._forward(windows)[2]

    def _forward(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights = self.weights
        embedded = weights["embed"][windows].reshape(len(windows), -1)  # (B, context * embedding)
        hidden = np.tanh(embedded @ weights["first"] + weights["bias"])  # (B, hidden)
        return embedded, hidden, hidden @ weights["last"] + weights["offset"]

    def gradients(self, windows: np.ndarray, targets: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss in nats per character, and its gradient."""
        embedded, hidden, logits = self._forward(windows)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)  # (B, symbols)
        rows = np.arange(len(targets))
        loss = float(-np.log(chances[rows, targets]).mean())
        chances[rows, targets] -= 1
        chances /= len(targets)
        inner = (chances @ self.weights["last"].T) * (1 - hidden**2)  # (B, hidden)
        embed = np.zeros_like(self.weights["embed"])
        parts = (inner @ self.weights["first"].T).reshape(*windows.shape, -1)  # (B, context, embedding)
        np.add.at(embed, windows, parts)
        return loss, {
            "embed": embed,
            "first": embedded.T @ inner,
            "bias": inner.sum(axis=0),
            "last": hidden.T @ chances,
            "offset": chances.sum(axis=0),
        }


def train(config: Config, codes: np.ndarray, seed: int) -> tuple[Model, float]:
    """Train on a text of codes (N,) with Adam; returns the model and its last loss."""
    rng = np.random.default_rng(seed)
    model = Model(config, rng)
    padded = np.concatenate([np.full(config.context, START), codes])
    windows = np.lib.stride_tricks.sliding_window_view(padded, config.context)[: len(codes)]  # (N, context)
    first = {name: np.zeros_like(value) for name, value in model.weights.items()}
    second = {name: np.zeros_like(value) for name, value in model.weights.items()}
    losses = []
    for step in range(1, config.updates + 1):
        chosen = rng.integers(len(codes), size=config.batch)
        loss, gradients = model.gradients(windows[chosen], codes[chosen] - 1)
        rate = config.learning_rate * (1 - step / (config.updates + 1))
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.99 * second[name] + 0.01 * gradient**2
            scale = np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8
            model.weights[name] -= rate * first[name] / (1 - 0.9**step) / scale
        losses.append(loss)
    return model, statistics.fmean(losses[-50:])


def save_model(path: Path, model: Model, alphabet: str) -> None:
    """Write the weights with what is needed to build the model again."""
    told = json.dumps({"config": asdict(model.config), "alphabet": alphabet})
    np.savez(path, told=np.array(told), **model.weights)


def load_model(path: Path) -> tuple[Model, str]:
    """Build a saved model again, and return its alphabet."""
    with np.load(path, allow_pickle=False) as archive:
        told = json.loads(str(archive["told"]))
        model = Model(Config(**told["config"]), np.random.default_rng(0))
        model.weights = {name: archive[name] for name in model.weights}
    return model, told["alphabet"]


def load_text() -> tuple[str, str]:
    """Read the alphabet and the training text."""
    folder = Path(os.environ["FUMEHOOD_DATA"])  # noqa: TID251 - a template has no settings but these two
    told = json.loads((folder / f"{DATASET}.json").read_text(encoding="utf-8"))
    return told["alphabet"], told["text"]


def main() -> None:
    """Train a model for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    args = parser.parse_args()
    config = Config(**{item.name: getattr(args, item.name) for item in fields(Config)})
    alphabet, text = load_text()
    codes = np.array([alphabet.index(character) + 1 for character in text])  # (N,)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    losses = []
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2").split(",")]  # noqa: TID251
    for seed in seeds:
        model, loss = train(config, codes, seed)
        save_model(args.out_dir / f"model_{DATASET}_{seed}.npz", model, alphabet)
        losses.append(loss)
        print(f"seed {seed}: {loss:.4f} nats per character in training", flush=True)
    counts = {"parameters": sum(value.size for value in model.weights.values()), "updates": config.updates}
    (args.out_dir / "parameters.json").write_text(json.dumps(counts) + "\n")
    info = {DATASET: {"means": {"train_loss": statistics.fmean(losses)}, "final_info_dict": {"train_loss": losses}}}
    (args.out_dir / "final_info.json").write_text(json.dumps(info, indent=2) + "\n")


if __name__ == "__main__":
    main()
