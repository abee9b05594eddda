"""The screen's contrast and the only words it may lead to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain.experiment import ExperimentOutcome
from fumehood.services import statistics

BASE = {"a": [1.0, 1.2, 0.8], "b": [10.0, 12.0, 11.0]}


def test_the_contrast_is_the_mean_of_standardised_differences_with_the_wanted_side_positive() -> None:
    run = {"a": [0.8, 0.8, 0.8], "b": [13.0, 13.0, 13.0]}
    found = statistics.contrast(BASE, run, direction="lower")
    assert found is not None
    assert found.datasets == pytest.approx({"a": 1.0, "b": -2.0})
    assert found.value == pytest.approx(-0.5)
    assert found.se == pytest.approx(math.sqrt(1 / 3 + 1 / 3) / 2)


def test_degrees_of_freedom_never_pass_the_runs_seeds_less_one() -> None:
    many = {"a": [1 + 0.01 * n for n in range(20)]}
    found = statistics.contrast(many, {"a": [1.0, 1.1, 1.2]}, direction="lower")
    assert found is not None
    assert found.df is not None
    assert found.df <= 2


def test_the_p_value_is_that_of_a_t_test() -> None:
    found = statistics.contrast({"a": [1.0, 2.0, 3.0]}, {"a": [2.0, 3.0, 4.0]}, direction="higher")
    assert found is not None
    assert found.p == pytest.approx(0.3453, abs=1e-3)  # t = 1.2247 on min(4, 2) degrees of freedom


def test_a_data_set_on_which_the_baseline_does_not_vary_is_named_and_left_out() -> None:
    base = BASE | {"c": [5.0, 5.0, 5.0]}
    found = statistics.contrast(base, {"a": [1, 1, 1.1], "b": [11, 11, 12], "c": [4, 4, 4]}, direction="lower")
    assert found is not None
    assert set(found.datasets) == {"a", "b"}
    assert "does not vary" in found.left_out["c"]
    assert found.complete


def test_the_spread_is_floored_at_the_resolution() -> None:
    base = {"a": [1.0, 1.0001, 0.9999]}
    found = statistics.contrast(base, {"a": [0.9, 0.9, 0.9]}, direction="lower", resolution=0.1)
    assert found is not None
    assert found.value == pytest.approx(1.0)


def test_a_run_that_lacks_a_data_set_is_never_promising() -> None:
    found = statistics.contrast(BASE, {"a": [0.1, 0.1, 0.11]}, direction="lower")
    assert found is not None
    assert found.p is not None
    assert found.p <= statistics.LEVEL
    assert statistics.label(found) == "not shown"


def test_without_a_direction_nothing_is_compared() -> None:
    assert statistics.contrast(BASE, BASE, direction=None) is None
    assert statistics.difference(1.0, 2.0, 0.1, 0.1, None).judgement == ""


def test_one_seed_gives_no_error_and_so_nothing_is_shown() -> None:
    assert statistics.contrast({"a": [1.0]}, {"a": [0.0]}, direction="lower") is None
    found = statistics.contrast(BASE, {"a": [0.0], "b": [0.0]}, direction="lower")
    assert found is not None
    assert found.p is None
    assert statistics.label(found) == "not shown"


def test_logarithms_compare_ratios_and_refuse_what_is_not_positive() -> None:
    found = statistics.contrast({"a": [1.0, math.e]}, {"a": [1.0, 1.0]}, direction="lower", transform="log")
    assert found is not None
    assert found.value == pytest.approx(0.5 / math.sqrt(0.5))
    assert statistics.contrast({"a": [0.0, 1.0]}, {"a": [1.0, 1.0]}, direction="lower", transform="log") is None


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_a_dev_difference_is_promising_or_not_shown_and_swaps_sides_with_the_direction(
    base: list[float], run: list[float]
) -> None:
    low = statistics.contrast({"a": base}, {"a": run}, direction="lower")
    high = statistics.contrast({"a": base}, {"a": run}, direction="higher")
    assert {statistics.label(low), statistics.label(high)} <= {"promising", "not shown"}
    if low is None or high is None:
        return
    assert low.value == pytest.approx(-high.value)
    assert not (statistics.label(low) == "promising" and statistics.label(high) == "promising")


def test_words_about_a_difference_follow_the_metrics_direction() -> None:
    lower = statistics.difference(0.9, 1.0, 0.03, 0.04, "lower")
    assert (lower.word, lower.judgement) == ("lower", "better")
    assert lower.relative_percent == pytest.approx(-10)
    assert lower.noise == pytest.approx(2.0)
    assert statistics.difference(0.9, 1.0, 0.0, 0.0, "higher").judgement == "worse"
    assert statistics.difference(0.1, -0.1, None, None, "lower").relative_percent is None


def test_a_profile_that_does_not_confirm_is_inconclusive() -> None:
    assert statistics.conclude(measured=2) == ("not_comparable: screen_only", ExperimentOutcome.INCONCLUSIVE)
    assert statistics.conclude(measured=0)[1] is ExperimentOutcome.INCONCLUSIVE
