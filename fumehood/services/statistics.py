"""What differences on the dev set may be called: the screen's contrast, its error, and the only two words allowed."""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fumehood.domain.experiment import ExperimentOutcome

PROMISING = "promising"
NOT_SHOWN = "not shown"
LEVEL = 0.05
_NOTHING = 1e-100
"""Below this a spread is none: dividing by it would leave the range of numbers."""
SCREEN_ONLY = "not_comparable: screen_only"

Way = Literal["lower", "higher"]


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


def contrast(
    base: Mapping[str, Sequence[float]],
    run: Mapping[str, Sequence[float]],
    *,
    direction: Way | None,
    resolution: float = 0.0,
    transform: Literal["none", "log"] = "none",
) -> Contrast | None:
    """Compare a run with the baseline from their values per seed; None when nothing can be compared.

    `C = mean over data sets of sign * (mean_run - mean_base) / s_d`, with s_d the baseline's standard deviation over
    seeds, never below the metric's resolution. A data set whose baseline does not vary leaves the contrast.
    """
    if direction is None:
        return None
    sign = 1.0 if direction == "higher" else -1.0
    parts: dict[str, float] = {}
    left_out: dict[str, str] = {}
    variances: list[tuple[float, int]] = []
    sizes: list[int] = []
    complete = True
    for name, raw_base in base.items():
        if name not in run or not run[name]:
            left_out[name], complete = "the run has no result on it", False
            continue
        ours, theirs = _transformed(run[name], transform), _transformed(raw_base, transform)
        if ours is None or theirs is None:
            left_out[name] = "its values are not all positive, so that the declared logarithm does not exist"
            continue
        if len(theirs) < 2:
            left_out[name] = "the baseline has fewer than two seeds"
            continue
        spread = stats.stdev(theirs)
        if spread <= _NOTHING:
            left_out[name] = "the baseline does not vary over seeds"
            continue
        scale = max(spread, resolution)
        parts[name] = sign * (stats.fmean(ours) - stats.fmean(theirs)) / scale
        sizes.append(len(ours))
        if len(ours) > 1:
            variances.append(((stats.stdev(ours) / scale) ** 2 / len(ours), len(ours) - 1))
        variances.append(((spread / scale) ** 2 / len(theirs), len(theirs) - 1))
    if not parts:
        return None
    value = stats.fmean(parts.values())
    se = df = p = None
    total = sum(variance for variance, _ in variances)
    if min(sizes) > 1 and total > 0:
        se = math.sqrt(total) / len(parts)
        welch = 1 / sum((variance / total) ** 2 / degrees for variance, degrees in variances)
        df = min(welch, float(min(sizes) - 1))
        p = _two_sided(abs(value) / se, df)
    return Contrast(value=value, se=se, df=df, p=p, datasets=parts, left_out=left_out, complete=complete)


def label(result: Contrast | None) -> str:
    """Return the word for a dev difference: `promising` or `not shown`, and never more than that."""
    if result is None or result.p is None or not result.complete:
        return NOT_SHOWN
    return PROMISING if result.value > 0 and result.p <= LEVEL else NOT_SHOWN


def conclude(*, measured: int) -> tuple[str, ExperimentOutcome]:
    """Return label and outcome of an experiment whose profile does not confirm."""
    return (SCREEN_ONLY if measured else "not_comparable: missing_cells"), ExperimentOutcome.INCONCLUSIVE


def _transformed(values: Sequence[float], transform: str) -> list[float] | None:
    if transform != "log":
        return list(values)
    return [math.log(value) for value in values] if all(value > 0 for value in values) else None


def _two_sided(t: float, df: float) -> float:
    # The distribution function alone: importing scipy.stats for its t would take seconds.
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))
