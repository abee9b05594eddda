"""Judges whether two research plans are one idea under two names, as the platform that runs this does.

    python experiment.py --out_dir=run_0

Small machine: add `--steps=10`. On the platform FUMEHOOD_DATA names the folder of labelled pairs and FUMEHOOD_SEEDS the
seeds; by hand the pairs are written by prepare.py and the seeds are 1, 2, 3.

The rule is the platform's own, `nearest` in fumehood/services/ideas.py: two plans that share 60 % of their content
words, by Dice's coefficient, are one idea. Content words are cut to six letters. The threshold is not learnt here; what
is learnt from the labelled pairs is how surely a plan above or below it can be judged: one factor of a logistic
function that is one half at the threshold. Nothing is drawn at random. What a data set and seed gives is written as
soon as it is there, and a run that was broken off goes on after it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

DATASETS = ("reworded", "same_subject", "long_boilerplate")
NEAR = 0.6
"""Two plans that share this part of their content words are one idea under two names."""
STEM = 6
"""Letters of a word that count."""
STOP = frozenset(
    """
    about above after again against also among because been before being below between both compare each every from
    have into keep kept leave less like make more most only other over same should than that their them then there
    these they this those through under until very were what when where which while will with without would your
    """.split()  # noqa: SIM905 - one a line would be sixty lines
)
RIDGE = 1e-4
"""Of the fit, so that pairs that are told apart without an error leave it finite."""

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Config:
    """The dials of a run."""

    steps: int = 20
    """Newton's steps of the fit, in all that is fitted for a data set and seed."""


def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, lower-case, cut to their first letters as a crude stem."""
    return frozenset(
        word[:STEM] for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 3 and word not in STOP
    )


def weigh(pairs: Pairs) -> dict[str, float]:
    """How much each word of the plans counts; all count alike."""
    return {word: 1.0 for pair in pairs for text in pair for word in content_words(text)}


def overlap(first: frozenset[str], second: frozenset[str], weights: dict[str, float], unseen: float) -> float:
    """Dice's coefficient of two plans' words: twice the weight that they share over the weight that they have."""

    def total(words: frozenset[str]) -> float:
        return sum(weights.get(word, unseen) for word in sorted(words))  # sorted: a sum depends on its order

    return 2 * total(first & second) / max(1.0, total(first) + total(second))


def overlaps_of(pairs: Pairs, weights: dict[str, float]) -> np.ndarray:
    """The overlap of each pair (n,); a word that no training plan has counts as the heaviest that one has."""
    unseen = max(weights.values(), default=1.0)
    return np.array([overlap(content_words(a), content_words(b), weights, unseen) for a, b in pairs])


def probability(columns: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The logistic function of columns (n, F) times factors (F,): (n,)."""
    return 1 / (1 + np.exp(-np.clip(columns @ factors, -30, 30)))


def fit(columns: np.ndarray, same: np.ndarray, steps: int) -> np.ndarray:
    """Factors (F,) of columns (n, F) that make the labels (n,) likely, by so many of Newton's steps."""
    factors = np.zeros(columns.shape[1])
    for _ in range(steps):
        said = probability(columns, factors)
        slope = columns.T @ (said - same) / len(same) + RIDGE * factors
        bend = (columns.T * (said * (1 - said))) @ columns / len(same) + RIDGE * np.eye(len(factors))
        factors = factors - np.linalg.solve(bend, slope)
    return factors


def choose_threshold(overlaps: np.ndarray, same: np.ndarray, steps: int) -> tuple[float, int]:
    """The overlap at which two plans are taken for one idea, and how many steps are left; here it is the platform's."""
    assert len(overlaps) == len(same), "a label for each pair"
    return NEAR, steps


def learn(pairs: Pairs, same: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """What the judgement of other pairs needs: floats are what was learnt."""
    weights = weigh(pairs)
    overlaps = overlaps_of(pairs, weights)
    threshold, steps = choose_threshold(overlaps, same, config.steps)
    factors = fit((overlaps - threshold)[:, None], same, steps)
    words = sorted(weights)
    return {
        "words": np.array(words),
        "weights": np.array([weights[word] for word in words]),
        "threshold": np.array(threshold),
        "factors": factors,
    }


def judge(model: dict[str, np.ndarray], pairs: Pairs) -> np.ndarray:
    """The probability that each pair is one idea (n,)."""
    weights = dict(zip(model["words"].tolist(), model["weights"].tolist(), strict=True))
    overlaps = overlaps_of(pairs, weights)
    return probability((overlaps - model["threshold"])[:, None], model["factors"])


def decode(encoded: np.ndarray) -> Pairs:
    """Pairs of texts from their bytes (n, 2, longest), with zeros behind them."""
    return [
        (first.tobytes().decode().rstrip("\0"), second.tobytes().decode().rstrip("\0")) for first, second in encoded
    ]


def load_pairs(dataset: str, seed: int) -> tuple[Pairs, np.ndarray]:
    """Read the labelled pairs of a data set and seed, or write them when run by hand."""
    folder = os.environ.get("FUMEHOOD_DATA")  # noqa: TID251 - a template has no settings but these two
    if folder is None:
        from prepare import draw  # only beside the template, never in a sandbox

        return draw(bytes(32), "screen", dataset, seed, "train", 120)
    with np.load(Path(folder) / f"{dataset}.npz", allow_pickle=False) as archive:
        return decode(archive[f"pairs_{seed}"]), archive[f"same_{seed}"]


def save_model(path: Path, model: dict[str, np.ndarray]) -> None:
    """Write what `load_model` reads, whole or not at all."""
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **model)
    unfinished.replace(path)


def load_model(path: Path) -> dict[str, np.ndarray]:
    """Read what was learnt of a data set and seed."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def predict(model: dict[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
    """The probability that the two plans of each encoded pair (m, 2, longest) are one idea: (m,)."""
    return judge(model, decode(asked))


def training_loss(model: dict[str, np.ndarray], pairs: Pairs, same: np.ndarray) -> float:
    """The mean negative log probability of the labels that were learnt from."""
    said = np.clip(judge(model, pairs), 1e-6, 1 - 1e-6)
    return float(-np.log(np.where(same == 1, said, 1 - said)).mean())


def write_shown(out_dir: Path, dataset: str, seed: int) -> None:
    """Write the overlaps of the training pairs and their labels, for the figures."""
    model = load_model(out_dir / f"model_{dataset}_{seed}.npz")
    pairs, same = load_pairs(dataset, seed)
    weights = dict(zip(model["words"].tolist(), model["weights"].tolist(), strict=True))
    np.savez(out_dir / f"shown_{dataset}.npz", overlap=overlaps_of(pairs, weights), same=same)


def write_results(out_dir: Path, config: Config, seeds: list[int], seconds: dict[str, float]) -> None:
    """Write the counts and, last, final_info.json."""
    info = {}
    for dataset in DATASETS:
        models = {seed: load_model(out_dir / f"model_{dataset}_{seed}.npz") for seed in seeds}
        losses = [training_loss(model, *load_pairs(dataset, seed)) for seed, model in models.items()]
        thresholds = [float(model["threshold"]) for model in models.values()]
        times = [seconds[f"{dataset}_{seed}"] for seed in seeds]
        values = {"training_loss": losses, "threshold": thresholds, "training_time": [statistics.fmean(times)]}
        means = {name: statistics.fmean(one) for name, one in values.items()}
        stderrs = {name: statistics.stdev(one) / math.sqrt(len(one)) for name, one in values.items() if len(one) > 1}
        info[dataset] = {"means": means, "stderrs": stderrs, "final_info_dict": values}
    first = load_model(out_dir / f"model_{DATASETS[0]}_{seeds[0]}.npz")
    counts = {"parameters": sum(one.size for one in first.values() if one.dtype.kind == "f"), "updates": config.steps}
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
    """Read the command line: the configuration, and the rest; a wrong argument exits with status 2."""
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
    """Learn from every data set and seed, unless a finished run lies in the folder."""
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
            pairs, same = load_pairs(dataset, seed)
            model = learn(pairs, same, config)
            loss = training_loss(model, pairs, same)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of {dataset} seed {seed} is not finite")
            save_model(args.out_dir / f"model_{name}.npz", model)
            seconds[name] = time.perf_counter() - started
            note(progress, about, seconds)
            print(f"{dataset} seed {seed}: {len(pairs)} pairs, training loss {loss:.3f}", flush=True)
        write_shown(args.out_dir, dataset, seeds[0])
    write_results(args.out_dir, config, seeds, seconds)
    progress.unlink()
    print(f"finished in {sum(seconds.values()):.1f} s")


if __name__ == "__main__":
    main()
