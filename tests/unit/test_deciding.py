"""What one look may say, in which order, and what takes it back."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fumehood.domain.confirmation import ONE_DATASET, ConfirmRule, Label, Reason, rule_for
from fumehood.services import deciding
from fumehood.services.deciding import Decision, Pair
from fumehood.services.estimates import HeldOut, Sample

RULE = ConfirmRule()
FIRST = RULE.alpha(0)


def pair(effect: float, *, seeds: int = 9, variance: float = 1.0, **changed: object) -> Pair:
    """Return a run that lies so far from a baseline of 20 seeds, in standard deviations of both."""
    plain = Pair(run=Sample(effect, variance, seeds), base=Sample(0.0, 1.0, 20), scale=1.0, direction="higher")
    return dataclasses.replace(plain, **changed)  # type: ignore[arg-type]


def at(*effects: float, look: int = 1, alpha: float = FIRST, **changed: object) -> Decision:
    """Look at a run with these effects, one a data set."""
    seeds = RULE.looks[look - 1]
    pairs = {str(place): pair(effect, seeds=seeds, **changed) for place, effect in enumerate(effects)}  # type: ignore[arg-type]
    return deciding.decide(RULE, pairs, look=look, alpha=alpha)


def test_a_large_difference_is_better_or_worse_by_its_side() -> None:
    # Over four data sets t = 1.5 / 0.2007 = 7.5 on 8 degrees of freedom, p = 0.00007.
    assert at(1.5, 1.5, 1.5, 1.5).label is Label.BETTER
    assert at(-1.5, -1.5, -1.5, -1.5).label is Label.WORSE
    assert at(-1.5, -1.5, -1.5, -1.5, direction="lower").label is Label.BETTER


def test_each_look_spends_half_of_the_level() -> None:
    found = at(1.0, 1.0, 1.0, 1.0)
    assert found.p is not None
    assert at(1.0, 1.0, 1.0, 1.0, alpha=2.01 * found.p).label is Label.BETTER
    assert at(1.0, 1.0, 1.0, 1.0, alpha=1.99 * found.p).label is None


def test_a_small_difference_that_is_sure_is_a_discovery_and_not_no_difference() -> None:
    found = at(0.3, variance=1e-4, base=Sample(0.0, 1e-4, 20))
    assert found.interval is not None
    assert -1 < found.interval.low < found.interval.high < 1
    assert found.label is Label.BETTER


def test_no_difference_needs_the_interval_within_the_margin() -> None:
    # One data set: half the interval is 2.306 * 0.4014 = 0.9256 at nine seeds.
    assert at(0.07).label is Label.NO_DIFFERENCE
    assert at(0.08).label is None
    assert at(0.0, variance=9.0).label is None


def test_what_is_significant_at_five_percent_is_never_no_difference() -> None:
    # Over four data sets t = 0.5 / 0.2007 = 2.49, p = 0.037, and the interval ends at 0.963.
    found = at(0.5, 0.5, 0.5, 0.5)
    assert found.interval is not None
    assert found.interval.high < 1
    assert found.label is None


def test_what_is_not_significant_is_undecided_after_the_second_look_and_never_no_difference() -> None:
    first, second = at(0.0, variance=25.0), at(0.0, variance=25.0, look=2)
    assert first.label is None
    assert first.text == ""
    assert (second.label, second.reason) == (Label.NOT_COMPARABLE, Reason.UNDECIDED)
    assert second.text == "not_comparable: undecided"
    assert not second.is_discovery


def test_a_baseline_and_a_run_without_spread_have_no_scale() -> None:
    assert at(1.0, variance=0.0, base=Sample(0.0, 0.0, 20)).reason is Reason.NO_SCALE


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.floats(0.01, 9),
    st.sampled_from([1, 2]),
    st.floats(1e-3, 0.1),
)
def test_swapping_the_sides_swaps_the_words(effects: list[float], variance: float, look: int, alpha: float) -> None:
    swapped = {Label.BETTER: Label.WORSE, Label.WORSE: Label.BETTER}
    one = at(*effects, look=look, alpha=alpha, variance=variance)
    other = at(*(-effect for effect in effects), look=look, alpha=alpha, variance=variance)
    mirrored = at(*effects, look=look, alpha=alpha, variance=variance, direction="lower")
    assert other.label == mirrored.label == (swapped.get(one.label, one.label) if one.label else None)
    assert other.p == one.p


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4), st.floats(0.01, 9), st.sampled_from([1, 2]))
def test_every_label_keeps_what_it_promises(effects: list[float], variance: float, look: int) -> None:
    said = at(*effects, look=look, variance=variance)
    assert said.p is not None
    assert said.interval is not None
    assert said.discovery_interval is not None
    assume(abs(said.p - said.alpha / 2) > 1e-9)
    assert said.is_discovery == (said.discovery_interval.low > 0 or said.discovery_interval.high < 0)
    if said.label is Label.NO_DIFFERENCE:
        assert said.p > 0.05
        assert -1 < said.interval.low < said.interval.high < 1
    assert (said.label is None) <= (look == 1)
    assert (said.label is Label.NOT_COMPARABLE) == (said.reason is not None)


@given(st.floats(-3, 3), st.floats(0.01, 9), st.integers(2, 60))
def test_one_more_seed_of_the_same_spread_makes_the_error_smaller_and_under_the_cap_the_difference_surer(
    effect: float, variance: float, seeds: int
) -> None:
    few, more = (
        deciding.decide(RULE, {"a": pair(effect, seeds=one, variance=variance)}, look=1, alpha=FIRST)
        for one in (seeds, seeds + 1)
    )
    assert few.estimate is not None
    assert more.estimate is not None
    assert more.estimate.se < few.estimate.se
    if more.estimate.df == seeds:  # beyond it Welch's own degrees of freedom may fall as the run's seeds grow
        assert more.estimate.p <= few.estimate.p


def test_held_out_luck_takes_a_discovery_back() -> None:
    effects = (1.5,) * 4
    assert at(*effects, held_out=HeldOut(10_000, 2.0)).label is Label.BETTER
    assert at(*effects, held_out=HeldOut(16, 4.0)).label is None


def test_one_data_set_against_the_others_makes_nothing_comparable() -> None:
    for effects, label in (((2.5, 2.5, 2.5, -2.0), Label.BETTER), ((-2.5, -2.5, -2.5, 2.0), Label.WORSE)):
        said = at(*effects, alpha=0.1)
        assert said.label is label
        checked = deciding.check_datasets(RULE, said)
        assert checked.text == "not_comparable: dataset_dependent"
        assert checked.contradicting == {"3"}
        assert not checked.is_discovery


def test_effects_that_cancel_are_not_no_difference() -> None:
    said = at(2.0, 2.0, -2.0, -2.0)
    assert said.label is Label.NO_DIFFERENCE
    checked = deciding.check_datasets(RULE, said)
    assert checked.reason is Reason.DATASET_DEPENDENT
    assert checked.contradicting == {"0", "1", "2", "3"}


def test_data_sets_that_agree_or_tell_nothing_leave_the_label() -> None:
    for effects in ((1.5, 1.5, 1.5, 1.5), (3.0, 3.0, 3.0, -0.5), (0.1, -0.1, 0.3, 0.0)):
        said = at(*effects, alpha=0.1)
        assert said.label is not None
        assert deciding.check_datasets(RULE, said) == said


def test_what_is_open_or_not_comparable_is_not_checked() -> None:
    for said in (at(5.0, -5.0, variance=100.0), deciding.without(Reason.UNDECIDED)):
        assert deciding.check_datasets(RULE, said) is said


def test_a_data_set_without_any_spread_contradicts_by_any_difference() -> None:
    still = Sample(0.0, 0.0, 20)
    assert pair(0.0, variance=0.0, base=still).p == 1.0
    assert pair(-0.1, variance=0.0, base=still).p == 0.0


def test_a_pair_tells_the_raw_difference_and_the_ratio_of_spreads() -> None:
    told = pair(-0.5, variance=9.0, scale=2.0, direction="lower")
    assert told.difference == -0.5
    assert told.part.difference == 0.25
    assert told.spread_ratio == pytest.approx(3.0)
    assert pair(0.0, base=Sample(0.0, 0.0, 20)).spread_ratio is None


def test_nothing_is_told_of_what_was_not_looked_at() -> None:
    said = deciding.without(Reason.SCREEN_ONLY)
    assert said.text == "not_comparable: screen_only"
    assert (said.interval, said.discovery_interval, said.estimate, said.look) == (None, None, None, 0)


def test_a_single_data_set_has_more_seeds() -> None:
    assert rule_for(1) is ONE_DATASET
    assert rule_for(4) == ConfirmRule()
    assert (ONE_DATASET.screen_seeds, ONE_DATASET.looks, ONE_DATASET.confirm_baseline) == (6, (12, 24), 40)


def test_discoveries_that_do_not_fit_the_direction_are_refused() -> None:
    for discoveries in (-1, 50):
        with pytest.raises(ValueError, match="do not fit"):
            RULE.alpha(discoveries)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ideas": 0},
        {"margin": 0.0},
        {"q": 1.0},
        {"level": 0.0},
        {"looks": (9, 9)},
        {"looks": (1, 9)},
        {"screen_seeds": 1},
    ],
)
def test_a_rule_without_meaning_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="A rule needs"):
        dataclasses.replace(RULE, **wrong)  # type: ignore[arg-type]
    assert math.isclose(RULE.failed_share, 1 / 3)
