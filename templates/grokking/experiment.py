"""Small transformers that learn four operations from half of their tables, and may grok them: generalise late.

    python experiment.py --out_dir=run_0

Small machine: add the arguments of the profile `tiny` in template.toml (a few seconds).

One model is trained for each data set (x / y, x - y and x + y modulo a prime, and the composition of permutations) and
each seed. Models with as many symbols are trained together: `train` stacks their weights, and `torch.func.vmap` runs
`Transformer`, which is written for one model, over the stack. A model's random numbers come from its own data set,
seed and step, so it does not depend on which others are trained beside it, nor on where its training was taken up.

Reads `$FUMEHOOD_DATA/<dataset>.npz`, the unanswered pairs `$FUMEHOOD_INPUTS/<dataset>_<seed>.npy` and the seeds in
`$FUMEHOOD_SEEDS`; without them it draws its own with the `prepare.py` beside it. Writes, into `--out_dir` only, for
each model: `model_*.pt`, `curve_*.npz` (its answers to the unanswered pairs as it learns) and `checkpoint_*_<step>.pt`
(from which `--resume_from` goes on); then `train_curves.npz`, `parameters.json` and, last, `final_info.json`. A run
that was broken off is taken up at its last checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from journal import Journal
from tables import DATASETS, Member, Table, load_table
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

STEPS_PER_DRAW = 100  # batches are drawn this many steps at a time
CURVE_POINTS = 250  # points kept of each training curve
SERVED = 1024  # pairs that are answered at a time
Stack = dict[str, Tensor]  # {name: (E, ...)}, the weights of all E models


@dataclass(frozen=True)
class Config:
    """Everything that can be set; each field is also a command-line argument."""

    train_batch_size: int = 512
    learning_rate: float = 1e-3
    warm_up: int = 50
    """Steps until the rate is reached; it stays there."""
    weight_decay: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.98
    num_train_steps: int = 7500
    width: int = 128
    heads: int = 4
    layers: int = 2
    evaluate_every: int = 50
    """Steps between two points of the curve of answers."""
    checkpoints: int = 3
    """Kept of each model, evenly spread."""
    stack: int = 0
    """Most models that are trained together; zero takes all."""
    threads: int = 0
    """CPU threads of training and answering; zero leaves the number to torch."""


class Attention(nn.Module):
    """Lets the last places read those up to their own, with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0, "each head takes an equal part of the width"
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        # A bias of the keys changes no answer: its gradient would be rounding alone, and Adam would make steps of it.
        self.key = nn.Linear(width, width, bias=False)
        for part in (self.query, self.key, self.value):
            nn.init.uniform_(part.weight, -math.sqrt(1.5 / width), math.sqrt(1.5 / width))
        for part in (self.query, self.value, self.out):
            nn.init.zeros_(part.bias)

    def forward(self, last: Tensor, x: Tensor) -> Tensor:
        """Read x (B, T, width) from its last places (B, L, width): (B, L, width)."""
        query, key, value = (
            part(places).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, places, width / heads)
            for part, places in ((self.query, last), (self.key, x), (self.value, x))
        )
        # With four places, products that are summed up are faster than so many tiny matrix products.
        scores = (query.unsqueeze(-2) * key.unsqueeze(-3)).sum(dim=-1) / math.sqrt(query.shape[-1])  # (B, heads, L, T)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1 + x.shape[1] - last.shape[1])
        shares = scores.masked_fill(later, -math.inf).softmax(dim=-1)
        read = (shares.unsqueeze(-1) * value.unsqueeze(-3)).sum(dim=-2)  # (B, heads, L, width / heads)
        return self.out(read.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention, then a perceptron; each is added to its input and the sum is normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm_attention, self.norm_hidden = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """Map (B, T, width) to its last `count` places: (B, count, width)."""
        last = x[:, -count:]
        last = self.norm_attention(last + self.attention(last, x))
        return self.norm_hidden(last + self.hidden(last))


class Transformer(nn.Module):
    """Reads "a o b =" and says what comes next: one of the symbols, or one of the two signs, which never does."""

    def __init__(self, config: Config, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.embed = nn.Embedding(symbols + 2, config.width)
        self.place = nn.Parameter(torch.randn(4, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, symbols + 2)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits (B, symbols + 2) of the results of pairs (B, 2)."""
        operation, equals = torch.full_like(pairs, self.symbols), torch.full_like(pairs, self.symbols + 1)
        tokens = torch.stack([pairs[:, 0], operation[:, 0], pairs[:, 1], equals[:, 0]], dim=1)  # (B, 4)
        x = self.embed(tokens) + self.place  # (B, 4, width)
        for block in self.blocks[:-1]:
            x = block(x, 4)
        x = self.blocks[-1](x, 1)  # nothing reads the other places of the last block
        return self.out(self.norm(x[:, -1]))


@torch.no_grad()
def predict(model: nn.Module, pairs: Tensor) -> Tensor:
    """Answer pairs (n, 2) of any number: logits (n, symbols)."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device))[:, : model.symbols] for part in pairs.split(SERVED)])


def learning_rate(step: int, config: Config) -> float:
    """The rate of a step, counted from zero."""
    return config.learning_rate * min(1.0, (step + 1) / config.warm_up)


def seed_device(device: torch.device, seed: int) -> None:
    """Begin a device's random numbers anew; `torch.manual_seed` takes a stack trace for each kind that is absent."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def draw_batches(tables: list[Table], members: list[Member], draw: int, config: Config) -> tuple[Tensor, Tensor]:
    """Draw STEPS_PER_DRAW batches of every model: pairs (S, E, B, 2) and answers (S, E, B)."""
    pairs, answers = [], []
    for table, member in zip(tables, members, strict=True):
        generator = torch.Generator().manual_seed(member.random_seed(f"batches {draw}"))
        shape = (STEPS_PER_DRAW, config.train_batch_size)
        rows = torch.randint(len(table.pairs), shape, generator=generator).to(table.pairs.device)
        pairs.append(table.pairs[rows])
        answers.append(table.answers[rows])
    return torch.stack(pairs, dim=1), torch.stack(answers, dim=1)


def train(
    config: Config, members: list[Member], tables: list[Table], journal: Journal, stop: int
) -> tuple[Stack, Tensor, set[str]]:
    """Train members with equally many symbols; returns weights, losses and accuracies (steps, 2, E), idle names."""
    device = tables[0].pairs.device
    models = []
    for member in members:
        torch.manual_seed(member.random_seed("weights"))
        models.append(Transformer(config, tables[0].symbols).to(device))
    model = models[0]  # lends its code to every member
    weights, buffers = stack_module_state(models)  # {name: (E, ...)}

    def loss_of_one(weights: dict, buffers: dict, pairs: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the accuracy of one model on its batch; vmap runs it for all members at once."""
        logits = functional_call(model, (weights, buffers), (pairs,))
        return F.cross_entropy(logits, answers), (logits.argmax(dim=-1) == answers).float().mean()

    def loss_of_the_only(weights: dict, buffers: dict, *batch: Tensor) -> tuple[Tensor, ...]:
        """The same of a stack of one, which is spared what vmap costs on a processor."""
        own = [{name: value.squeeze(0) for name, value in stack.items()} for stack in (weights, buffers)]
        return tuple(one.unsqueeze(0) for one in loss_of_one(*own, *(part.squeeze(0) for part in batch)))

    losses_of_all = loss_of_the_only if config.stack == 1 else vmap(loss_of_one, randomness="different")
    betas = (config.beta1, config.beta2)
    optimiser = torch.optim.AdamW(weights.values(), betas=betas, weight_decay=config.weight_decay, fused=True)
    history = torch.zeros(stop, 2, len(members), device=device)  # (steps, 2, E)
    state = weights | {name: value for name, value in buffers.items() if name in model.state_dict()}
    start = journal.take_up(state, optimiser, history)
    idle = set(weights)  # parameters never seen with a gradient
    for step in range(start, stop):
        if step == start or step % STEPS_PER_DRAW == 0:
            drawn = draw_batches(tables, members, step // STEPS_PER_DRAW, config)
        batch = [part[step % STEPS_PER_DRAW] for part in drawn]  # (E, B, 2), (E, B)
        seed_device(device, members[0].random_seed(f"step {step}"))  # for what an edit may draw in a step
        losses, accuracies = losses_of_all(weights, buffers, *batch)  # (E,), (E,)
        optimiser.zero_grad()
        losses.sum().backward()  # the models share nothing, so each gets its own gradient
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        optimiser.step()
        history[step] = torch.stack([losses.detach(), accuracies])
        done = step + 1
        if done % config.evaluate_every == 0:
            journal.note(done, answers_of_all(model, state, tables))
        if done in journal.kept:
            journal.keep(done, state, optimiser, history)
        if done % max(1, config.num_train_steps // 10) == 0:
            idle -= {name for name in idle if weights[name].grad.any()}
            report(members, done, config, *history[step].tolist())
    journal.write_curves()
    return state, history.cpu(), idle


def answers_of_all(model: nn.Module, state: Stack, tables: list[Table]) -> list[Tensor]:
    """The symbol (m,) that each model of the stack takes for the results of the pairs it is asked."""
    model.eval()
    taken = []
    for i, table in enumerate(tables):
        model.load_state_dict({name: value[i] for name, value in state.items()})
        taken.append(predict(model, table.asked).argmax(dim=-1))
    model.train()
    return taken


def report(members: list[Member], done: int, config: Config, losses: list[float], accuracies: list[float]) -> None:
    """Print how far the training is; what is not finite ends it."""
    means = f"mean loss {statistics.fmean(losses):.4f}, accuracy {statistics.fmean(accuracies):.4f}"
    print(f"step {done}/{config.num_train_steps} of {len(members)} models: {means}", flush=True)
    for member, loss in zip(members, losses, strict=True):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {member.name} is not finite at step {done}")


def groups(members: list[Member], tables: dict[Member, Table], most: int) -> Iterator[list[Member]]:
    """Members that are trained together: with as many symbols, and no more than the most (zero: all of these)."""
    for symbols in dict.fromkeys(tables[member].symbols for member in members):
        same = [member for member in members if tables[member].symbols == symbols]
        for first in range(0, len(same), most or len(same)):
            yield same[first : first + (most or len(same))]


def choose_device(config: Config) -> str:
    """Take the accelerator where there is one, else the asked number of CPU threads."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_model(path: Path) -> nn.Module:
    """Build one model from its file, or from a checkpoint."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    device = choose_device(config)
    model = Transformer(config, saved["symbols"]).to(device)
    model.load_state_dict(saved["state"])
    return model.eval()


def first_above(values: Tensor, share: float, within: int = 50) -> int:
    """The first step at which the last values' mean is above a share; their number where it never is."""
    sums = F.pad(values.double().cumsum(0), (1, 0))
    means = (sums[within:] - sums[:-within]) / within  # of the last `within` steps
    above = (means > share).nonzero()
    return int(above[0]) + within if len(above) else len(values)


def write_results(out_dir: Path, histories: dict[Member, Tensor], counts: dict, seconds: float) -> None:
    """Write the training curves, the counts and, last, final_info.json."""
    steps = len(next(iter(histories.values())))
    ends = np.unique(np.linspace(0, steps, min(CURVE_POINTS, steps) + 1).round().astype(int)[1:])
    curves = {"steps": ends}
    info: dict[str, dict] = {}
    for member, history in histories.items():  # (steps, 2)
        curves[member.name] = np.stack([part.mean(axis=0) for part in np.split(history.numpy(), ends[:-1])])
        loss, accuracy = history[-max(1, steps // 100) :].mean(dim=0).tolist()
        values = info.setdefault(member.dataset, {"means": {}, "stderrs": {}, "final_info_dict": {}})["final_info_dict"]
        values.setdefault("train_loss", []).append(loss)
        values.setdefault("train_accuracy", []).append(accuracy)
        values.setdefault("train_steps_to_99", []).append(first_above(history[:, 1], 0.99))
        values["training_time"] = [seconds / len(histories)]  # measured once, for all models
    for entry in info.values():
        for metric, values in entry["final_info_dict"].items():
            entry["means"][metric] = statistics.fmean(values)
            if len(values) > 1:
                entry["stderrs"][metric] = statistics.stdev(values) / math.sqrt(len(values))
    np.savez(out_dir / "train_curves.npz", **curves)
    (out_dir / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps(info, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


def parse_arguments() -> tuple[Config, argparse.Namespace]:
    """Read the command line: the model's configuration, and the rest; a wrong argument exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    parser.add_argument("--only_dataset", choices=("", *DATASETS), default="", help="train this one alone")
    parser.add_argument(
        "--resume_from",
        type=lambda text: Path(text) if text else None,
        help="a checkpoint of the one model that is trained",
    )
    parser.add_argument("--stop_at", type=int, default=0, help="end after this step of the whole training")
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    args = parser.parse_args()
    for name, value in vars(args).items():
        if isinstance(value, int | float) and value <= 0 and name not in ("threads", "stack", "stop_at", "checkpoints"):
            parser.error(f"--{name} must be above zero")
    if args.num_train_steps % args.evaluate_every:
        parser.error("--num_train_steps must be a multiple of --evaluate_every")
    return Config(**{item.name: getattr(args, item.name) for item in fields(Config)}), args


def main() -> None:
    """Train every data set and seed, unless a finished run lies in the folder."""
    config, args = parse_arguments()
    if (args.out_dir / "final_info.json").exists():
        print(f"{args.out_dir} is finished")
        return
    started = time.perf_counter()
    device = choose_device(config)
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    members = [
        Member(dataset, seed) for dataset in ([args.only_dataset] if args.only_dataset else DATASETS) for seed in seeds
    ]
    tables = {member: load_table(member, device) for member in members}
    print(f"training {len(members)} models on {device}: {config}", flush=True)
    steps, every, count = config.num_train_steps, config.evaluate_every, config.checkpoints
    kept = frozenset(part * steps // (count + 1) // every * every for part in range(1, count + 1)) - {0}
    histories, idle, parameters = {}, [], 0
    for group in groups(members, tables, config.stack):
        about = {"config": asdict(config), "symbols": tables[group[0]].symbols}
        journal = Journal(args.out_dir, [member.name for member in group], about, kept, args.resume_from)
        own = [tables[member] for member in group]
        state, history, unmoved = train(config, group, own, journal, min(args.stop_at or steps, steps))
        for i, member in enumerate(group):
            model = {**about, "state": {name: value[i].detach().clone() for name, value in state.items()}}
            torch.save(model, args.out_dir / f"model_{member.name}.pt")
            histories[member] = history[:, :, i]
        idle.append(unmoved)
        parameters = max(parameters, sum(value[0].numel() for value in state.values()))
    counts = {"parameters": parameters, "updates": steps, "samples_seen": steps * config.train_batch_size}
    counts["without_gradient"] = sorted(set.intersection(*idle))
    write_results(args.out_dir, histories, counts, time.perf_counter() - started)
    print(f"finished in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
