"""The rows of one arm of a table: those that a run learns from, and those that it is asked about.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train

Reads `data/table.csv`, whose last column is what is to be predicted, and `data/columns.json`, its sort. Half of the
rows, by their own hash, are for screening and the other half for confirming, so that no confirmed number comes from a
row that an idea could have seen. Each seed splits the half anew, by the key: 70 % of it to learn from, 30 % held out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import hmac
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).with_name("data")
KEY_BYTES = 32
TRAIN_SHARE = 0.7


def rows_of(arm: str) -> list[list[str]]:
    """Return an arm's rows; equal rows are always in the same arm."""
    with (DATA / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    odd = [hashlib.sha256("\x1f".join(row).encode()).digest()[0] % 2 for row in rows]
    return [row for row, half in zip(rows, odd, strict=True) if half == (arm == "confirm")]


def arrays_of(arm: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an arm's features (n, d) and targets (n,): numbers, or the places of the classes."""
    rows, columns = rows_of(arm), json.loads((DATA / "columns.json").read_text(encoding="utf-8"))
    features = numpy.array([[float(value) for value in row[:-1]] for row in rows], dtype=numpy.float64)
    if not columns["classes"]:
        return features, numpy.array([float(row[-1]) for row in rows])
    place = {name: number for number, name in enumerate(columns["classes"])}
    return features, numpy.array([place[row[-1]] for row in rows], dtype=numpy.int64)


def split(key: bytes, arm: str, seed: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the places of a seed's training and held-out rows."""
    digest = hmac.new(key, f"{arm}/{seed}".encode(), hashlib.sha256).digest()
    order = numpy.random.default_rng(int.from_bytes(digest, "big")).permutation(count)
    kept = round(TRAIN_SHARE * count)
    return order[:kept], order[kept:]


def write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an archive whose bytes depend on the arrays only."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            numpy.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def main() -> None:
    """Write the asked part of an arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    asked = parser.parse_args()
    key = asked.key.read_bytes()
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")
    name = json.loads((DATA / "columns.json").read_text(encoding="utf-8"))["dataset"]
    features, targets = arrays_of(asked.arm)
    asked.out_dir.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for seed in asked.seeds:
        train, held_out = split(key, asked.arm, seed, len(targets))
        if asked.part == "inputs":
            numpy.save(asked.out_dir / f"{name}_{seed}.npy", features[held_out])
        elif asked.part == "train":
            arrays |= {f"x_{seed}": features[train], f"y_{seed}": targets[train]}
        else:
            arrays[f"y_{seed}"] = targets[held_out]
    if arrays:
        write_npz(asked.out_dir / f"{name}.npz", arrays)
    print(f"{asked.arm} {asked.part}: {name}")


if __name__ == "__main__":
    main()
