"""From values per seed and data set to a label, and from the label to the outcome."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics as stats

import pytest
from scipy import stats as reference

from fumehood.domain.confirmation import ConfirmRule, Label, Reason
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.domain.idea import IdeaKind
from fumehood.services import confirming, statistics
from fumehood.services.confirming import Cells, Measure
from fumehood.services.deciding import Decision
from fumehood.services.estimates import HeldOut

RULE = ConfirmRule()
LOSS = Measure(direction="lower")


def drawn(seeds: int, mean: float, *, datasets: str = "ab") -> dict[str, list[float | None]]:
    """Return values per seed, the same at each call, since tests run in any order."""
    draw = random.Random(f"{seeds} {mean} {datasets}")
    return {name: [draw.gauss(mean, 1.0) for _ in range(seeds)] for name in datasets}


POOL, BASE = drawn(10, 10.0), drawn(20, 10.0)


def look(run: Cells, *, number: int = 1, base: Cells = BASE, measure: Measure = LOSS, **more: object) -> Decision:
    """Confirm a run against the baseline of these tests."""
    asked: dict[str, object] = {"discoveries": 0, **more}
    scale = confirming.freeze(measure, POOL)
    return confirming.confirm(RULE, measure, scale, base, run, look=number, **asked)  # type: ignore[arg-type]


def test_a_confirmation_of_one_data_set_is_welchs_test_scaled_by_the_other_pool() -> None:
    pool, base, run = (drawn(seeds, mean, datasets="a") for seeds, mean in ((10, 10.0), (20, 10.0), (9, 9.2)))
    said = confirming.confirm(RULE, LOSS, confirming.freeze(LOSS, pool), base, run, look=1, discoveries=0)
    expected = reference.ttest_ind(run["a"], base["a"], equal_var=False)
    assert said.estimate is not None
    assert said.estimate.value == pytest.approx(
        (stats.fmean(base["a"]) - stats.fmean(run["a"])) / stats.stdev(pool["a"])
    )
    assert said.estimate.value / said.estimate.se == pytest.approx(-expected.statistic)
    assert said.estimate.df == pytest.approx(min(expected.df, 8))
    assert said.alpha == pytest.approx(0.002)


def test_a_run_that_is_far_better_is_better_and_raises_nothing_else() -> None:
    said = look(drawn(9, 7.0))
    assert (said.text, said.look, said.is_discovery) == ("better", 1, True)
    assert look(drawn(9, 13.0)).text == "worse"
    assert look(drawn(9, 13.0), measure=Measure(direction="higher")).text == "better"


def test_earlier_discoveries_raise_the_level() -> None:
    run = drawn(9, 10.0)
    assert look(run, discoveries=4).alpha == pytest.approx(0.01)
    with pytest.raises(ValueError, match="do not fit"):
        look(run, discoveries=50)


def test_a_look_reads_its_own_seeds_only() -> None:
    run = drawn(18, 10.0)
    spoilt = {name: [*values[:9], *[1e6] * 9] for name, values in run.items()}
    assert look(run) == look(spoilt) == look({name: values[:9] for name, values in run.items()})
    assert look(run, number=2).pairs["a"].run.n == 18
    base = {name: [*values, 1e6] for name, values in BASE.items()}
    assert look(run, base=base) == look(run)
    with pytest.raises(ValueError, match="no look 3"):
        look(run, number=3)


def test_a_missing_seed_or_data_set_of_either_arm_is_a_missing_cell() -> None:
    run = drawn(9, 10.0)
    lacks_set, lacks_seed = {"a": run["a"]}, {"a": run["a"], "b": run["b"][:8]}
    assert {look(one).reason for one in (lacks_set, lacks_seed, {})} == {Reason.MISSING_CELLS}
    assert look(run, number=2).reason is Reason.MISSING_CELLS
    assert look(run, base={"a": BASE["a"], "b": BASE["b"][:19]}).reason is Reason.MISSING_CELLS


def test_a_data_set_on_which_the_baseline_does_not_vary_leaves_before_the_first_idea() -> None:
    scale = confirming.freeze(LOSS, POOL | {"c": [500.0] * 10, "d": [None] * 10})
    assert set(scale.values) == {"a", "b"}
    assert set(scale.left_out) == {"c", "d"}
    said = confirming.confirm(RULE, LOSS, scale, BASE, drawn(9, 7.0), look=1, discoveries=0)
    assert said.label is Label.BETTER
    none = confirming.freeze(LOSS, {"c": [500.0] * 10})
    assert confirming.confirm(RULE, LOSS, none, BASE, drawn(9, 7.0), look=1, discoveries=0).reason is Reason.NO_SCALE


def test_the_resolution_is_a_floor_under_the_scale() -> None:
    scale = confirming.freeze(Measure(direction="lower", resolution=50.0), POOL)
    assert scale.values == {"a": 50.0, "b": 50.0}


def test_failed_seeds_stay_in_as_the_worst_that_was_seen() -> None:
    run = drawn(9, 10.0)
    run["a"][2], run["a"][5] = None, math.nan
    said = look(run)
    worst = max(value for value in (*run["a"], *BASE["a"]) if value is not None and math.isfinite(value))
    filled = [worst if value is None or math.isnan(value) else value for value in run["a"]]
    assert said.pairs["a"].run.mean == pytest.approx(stats.fmean(filled))
    assert (said.failed, said.base_failed) == (2, 0)
    capped = look(run, measure=Measure(direction="lower", cap=99.0))
    filled = [99.0 if value == worst and seed in {2, 5} else value for seed, value in enumerate(filled)]
    assert capped.pairs["a"].run.mean == pytest.approx(stats.fmean(filled))


def test_leaving_out_the_bad_seeds_of_an_idle_run_makes_no_gain() -> None:
    run = {name: [8.0, 8.1, 7.9, 8.05, 7.95, 8.0, 20.0, 21.0, 22.0] for name in "ab"}
    kept = {name: [*values[:6], None, None, None] for name, values in run.items()}
    flattering = {name: values[:6] * 2 for name, values in run.items()}
    assert look(flattering).label is Label.BETTER
    assert look(kept, measure=Measure(direction="lower", cap=20.0)).label is not Label.BETTER


def test_a_run_whose_seeds_failed_is_not_called_better_where_no_cap_says_what_that_cost() -> None:
    run = drawn(9, 2.0)
    assert look(run).label is Label.BETTER
    for name in "ab":
        run[name][0] = None
    said = look(run)
    assert (said.text, said.failed) == ("not_comparable: failed_seeds", 1)
    assert said.p is not None
    assert said.p <= said.alpha / 2, "though its other seeds would say so"
    assert look(run, measure=Measure(direction="lower", cap=11.0)).label is Label.BETTER
    bad = drawn(9, 60.0)
    bad["a"][0] = bad["b"][0] = None
    assert look(bad).label is Label.WORSE


def test_failed_seeds_of_the_baseline_make_no_run_better() -> None:
    base = {name: [*[None] * 12, *values[12:]] for name, values in BASE.items()}
    said = look(drawn(9, 10.0), base=base, discoveries=9)
    assert (said.text, said.failed, said.base_failed) == ("not_comparable: failed_seeds", 0, 12)
    assert said.p is not None
    assert said.p <= said.alpha / 2
    assert said.estimate is not None
    assert said.estimate.value > 0.5, "an idle run, beside the worst that was seen in the place of what failed"
    one = {name: [None, *values[1:]] for name, values in BASE.items()}
    assert look(drawn(9, 60.0), base=one).label is Label.WORSE
    assert look(drawn(9, 2.0), base=one).reason is Reason.FAILED_SEEDS
    assert look(drawn(9, 2.0), base=one, measure=Measure(direction="lower", cap=14.0)).label is Label.BETTER


def test_of_too_many_failures_only_the_failures_are_compared() -> None:
    # 4 of 9 against none of 20 is p = 0.0053, 6 of 9 is 0.00018; the first idea's look has 0.001.
    four, six = drawn(9, 5.0), drawn(9, 5.0)
    four["a"][:4] = [None] * 4
    six["b"][:6] = [None] * 6
    said, worse = look(four), look(six)
    assert (said.text, said.failed) == ("not_comparable: failed_seeds", 4)
    assert (worse.label, worse.is_discovery, worse.estimate) == (Label.WORSE, True, None)
    assert worse.p == pytest.approx(math.comb(9, 6) / math.comb(29, 6))
    assert look(four, discoveries=9).label is Label.WORSE  # 0.0053 <= 0.02 / 2


def test_a_third_of_failures_is_not_too_many_and_a_seed_that_fails_twice_is_one() -> None:
    run = drawn(9, 10.0)
    for name in "ab":
        run[name][:3] = [None] * 3
    said = look(run)
    assert said.failed == 3
    assert said.reason is not Reason.FAILED_SEEDS
    assert said.estimate is not None


def test_a_run_that_fails_no_more_than_the_baseline_is_not_worse_for_it() -> None:
    base = {name: [*[None] * 19, 10.0] for name in "ab"}
    run = {name: [*[None] * 4, *values[4:]] for name, values in drawn(9, 10.0).items()}
    said = look(run, base=base, discoveries=49)
    assert (said.reason, said.base_failed) == (Reason.FAILED_SEEDS, 19)
    assert said.p is not None
    assert said.p <= said.alpha / 2


def test_logarithms_compare_ratios_and_do_not_exist_for_zero() -> None:
    measure = Measure(direction="lower", transform="log")
    run = drawn(9, 10.0)
    said = look(run, measure=measure)
    logs = [math.log(value) for value in run["a"] if value is not None]
    assert said.pairs["a"].run.mean == pytest.approx(stats.fmean(logs))
    tenfold = {name: [10 * value for value in values if value is not None] for name, values in run.items()}
    assert look(tenfold, measure=measure).pairs["a"].difference == pytest.approx(
        said.pairs["a"].difference + math.log(10)
    )
    assert look(run | {"b": [0.0] * 9}, measure=measure).reason is Reason.NO_SCALE


def test_the_held_out_error_of_a_data_set_counts() -> None:
    run = drawn(9, 7.0)
    assert look(run).label is Label.BETTER
    assert look(run, held_out={"a": HeldOut(9, 30.0)}).label is None


def test_data_sets_that_contradict_the_label_take_it_back() -> None:
    ours = [value for value in drawn(9, 8.0)["a"] if value is not None]
    run = {"a": ours, "b": [20.0 - value for value in ours]}
    assert look(run).reason is Reason.DATASET_DEPENDENT


def test_the_screen_takes_the_largest_contrast_and_failed_seeds_at_their_worst() -> None:
    runs = [drawn(3, mean) for mean in (10.0, 6.0, 8.0)]
    contrasts = [confirming.screen(LOSS, POOL, run) for run in runs]
    assert statistics.select(contrasts) == 1
    broken = {name: [values[0], None, None] for name, values in runs[1].items()}
    assert statistics.select([confirming.screen(LOSS, POOL, run) for run in (runs[0], broken, runs[2])]) == 2


def test_the_screen_passes_over_what_is_incomplete_and_says_when_nothing_is_left() -> None:
    lacking = confirming.screen(LOSS, POOL, {"a": [0.0, 0.1, 0.2]})
    whole = confirming.screen(LOSS, POOL, drawn(3, 10.0))
    assert lacking is not None
    assert whole is not None
    assert lacking.value > whole.value
    assert statistics.select([lacking, None, whole]) == 2
    assert statistics.select([lacking, None]) is None
    assert statistics.select([]) is None


def test_the_gate_spares_what_the_screen_does_not_show() -> None:
    found = confirming.screen(LOSS, POOL, drawn(3, 9.0))
    assert found is not None
    assert found.se is not None
    at_gate = dataclasses.replace(found, value=0.5 * found.se)
    above = dataclasses.replace(found, value=0.51 * found.se)
    assert statistics.select([at_gate]) == 0
    assert statistics.select([at_gate], gate=0.5) is None
    assert statistics.select([above], gate=0.5) == 0
    assert statistics.select([dataclasses.replace(above, se=None)], gate=0.5) is None


def test_a_summary_looks_at_all_p_values_together() -> None:
    p_values = {"a": 0.01, "b": 0.04, "c": 0.9, "d": None}
    assert confirming.summary(RULE, p_values) == {"a", "b"}  # 0.04 <= 2/3 of 0.10
    assert confirming.summary(RULE, {}) == frozenset()


def test_a_single_data_set_assures_its_error_only_by_logarithms() -> None:
    assert not confirming.error_is_assured(LOSS, 1)
    assert confirming.error_is_assured(LOSS, 4)
    assert confirming.error_is_assured(Measure(direction="lower", transform="log"), 1)


_I, _O = IdeaKind, ExperimentOutcome


@pytest.mark.parametrize(
    ("label", "kind", "expected", "outcome"),
    [
        (Label.BETTER, _I.IMPROVEMENT, "lower", _O.CONFIRMED),
        (Label.BETTER, _I.IMPROVEMENT, "", _O.CONFIRMED),
        (Label.WORSE, _I.IMPROVEMENT, "lower", _O.REFUTED),
        (Label.NO_DIFFERENCE, _I.IMPROVEMENT, "lower", _O.REFUTED),
        (Label.NOT_COMPARABLE, _I.IMPROVEMENT, "lower", _O.INCONCLUSIVE),
        (None, _I.IMPROVEMENT, "lower", _O.INCONCLUSIVE),
        (Label.WORSE, _I.ANALYSIS, "higher", _O.CONFIRMED),
        (Label.BETTER, _I.ANALYSIS, "higher", _O.REFUTED),
        (Label.NO_DIFFERENCE, _I.ANALYSIS, "higher", _O.INCONCLUSIVE),
        (Label.BETTER, _I.REPLICATION, "lower", _O.CONFIRMED),
        (Label.NO_DIFFERENCE, _I.REPLICATION, "lower", _O.INCONCLUSIVE),
    ],
)
def test_the_outcome_follows_from_label_and_registration(
    label: Label | None, kind: IdeaKind, expected: str, outcome: ExperimentOutcome
) -> None:
    assert confirming.outcome(label, kind, expected, "lower") is outcome
