"""A quadratic network that learns addition modulo 23 from most of its table, and writes down how. Numpy only.

    python experiment.py --out_dir=run_0

Reads `$FUMEHOOD_DATA/addition.npz` and the seeds in `$FUMEHOOD_SEEDS`, each of which has a split of its own. Answers
for the pairs in `$FUMEHOOD_INPUTS/addition.npy`, all of them and without their sums, while it trains. Writes
`curve_addition_<seed>.npz`, `checkpoint_addition_<seed>_<step>.npz`, `model_addition_<seed>.npz`, `parameters.json`
and, last, `final_info.json`. From a checkpoint it goes on with `--resume_from=FILE --stop_at=STEP`.
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
    evaluate_every: int = 20
    checkpoints: int = 2


Weights = dict[str, np.ndarray]


@dataclass
class State:
    """All that training goes on from."""

    step: int
    weights: Weights
    first: Weights
    second: Weights


def begin(config: Config, rng: np.random.Generator) -> State:
    """Fresh weights, and moments of nothing."""
    weights = build(config, rng)
    nothing = {name: np.zeros_like(value) for name, value in weights.items()}
    return State(0, weights, dict(nothing), dict(nothing))


def write_state(path: Path, state: State) -> None:
    """Keep a checkpoint."""
    groups = {"weights": state.weights, "first": state.first, "second": state.second}
    arrays = {f"{group}_{name}": value for group, values in groups.items() for name, value in values.items()}
    np.savez(path, step=np.int64(state.step), **arrays)


def read_state(path: Path) -> State:
    """Go on from a checkpoint."""
    with np.load(path, allow_pickle=False) as archive:
        groups = [
            {name.removeprefix(f"{group}_"): archive[name] for name in archive.files if name.startswith(f"{group}_")}
            for group in ("weights", "first", "second")
        ]
        return State(int(archive["step"]), *groups)


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


def update(config: Config, state: State, pairs: np.ndarray, sums: np.ndarray) -> float:
    """One update by AdamW on all pairs at once; returns the loss before it, in nats."""
    weights = state.weights
    inner, logits = forward(weights, pairs)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(pairs))
    loss = float(-np.log(chances[rows, sums] + 1e-30).mean())
    chances[rows, sums] -= 1
    chances /= len(pairs)
    back = (chances @ weights["out"].T) * 2 * inner
    identity = np.eye(config.symbols)
    left, right = identity[pairs[:, 0]], identity[pairs[:, 1]]  # (n, symbols)
    gradients = {"left": left.T @ back, "right": right.T @ back, "out": (inner**2).T @ chances}
    state.step += 1
    for name, gradient in gradients.items():
        state.first[name] = 0.9 * state.first[name] + 0.1 * gradient
        state.second[name] = 0.99 * state.second[name] + 0.01 * gradient**2
        first = state.first[name] / (1 - 0.9**state.step)
        second = state.second[name] / (1 - 0.99**state.step)
        weights[name] = weights[name] * (1 - config.learning_rate * config.weight_decay)
        weights[name] -= config.learning_rate * first / (np.sqrt(second) + 1e-8)
    return loss


def train(
    config: Config, state: State, pairs: np.ndarray, sums: np.ndarray, asked: np.ndarray, stop: int, kept: Path
) -> tuple[list[int], list[np.ndarray], float]:
    """Train until `stop`; returns the steps evaluated at, the symbols (n,) answered there, and the last loss."""
    gap = config.updates // (config.checkpoints + 1) // config.evaluate_every * config.evaluate_every
    steps, answers, loss = [], [], float("nan")
    while state.step < stop:
        loss = update(config, state, pairs, sums)
        if state.step % config.evaluate_every == 0:
            steps.append(state.step)
            answers.append(forward(state.weights, asked)[1].argmax(axis=1).astype(np.int16))
        if state.step % gap == 0 and state.step <= gap * config.checkpoints:
            write_state(kept.with_name(f"{kept.name}_{state.step}.npz"), state)
    return steps, answers, loss


def main() -> None:
    """Train a model for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    parser.add_argument("--resume_from", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--stop_at", type=int, default=0, help="end after this update; 0 does all")
    parser.add_argument("--only_dataset", choices=("", DATASET), default="", help="there is one")
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    args = parser.parse_args()
    config = Config(**{item.name: getattr(args, item.name) for item in fields(Config)})
    stop = min(args.stop_at or config.updates, config.updates)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    losses = []
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    asked = np.load(Path(os.environ["FUMEHOOD_INPUTS"]) / f"{DATASET}.npy", allow_pickle=False)  # noqa: TID251
    with np.load(Path(os.environ["FUMEHOOD_DATA"]) / f"{DATASET}.npz", allow_pickle=False) as data:  # noqa: TID251
        for seed in seeds:
            pairs, sums = data[f"pairs_{seed}"], data[f"sums_{seed}"]
            state = read_state(args.resume_from) if args.resume_from else begin(config, np.random.default_rng(seed))
            kept = args.out_dir / f"checkpoint_{DATASET}_{seed}"
            steps, answers, loss = train(config, state, pairs, sums, asked, stop, kept)
            np.savez_compressed(args.out_dir / f"curve_{DATASET}_{seed}.npz", steps=steps, predictions=answers)
            np.savez(args.out_dir / f"model_{DATASET}_{seed}.npz", **state.weights)
            losses.append(loss)
            print(f"seed {seed}: {loss:.4f} nats in training", flush=True)
    counts = {"parameters": sum(value.size for value in state.weights.values()), "updates": config.updates}
    (args.out_dir / "parameters.json").write_text(json.dumps(counts) + "\n")
    info = {DATASET: {"means": {"train_loss": statistics.fmean(losses)}, "final_info_dict": {"train_loss": losses}}}
    (args.out_dir / "final_info.json").write_text(json.dumps(info, indent=2) + "\n")


if __name__ == "__main__":
    main()
