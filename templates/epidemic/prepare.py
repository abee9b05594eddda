"""The outbreaks of one arm, drawn from a secret key: the weeks that a run fits, and those that it must forecast.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train
    python prepare.py --arm=screen --part=inputs --key=key --seeds=1,2,3 --out_dir=inputs
    python prepare.py --arm=screen --part=answers --key=key --seeds=1,2,3 --out_dir=held_out

Small machine: add `--outbreaks=8`.
Each data set is a disease that spreads through many closed populations: susceptible, exposed, infectious, removed
(SEIR), one binomial draw a day and a transition. A share of the onsets of a week is reported, with negative binomial
noise. In `steady` nothing changes; in `measures` transmission falls on a day that nobody is told; in `seasonal` it
follows a wave. The disease itself (its reproduction number, its days, its reporting) is drawn from the key for each
arm and data set, and every outbreak from the disease, so that this file tells nobody what will come. The same key and
seeds give the same bytes; a seed's outbreaks do not depend on the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

KEY_BYTES = 32
DATASETS = ("steady", "measures", "seasonal")
HORIZON = 4
"""Weeks that are forecast."""
OBSERVED = (7, 17)
"""Weeks that are known of an outbreak: from the first number on, below the second."""
MOST_WEEKS = OBSERVED[1] - 1 + HORIZON


@dataclass(frozen=True)
class Disease:
    """What the outbreaks of an arm's data set have in common."""

    latent_days: float
    infectious_days: float
    reproduction: float
    reported: float
    size: float
    """Of the negative binomial: the smaller, the noisier are the reports."""


class Outbreaks(NamedTuple):
    """A seed's outbreaks."""

    population: np.ndarray  # (n,)
    observed: np.ndarray  # (n,) weeks that are known
    cases: np.ndarray  # (n, MOST_WEEKS) reported cases of each week, also those that are held out


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def draw_disease(rng: np.random.Generator) -> Disease:
    """Draw what an arm's data set is about."""
    latent, infectious = rng.uniform(2.0, 5.0), rng.uniform(3.0, 7.0)
    return Disease(latent, infectious, rng.uniform(1.7, 2.5), rng.uniform(0.15, 0.45), rng.uniform(12.0, 40.0))


def transmission(dataset: str, rates: np.ndarray, observed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many a day each infectious person would infect if all were susceptible: (n, days)."""
    n, days = len(rates), np.arange(7 * MOST_WEEKS)
    change, other, phase = rng.uniform(0.35, 0.75, n), rng.uniform(size=n), rng.uniform(0, 2 * np.pi, n)
    if dataset == "measures":
        starts = 7 * observed * (0.35 + 0.5 * other)  # always within the weeks that are known
        factor = np.where(days >= starts[:, None], change[:, None], 1.0)
    elif dataset == "seasonal":
        period = 70 + 70 * other
        factor = 1 + 0.5 * change[:, None] * np.cos(2 * np.pi * days / period[:, None] + phase[:, None])
    else:
        factor = np.ones((n, len(days)))
    return rates[:, None] * factor


def draw_outbreaks(dataset: str, disease: Disease, n: int, rng: np.random.Generator) -> Outbreaks:
    """Let a disease spread through n populations, day by day, and report its weeks."""
    population = np.exp(rng.uniform(np.log(5e4), np.log(5e5), n)).astype(np.int64)
    observed = rng.integers(*OBSERVED, n)
    reproduction = disease.reproduction * np.exp(0.12 * rng.standard_normal(n))
    logit = np.log(disease.reported / (1 - disease.reported)) + 0.35 * rng.standard_normal(n)
    reported = 1 / (1 + np.exp(-logit))
    rates = transmission(dataset, reproduction / disease.infectious_days, observed, rng)
    exposed, infectious = rng.integers(20, 80, n), rng.integers(20, 80, n)
    susceptible = population - exposed - infectious
    onsets = np.zeros((n, MOST_WEEKS))
    for day in range(7 * MOST_WEEKS):
        infected = rng.binomial(susceptible, 1 - np.exp(-rates[:, day] * infectious / population))
        onset = rng.binomial(exposed, 1 - np.exp(-1 / disease.latent_days))
        removed = rng.binomial(infectious, 1 - np.exp(-1 / disease.infectious_days))
        susceptible, exposed, infectious = (
            susceptible - infected,
            exposed + infected - onset,
            infectious + onset - removed,
        )
        onsets[:, day // 7] += onset
    mean = reported[:, None] * onsets
    cases = rng.poisson(mean * rng.gamma(disease.size, 1 / disease.size, mean.shape))
    return Outbreaks(population, observed, cases.astype(np.int64))


def draw(key: bytes, arm: str, dataset: str, seed: int, n: int) -> tuple[Disease, Outbreaks]:
    """Return a data set's disease and a seed's outbreaks of it."""
    disease = draw_disease(generator(key, arm, dataset, "disease"))
    return disease, draw_outbreaks(dataset, disease, n, generator(key, arm, dataset, "outbreaks", seed))


def asked(outbreaks: Outbreaks) -> np.ndarray:
    """The weeks to forecast: (n * HORIZON, 2), an outbreak's place and a week, both counted from zero."""
    places = np.repeat(np.arange(len(outbreaks.observed)), HORIZON)
    weeks = (outbreaks.observed[:, None] + np.arange(HORIZON)).ravel()
    return np.stack([places, weeks], axis=1)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an archive whose bytes depend on the arrays only."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def training_arrays(disease: Disease, of_seeds: dict[int, Outbreaks]) -> dict[str, np.ndarray]:
    """What a run is given: the days of the disease, and of each outbreak the weeks so far; -1 is not known yet."""
    arrays = {"latent_days": np.array(disease.latent_days), "infectious_days": np.array(disease.infectious_days)}
    for seed, outbreaks in of_seeds.items():
        known = np.arange(MOST_WEEKS) < outbreaks.observed[:, None]  # (n, MOST_WEEKS)
        arrays[f"population_{seed}"], arrays[f"observed_{seed}"] = outbreaks.population, outbreaks.observed
        arrays[f"cases_{seed}"] = np.where(known, outbreaks.cases, -1)
    return arrays


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
    """Write the asked part of an arm's outbreaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=seed_list, required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--outbreaks", type=positive, default=32, help="of each data set and seed")
    args = parser.parse_args()
    try:
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"the key cannot be read: {error}")
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")

    args.out_dir.mkdir(parents=True, exist_ok=True)
    for dataset in DATASETS:
        drawn = {seed: draw(key, args.arm, dataset, seed, args.outbreaks) for seed in args.seeds}
        of_seeds = {seed: outbreaks for seed, (_, outbreaks) in drawn.items()}
        if args.part == "train":
            disease = drawn[args.seeds[0]][0]
            write_npz(args.out_dir / f"{dataset}.npz", **training_arrays(disease, of_seeds))
        for seed, outbreaks in of_seeds.items() if args.part == "inputs" else ():
            np.save(args.out_dir / f"{dataset}_{seed}.npy", asked(outbreaks))
        if args.part == "answers":
            arrays = {}
            for seed, outbreaks in of_seeds.items():
                pairs = asked(outbreaks)
                arrays[f"cases_{seed}"] = outbreaks.cases[pairs[:, 0], pairs[:, 1]]
            write_npz(args.out_dir / f"{dataset}.npz", **arrays)
        print(f"{args.arm} {args.part}: {dataset}")


if __name__ == "__main__":
    main()
