"""What a training leaves on its way, so that one that was broken off goes on as if nothing had happened.

A checkpoint in the run's folder holds all that the rest of the training follows from: weights, the optimiser's
moments, losses, and where every generator of random numbers stands. It is written whole or not at all, at most once in
so many seconds, and is removed when what it is of is finished.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Stack = dict[str, Tensor]  # {name: (E, ...)}, or the weights of one model


@dataclass
class Journal:
    """The checkpoint of models that are trained together, or of one."""

    path: Path
    about: dict[str, Any]
    """What a checkpoint must say of itself for this training to go on from it."""
    every_s: float
    """Seconds between two checkpoints."""
    before_s: float = 0.0
    """Seconds that the training took until it was broken off."""
    _last: float = field(default_factory=time.perf_counter)
    _began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """What the training took until now, those before an interruption with it."""
        return self.before_s + time.perf_counter() - self._began

    def take_up(self, stacks: dict[str, Stack], keepers: dict[str, Any], generators: list[torch.Generator]) -> dict:
        """Set everything as it was at the checkpoint, and return what else was kept; empty where there is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return {}
        device = next(iter(next(iter(stacks.values())).values())).device
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        if saved["about"] != self.about:
            raise ValueError(f"{self.path} was written with other arguments or seeds")
        with torch.no_grad():
            for name, stack in stacks.items():
                for part, value in stack.items():
                    value.copy_(saved["stacks"][name][part])
        for name, keeper in keepers.items():
            keeper.load_state_dict(saved["keepers"][name])
        for generator, state in zip(generators, saved["generators"], strict=True):
            generator.set_state(state)
        torch.set_rng_state(saved["chance"])
        if device.type == "cuda":
            torch.cuda.set_rng_state_all(saved["device_chance"])
        self.before_s = saved["seconds"]
        print(f"taken up at step {saved['told']['step']}", flush=True)
        return saved["told"]

    def keep(
        self, stacks: dict[str, Stack], keepers: dict[str, Any], generators: list[torch.Generator], **told: Any
    ) -> None:
        """Write a checkpoint, unless the last one is not old enough; `told` is kept as it is."""
        if time.perf_counter() - self._last < self.every_s:
            return
        unfinished = self.path.with_suffix(".part")
        saved = {
            "about": self.about,
            "stacks": {name: {part: value.detach() for part, value in stack.items()} for name, stack in stacks.items()},
            "keepers": {name: keeper.state_dict() for name, keeper in keepers.items()},
            "generators": [generator.get_state() for generator in generators],
            "chance": torch.get_rng_state(),
            "device_chance": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "seconds": self.seconds,
            "told": told,
        }
        torch.save(saved, unfinished)
        unfinished.replace(self.path)
        self._last = time.perf_counter()
