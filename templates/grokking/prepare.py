"""The tables of one arm under secret names, split anew for each seed: what a run trains on, and what it is asked.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train
    python prepare.py --arm=screen --part=inputs --key=key --seeds=1,2,3 --out_dir=inputs
    python prepare.py --arm=screen --part=answers --key=key --seeds=1,2,3 --out_dir=held_out

Small machine: add `--modulus=31 --letters=4 --judged=256`.
Four operations, each a table of two symbols and their result: x + y, x - y and x / y modulo a prime, and the
composition of permutations. All are public and finite, so each arm, data set and seed renames its symbols by a secret
permutation: what computes (x + y) mod p is then no answer, and what is learnt from another seed's rows, some of which
are held out for this one, is none either. The same key and seeds give the same bytes; a seed's table does not depend on
the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import itertools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

KEY_BYTES = 32
DATASETS = ("x_div_y", "x_minus_y", "x_plus_y", "permutation")
ALL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Sizes:
    """How large the tables are."""

    modulus: int = 97
    letters: int = 5
    """Of the permutations: there are as many of them as orders of so many letters."""
    train_share: float = 0.5
    judged: int = ALL
    """Most held-out pairs that a run is asked and judged by, for each data set and seed."""


class Split(NamedTuple):
    """A seed's table under its names, in two parts."""

    symbols: int
    train_pairs: np.ndarray  # (n, 2)
    train_answers: np.ndarray  # (n,)
    held_out_pairs: np.ndarray  # (m, 2)
    held_out_answers: np.ndarray  # (m,)


def arithmetic(dataset: str, p: int) -> np.ndarray:
    """Results (p, p) of x, y modulo a prime; -1 where there is none."""
    x, y = np.meshgrid(np.arange(p), np.arange(p), indexing="ij")
    if dataset == "x_plus_y":
        return (x + y) % p
    if dataset == "x_minus_y":
        return (x - y) % p
    inverse = np.array([0, *(pow(number, -1, p) for number in range(1, p))])
    return np.where(y == 0, -1, x * inverse[y] % p)


def compositions(letters: int) -> np.ndarray:
    """Results (n!, n!) of doing permutation y, then x."""
    orders = np.array(list(itertools.permutations(range(letters))))  # (n!, n)
    place = letters ** np.arange(letters)
    codes = orders @ place  # (n!,) one number for each
    numbers = np.argsort(codes)
    composed = orders[:, orders] @ place  # (n!, n!): orders[x][orders[y]]
    return numbers[np.searchsorted(codes[numbers], composed)]


def results(dataset: str, sizes: Sizes) -> np.ndarray:
    """The operation's table (symbols, symbols), as published (no secret names)."""
    return compositions(sizes.letters) if dataset == "permutation" else arithmetic(dataset, sizes.modulus)


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def draw(key: bytes, arm: str, dataset: str, seed: int, sizes: Sizes) -> Split:
    """Rename a data set's symbols for a seed, and split its pairs."""
    table = results(dataset, sizes)
    symbols = len(table)
    names = generator(key, arm, dataset, "names", seed).permutation(symbols)
    pairs = np.argwhere(table >= 0)  # (n, 2)
    answers = table[pairs[:, 0], pairs[:, 1]]
    order = generator(key, arm, dataset, "split", seed).permutation(len(pairs))
    pairs, answers = names[pairs[order]].astype(np.int16), names[answers[order]].astype(np.int16)
    kept = round(sizes.train_share * len(pairs))
    until = min(len(pairs), kept + sizes.judged)
    return Split(symbols, pairs[:kept], answers[:kept], pairs[kept:until], answers[kept:until])


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an archive whose bytes depend on the arrays only."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def seed_list(text: str) -> list[int]:
    """Parse `1,2,3`."""
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed occurs twice")
    return seeds


def prime(text: str) -> int:
    """Parse a prime between 5 and 211."""
    number = int(text)
    if not 5 <= number <= 211 or any(number % divisor == 0 for divisor in range(2, 15) if divisor < number):
        raise ValueError("no such prime")
    return number


def main() -> None:
    """Write the asked part of an arm's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=seed_list, required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--modulus", type=prime, default=Sizes.modulus)
    parser.add_argument("--letters", type=int, choices=(3, 4, 5), default=Sizes.letters)
    parser.add_argument("--judged", type=int, default=ALL, help="most held-out pairs of each data set and seed")
    args = parser.parse_args()
    try:
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"the key cannot be read: {error}")
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")
    if args.judged < 1:
        parser.error("--judged must be above zero")

    sizes = Sizes(args.modulus, args.letters, judged=args.judged)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for dataset in DATASETS:
        splits = {seed: draw(key, args.arm, dataset, seed, sizes) for seed in args.seeds}
        if args.part == "inputs":  # pairs without their results
            for seed, split in splits.items():
                np.save(args.out_dir / f"{dataset}_{seed}.npy", split.held_out_pairs)
        else:
            arrays = {"symbols": np.array(splits[args.seeds[0]].symbols)}
            for seed, split in splits.items():
                pairs, answers = split[1:3] if args.part == "train" else split[3:5]
                arrays |= {f"pairs_{seed}": pairs, f"answers_{seed}": answers}
            write_npz(args.out_dir / f"{dataset}.npz", **arrays)
        print(f"{args.arm} {args.part}: {dataset}")


if __name__ == "__main__":
    main()
