"""What the confirmation's rule does on simulated directions, beside what was expected of it when it was chosen."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fumehood.cli import statistics_simulation as simulation
from fumehood.cli.statistics_simulation import Case, Ended
from fumehood.domain.confirmation import ONE_DATASET, ConfirmRule, Label

EFFECTS = (0.5, 1.0, 2.0, 3.0, 5.0)
"""Of good ideas, in equal shares."""
SHARES = (0.0, 0.1, 0.3)
"""Of ideas that are good; power and the ideas without effect are read at the second."""
EXPECTED_DIRECTIONS = 400
"""How many directions the expected figures rest on, at least; they have a sampling error of their own."""
SIGMAS = 3
CASES = (
    Case("4 data sets", ConfirmRule(), 4),
    Case("1 data set, as for 4", ConfirmRule(), 1),
    Case("1 data set", ONE_DATASET, 1),
)
FIGURES = (
    *(f"false discoveries, {share:.0%} good" for share in SHARES),
    *(f"power at {effect:g} sd" for effect in EFFECTS),
    "no effect: no_difference",
    "no effect: undecided",
    "no effect: seeds",
)
EXPECTED = {
    "4 data sets": (0.01, 0.01, 0.01, 0.24, 0.98, 1.0, 1.0, 1.0, 0.98, 0.02, 9.7),
    "1 data set, as for 4": (0.01, 0.01, 0.01, 0.02, 0.25, 0.95, 1.0, 1.0, 0.57, 0.43, 15.7),
    "1 data set": (0.02, 0.02, 0.02, 0.05, 0.58, 1.0, 1.0, 1.0, 0.82, 0.18, 17.8),
}
"""By case, in the order of `FIGURES`: from the simulation by which the rule was chosen, written independently."""
MIXED = (
    ("no effect anywhere", (0.0,) * 4),
    ("+2 +2 -2 -2 sd", (2.0, 2.0, -2.0, -2.0)),
    ("+1 +1 -1 -1 sd", (1.0, 1.0, -1.0, -1.0)),
)
EXPECTED_MIXED = ((None, 0.009), (0.78, 0.0), (0.90, 0.38))
"""Called no_difference at the first look, without and with the data sets' check; of runs without effect, those that the
check takes back. As `EXPECTED`, but there Welch's degrees of freedom were not capped."""
EXPECTED_PAIRS = 4000
QUIET_AT_LEAST = 0.95
PLANTED_SD, FOUND_AT_LEAST = 2.0, 0.90


@dataclass(frozen=True, slots=True)
class Rate:
    """A share or a mean, with its Monte Carlo error."""

    value: float
    se: float
    """Over directions: the ideas of one share a baseline, and so err together."""
    count: int
    """How many values, of all directions."""


def measure(
    *, directions: int, pairs: int, quiet: int, planted: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Simulate directions and compare.

    Args:
        directions: How many, for each case and share of good ideas.
        pairs: How many runs whose effect differs between data sets, for each way.
        quiet: How many directions without any effect.
        planted: How many directions with one effect among ideas without any.
        seed: Of all draws.
        say: Told what is being simulated.
    """
    begun = time.monotonic()
    rows, targets = [], []
    for number, case in enumerate(CASES):
        say(f"{case.name}: {directions} directions for each of {len(SHARES)} shares of good ideas")
        found = figures(case, directions, np.random.default_rng([seed, number]))
        ratio = directions / EXPECTED_DIRECTIONS
        rows += [row(case.name, *entry, ratio) for entry in zip(FIGURES, found, EXPECTED[case.name], strict=True)]
    say(f"data sets that disagree: {pairs} runs for each of {len(MIXED)} ways")
    rows += _mixed_rows(pairs, np.random.default_rng([seed, len(CASES) + 2]))
    for number, case in enumerate((CASES[0], CASES[2])):
        say(f"{case.name}: {quiet} directions without effect, {planted} with one, from values per seed")
        targets += _targets(case, quiet, planted, np.random.default_rng([seed, len(CASES) + number]))
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "directions": directions,
        "seed": seed,
        "took_s": round(time.monotonic() - begun, 1),
        "rows": rows,
        "targets": targets,
    }


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return a measurement as lines."""
    width = max(len(row["figure"]) for row in told["rows"])
    case = ""
    for row in told["rows"]:
        if row["case"] != case:
            case = row["case"]
            yield f"{case:{width}}  {'measured':>9} {'error':>7} {'expected':>9}"
        said = "within" if row["within"] else "OUTSIDE"
        yield f"  {row['figure']:{width}}{row['measured']:9.3f} {row['se']:7.3f} {row['expected']:9.3f}  {said}"
    for one in told["targets"]:
        said = "met" if one["met"] else "NOT MET"
        yield f"{one['name']} {one['measured']:.2f}, at least {one['least']:.2f} asked: {said}"
    inside = sum(row["within"] for row in told["rows"])
    whole = f"{inside} of {len(told['rows'])} figures within {SIGMAS} standard errors of the difference"
    yield f"{whole}; took {told['took_s']:.0f} s"


def figures(case: Case, directions: int, noise: np.random.Generator) -> list[Rate]:
    """Return what `FIGURES` names."""
    told = {
        share: [simulation.direction(case, _effects(case.rule.ideas, share, noise), noise) for _ in range(directions)]
        for share in SHARES
    }
    mixed = told[SHARES[1]]
    idle = [[one for one in ended if one.effect == 0] for ended in mixed]
    return [
        *(rate([[_false_share(ended)] for ended in told[share]]) for share in SHARES),
        *(
            rate([[float(one.is_found) for one in ended if one.effect == effect] for ended in mixed])
            for effect in EFFECTS
        ),
        rate([[float(one.said.label is Label.NO_DIFFERENCE) for one in ended] for ended in idle]),
        rate([[float(one.is_undecided) for one in ended] for ended in idle]),
        rate([[float(one.seeds) for one in ended] for ended in idle]),
    ]


def rate(groups: Iterable[Sequence[float]]) -> Rate:
    """Return the mean of all values, its error taken over groups, whose members need not be independent."""
    filled = [group for group in groups if group]
    count = sum(len(group) for group in filled)
    mean = sum(sum(group) for group in filled) / count
    return Rate(mean, math.sqrt(sum((sum(group) - mean * len(group)) ** 2 for group in filled)) / count, count)


def _effects(ideas: int, share: float, noise: np.random.Generator) -> list[float]:
    """Return the effect of each idea, the good ones at random places."""
    good = round(ideas * share)
    effects = np.zeros(ideas)
    effects[:good] = np.resize(EFFECTS, good)
    return [float(effect) for effect in noise.permutation(effects)]


def _false_share(ended: Sequence[Ended]) -> float:
    """Return the share of a direction's discoveries that are false; without any it is none."""
    discoveries = [one.is_false for one in ended if one.said.is_discovery]
    return sum(discoveries) / len(discoveries) if discoveries else 0.0


def _mixed_rows(pairs: int, noise: np.random.Generator) -> Iterator[dict[str, Any]]:
    for (name, effects), (without, expected) in zip(MIXED, EXPECTED_MIXED, strict=True):
        said = [simulation.first_look(CASES[0], effects, noise) for _ in range(pairs)]
        bare, checked = ([label is Label.NO_DIFFERENCE for label in labels] for labels in zip(*said, strict=True))
        if without is None:
            taken = [before and not after for before, after in zip(bare, checked, strict=True)]
            told = [("taken back by the check", taken, expected)]
        else:
            told = [("no_difference, unchecked", bare, without), ("no_difference, checked", checked, expected)]
        for figure, those, asked in told:
            found = rate([[float(one)] for one in those])
            yield row(f"4 data sets, {name}", figure, found, asked, pairs / EXPECTED_PAIRS)


def row(case: str, figure: str, found: Rate, expected: float, ratio: float) -> dict[str, Any]:
    """Return a figure beside what was expected of it.

    Args:
        case: What was simulated.
        figure: What was measured.
        found: The measured value.
        expected: What it should be.
        ratio: How many draws the measured value rests on, over those of the expected one.
    """
    counts_seeds = expected > 1
    # Few draws may all agree, which looks like no error at all: the expected share's own is the least.
    least = 0.0 if counts_seeds else math.sqrt(expected * (1 - expected) / found.count)
    # What was expected has an error too, larger by the root of the ratio of what both rest on, and was rounded: to one
    # digit where it counts seeds, else to two.
    error = max(found.se, least) * math.sqrt(1 + ratio)
    rounding = 0.05 if counts_seeds else 0.005
    return {
        "case": case,
        "figure": figure,
        "measured": found.value,
        "se": found.se,
        "expected": expected,
        "within": abs(found.value - expected) <= SIGMAS * error + rounding,
    }


def _targets(case: Case, quiet: int, planted: int, noise: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often a direction without effect stays quiet, and how often a planted effect is found."""
    ideas = case.rule.ideas
    silent = sum(Label.BETTER not in simulation.whole_direction(case, [0.0] * ideas, noise) for _ in range(quiet))
    found = 0
    for _ in range(planted):
        effects, place = [0.0] * ideas, int(noise.integers(ideas))
        effects[place] = PLANTED_SD
        found += simulation.whole_direction(case, effects, noise)[place] is Label.BETTER
    return [
        _target(
            f"{case.name}: share of {quiet} directions without effect that have no better",
            silent / quiet,
            QUIET_AT_LEAST,
        ),
        _target(f"{case.name}: share of {planted} effects of {PLANTED_SD:g} sd found", found / planted, FOUND_AT_LEAST),
    ]


def _target(name: str, measured: float, least: float) -> dict[str, Any]:
    return {"name": name, "measured": measured, "least": least, "met": measured >= least}
