"""What each model learns from: half of a table, and the pairs of the other half without their results."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DATASETS = ("x_div_y", "x_minus_y", "x_plus_y", "permutation")


class Member(NamedTuple):
    """One model of the stack."""

    dataset: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.seed}"

    def random_seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.name} {purpose}".encode())


class Table(NamedTuple):
    """What a member learns from, and is asked."""

    symbols: int
    pairs: Tensor  # (n, 2)
    answers: Tensor  # (n,)
    asked: Tensor  # (m, 2) pairs whose results it is not told


def load_table(member: Member, device: str) -> Table:
    """Read a member's table, or draw it when run by hand."""
    folder, inputs = os.environ.get("FUMEHOOD_DATA"), os.environ.get("FUMEHOOD_INPUTS")  # noqa: TID251
    if folder is None:
        from prepare import Sizes, draw  # only beside the template, never in a sandbox

        symbols, *parts, _ = draw(bytes(32), "screen", *member, Sizes())
    else:
        with np.load(Path(folder) / f"{member.dataset}.npz", allow_pickle=False) as archive:
            symbols, *parts = (archive[name] for name in ("symbols", f"pairs_{member.seed}", f"answers_{member.seed}"))
        asked = np.load(Path(inputs) / f"{member.name}.npy", allow_pickle=False) if inputs else parts[0][:0]
        parts.append(asked)
    return Table(int(symbols), *(torch.from_numpy(part.astype(np.int64)).to(device) for part in parts))
