"""The data of one arm, drawn from a secret key: what a run trains on, and what its samples are held against.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train
    python prepare.py --arm=screen --part=answers --key=key --seeds=1,2,3 --out_dir=held_out

Small machine: add `--train_points=8000 --held_out_points=1000`.
The generators of these four shapes are public, so each arm turns (and perhaps mirrors) every shape about the origin by
a secret amount: a closed form of public code is then no answer. `--transform=off` leaves the shapes as published.
The same key and the same seeds give the same bytes; a seed's held-out points do not depend on the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import json
import zipfile
from pathlib import Path

import numpy as np

KEY_BYTES = 32
DINO_JITTER = 0.15


def circle(n: int, rng: np.random.Generator) -> np.ndarray:
    """Small discs around the directions of a 5 x 5 grid's points, and one at the centre."""
    grid = rng.integers(-2, 3, size=(n, 2)).astype(np.float64)  # (n, 2)
    length = np.linalg.norm(grid, axis=1, keepdims=True)  # (n, 1)
    directions = grid / np.maximum(length, 1.0)  # the grid's own centre stays at the origin
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 0.03, n)
    return 3 * (directions + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def dino(n: int, rng: np.random.Generator) -> np.ndarray:
    """The dinosaur of Matejka and Fitzmaurice (2017): 142 points, each drawn again with a little jitter."""
    outline = np.loadtxt(Path(__file__).with_name("dino.csv"), delimiter=",", skiprows=1)  # (142, 2)
    points = outline[rng.integers(len(outline), size=n)] + DINO_JITTER * rng.standard_normal((n, 2))
    return (points / np.array([54.0, 48.0]) - 1) * 4


def line(n: int, rng: np.random.Generator) -> np.ndarray:
    """A filled upright rectangle."""
    return 4 * rng.uniform([-0.5, -1.0], [0.5, 1.0], size=(n, 2))


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two interleaved half circles with Gaussian noise."""
    angle = rng.uniform(0, np.pi, n)
    upper = rng.random(n) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + 0.03 * rng.standard_normal((n, 2))
    return points * np.array([2.0, 3.0]) + np.array([-0.4, -0.1])


SHAPES = {"circle": circle, "dino": dino, "line": line, "moons": moons}


def draw(dataset: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n points of a shape, as published (no transform)."""
    return SHAPES[dataset](n, rng).astype(np.float32)  # (n, 2)


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def transform(key: bytes, arm: str, dataset: str) -> np.ndarray:
    """The arm's secret rotation, with a reflection half of the time: (2, 2), orthogonal."""
    rng = generator(key, arm, dataset, "transform")
    angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return rotation @ np.diag([1.0, mirror])


def turned(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Turn (n, 2) points about the origin."""
    return (points.astype(np.float64) @ turn.T).astype(np.float32)


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


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    if int(text) < 1:
        raise ValueError("below one")
    return int(text)


def main() -> None:
    """Write the asked part of an arm's data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=seed_list, required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--train_points", type=positive, default=100_000)
    parser.add_argument("--held_out_points", type=positive, default=100_000)
    parser.add_argument("--transform", choices=("on", "off"), default="on")
    args = parser.parse_args()
    try:
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"the key cannot be read: {error}")
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")

    args.out_dir.mkdir(parents=True, exist_ok=True)
    if args.part == "inputs":  # the model is unconditional: it is asked for samples, and given nothing
        (args.out_dir / "inputs.json").write_text(json.dumps({"datasets": list(SHAPES), "inputs": {}}) + "\n")
        return
    for dataset in SHAPES:
        turn = transform(key, args.arm, dataset) if args.transform == "on" else np.eye(2)
        path = args.out_dir / f"{dataset}.npz"
        if args.part == "train":
            rng = generator(key, args.arm, dataset, "train")
            write_npz(path, points=turned(draw(dataset, args.train_points, rng), turn))
        else:
            rngs = [generator(key, args.arm, dataset, "answers", seed) for seed in args.seeds]
            held_out = [turned(draw(dataset, args.held_out_points, rng), turn) for rng in rngs]
            seeds = np.array(args.seeds, dtype=np.int64)
            write_npz(path, held_out=np.stack(held_out), seeds=seeds)  # (seeds, n, 2), (seeds,)
        print(f"{args.arm} {args.part}: {path.name}")


if __name__ == "__main__":
    main()
