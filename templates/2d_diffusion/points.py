"""What each model is trained on: the points of its data set, under a name and with random numbers of its own."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DATASETS = ("circle", "dino", "line", "moons")


class Member(NamedTuple):
    """One model of the stack."""

    dataset: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.seed}"

    def random_seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.name} {purpose}".encode())


def load_points(dataset: str) -> Tensor:
    """Read a data set's training points (n, 2), or draw them when run by hand."""
    folder = os.environ.get("FUMEHOOD_DATA")  # noqa: TID251 - a template has no settings but these two
    if folder is None:
        from prepare import draw  # only beside the template, never in a sandbox

        return torch.from_numpy(draw(dataset, 100_000, np.random.default_rng(42)))
    with np.load(Path(folder) / f"{dataset}.npz", allow_pickle=False) as archive:
        points = torch.from_numpy(archive["points"])
    assert points.shape[1:] == (2,), f"points are (n, 2), not {tuple(points.shape)}"
    return points
