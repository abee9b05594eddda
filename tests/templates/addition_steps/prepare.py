"""The table of addition modulo 23 under secret names of its symbols, split anew for each seed.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train

The table is public and finite, so each arm and seed renames its symbols by a secret permutation: what computes
(a + b) mod 23 is then no answer, and what is learnt from another seed's rows, some of which are held out for this one,
is none either. The same key and seeds give the same bytes; a seed's table does not depend on the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import zipfile
from pathlib import Path

import numpy as np

KEY_BYTES = 32
DATASET = "addition"
MODULUS = 23
TRAIN_SHARE = 0.7


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def table(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (n, 2) and their sums (n,), under their names, in the order of the names."""
    pairs = np.stack(np.meshgrid(np.arange(MODULUS), np.arange(MODULUS), indexing="ij"), axis=-1).reshape(-1, 2)
    meanings = np.argsort(names)  # name -> number
    return pairs, names[meanings[pairs].sum(axis=1) % MODULUS]


def split(key: bytes, arm: str, seed: int) -> np.ndarray:
    """Which rows of the table are trained on: (n,) bool."""
    count = MODULUS**2
    order = generator(key, arm, "split", seed).permutation(count)
    return order < round(TRAIN_SHARE * count)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an archive whose bytes depend on the arrays only."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def main() -> None:
    """Write the asked part of an arm's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    args = parser.parse_args()
    key = args.key.read_bytes()
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    if args.part == "inputs":  # all pairs, which are the same under every name
        np.save(args.out_dir / f"{DATASET}.npy", table(np.arange(MODULUS))[0])
    else:
        arrays = {}
        for seed in args.seeds:
            pairs, sums = table(generator(key, args.arm, "names", seed).permutation(MODULUS))
            rows = split(key, args.arm, seed)
            rows = rows if args.part == "train" else ~rows
            arrays |= {f"pairs_{seed}": pairs[rows], f"sums_{seed}": sums[rows]}
        write_npz(args.out_dir / f"{DATASET}.npz", **arrays)
    print(f"{args.arm} {args.part}: {DATASET}")


if __name__ == "__main__":
    main()
