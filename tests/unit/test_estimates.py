"""Welch's test over data sets, the held-out data's own error, and what a number of seeds can show."""

from __future__ import annotations

import math
import random
import statistics as stats

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from fumehood.domain.confirmation import ConfirmRule
from fumehood.services import estimates, power
from fumehood.services.estimates import Error, Estimate, HeldOut, Part, Sample

RUN = [2.1, 2.9, 3.4, 2.2, 2.7]
BASE = [1.0, 1.9, 1.4, 2.2, 1.1, 0.6, 1.7]
WAYS: tuple[estimates.Way, ...] = ("lower", "higher")
UNCAPPED = float("inf")


def test_one_data_set_uncapped_is_welchs_test() -> None:
    part = estimates.standardised(estimates.sample(RUN), estimates.sample(BASE), 0.5, "higher")
    found = estimates.estimate([part], UNCAPPED)
    expected = reference.ttest_ind(RUN, BASE, equal_var=False)
    assert found is not None
    assert found.value / found.se == pytest.approx(expected.statistic)
    assert found.df == pytest.approx(expected.df)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((low / 0.5, high / 0.5))


def test_several_data_sets_are_averaged_and_their_errors_added() -> None:
    parts = [Part(1.0, (Error(0.09, 8), Error(0.07, 19))), Part(3.0, (Error(0.16, 8), Error(0.04, 19)))]
    found = estimates.estimate(parts, UNCAPPED)
    assert found is not None
    assert found.value == 2.0
    assert found.se == pytest.approx(0.3)  # sqrt(0.36) / 2
    assert found.df == pytest.approx(0.36**2 / ((0.09**2 + 0.16**2) / 8 + (0.07**2 + 0.04**2) / 19))


def test_degrees_of_freedom_end_at_the_cap() -> None:
    part = estimates.standardised(Sample(1.0, 1e-6, 3), Sample(0.0, 1.0, 20), 1.0, "higher")
    free, capped = estimates.estimate([part], UNCAPPED), estimates.estimate([part], 2)
    assert free is not None
    assert capped is not None
    # Three values that agree: the formula believes in the baseline's 19 degrees of freedom.
    assert free.df == pytest.approx(19, abs=0.01)
    assert capped.df == 2
    assert free.p < 0.001 < capped.p


def test_the_wanted_side_is_positive() -> None:
    lower, higher = (estimates.standardised(Sample(1.0, 1.0, 5), Sample(3.0, 1.0, 5), 2.0, way) for way in WAYS)
    assert (lower.difference, higher.difference) == (1.0, -1.0)
    assert lower.errors == higher.errors


def test_where_nothing_varies_there_is_no_estimate() -> None:
    part = estimates.standardised(Sample(1.0, 0.0, 5), Sample(0.0, 0.0, 5), 1.0, "higher")
    assert estimates.estimate([part], 4) is None


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(2, 40), st.floats(0.5, 0.999))
def test_an_interval_leaves_zero_out_just_where_the_p_value_is_below_its_level(
    value: float, se: float, df: float, level: float
) -> None:
    found = Estimate(value, se, df)
    low, high = found.interval(level)
    if abs(found.p - (1 - level)) > 1e-9:
        assert (found.p < 1 - level) == (low > 0 or high < 0)


def test_the_held_out_error_adds_to_that_of_the_seeds_and_does_not_fall_with_them() -> None:
    sizes = []
    for seeds in (9, 900_000):
        part = estimates.standardised(
            Sample(1.0, 4.0, seeds), Sample(0.0, 4.0, seeds), 2.0, "higher", HeldOut(100, 3.0)
        )
        found = estimates.estimate([part], UNCAPPED)
        assert found is not None
        sizes.append(found.se)
    assert sizes[0] == pytest.approx(math.sqrt(1 / 9 + 1 / 9 + 9 / 100 / 4))
    assert sizes[1] == pytest.approx(3.0 / 10 / 2, rel=1e-3)


def test_the_held_out_error_is_the_spread_of_the_differences_of_examples() -> None:
    found = estimates.held_out([1.0, 3.0, 2.0], [0.0, 1.0, 0.0], "none")
    assert found.size == 3
    assert found.tau == pytest.approx(stats.stdev([1.0, 2.0, 2.0]))


def test_under_a_logarithm_it_is_the_error_of_the_logarithm_of_the_mean() -> None:
    draw = random.Random(1)
    sets = []
    for _ in range(2000):
        hard = [draw.uniform(1, 3) for _ in range(50)]
        sets.append(([0.5 * one * draw.uniform(0.9, 1.1) for one in hard], hard))
    seen = stats.stdev(math.log(stats.fmean(run) / stats.fmean(base)) for run, base in sets)
    told = estimates.held_out(*sets[0], "log")
    assert math.sqrt(told.error.variance) == pytest.approx(seen, rel=0.2)


def test_what_can_be_shown_agrees_with_simulated_looks() -> None:
    told = power.sensitivity(seeds=9, baseline_seeds=20, datasets=4, alpha=0.01)
    assert told.se == pytest.approx(math.sqrt((1 / 9 + 1 / 20) / 4))
    assert told.df == 8
    assert told.noise_floor == pytest.approx(reference.t.ppf(0.975, 8) * told.se)
    draw, found, turns = random.Random(2), 0, 1000

    def arm(seeds: int, effect: float) -> Sample:
        return estimates.sample([draw.gauss(effect, 1.0) for _ in range(seeds)])

    for _ in range(turns):
        parts = [estimates.standardised(arm(9, told.smallest_effect), arm(20, 0.0), 1.0, "higher") for _ in range(4)]
        one = estimates.estimate(parts, 8)
        found += one is not None and one.p <= 0.01
    assert found / turns == pytest.approx(0.8, abs=0.04)


def test_more_of_anything_shows_less() -> None:
    def smallest(**changed: float) -> float:
        asked = {"seeds": 9, "baseline_seeds": 20, "datasets": 2, "alpha": 0.01, "power": 0.8} | changed
        return power.sensitivity(**asked).smallest_effect  # type: ignore[arg-type]

    assert smallest() > max(smallest(seeds=18), smallest(baseline_seeds=40), smallest(datasets=4), smallest(alpha=0.05))
    assert smallest() < min(smallest(power=0.9), smallest(spread=2.0))


def test_a_spread_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        power.sensitivity(seeds=9, baseline_seeds=20, datasets=1, alpha=0.01, spread=math.nan)


@pytest.mark.parametrize("discoveries", range(0, 50, 7))
def test_the_level_rises_with_the_discoveries_up_to_q(discoveries: int) -> None:
    assert ConfirmRule().alpha(discoveries) == pytest.approx(0.002 * (discoveries + 1))
    assert ConfirmRule().alpha(discoveries) <= 0.10
