"""How small a difference a confirmation can show, before any is measured."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.services import estimates
from fumehood.services.estimates import Error, Part


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What so many seeds can tell apart; in baseline standard deviations, of the mean over data sets.

    On one data set's own scale, multiply by its standard deviation over seeds.
    """

    se: float
    df: float
    """As the rule caps it."""
    noise_floor: float
    """What the luck of seeds alone stays within in 95 % of cases, as the rule would print it."""
    smallest_effect: float
    """The true effect that is found with the power asked for."""


def sensitivity(
    *, seeds: int, baseline_seeds: int, datasets: int, alpha: float, power: float = 0.8, spread: float = 1.0
) -> Sensitivity:
    """Return what one look can detect, for normal noise and a run that scatters as much as the baseline.

    The power is that of the noncentral t distribution with Welch's own degrees of freedom, against the threshold of the
    capped ones: the cap makes the threshold stricter, and does not make the difference scatter more.

    Args:
        seeds: Of the run, at this look; two or more.
        baseline_seeds: Of the baseline, that the run is compared with; two or more.
        datasets: How many the contrast averages; one or more.
        alpha: The look's two-sided level.
        power: Share of cases in which the smallest effect is found, between 0.5 and 1.
        spread: The run's standard deviation over seeds, in the baseline's.

    Raises:
        ValueError: `spread` is no number.
    """
    from scipy.special import nctdtrinc

    errors = (Error(spread**2 / seeds, seeds - 1), Error(1 / baseline_seeds, baseline_seeds - 1))
    parts = [Part(0.0, errors)] * datasets
    judged, free = estimates.estimate(parts, seeds - 1), estimates.estimate(parts, float("inf"))
    if judged is None or free is None:
        raise ValueError(f"A spread of {spread} is no number.")
    threshold = estimates.quantile(1 - alpha / 2, judged.df)
    return Sensitivity(
        se=judged.se,
        df=judged.df,
        noise_floor=judged.interval(0.95).high,
        smallest_effect=float(nctdtrinc(free.df, 1 - power, threshold)) * judged.se,
    )
