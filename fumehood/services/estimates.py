"""Means over seeds, and the difference of two arms over several data sets with its error, by Welch's test."""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Way = Literal["lower", "higher"]
Transform = Literal["none", "log"]
NOTHING = 1e-100
"""Below this a spread is none: dividing by it would leave the range of numbers."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One arm on one data set: what its seeds measured, in the metric's unit or in its logarithm."""

    mean: float
    variance: float
    """Unbiased; zero for a single seed, whose spread nobody knows."""
    n: int

    @property
    def error(self) -> Error:
        """The mean's own error over seeds."""
        return Error(self.variance / self.n, self.n - 1)


class Error(NamedTuple):
    """One independent source of error of a difference."""

    variance: float
    df: float
    """Degrees of freedom that the variance was estimated with."""


class Part(NamedTuple):
    """One data set's share of a contrast."""

    difference: float
    """Positive on the wanted side, in baseline standard deviations."""
    errors: tuple[Error, ...]
    """In the square of that unit."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How much a difference owes to which examples happened to be held out; fresh seeds do not average that out."""

    size: int
    """N: held-out examples, or documents where examples of one document resemble each other; at least two."""
    tau: float
    """Standard deviation over them of run less baseline, each averaged over its seeds; in the unit that is compared."""

    @property
    def error(self) -> Error:
        """The difference's own error over examples."""
        return Error(self.tau**2 / self.size, self.size - 1)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference, its standard error and the t distribution that it is judged by."""

    value: float
    se: float
    """Above zero."""
    df: float

    @property
    def p(self) -> float:
        """The two-sided p-value of no difference."""
        return two_sided(self.value / self.se, self.df)

    def interval(self, level: float) -> Interval:
        """Return the two-sided confidence interval, such as that of level 0.95."""
        half = quantile((1 + level) / 2, self.df) * self.se
        return Interval(self.value - half, self.value + half)


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def sample(values: Sequence[float]) -> Sample:
    """Return the moments of one arm's values, one a seed; at least one."""
    return Sample(stats.fmean(values), stats.variance(values) if len(values) > 1 else 0.0, len(values))


def sign_of(direction: Way) -> float:
    """Return what makes a difference positive on the wanted side."""
    return 1.0 if direction == "higher" else -1.0


def transformed(values: Sequence[float], transform: Transform) -> list[float] | None:
    """Return values as they are compared; None where the declared logarithm does not exist."""
    if transform != "log":
        return list(values)
    return [math.log(value) for value in values] if all(value > 0 for value in values) else None


def standardised(run: Sample, base: Sample, scale: float, direction: Way, held_out: HeldOut | None = None) -> Part:
    """Return a data set's difference and its errors, in units of `scale`; each arm with two seeds or more."""
    errors = [run.error, base.error, *([held_out.error] if held_out else [])]
    return Part(
        sign_of(direction) * (run.mean - base.mean) / scale,
        tuple(Error(error.variance / scale**2, error.df) for error in errors),
    )


def held_out(run: Sequence[float], base: Sequence[float], transform: Transform) -> HeldOut:
    """Return the held-out error of a data set from what each example, or document, gave on the average of the seeds.

    A metric that is compared by its logarithm is the logarithm of a mean over examples. Its error is that of the
    examples in units of that mean, to first order.

    Args:
        run: One value an example, averaged over the run's seeds.
        base: The same examples, averaged over the baseline's seeds.
        transform: What is done to the metric, the mean of these values.
    """
    ours, theirs = (stats.fmean(run), stats.fmean(base)) if transform == "log" else (1.0, 1.0)
    return HeldOut(len(run), stats.stdev(one / ours - other / theirs for one, other in zip(run, base, strict=True)))


def estimate(parts: Sequence[Part], cap: float) -> Estimate | None:
    """Return the mean of the parts' differences with its error; None where nothing varies, or a value is no number.

    The degrees of freedom are Welch's and Satterthwaite's, and never more than `cap`. The cap matters: when a run's few
    values happen to agree, its variance looks small and the formula gives it the baseline's many degrees of freedom.
    """
    errors = [error for part in parts for error in part.errors]
    total = math.fsum(error.variance for error in errors)
    if not total > NOTHING:  # nor where a value is no number
        return None
    # Shares of the total first: squares of very small variances would leave the range of numbers.
    welch = 1 / sum((error.variance / total) ** 2 / error.df for error in errors if error.variance > 0)
    value = math.fsum(part.difference for part in parts) / len(parts)
    return Estimate(value, math.sqrt(total) / len(parts), min(welch, cap))


def two_sided(t: float, df: float) -> float:
    """Return how likely a t value at least as far from zero is, on either side."""
    # The distribution function alone, here and below: importing scipy.stats for its t would take seconds.
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def quantile(share: float, df: float) -> float:
    """Return the t value below which that share of the distribution lies."""
    from scipy.special import stdtrit

    return float(stdtrit(df, share))
