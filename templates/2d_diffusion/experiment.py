"""A denoising diffusion model (DDPM) of four two-dimensional shapes: circle, dino, line, moons.

    python experiment.py --out_dir=run_0

Small machine: add `--num_train_steps=400 --train_batch_size=128 --hidden_size=96 --embedding_dim=64
--learning_rate=3e-3 --ema_update_every=1 --eval_points=2000 --threads=1` (about ten seconds on one core).

One model is trained for each data set and seed. They are trained together: `train` stacks the weights of all models
and `torch.func.vmap` runs `Denoiser`, which is written for one model, over the stack. A model's random numbers come
from its own data set and seed, so it does not depend on which others are trained beside it.

Reads `$FUMEHOOD_DATA/<dataset>.npz` and the seeds in `$FUMEHOOD_SEEDS`; without them it draws its own data with the
`prepare.py` beside it. Writes, into the folder `--out_dir` only: `model_<dataset>_<seed>.pt`, `train_loss.npz`,
`parameters.json` and, last, `final_info.json`. `serve.py` loads the models and draws samples from them. A run that was
broken off is taken up at its last `checkpoint.pt` (`journal.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from journal import Journal, Stack
from points import DATASETS, Member, load_points
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

COUNTED_UPDATES = 3  # the first ones, whose floating-point operations are counted
STEPS_PER_DRAW = 100  # batches are drawn this many steps at a time
CURVE_POINTS = 200  # points kept of each loss curve
EVALUATED = 1000  # points that the last weights' loss is taken over at a time


@dataclass(frozen=True)
class Config:
    """Everything that can be set; each field is also a command-line argument."""

    train_batch_size: int = 256
    learning_rate: float = 3e-4
    """At the start; it falls along a cosine to zero at the last step."""
    num_timesteps: int = 100
    """How many noise levels, and so how many steps a sample takes."""
    num_train_steps: int = 10_000
    beta_schedule: str = field(default="linear", metadata={"choices": ("linear", "quadratic")})
    embedding_dim: int = 128
    """Of each of the three embeddings: the timestep and the two coordinates."""
    hidden_size: int = 256
    hidden_layers: int = 3
    clip_norm: float = 0.5
    """Largest length of one model's gradient."""
    ema_decay: float = 0.995
    ema_update_every: int = 10
    ema_start: int = 100
    """Until this step the averaged weights are a plain copy."""
    eval_points: int = 100_000
    """Most training points that the last weights' loss is taken over."""
    threads: int = 0
    """CPU threads of training and sampling; zero leaves the number to torch."""


class Seen(NamedTuple):
    """What training showed of itself."""

    idle: list[str]
    """Names of parameters never seen with a gradient."""
    operations: float
    """Floating-point operations of one update of one model: multiplications of matrices, forth and back."""
    eval_losses: list[float]
    """Mean loss of each model's last weights, not averaged, over its training points."""


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a number at geometrically spaced frequencies."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        assert size % 2 == 0, "an embedding holds as many sines as cosines"
        half = size // 2
        frequencies = scale * torch.exp(-math.log(10_000.0) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)  # (size / 2,)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * self.frequencies  # (B, size / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, size)


class ResidualBlock(nn.Module):
    """Adds a linear map of the rectified input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(F.relu(x))  # (B, hidden)


class Denoiser(nn.Module):
    """Predicts the noise in noisy points from the points and their timestep."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_time = SinusoidalEmbedding(config.embedding_dim, scale=1.0)
        self.embed_x1 = SinusoidalEmbedding(config.embedding_dim, scale=25.0)
        self.embed_x2 = SinusoidalEmbedding(config.embedding_dim, scale=25.0)
        self.first = nn.Linear(3 * config.embedding_dim, config.hidden_size)
        self.blocks = nn.ModuleList(ResidualBlock(config.hidden_size) for _ in range(config.hidden_layers))
        self.last = nn.Linear(config.hidden_size, 2)

    def forward(self, points: Tensor, t: Tensor) -> Tensor:
        embedded = [self.embed_x1(points[:, 0]), self.embed_x2(points[:, 1]), self.embed_time(t)]
        hidden = self.first(torch.cat(embedded, dim=-1))  # (B, hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(F.relu(hidden))  # (B, 2)


class NoiseSchedule:
    """How much noise each timestep adds, and the two directions of travel."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        steps = config.num_timesteps
        if config.beta_schedule == "linear":
            betas = torch.linspace(1e-4, 0.02, steps)
        elif config.beta_schedule == "quadratic":
            betas = torch.linspace(1e-4**0.5, 0.02**0.5, steps) ** 2
        else:
            raise ValueError(f"unknown beta_schedule {config.beta_schedule!r}")
        assert betas.shape == (steps,), f"one beta for each of the {steps} timesteps, not {tuple(betas.shape)}"
        assert 0 < betas.min() <= betas.max() < 1, "a beta lies strictly between 0 and 1"
        self.steps = steps
        self.betas = betas.to(device)  # (T,)
        self.kept = torch.cumprod(1 - self.betas, dim=0)  # (T,) share of the signal's variance left at each timestep

    def add_noise(self, points: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Move clean points (B, 2) to the noise levels t (B,)."""
        kept = self.kept[t].unsqueeze(-1)  # (B, 1)
        return kept.sqrt() * points + (1 - kept).sqrt() * noise

    def remove_noise(self, points: Tensor, predicted: Tensor, t: int, fresh: Tensor) -> Tensor:
        """Move noisy points (n, 2) from level t to the one below, given the predicted and some fresh noise."""
        beta, kept = self.betas[t], self.kept[t]
        clean = (points - (1 - kept).sqrt() * predicted) / kept.sqrt()
        if t == 0:
            return clean
        kept_below = self.kept[t - 1]
        mean = (kept_below.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - kept_below) * points) / (1 - kept)
        return mean + (beta * (1 - kept_below) / (1 - kept)).sqrt() * fresh


@torch.inference_mode()
def sample(model: nn.Module, schedule: NoiseSchedule, n: int, generator: torch.Generator) -> Tensor:
    """Draw n points (n, 2): start from pure noise and walk down all timesteps."""
    device = schedule.betas.device
    points = torch.randn(n, 2, generator=generator).to(device)
    for t in reversed(range(schedule.steps)):
        predicted = model(points, torch.full((n,), t, device=device))
        fresh = torch.randn(n, 2, generator=generator).to(device)
        points = schedule.remove_noise(points, predicted, t, fresh)
    return points


def clip_gradients(weights: list[Tensor], limit: float) -> None:
    """Shorten each model's gradient to the limit; the sums never depend on how many models are stacked."""
    total = torch.zeros(())
    for weight in weights:
        squares = weight.grad.square()  # (E, ...)
        while squares.dim() > 1:
            squares = squares.sum(dim=-1)
        total = total.to(squares) + squares  # (E,)
    factor = (limit / (total.sqrt() + 1e-6)).clamp(max=1.0)
    for weight in weights:
        weight.grad.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))


@torch.no_grad()
def update_average(average: Stack, weights: Stack, step: int, config: Config) -> None:
    """Move the averaged weights towards the current ones, in large steps early on."""
    since = step - config.ema_start - 1
    decay = min(config.ema_decay, 1 - (1 + since) ** (-2 / 3)) if since > 0 else 0.0
    for name, value in weights.items():
        average[name].lerp_(value, 1 - decay)


def draw_batches(points: list[Tensor], generators: list, config: Config, device: str) -> tuple[Tensor, ...]:
    """Draw the next STEPS_PER_DRAW batches of every model: points and noise (S, E, B, 2), timesteps (S, E, B)."""
    shape = (STEPS_PER_DRAW, config.train_batch_size)
    batches, noises, timesteps = [], [], []
    for own, generator in zip(points, generators, strict=True):
        batches.append(own[torch.randint(len(own), shape, generator=generator).to(device)])
        noises.append(torch.randn(*shape, 2, generator=generator))
        timesteps.append(torch.randint(config.num_timesteps, shape, generator=generator))
    return tuple(torch.stack(parts, dim=1).to(device) for parts in (batches, noises, timesteps))


def train(
    config: Config, members: list[Member], data: dict[str, Tensor], device: str, journal: Journal
) -> tuple[Stack, Tensor, Seen]:
    """Train all members; returns averaged weights, losses (steps, E), and what was seen of the training itself."""
    schedule = NoiseSchedule(config, device)
    models = []
    for member in members:
        torch.manual_seed(member.random_seed("weights"))
        models.append(Denoiser(config).to(device))
    model = models[0]  # lends its code to every member
    weights, buffers = stack_module_state(models)  # {name: (E, ...)}
    average = {name: value.detach().clone() for name, value in weights.items()}

    def loss_of_one(weights: dict, buffers: dict, points: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The loss of one model on its batch; vmap runs it for all members at once."""
        noisy = schedule.add_noise(points, noise, t)
        predicted = functional_call(model, (weights, buffers), (noisy, t))
        return F.mse_loss(predicted, noise)

    losses_of_all = vmap(loss_of_one, randomness="different")
    optimiser = torch.optim.AdamW(weights.values(), lr=config.learning_rate, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=config.num_train_steps)
    data = {name: value.to(device) for name, value in data.items()}
    points = [data[member.dataset] for member in members]
    generators = [torch.Generator().manual_seed(member.random_seed("batches")) for member in members]
    history = torch.empty(config.num_train_steps, len(members), device=device)  # (steps, E)
    lasting = ({"weights": weights, "average": average}, {"optimiser": optimiser, "rate": rate}, generators)
    before = journal.take_up(*lasting)
    start, operations, idle = before.get("step", 0), before.get("operations", 0.0), set(before.get("idle", weights))
    history[:start] = before.get("history", history[:0])
    counting = ExitStack()
    counter = counting.enter_context(FlopCounterMode(display=False)) if start == 0 else None
    for step in range(start, config.num_train_steps):
        if step % STEPS_PER_DRAW == 0:
            if step > start:
                told = {"step": step, "operations": operations, "idle": sorted(idle), "history": history[:step]}
                journal.keep(*lasting, **told)
            drawn = draw_batches(points, generators, config, device)
        batch = [part[step % STEPS_PER_DRAW] for part in drawn]  # (E, B, 2), (E, B, 2), (E, B)
        losses = losses_of_all(weights, buffers, *batch)  # (E,)
        optimiser.zero_grad()
        losses.sum().backward()  # the models share nothing, so each gets its own gradient
        clip_gradients(list(weights.values()), config.clip_norm)
        optimiser.step()
        rate.step()
        if counter and step + 1 == min(COUNTED_UPDATES, config.num_train_steps):
            counting.close()
            operations = counter.get_total_flops() / (step + 1) / len(members)
        history[step] = losses.detach()
        if (step + 1) % config.ema_update_every == 0:
            update_average(average, weights, step + 1, config)
        if (step + 1) % max(1, config.num_train_steps // 10) == 0:
            idle -= {name for name in idle if weights[name].grad.any()}
            print(f"step {step + 1}/{config.num_train_steps}: mean loss {losses.mean().item():.4f}", flush=True)
            for member, loss in zip(members, losses.tolist(), strict=True):
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss of {member.name} is not finite at step {step + 1}")
    constants = {name: value for name, value in buffers.items() if name in model.state_dict()}
    with torch.no_grad():
        last = eval_losses(lambda *batch: losses_of_all(weights, buffers, *batch), members, points, config)
    return average | constants, history.cpu(), Seen(sorted(idle), operations, last)


def eval_losses(losses_of_all: Callable, members: list[Member], points: list[Tensor], config: Config) -> list[float]:
    """Each model's mean loss over its training points, every one with a noise and a timestep of its own."""
    generators = [torch.Generator().manual_seed(member.random_seed("evaluation")) for member in members]
    device, count = points[0].device, min(config.eval_points, *map(len, points))
    total = torch.zeros(len(members), device=device)  # (E,)
    for part in torch.arange(count, device=device).split(EVALUATED):
        noise = torch.stack([torch.randn(len(part), 2, generator=one) for one in generators])
        t = torch.stack([torch.randint(config.num_timesteps, (len(part),), generator=one) for one in generators])
        batch = torch.stack([own[part] for own in points])  # (E, B, 2)
        total += losses_of_all(batch, noise.to(device), t.to(device)) * len(part)
    return (total / count).tolist()


def choose_device(config: Config) -> str:
    """Take the accelerator where there is one, else the asked number of CPU threads."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def save_model(path: Path, config: Config, state: dict[str, Tensor]) -> None:
    """Write one model's weights with what is needed to build it again; tensors and plain values only."""
    torch.save({"config": asdict(config), "state": {name: value.clone().cpu() for name, value in state.items()}}, path)


def load_model(path: Path) -> tuple[Denoiser, NoiseSchedule]:
    """Build a saved model again, ready for `sample`."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    device = choose_device(config)
    model = Denoiser(config).to(device)
    model.load_state_dict(saved["state"])
    return model.eval(), NoiseSchedule(config, device)


def write_results(
    out_dir: Path, config: Config, members: list[Member], state: Stack, losses: Tensor, seen: Seen, seconds: float
) -> None:
    """Write the models, the loss curves, the counts and, last, final_info.json."""
    steps, smooth = config.num_train_steps, max(1, config.num_train_steps // 10)
    ends = [round((i + 1) * steps / min(CURVE_POINTS, steps)) for i in range(min(CURVE_POINTS, steps))]
    curves = {"steps": np.array(ends)}
    info: dict[str, dict] = {}
    for i, member in enumerate(members):
        save_model(out_dir / f"model_{member.name}.pt", config, {name: value[i] for name, value in state.items()})
        curves[member.name] = np.array([part.mean() for part in np.split(losses[:, i].numpy(), ends[:-1])])
        values = info.setdefault(member.dataset, {"means": {}, "stderrs": {}, "final_info_dict": {}})["final_info_dict"]
        values.setdefault("train_loss", []).append(losses[-smooth:, i].mean().item())
        values.setdefault("eval_loss", []).append(seen.eval_losses[i])
        values["training_time"] = [seconds / len(members)]  # measured once, for the whole stack
    for entry in info.values():
        for metric, values in entry["final_info_dict"].items():
            entry["means"][metric] = statistics.fmean(values)
            if len(values) > 1:
                entry["stderrs"][metric] = statistics.stdev(values) / math.sqrt(len(values))
    np.savez(out_dir / "train_loss.npz", **curves)
    counts = {
        "parameters": sum(weight.numel() for weight in Denoiser(config).parameters()),
        "updates": steps,
        "samples_seen": steps * config.train_batch_size,
        "flops_per_update": seen.operations,
        "without_gradient": seen.idle,
    }
    if torch.cuda.is_available():
        counts["peak_gpu_memory_mib"] = torch.cuda.max_memory_reserved() / 2**20
    (out_dir / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps(info, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


def parse_arguments() -> tuple[Config, argparse.Namespace]:
    """Read the command line: the model's configuration, and the rest; a wrong argument exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--checkpoint_every", type=float, default=60.0, help="seconds, at least")
    for item in fields(Config):
        choices = item.metadata.get("choices")
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default, choices=choices)
    args = parser.parse_args()
    for name, value in vars(args).items():
        if isinstance(value, int | float) and value <= 0 and name not in ("threads", "checkpoint_every"):
            parser.error(f"--{name} must be above zero")
    return Config(**{item.name: getattr(args, item.name) for item in fields(Config)}), args


def main() -> None:
    """Train every data set and seed, unless a finished run lies in the folder."""
    config, args = parse_arguments()
    if (args.out_dir / "final_info.json").exists():
        print(f"{args.out_dir} is finished")
        return
    device = choose_device(config)
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    members = [Member(dataset, seed) for dataset in args.datasets for seed in seeds]
    print(f"training {len(members)} models on {device}: {config}", flush=True)
    about = {"config": asdict(config), "members": [member.name for member in members]}
    journal = Journal(args.out_dir / "checkpoint.pt", about, args.checkpoint_every)
    data = {dataset: load_points(dataset) for dataset in args.datasets}
    state, losses, seen = train(config, members, data, device, journal)
    journal.path.unlink(missing_ok=True)
    write_results(args.out_dir, config, members, state, losses, seen, journal.seconds)
    print(f"finished in {journal.seconds:.1f} s")


if __name__ == "__main__":
    main()
