"""`fumehood bench statistics`: what it simulates is the rule itself, and its figures are compared as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fumehood.cli import bench, statistics_figures
from fumehood.cli import statistics_simulation as simulation
from fumehood.cli.statistics_figures import Rate
from fumehood.cli.statistics_simulation import Case, Moments
from fumehood.domain.confirmation import ONE_DATASET, ConfirmRule, Label, Reason
from fumehood.services import confirming, deciding, estimates, statistics
from fumehood.services.confirming import Measure

CASES = (Case("four", ConfirmRule(), 4), Case("one", ONE_DATASET, 1))
HIGHER = Measure(direction="higher")


def named(values: simulation.Floats) -> dict[str, list[float]]:
    """Return values (data sets, seeds) as an experiment has them."""
    return {str(place): row for place, row in enumerate(values.tolist())}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decisions_from_moments_are_those_from_values(case: Case) -> None:
    noise = np.random.default_rng(4)
    seen = set()
    for turn in range(150):
        rule, effect = case.rule, float(noise.choice([0.0, 0.5, 1.0, 2.0]))
        pool, base, run = (
            noise.standard_normal((case.datasets, seeds))
            for seeds in (rule.screen_baseline, rule.confirm_baseline, rule.looks[1])
        )
        run += effect
        scale = pool.std(axis=-1, ddof=1).tolist()
        for look, seeds in enumerate(rule.looks, 1):
            ours = Moments.of(run[None, :, :seeds]).samples(0)
            pairs = simulation.paired(ours, Moments.of(base[None]).samples(0), scale)
            fast = deciding.decide(rule, pairs, look=look, alpha=rule.alpha(turn % 50))
            whole = confirming.confirm(
                rule,
                HIGHER,
                confirming.freeze(HIGHER, named(pool)),
                named(base),
                named(run),
                look=look,
                discoveries=turn % 50,
            )
            assert fast.estimate is not None
            assert whole.estimate is not None
            assert fast.p == pytest.approx(whole.p)
            assert (fast.estimate.value, fast.estimate.df) == pytest.approx((whole.estimate.value, whole.estimate.df))
            assert deciding.check_datasets(rule, fast).text == whole.text
            seen.add(whole.text)
    assert seen >= {"better", "no_difference", ""}


def test_the_run_chosen_from_many_is_the_one_that_the_screen_selects() -> None:
    noise = np.random.default_rng(5)
    pool = noise.standard_normal((3, 10))
    screened = noise.standard_normal((40, simulation.RUNS, 3, 3))
    chosen = simulation.best(screened, pool, pool.std(axis=-1, ddof=1))
    for idea, place in enumerate(chosen):
        contrasts = [confirming.screen(HIGHER, named(pool), named(run)) for run in screened[idea]]
        assert statistics.select(contrasts) == place


def test_moments_are_those_of_a_sample() -> None:
    values = np.random.default_rng(6).standard_normal((2, 3, 7))
    expected = [estimates.sample(row) for row in values[1].tolist()]
    found = Moments.of(values).samples(1)
    assert [one.n for one in found] == [7, 7, 7]
    assert [one.mean for one in found] == pytest.approx([one.mean for one in expected])
    assert [one.variance for one in found] == pytest.approx([one.variance for one in expected])


def test_a_direction_finds_what_is_large_and_each_discovery_raises_the_level_of_the_next() -> None:
    ended = simulation.direction(CASES[0], [0.0, 9.0, 9.0, -9.0, 0.0], np.random.default_rng(7))
    discoveries = [one.said.is_discovery for one in ended]
    assert discoveries[1:3] == [True, True]
    assert [one.is_found for one in ended[1:3]] == [True, True]
    levels = [one.said.alpha for one in ended]
    assert levels == pytest.approx([0.002 * (sum(discoveries[:idea]) + 1) for idea in range(5)])
    # The run that is worse is not chosen, since four others are not.
    assert (ended[3].effect, ended[3].chosen) == (-9.0, 0.0)


def test_a_discovery_is_false_where_the_chosen_run_does_nothing_or_the_opposite() -> None:
    better = deciding.Decision(label=Label.BETTER)
    worse = deciding.Decision(label=Label.WORSE)
    quiet = deciding.without(Reason.UNDECIDED)

    def told(chosen: float, said: deciding.Decision) -> tuple[bool, bool, bool]:
        one = simulation.Ended(effect=2.0, chosen=chosen, said=said, seeds=9)
        return one.is_false, one.is_found, one.is_undecided

    assert told(0.0, better) == (True, False, False)
    assert told(2.0, worse) == (True, False, False)
    assert told(2.0, better) == (False, True, False)
    assert told(-2.0, worse) == (False, False, False)
    assert told(0.0, quiet) == (False, False, True)


def test_fifty_edits_without_effect_end_without_a_better_and_a_planted_one_is_found() -> None:
    noise = np.random.default_rng(8)
    labels = simulation.whole_direction(CASES[0], [0.0] * 20 + [2.0] + [0.0] * 29, noise)
    assert labels[20] is Label.BETTER
    assert labels.count(Label.BETTER) == 1
    assert labels.count(Label.NO_DIFFERENCE) >= 40


def test_an_error_is_taken_over_groups() -> None:
    # Two groups that agree within themselves are two values, not six.
    assert statistics_figures.rate([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]) == Rate(0.5, pytest.approx(0.5 / 2**0.5), 6)
    assert statistics_figures.rate([[0.25], [], [0.75]]).value == 0.5


@pytest.mark.parametrize(
    ("measured", "expected", "within"),
    [
        (Rate(0.23, 0.01, 10**5), 0.25, True),
        (Rate(0.20, 0.01, 10**5), 0.25, False),  # 3 * 0.01 * sqrt(2) + 0.005 = 0.047
        (Rate(1.0, 0.0, 20), 0.98, True),  # twenty that all agree are not free of error
        (Rate(0.98, 0.004, 1000), 1.0, True),
        (Rate(9.74, 0.0, 1000), 9.7, True),
        (Rate(9.80, 0.01, 1000), 9.7, False),
    ],
)
def test_a_figure_is_within_three_errors_of_what_was_expected(measured: Rate, expected: float, *, within: bool) -> None:
    assert statistics_figures.row("case", "figure", measured, expected, 1.0)["within"] is within


def test_the_command_prints_what_it_writes(tmp_path: Path) -> None:
    small = ["-n", "2", "--pairs", "5", "--quiet", "1", "--planted", "1", "--results", str(tmp_path)]
    done = CliRunner().invoke(bench.app, ["statistics", *small, "--json"])
    assert done.exit_code == 0, done.output
    (kept,) = tmp_path.glob("statistics-*.json")
    told = json.loads(kept.read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == told
    cases = len(statistics_figures.CASES)
    assert len(told["rows"]) == cases * len(statistics_figures.FIGURES) + 5
    assert [one["measured"] for one in told["targets"]] == [1.0] * 4
    lines = list(statistics_figures.table(told))
    assert sum("OUTSIDE" in line or "within" in line for line in lines) == len(told["rows"]) + 1
    assert sum(line.endswith(": met") for line in lines) == 4


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (statistics_figures.figures(CASES[0], 2, np.random.default_rng(9)) for _ in range(2))
    assert one == other
    assert len(one) == len(statistics_figures.FIGURES)
