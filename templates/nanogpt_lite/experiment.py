"""A character-level language model: a small GPT for each data set and seed, trained on blocks of characters.

    python experiment.py --out_dir=run_0

Small machine: add `--block_size=64 --n_layer=2 --n_head=2 --n_embd=64 --batch_size=8 --iterations=60 --warmup=10
--learning_rate=3e-3 --evaluate_every=30 --sample_characters=50` (a few seconds for each model on one core).

Where the command line says nothing, a data set has the settings of the original template (`Config` and `SETTINGS`).
Each block begins with a mark, so that the model also learns to predict a character of which it has seen nothing
before. The weights that are kept are those with the least loss on the validation text, as in the original.

Reads `$FUMEHOOD_DATA/<dataset>.npz` and the seeds in `$FUMEHOOD_SEEDS`; without them it makes its own data with the
`prepare.py` beside it. Writes, into the folder `--out_dir` only: `model_<dataset>_<seed>.pt`,
`sample_<dataset>_<seed>.txt`, `losses.npz`, `parameters.json` and, last, `final_info.json`. What was trained before an
interruption is told by `<dataset>_<seed>.done` and not trained again; a training that was broken off is taken up at its
last `checkpoint_<dataset>_<seed>.pt` (`journal.py`). `serve.py` loads the models and is asked for
one character after another.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
import zlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from journal import Journal
from model import GPT, Config, sample
from torch import Tensor, nn
from torch.nn import functional as F

STEPS_PER_DRAW = 100  # places of batches are drawn this many steps at a time
CURVE_POINTS = 200  # points kept of each training curve


SETTINGS: dict[str, dict[str, Any]] = {
    name: {"batch_size": 32, "iterations": 100_000, "learning_rate": 5e-4, "warmup": 200, "evaluate_every": 1000}
    for name in ("enwik8", "text8")
}
"""What a data set has in the place of the defaults, unless the command line says otherwise."""


class Member(NamedTuple):
    """One model of the run."""

    dataset: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.seed}"

    def random_seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.name} {purpose}".encode())


class Text:
    """A text as codes on the device, cut into blocks; a block's inputs are its characters, one later."""

    def __init__(self, codes: np.ndarray, config: Config, start: int, device: str) -> None:
        assert len(codes) >= config.block_size, f"a text of {len(codes)} characters has no block"
        self.codes = torch.tensor(codes, device=device)  # (N,) uint8
        self.offsets = torch.arange(config.block_size, device=device)
        self.first = torch.full((1, 1), start, device=device)
        self.places = len(codes) - config.block_size + 1

    def blocks(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The blocks that begin at places (B,): inputs (B, T) and what is to be predicted (B, T)."""
        targets = self.codes[places.unsqueeze(1) + self.offsets].long()
        return torch.cat([self.first.expand(len(places), 1), targets[:, :-1]], dim=1), targets


@torch.inference_mode()
def mean_loss(model: GPT, text: Text, config: Config) -> float:
    """Nats per character over the text's blocks, evenly spread where there are many, without dropout."""
    count = min(config.evaluation_blocks, (text.places - 1) // config.block_size + 1)
    places = torch.linspace(0, text.places - 1, count, dtype=torch.float64).long().to(text.codes.device)
    was_training = model.training
    model.eval()
    total = torch.zeros((), device=places.device)
    for part in places.split(config.batch_size):
        inputs, targets = text.blocks(part)
        with mixed_precision(inputs.device):
            logits = model(inputs).flatten(0, 1)  # (B * T, symbols)
        total += F.cross_entropy(logits.float(), targets.flatten(), reduction="sum")
    model.train(was_training)
    return (total / (count * config.block_size)).item()


def mixed_precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def learning_rate(step: int, config: Config) -> float:
    """The rate of a step: a linear rise, then half a cosine down to a tenth."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / (config.warmup + 1)
    done = (step - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def make_optimiser(model: GPT, config: Config) -> torch.optim.Optimizer:
    """AdamW; matrices and embeddings decay, the rest does not."""
    weights = list(model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


class Trained(NamedTuple):
    """What a training comes to."""

    model: GPT
    losses: Tensor  # (iterations,) of the batches, with dropout
    validation: list[tuple[int, float]]  # (iteration, nats per character)
    idle: list[str]  # parameters that never had a gradient


def train(config: Config, member: Member, data: dict[str, np.ndarray], device: str, journal: Journal) -> Trained:
    """Train one model; it comes back with the weights that did best on the validation text."""
    torch.manual_seed(member.random_seed("weights and dropout"))
    model = GPT(config, len(data["alphabet"])).to(device)
    text, validation = (Text(data[part], config, model.start, device) for part in ("train", "validation"))
    faster = torch.compile(model) if device == "cuda" and shutil.which("cc") else model  # Triton needs a compiler
    optimiser = make_optimiser(model, config)
    generator = torch.Generator().manual_seed(member.random_seed("batches"))
    losses = torch.empty(config.iterations, device=device)
    curve: list[tuple[int, float]] = []
    best, idle = {}, {name for name, _ in model.named_parameters()}
    lasting = ({"weights": model.state_dict()}, {"optimiser": optimiser}, [generator])
    before = journal.take_up(*lasting)
    if before:
        curve, best, idle = [(at, loss) for at, loss in before["curve"]], before["best"], set(before["idle"])
        losses[: before["step"]] = before["losses"]
    start = before.get("step", 0)
    for step in range(start, config.iterations):
        if step % STEPS_PER_DRAW == 0:
            if step > start:
                told = {"curve": curve, "best": best, "idle": sorted(idle), "losses": losses[:step]}
                journal.keep(*lasting, step=step, **told)
            shape = (STEPS_PER_DRAW, config.batch_size)
            places = torch.randint(text.places, shape, generator=generator).to(device)
        inputs, targets = text.blocks(places[step % STEPS_PER_DRAW])
        with mixed_precision(inputs.device):
            logits = faster(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        optimiser.step()
        losses[step] = loss.detach()
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.iterations:
            idle -= {name for name, weight in model.named_parameters() if name in idle and weight.grad.any()}
            curve.append((step + 1, mean_loss(model, validation, config)))
            if not math.isfinite(curve[-1][1]):
                raise FloatingPointError(f"the loss of {member.name} is not finite at step {step + 1}")
            if curve[-1][1] == min(value for _, value in curve):
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            told = f"loss {loss.item():.4f}, validation {curve[-1][1]:.4f}"
            print(f"{member.name} step {step + 1}/{config.iterations}: {told}", flush=True)
    model.load_state_dict(best)
    return Trained(model.eval(), losses.cpu(), curve, sorted(idle))


def measure(trained: Trained, config: Config, member: Member, data: dict, device: str, seconds: float) -> dict:
    """What is told of a trained model: its metrics, its curves, and a sample of what it writes."""
    generator = torch.Generator().manual_seed(member.random_seed("samples"))
    began = time.perf_counter()
    drawn = sample(trained.model, 10, config.sample_characters, generator)  # (10, characters)
    speed = drawn.numel() / (time.perf_counter() - began)
    text = Text(data["train"], config, trained.model.start, device)
    ends = np.unique(np.linspace(0, config.iterations, CURVE_POINTS + 1).round().astype(int))[1:]
    parts = np.split(trained.losses.numpy(), ends[:-1])
    letters = [chr(code) for code in data["alphabet"]]
    return {
        "config": asdict(config),
        "parameters": sum(weight.numel() for weight in trained.model.parameters()),
        "idle": trained.idle,
        "metrics": {
            "final_train_loss": mean_loss(trained.model, text, config),
            "best_val_loss": min(value for _, value in trained.validation),
            "train_time": seconds,
            "inference_tokens_per_second": speed,
        },
        "train_curve": [ends.tolist(), [float(part.mean()) for part in parts]],
        "validation_curve": [list(part) for part in zip(*trained.validation, strict=True)],
        "sample": "".join(letters[code] for code in drawn[0].tolist()),
    }


def choose_device(config: Config) -> str:
    """Take the accelerator where there is one, else the asked number of CPU threads."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def save_model(path: Path, model: GPT, alphabet: np.ndarray) -> None:
    """Write a model's weights with what is needed to build it again; tensors and plain values only."""
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save({"config": asdict(model.config), "alphabet": alphabet.tolist(), "state": state}, path)


def load_model(path: Path) -> tuple[GPT, dict[str, int]]:
    """Build a saved model again, and return the code of each character of its alphabet."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    model = GPT(config, len(saved["alphabet"]))
    model.load_state_dict(saved["state"])
    return model.to(choose_device(config)).eval(), {chr(code): i for i, code in enumerate(saved["alphabet"])}


def load_texts() -> dict[str, dict[str, np.ndarray]]:
    """Read each data set's training and validation text and its alphabet, or make them when run by hand."""
    folder = os.environ.get("FUMEHOOD_DATA")  # noqa: TID251 - a template has no settings but these two
    if folder is None:
        from prepare import KEY_BYTES, datasets, training_data  # only beside the template, never in a sandbox

        return {dataset: training_data(bytes(KEY_BYTES), "screen", dataset) for dataset in datasets()}
    found = {}
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            found[path.stem] = {name: archive[name] for name in archive.files}
    return found


def write_results(out_dir: Path, members: list[Member], told: dict[Member, dict]) -> None:
    """Write the curves, the counts and, last, final_info.json."""
    curves: dict[str, np.ndarray] = {}
    info: dict[str, dict] = {}
    for member in members:
        for part in ("train", "validation"):
            curves[f"{part}_{member.name}"] = np.array(told[member][f"{part}_curve"])  # (2, points): where, how much
        values = info.setdefault(member.dataset, {"means": {}, "stderrs": {}, "final_info_dict": {}})["final_info_dict"]
        for metric, value in told[member]["metrics"].items():
            values.setdefault(metric, []).append(value)
    for entry in info.values():
        for metric, values in entry["final_info_dict"].items():
            entry["means"][metric] = statistics.fmean(values)
            if len(values) > 1:
                entry["stderrs"][metric] = statistics.stdev(values) / math.sqrt(len(values))
    np.savez(out_dir / "losses.npz", **curves)
    configs = [Config(**one["config"]) for one in told.values()]
    counts = {  # of the largest model, where data sets differ
        "parameters": max(one["parameters"] for one in told.values()),
        "updates": max(config.iterations for config in configs),
        "samples_seen": max(config.iterations * config.batch_size * config.block_size for config in configs),
        "without_gradient": sorted(set.intersection(*(set(one["idle"]) for one in told.values()))),
    }
    (out_dir / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps(info, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


def parse_arguments() -> tuple[dict[str, Any], Path, float]:
    """Read the command line: what it sets, the folder, and a checkpoint's seconds; a wrong one exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    parser.add_argument("--checkpoint_every", type=float, default=60.0, help="seconds, at least")
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), help=f"{item.default} where nothing is said")
    args = parser.parse_args()
    given = {item.name: getattr(args, item.name) for item in fields(Config) if getattr(args, item.name) is not None}
    may_be_zero = {"dropout", "weight_decay", "warmup", "threads"}
    for name, value in given.items():
        if value < 0 or (value == 0 and name not in may_be_zero):
            parser.error(f"--{name} must be above zero")
    return given, args.out_dir, args.checkpoint_every


def main() -> None:
    """Train every data set and seed, unless a finished run lies in the folder."""
    given, out_dir, checkpoint_every = parse_arguments()
    if (out_dir / "final_info.json").exists():
        print(f"{out_dir} is finished")
        return
    device = choose_device(Config(**given))
    texts = load_texts()
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    members = [Member(dataset, seed) for dataset in texts for seed in seeds]
    print(f"training {len(members)} models on {device}: {given}", flush=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    told: dict[Member, dict] = {}
    for member in members:
        config = Config(**{**SETTINGS.get(member.dataset, {}), **given})
        done = out_dir / f"{member.name}.done"
        if done.exists() and (before := json.loads(done.read_text()))["config"] == asdict(config):
            told[member] = before
            continue
        data, about = texts[member.dataset], {"config": asdict(config), "model": member.name}
        journal = Journal(out_dir / f"checkpoint_{member.name}.pt", about, checkpoint_every)
        trained = train(config, member, data, device, journal)
        told[member] = measure(trained, config, member, data, device, journal.seconds)
        save_model(out_dir / f"model_{member.name}.pt", trained.model, data["alphabet"])
        (out_dir / f"sample_{member.name}.txt").write_text(told[member]["sample"], encoding="utf-8")
        journal.path.unlink(missing_ok=True)
        done.write_text(json.dumps(told[member]))
    write_results(out_dir, members, told)


if __name__ == "__main__":
    main()
