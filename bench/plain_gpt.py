"""The language models of the nanogpt templates beside the same model and steps in plain PyTorch.

    python bench/plain_gpt.py --template nanogpt_lite --profile tiny
    python bench/plain_gpt.py --template nanogpt_lite --profile gpu --iterations 5

Trains the template's model with the template's own `train`, and then one that is written with PyTorch's layers and a
plain loop: a batch is cut out of the text block by block, the loss is read in every iteration, and no step is fused or
compiled. Both have the same sizes, text, batch size, optimiser and schedule, and random numbers of their own. Prints
what each comes to on the validation text, which should differ by no more than seeds do, and what an iteration takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def plain(torch: Any, config: Any, symbols: int) -> Any:
    """Return the same network out of PyTorch's own layers."""
    nn = torch.nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(symbols + 1, config.n_embd)
            self.position = nn.Embedding(config.block_size, config.n_embd)
            self.drop = nn.Dropout(config.dropout)
            layer = nn.TransformerEncoderLayer(
                *(config.n_embd, config.n_head, 4 * config.n_embd, config.dropout, "gelu"),
                batch_first=True,
                norm_first=True,
                bias=False,
            )
            norm = nn.LayerNorm(config.n_embd, bias=False)
            self.layers = nn.TransformerEncoder(layer, config.n_layer, norm, enable_nested_tensor=False)
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    is_last = name.endswith(("out_proj.weight", "linear2.weight"))
                    nn.init.normal_(weight, std=0.02 * ((2 * config.n_layer) ** -0.5 if is_last else 1.0))

        def forward(self, tokens: Any) -> Any:
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
            x = self.drop(self.embed(tokens) + self.position.weight[: tokens.shape[1]])
            return self.layers(x, mask=mask, is_causal=True) @ self.embed.weight[:symbols].T

    return Plain()


def train_plainly(torch: Any, experiment: Any, config: Any, data: dict[str, Any], device: str) -> tuple[float, float]:
    """Return the least loss on the validation text, and the milliseconds of an iteration without the looking."""
    F = torch.nn.functional  # noqa: N806 - as everybody calls it
    symbols = len(data["alphabet"])
    model = plain(torch, config, symbols).to(device)
    model.start = symbols
    optimiser = torch.optim.AdamW(
        [
            {"params": [weight for weight in model.parameters() if weight.dim() >= 2]},
            {"params": [weight for weight in model.parameters() if weight.dim() < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
    )
    text = torch.from_numpy(data["train"].astype("int64"))
    validation = experiment.Text(data["validation"], config, symbols, device)
    best, took = math.inf, []
    for step in range(config.iterations):
        begun = time.perf_counter()
        blocks = []
        for _ in range(config.batch_size):
            place = int(torch.randint(len(text) - config.block_size + 1, (1,)))
            blocks.append(text[place : place + config.block_size])
        targets = torch.stack(blocks).to(device)
        inputs = torch.cat([torch.full((config.batch_size, 1), symbols, device=device), targets[:, :-1]], dim=1)
        with experiment.mixed_precision(targets.device):
            logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in optimiser.param_groups:
            group["lr"] = experiment.learning_rate(step, config)
        optimiser.step()
        loss.item()
        took.append(time.perf_counter() - begun)
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.iterations:
            best = min(best, experiment.mean_loss(model, validation, config))
    return best, statistics.median(took) * 1000


def main() -> int:
    """Train both, print what they come to, and exit with 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", default="nanogpt_lite")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--iterations", type=int, default=0, help="the profile's when left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked = parser.parse_args()
    folder = ROOT / "templates" / asked.template
    sys.path.insert(0, str(folder))
    import experiment  # type: ignore[import-not-found]
    import prepare  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    profile = tomllib.loads((folder / "template.toml").read_text())["profiles"][asked.profile]
    given = dict(one.removeprefix("--").split("=") for one in profile["arguments"])
    kinds = {item.name: type(item.default) for item in dataclasses.fields(experiment.Config)}
    config = experiment.Config(**{name: kinds[name](text) for name, text in given.items()})
    if asked.iterations:
        config = dataclasses.replace(config, iterations=asked.iterations)
    device = experiment.choose_device(config)
    dataset = prepare.datasets()[0]
    data = prepare.training_data(bytes(prepare.KEY_BYTES), "screen", dataset)
    told: dict[str, Any] = {"template": asked.template, "profile": asked.profile, "iterations": config.iterations}
    ours, theirs = [], []
    for seed in asked.seeds:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            journal = experiment.Journal(Path(place) / "checkpoint.pt", {}, math.inf)
            trained = experiment.train(config, experiment.Member(dataset, seed), data, device, journal)
        ours.append((min(loss for _, loss in trained.validation), (time.perf_counter() - begun) * 1000))
        torch.manual_seed(seed)
        theirs.append(train_plainly(torch, experiment, config, data, device))
    told["template_loss"] = [loss for loss, _ in ours]
    told["template_ms_with_looking"] = [took / config.iterations for _, took in ours]
    told["plain_loss"] = [loss for loss, _ in theirs]
    told["plain_ms"] = [took for _, took in theirs]
    print(json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
