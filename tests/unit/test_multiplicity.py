"""Several tests at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from fumehood.services import multiplicity

FOUR = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
P_VALUES = st.dictionaries(st.integers(0, 20), st.floats(0, 1), max_size=12)


def test_holm_stops_at_the_first_that_fails() -> None:
    # 0.005 <= 0.05 / 4 and 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2.
    assert multiplicity.holm(FOUR, 0.05) == {"a", "d"}
    assert multiplicity.holm({"a": 0.02, "b": 0.04}, 0.05) == {"a", "b"}
    assert multiplicity.holm({"a": 0.03, "b": 0.03}, 0.05) == frozenset()


def test_benjamini_and_hochberg_take_all_up_to_the_last_that_holds() -> None:
    # 0.04 <= 4/4 of 0.05 takes the others with it.
    assert multiplicity.benjamini_hochberg(FOUR, 0.05) == set(FOUR)
    assert multiplicity.benjamini_hochberg(FOUR, 0.03) == {"a", "d"}
    assert multiplicity.benjamini_hochberg({}, 0.1) == frozenset()


@given(P_VALUES)
def test_benjamini_and_hochberg_are_scipys(p_values: dict[int, float]) -> None:
    found = multiplicity.benjamini_hochberg(p_values, 0.1)
    if p_values:
        adjusted = reference.false_discovery_control(list(p_values.values()))
        sure = {name for name, p in zip(p_values, adjusted, strict=True) if p <= 0.1 - 1e-9}
        assert sure <= found <= {name for name, p in zip(p_values, adjusted, strict=True) if p <= 0.1 + 1e-9}
    assert multiplicity.holm(p_values, 0.1) <= found


@given(st.integers(1, 12), st.integers(1, 25), st.data())
def test_fishers_test_is_scipys(total: int, base_total: int, data: st.DataObject) -> None:
    failed, base_failed = data.draw(st.integers(0, total)), data.draw(st.integers(0, base_total))
    table = [[failed, total - failed], [base_failed, base_total - base_failed]]
    expected = reference.fisher_exact(table).pvalue
    assert multiplicity.fisher_exact(failed, total, base_failed, base_total) == pytest.approx(expected)


def test_four_failures_of_nine_against_none_of_twenty() -> None:
    assert multiplicity.fisher_exact(4, 9, 0, 20) == pytest.approx(126 / 23751)  # C(9, 4) / C(29, 4)
