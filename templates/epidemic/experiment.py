"""Fits an SEIR model to the reported weeks of many outbreaks, and keeps what it needs to forecast the next ones.

    python experiment.py --out_dir=run_0

Small machine: add `--starts=1 --evaluations=30`. On the platform FUMEHOOD_DATA names the folder of outbreaks and
FUMEHOOD_SEEDS the seeds; by hand the outbreaks are drawn by prepare.py and the seeds are 1, 2, 3.

Each outbreak is fitted alone by SciPy's bounded least squares, from a few starting points of which the best is kept.
Three numbers are fitted: how many an infected person infects at first, how many were infected at the beginning, and
which share of the onsets is reported. Population, latent and infectious days are known. A forecast is a negative
binomial distribution of the cases of a week: the fitted curve carried on, and the noise seen around it so far. What a
data set and seed gives is written as soon as it is there, and a run that was broken off goes on after it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

DATASETS = ("steady", "measures", "seasonal")
HORIZON = 4
"""Weeks that are forecast."""
SHOWN = 2
"""Outbreaks of each data set whose forecasts are written down for the figures."""
LARGEST_SIZE = 1000.0
"""Of a negative binomial, which is as good as a Poisson distribution then."""


@dataclass(frozen=True)
class Config:
    """The dials of a fit."""

    starts: int = 3
    """Points that the fit of an outbreak starts from."""
    evaluations: int = 60
    """Most evaluations of the model from each of them, besides those for derivatives."""


@dataclass(frozen=True)
class Outbreak:
    """What is known of one outbreak."""

    population: float
    latent_days: float
    infectious_days: float
    cases: np.ndarray  # (weeks,) reported so far


@dataclass(frozen=True)
class Fit:
    """What came of one outbreak."""

    theta: np.ndarray  # (P,) as `transmission` and `reported_cases` read it
    size: float
    """Of the noise around the curve, as a negative binomial's."""
    error: float
    """Root of the mean square of the residuals."""


# log of the first reproduction number, log of the infected on the first day, logit of the reported share
LOWEST = np.array([math.log(0.5), math.log(2.0), -5.0])
HIGHEST = np.array([math.log(8.0), math.log(5000.0), 3.0])
TYPICAL = np.array([math.log(2.0), math.log(80.0), -1.0])
SPREAD = np.array([0.3, 0.7, 1.0])
"""Of the starting points around what is typical."""


def transmission(theta: np.ndarray, days: int, outbreak: Outbreak) -> np.ndarray:
    """How many a day each infectious person would infect if all were susceptible: (days,)."""
    return np.full(days, math.exp(theta[0]) / outbreak.infectious_days)


def onsets(theta: np.ndarray, weeks: int, outbreak: Outbreak) -> np.ndarray:
    """Expected onsets of disease in each week (weeks,): the SEIR model, a day at a time."""
    population = outbreak.population
    falling_ill = 1 - math.exp(-1 / outbreak.latent_days)
    recovering = 1 - math.exp(-1 / outbreak.infectious_days)
    exposed = infectious = math.exp(theta[1]) / 2
    susceptible = population - exposed - infectious
    by_week = [0.0] * weeks
    for day, rate in enumerate(transmission(theta, 7 * weeks, outbreak).tolist()):
        infected = susceptible * (1 - math.exp(-rate * infectious / population))
        onset, removed = falling_ill * exposed, recovering * infectious
        susceptible -= infected
        exposed += infected - onset
        infectious += onset - removed
        by_week[day // 7] += onset
    return np.array(by_week)


def reported_cases(theta: np.ndarray, weeks: int, outbreak: Outbreak) -> np.ndarray:
    """Expected reported cases of each week (weeks,)."""
    return onsets(theta, weeks, outbreak) / (1 + math.exp(-theta[2]))


def residuals(theta: np.ndarray, outbreak: Outbreak) -> np.ndarray:
    """What least squares makes small: differences on a scale on which a Poisson count is equally noisy everywhere."""
    expected = reported_cases(theta, len(outbreak.cases), outbreak)
    return 2 * (np.sqrt(outbreak.cases) - np.sqrt(expected))


def noise_size(cases: np.ndarray, expected: np.ndarray, fitted: int) -> float:
    """The size of the negative binomial whose variance is that of the cases around the curve, by moments."""
    freedom = max(1, len(cases) - fitted)
    excess = float((((cases - expected) ** 2 - expected) / np.maximum(expected, 1.0) ** 2).sum()) / freedom
    return LARGEST_SIZE if excess <= 1 / LARGEST_SIZE else 1 / excess


def fit(outbreak: Outbreak, config: Config, rng: np.random.Generator) -> Fit:
    """Fit one outbreak from several starting points, and keep the best."""
    best = None
    for start in range(config.starts):
        first = TYPICAL + (SPREAD * rng.standard_normal(len(TYPICAL)) if start else 0)
        found = least_squares(
            residuals,
            np.clip(first, LOWEST + 1e-3, HIGHEST - 1e-3),
            bounds=(LOWEST, HIGHEST),
            args=(outbreak,),
            max_nfev=config.evaluations,
        )
        if best is None or found.cost < best.cost:
            best = found
    expected = reported_cases(best.x, len(outbreak.cases), outbreak)
    size = noise_size(outbreak.cases, expected, len(best.x))
    error = float(np.sqrt(np.mean((2 * (np.sqrt(outbreak.cases) - np.sqrt(expected))) ** 2)))
    return Fit(best.x, size, error)


def fit_all(outbreaks: list[Outbreak], config: Config, rng: np.random.Generator) -> list[Fit]:
    """Fit the outbreaks of one data set and seed."""
    return [fit(outbreak, config, rng) for outbreak in outbreaks]


def forecast(theta: np.ndarray, size: float, observed: int, week: int, outbreak: Outbreak) -> tuple[float, float]:
    """The mean and the size of a coming week's negative binomial, given that so many weeks were observed."""
    assert week >= observed, "a week that was observed is no forecast"
    expected = reported_cases(theta, week + 1, outbreak)[week]
    return max(expected, 0.1), size


def load_outbreaks(dataset: str, seed: int) -> list[Outbreak]:
    """Read the outbreaks of a data set and seed, or draw them when run by hand."""
    folder = os.environ.get("FUMEHOOD_DATA")  # noqa: TID251 - a template has no settings but these two
    if folder is None:
        from prepare import draw, training_arrays  # only beside the template, never in a sandbox

        disease, drawn = draw(bytes(32), "screen", dataset, seed, 8)
        held = training_arrays(disease, {seed: drawn})
    else:
        with np.load(Path(folder) / f"{dataset}.npz", allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    days = float(held["latent_days"]), float(held["infectious_days"])
    of_seed = zip(held[f"population_{seed}"], held[f"observed_{seed}"], held[f"cases_{seed}"], strict=True)
    found = [Outbreak(float(population), *days, cases[:observed]) for population, observed, cases in of_seed]
    assert all((outbreak.cases >= 0).all() for outbreak in found), "no week that was observed is without a count"
    return found


def save_model(path: Path, outbreaks: list[Outbreak], fits: list[Fit]) -> None:
    """Write what forecasts need. Whole numbers are what was given, floats are what was fitted."""
    unfinished = path.with_suffix(".part.npz")
    np.savez(
        unfinished,
        theta=np.stack([one.theta for one in fits]),  # (n, P)
        size=np.array([one.size for one in fits]),  # (n,)
        error=np.array([one.error for one in fits]),  # (n,)
        population=np.array([int(one.population) for one in outbreaks]),
        observed=np.array([len(one.cases) for one in outbreaks]),
        days=np.array([[repr(one.latent_days), repr(one.infectious_days)] for one in outbreaks]),  # (n, 2)
    )
    unfinished.replace(path)


def load_model(path: Path) -> dict[str, np.ndarray]:
    """Read a model; the errors of its fit are no part of it."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "error"}


def predict(model: dict[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
    """Forecast the asked outbreaks and weeks (m, 2): means and sizes (m, 2)."""
    told = []
    for place, week in asked.tolist():
        latent, infectious = map(float, model["days"][place])
        outbreak = Outbreak(float(model["population"][place]), latent, infectious, np.empty(0))
        observed, size = int(model["observed"][place]), float(model["size"][place])
        told.append(forecast(model["theta"][place], size, observed, week, outbreak))
    return np.array(told)


def write_shown(out_dir: Path, dataset: str, seed: int, outbreaks: list[Outbreak]) -> None:
    """Write the known weeks and the forecasts of a few outbreaks, for the figures."""
    model = load_model(out_dir / f"model_{dataset}_{seed}.npz")
    arrays = {}
    for place, outbreak in enumerate(outbreaks[:SHOWN]):
        known = len(outbreak.cases)
        asked = np.array([(place, known + ahead) for ahead in range(HORIZON)])
        arrays |= {f"cases_{place}": outbreak.cases, f"forecast_{place}": predict(model, asked)}
        arrays[f"curve_{place}"] = reported_cases(model["theta"][place], known, outbreak)
    np.savez(out_dir / f"shown_{dataset}.npz", **arrays)


def write_results(out_dir: Path, config: Config, seeds: list[int], seconds: dict[str, float]) -> None:
    """Write the counts and, last, final_info.json."""
    info = {}
    for dataset in DATASETS:
        errors = []
        for seed in seeds:
            with np.load(out_dir / f"model_{dataset}_{seed}.npz", allow_pickle=False) as model:
                errors.append(float(model["error"].mean()))
                parameters = model["theta"].size + model["size"].size
        times = [seconds[f"{dataset}_{seed}"] for seed in seeds]
        values = {"fit_error": errors, "training_time": [statistics.fmean(times)]}
        entry = {"means": {name: statistics.fmean(one) for name, one in values.items()}, "stderrs": {}}
        if len(errors) > 1:
            entry["stderrs"]["fit_error"] = statistics.stdev(errors) / math.sqrt(len(errors))
        info[dataset] = entry | {"final_info_dict": values}
    counts = {"parameters": parameters, "updates": config.evaluations}
    (out_dir / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps(info, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


def taken_up(progress: Path, about: dict) -> dict[str, float]:
    """The seconds that each model took which a run left that was broken off; it must have had the same arguments."""
    if not progress.exists():
        return {}
    told = json.loads(progress.read_text())
    if told["about"] != about:
        raise ValueError(f"{progress} was written with other arguments or seeds")
    return told["seconds"]


def note(progress: Path, about: dict, seconds: dict[str, float]) -> None:
    """Write down which models are there, whole or not at all."""
    unfinished = progress.with_suffix(".part")
    unfinished.write_text(json.dumps({"about": about, "seconds": seconds}))
    unfinished.replace(progress)


def parse_arguments() -> tuple[Config, argparse.Namespace]:
    """Read the command line: the fit's configuration, and the rest; a wrong argument exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    for item in fields(Config):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    args = parser.parse_args()
    for item in fields(Config):
        if getattr(args, item.name) < 1:
            parser.error(f"--{item.name} must be above zero")
    return Config(**{item.name: getattr(args, item.name) for item in fields(Config)}), args


def main() -> None:
    """Fit every data set and seed, unless a finished run lies in the folder."""
    config, args = parse_arguments()
    if (args.out_dir / "final_info.json").exists():
        print(f"{args.out_dir} is finished")
        return
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2,3").split(",")]  # noqa: TID251
    args.out_dir.mkdir(parents=True, exist_ok=True)
    about, progress = {"config": vars(config), "seeds": seeds}, args.out_dir / "progress.json"
    seconds = taken_up(progress, about)
    for dataset in DATASETS:
        for seed in seeds:
            name = f"{dataset}_{seed}"
            if name in seconds:
                print(f"{dataset} seed {seed} is there", flush=True)
                continue
            started = time.perf_counter()
            outbreaks = load_outbreaks(dataset, seed)
            rng = np.random.default_rng(zlib.crc32(f"{dataset} {seed}".encode()))
            fits = fit_all(outbreaks, config, rng)
            error = statistics.fmean(one.error for one in fits)
            if not math.isfinite(error):
                raise FloatingPointError(f"the fit of {dataset} seed {seed} is not finite")
            save_model(args.out_dir / f"model_{name}.npz", outbreaks, fits)
            seconds[name] = time.perf_counter() - started
            note(progress, about, seconds)
            print(f"{dataset} seed {seed}: {len(fits)} outbreaks, mean error {error:.3f}", flush=True)
        write_shown(args.out_dir, dataset, seeds[0], load_outbreaks(dataset, seeds[0]))
    write_results(args.out_dir, config, seeds, seconds)
    progress.unlink()
    print(f"finished in {sum(seconds.values()):.1f} s")


if __name__ == "__main__":
    main()
