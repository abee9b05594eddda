"""What a training leaves on its way: curves of answers, and checkpoints from which it goes on.

Of each model, `curve_<model>.npz` holds `steps` (E,), the updates that were done, and `predictions` (E, m), the symbol
that it took for the result of each pair it was asked. A `checkpoint_<model>_<step>.pt` holds weights, the optimiser's
moments and the batches' losses and accuracies so far: random numbers follow from the step. No checkpoint holds answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Stack = dict[str, Tensor]  # {name: (E, ...)}


@dataclass
class Journal:
    """The curves and checkpoints of models that are trained together."""

    out_dir: Path
    names: Sequence[str]
    """Of the models, in the order of the stack."""
    about: dict
    """What every model file has: `config` and `symbols`."""
    kept: frozenset[int]
    """The steps after which there is a checkpoint."""
    resume_from: Path | None = None
    """A checkpoint of the only model; without it, training goes on from what lies in the folder, if anything does."""
    steps: list[int] = field(default_factory=list)
    answers: list[list[Tensor]] = field(default_factory=list)  # by model: (m,) for each of the steps

    def __post_init__(self) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.answers = [[] for _ in self.names]

    def path(self, name: str, step: int) -> Path:
        return self.out_dir / f"checkpoint_{name}_{step}.pt"

    def take_up(self, state: Stack, optimiser: torch.optim.Optimizer, history: Tensor) -> int:
        """Set everything as it was at the last checkpoint, and return its step; zero where there is none."""
        if self.resume_from:
            files = [self.resume_from]
        else:
            found = [[self.path(name, step) for name in self.names] for step in sorted(self.kept, reverse=True)]
            files = next((each for each in found if all(file.exists() for file in each)), [])
        if not files:
            return 0
        device = history.device
        saved = [torch.load(file, map_location=device, weights_only=True) for file in files]
        if any({name: one[name] for name in self.about} != self.about for one in saved):
            raise ValueError(f"{files[0].name} was written with other arguments")
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.stack([one["state"][name] for one in saved]))
        for name, moments in saved[0]["moments"].items():
            optimiser.state[state[name]] = {
                key: torch.stack([one["moments"][name][key] for one in saved]) if value.dim() else value.clone()
                for key, value in moments.items()
            }
        step = int(saved[0]["step"])
        history[:step] = torch.stack([one["history"] for one in saved], dim=-1)
        if not self.resume_from:
            self._read_curves(step)
        return step

    def _read_curves(self, step: int) -> None:
        for i, name in enumerate(self.names):
            with np.load(self.out_dir / f"curve_{name}.npz", allow_pickle=False) as curve:
                self.steps = [int(one) for one in curve["steps"] if one <= step]
                self.answers[i] = list(torch.from_numpy(curve["predictions"][: len(self.steps)]))

    def note(self, step: int, answers: Sequence[Tensor]) -> None:
        """Remember what every model takes for the results, (m,) each, after a step."""
        self.steps.append(step)
        for own, answer in zip(self.answers, answers, strict=True):
            own.append(answer.to(torch.int16))  # stays on the device: nothing waits for it

    def keep(self, step: int, state: Stack, optimiser: torch.optim.Optimizer, history: Tensor) -> None:
        """Write the curves until now, and a checkpoint of each model."""
        self.write_curves()
        for i, name in enumerate(self.names):
            own = {key: value[i].detach().clone() for key, value in state.items()}
            moments = {
                key: {moment: one[i].clone() if one.dim() else one for moment, one in optimiser.state[value].items()}
                for key, value in state.items()
                if value in optimiser.state
            }
            saved = {**self.about, "state": own, "step": step, "moments": moments}
            unfinished = self.out_dir / "checkpoint.part"
            torch.save({**saved, "history": history[:step, :, i].clone()}, unfinished)
            unfinished.replace(self.path(name, step))

    def write_curves(self) -> None:
        """Write the answers of all models until now."""
        steps = np.array(self.steps, dtype=np.int64)
        for name, own in zip(self.names, self.answers, strict=True):
            answers = torch.stack([one.cpu() for one in own]).numpy() if own else np.zeros((0, 0), np.int16)
            unfinished = self.out_dir / "curve.part.npz"
            np.savez_compressed(unfinished, steps=steps, predictions=answers)
            unfinished.replace(self.out_dir / f"curve_{name}.npz")
