"""What differences on the dev set may be called: the screen's contrast, its error, and the only two words allowed."""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fumehood.domain.confirmation import Reason, not_comparable
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.services import estimates
from fumehood.services.estimates import NOTHING, Part, Transform, Way

PROMISING = "promising"
NOT_SHOWN = "not shown"
LEVEL = 0.05


class Scales(NamedTuple):
    """How far the baseline's seeds scatter, on each data set."""

    values: Mapping[str, float]
    """Standard deviation over seeds of the metric as it is compared, never below its resolution."""
    left_out: Mapping[str, str]
    """Data sets that give no scale and so leave every contrast, each with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One run against the baseline over all data sets, in baseline standard deviations; positive is the wanted side."""

    value: float
    se: float | None
    """None where a spread cannot be estimated, as with one seed."""
    df: float | None
    p: float | None
    """Two-sided, uncorrected for the number of runs screened."""
    datasets: Mapping[str, float]
    """Signed standardised difference of each data set that counts."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Data sets that do not count, each with the reason."""
    complete: bool = True
    """False when the run lacks a data set that the baseline has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A raw difference in words and numbers."""

    value: float
    """The run's mean less the baseline's."""
    relative_percent: float | None
    """Of the baseline's mean; None where that mean is not a sensible denominator."""
    word: str
    """`lower`, `higher` or `equal`."""
    judgement: str
    """`better`, `worse` or `same` by the metric's own direction; empty when it has none."""
    noise: float | None
    """The size of the difference in its own standard errors; None when these are zero or unknown."""


def difference(
    run: float, base: float, run_se: float | None, base_se: float | None, direction: Way | None
) -> Difference:
    """Describe a raw difference; a metric without a direction gets no judgement."""
    value = run - base
    word = "equal" if value == 0 else "lower" if value < 0 else "higher"
    judgement = ""
    if direction is not None:
        judgement = "same" if value == 0 else "better" if word == direction else "worse"
    relative = 100 * value / base if base > 0 and run >= 0 else None
    error = math.hypot(run_se or 0.0, base_se or 0.0)
    known = run_se is not None and base_se is not None and error > 0
    return Difference(
        value=value,
        relative_percent=relative,
        word=word,
        judgement=judgement,
        noise=abs(value) / error if known else None,
    )


def scales(base: Mapping[str, Sequence[float]], *, resolution: float = 0.0, transform: Transform = "none") -> Scales:
    """Return the baseline's spread per data set, which the differences are divided by.

    Args:
        base: Data set to values, one a seed.
        resolution: A floor, in the unit that values are compared in.
        transform: What is done to the values first.
    """
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name, raw in base.items():
        values = estimates.transformed(raw, transform)
        if values is None:
            left_out[name] = "its values are not all positive, so that the declared logarithm does not exist"
        elif len(values) < 2:
            left_out[name] = "the baseline has fewer than two seeds"
        elif (spread := stats.stdev(values)) <= NOTHING:
            left_out[name] = "the baseline does not vary over seeds"
        else:
            found[name] = max(spread, resolution)
    return Scales(found, left_out)


def contrast(
    base: Mapping[str, Sequence[float]],
    run: Mapping[str, Sequence[float]],
    *,
    direction: Way | None,
    resolution: float = 0.0,
    transform: Transform = "none",
) -> Contrast | None:
    """Compare a run with the baseline from their values per seed; None when nothing can be compared.

    `C = mean over data sets of sign * (mean_run - mean_base) / s_d`, with s_d the baseline's standard deviation over
    seeds, never below the metric's resolution. A data set whose baseline does not vary leaves the contrast.
    """
    if direction is None:
        return None
    scale, left_out = scales(base, resolution=resolution, transform=transform)
    left_out = dict(left_out)
    parts: dict[str, Part] = {}
    fewest = None
    complete = True
    for name, raw_base in base.items():
        if name not in run or not run[name]:
            left_out[name], complete = "the run has no result on it", False
            continue
        ours, theirs = (estimates.transformed(raw, transform) for raw in (run[name], raw_base))
        if ours is None or theirs is None:
            left_out[name] = "its values are not all positive, so that the declared logarithm does not exist"
        if ours is None or theirs is None or name not in scale:
            continue
        parts[name] = estimates.standardised(estimates.sample(ours), estimates.sample(theirs), scale[name], direction)
        fewest = min(len(ours), fewest or len(ours))
    if fewest is None:
        return None
    value = stats.fmean(part.difference for part in parts.values())
    found = estimates.estimate(list(parts.values()), fewest - 1) if fewest > 1 else None
    return Contrast(
        value=value,
        se=found.se if found else None,
        df=found.df if found else None,
        p=found.p if found else None,
        datasets={name: part.difference for name, part in parts.items()},
        left_out=left_out,
        complete=complete,
    )


def select(contrasts: Sequence[Contrast | None], gate: float | None = None) -> int | None:
    """Return the place of the run to confirm: the one with the largest contrast; None when none is worth it.

    Its contrast is the best of several and so biased: nothing from the screen is ever called better.

    Args:
        contrasts: One a run; a run that lacks a data set is passed over.
        gate: How many standard errors the largest contrast must pass, where idle runs are to be spared.
    """
    whole = {place: one for place, one in enumerate(contrasts) if one is not None and one.complete}
    if not whole:
        return None
    best = max(whole, key=lambda place: whole[place].value)
    found = whole[best]
    if gate is not None and (found.se is None or found.value <= gate * found.se):
        return None
    return best


def label(result: Contrast | None) -> str:
    """Return the word for a dev difference: `promising` or `not shown`, and never more than that."""
    if result is None or result.p is None or not result.complete:
        return NOT_SHOWN
    return PROMISING if result.value > 0 and result.p <= LEVEL else NOT_SHOWN


def conclude(*, measured: int) -> tuple[str, ExperimentOutcome]:
    """Return label and outcome of an experiment whose profile does not confirm."""
    return not_comparable(Reason.SCREEN_ONLY if measured else Reason.MISSING_CELLS), ExperimentOutcome.INCONCLUSIVE
