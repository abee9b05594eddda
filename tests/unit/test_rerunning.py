"""Comparing a run with its repetition: what is the same, what the seeds' noise allows, and what it does not."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.cli import rerun
from fumehood.errors import BadInputError
from fumehood.services import export, rerunning
from fumehood.settings import Settings
from tests.fakes import papers

NAME = "smaller_scale/run_1"


def record(error: list[float], other: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a record's predicate with an evaluator's metric and one that the run tells of itself."""

    def metric(source: str, values: list[float]) -> dict[str, Any]:
        return {"source": source, "primary": source == "evaluator", "datasets": {"circle": {"seeds": values}}}

    made = {
        "code": {"experiment.py": "ab" * 32},
        "limits": {"run": {"wall_s": 60}},
        "arguments": ["--steps=5"],
        "seeds": list(range(len(error))),
        "image": "sha256:1",
        "metrics": {"error": metric("evaluator", error), "training_s": metric("self", other or error)},
    }
    return made | changes


def test_the_same_numbers_hold_without_any_noise() -> None:
    old = record([0.25])
    found = rerunning.compare(NAME, old, copy.deepcopy(old), [old])
    assert found.holds
    assert found.noise == {"circle/error": None, "circle/training_s": None}
    assert [(row.seed, row.is_same, row.allowed) for row in found.rows] == [("0", True, 0.0)] * 2


def test_one_seed_agrees_with_the_same_number_only() -> None:
    old, new = record([0.25]), record([0.2500001])
    found = rerunning.compare(NAME, old, new, [old])
    assert len(found.different) == 1
    assert "circle/error of seed 0 was 0.25 and is 0.25" in found.different[0]


def test_the_noise_is_that_from_seed_to_seed_over_all_records() -> None:
    old, other = record([1.0, 3.0]), record([5.0, 5.0, 5.0])
    found = rerunning.compare(NAME, old, old, [old, other])
    # Sums of squares 2 and 0 over 1 + 2 degrees of freedom.
    assert found.noise["circle/error"] == pytest.approx(math.sqrt(2 / 3))
    allowed = {row.seed: row.allowed for row in found.rows if row.metric == "error"}
    assert allowed["0"] == pytest.approx(3 * math.sqrt(2) * math.sqrt(2 / 3))
    assert allowed["mean"] == pytest.approx(3 * math.sqrt(2 / 2) * math.sqrt(2 / 3))


def test_a_number_within_the_noise_holds_and_one_beyond_does_not() -> None:
    old = record([1.0, 2.0, 3.0])
    near = rerunning.compare(NAME, old, record([2.0, 2.0, 3.0]), [old])
    assert near.holds
    assert not near.rows[0].is_same
    far = rerunning.compare(NAME, old, record([1.0, 2.0, 9.0]), [old])
    assert len(far.different) == 1
    assert far.different[0].startswith(f"{NAME}: circle/error of seed 2 was 3 and is 9, 6 apart where")


def test_a_shift_that_every_seed_could_hide_is_seen_in_the_mean() -> None:
    old = record([1.0, 2.0, 3.0])
    found = rerunning.compare(NAME, old, record([4.0, 5.0, 6.0]), [old])
    assert [row.seed for row in found.rows if row.decides and not row.holds] == ["mean"]
    assert "the mean over seeds was 2 and is 5" in found.different[0]


def test_what_a_run_says_of_itself_is_shown_and_decides_nothing() -> None:
    old, new = record([1.0, 2.0], [10.0, 10.0]), record([1.0, 2.0], [99.0, 99.0])
    found = rerunning.compare(NAME, old, new, [old])
    assert found.holds
    assert [row.again for row in found.rows if row.metric == "training_s"] == [99.0, 99.0, 99.0]


@pytest.mark.parametrize(("primary", "decide"), [(True, {"loss"}), (False, {"loss", "training_s"})])
def test_without_an_evaluator_the_primary_metric_decides_or_else_all(primary: bool, decide: set[str]) -> None:
    old = record([1.0])
    loss = {"source": "self", "primary": primary, "datasets": {"circle": {"seeds": [1.0]}}}
    old["metrics"] = {"loss": loss, "training_s": old["metrics"]["training_s"]}
    assert rerunning.decisive(old) == decide


@pytest.mark.parametrize(
    ("field", "value"),
    [("code", {"experiment.py": "cd" * 32}), ("limits", {}), ("arguments", []), ("seeds", [5, 6]), ("evaluator", "x")],
)
def test_another_condition_is_no_repetition(field: str, value: Any) -> None:
    old = record([1.0, 2.0])
    found = rerunning.compare(NAME, old, record([1.0, 2.0], **{field: value}), [old])
    assert len(found.different) == 1
    assert found.different[0].startswith(f"{NAME}: its {field} was ")


def test_another_image_is_told_and_allowed() -> None:
    old = record([1.0])
    found = rerunning.compare(NAME, old, record([1.0], image="sha256:2"), [old])
    assert found.holds
    assert found.elsewhere == [f'{NAME}: its image was "sha256:1" and is "sha256:2"']


def test_numbers_that_are_missing_are_named() -> None:
    old, new = record([1.0, 2.0]), record([1.0, 2.0])
    del new["metrics"]["error"]
    found = rerunning.compare(NAME, old, new, [old])
    assert found.different == [f"{NAME}: circle/error had 2 values and has 0"]


def test_values_of_uncontrolled_seeds_are_numbered() -> None:
    old = record([1.0, 2.0], seeds="uncontrolled")
    found = rerunning.compare(NAME, old, old, [old])
    assert [row.seed for row in found.rows[:3]] == ["#1", "#2", "mean"]


numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9)


@given(numbers)
def test_a_run_always_agrees_with_itself(values: list[float]) -> None:
    old = record(values)
    assert rerunning.compare(NAME, old, copy.deepcopy(old), [old]).holds


@given(numbers, st.floats(-1e6, 1e6))
def test_the_noise_does_not_hang_on_where_the_numbers_lie(values: list[float], shift: float) -> None:
    plain = rerunning.pooled_sd(iter([values]))
    moved = rerunning.pooled_sd(iter([[value + shift for value in values]]))
    assert plain is not None
    assert moved == pytest.approx(plain, abs=1e-6, rel=1e-6)


class TestWhichAreMeasuredAgain:
    """A folder's records, of which one is named, or all whose data can be drawn again."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "direction.json").write_bytes(export.describe(papers.direction()))
        records: dict[str, dict[str, Any]] = {
            "run_0": {"run": {"index": 0}},
            "run_1": {"run": {"index": 1, "arm": "screen"}},
            "confirm_0": {"run": {"index": 0, "arm": "confirm"}, "drawn_seeds": [7, 8]},
            "confirm_1": {"run": {"index": 1, "arm": "confirm"}, "drawn_seeds": [7, 8]},
            "confirm_2": {"run": {"index": 2, "arm": "confirm"}},
        }
        for experiment in ("one", "two"):
            for name, record in records.items():
                place = tmp_path / "experiments" / experiment / name / "record.json"
                place.parent.mkdir(parents=True)
                told = record if name in {"run_0", "confirm_0"} else {**record, "experiment": experiment}
                place.write_text(json.dumps(told))
        return tmp_path

    def measured(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, run: str, said: list[str] | None = None
    ) -> list[str]:
        names: list[str] = []
        monkeypatch.setattr(rerun, "_check_secret", lambda *_: None)
        monkeypatch.setattr(rerun.checks, "gpus", lambda *_: None)
        monkeypatch.setattr(rerun.checks, "room", lambda *_: None)
        monkeypatch.setattr(rerun, "_measured_again", lambda _, __, one, *___: names.append(one.name))
        progress: Any = SimpleNamespace(say=[].append if said is None else said.append)
        rerun.rerun(Settings(), folder, run=run, template="", sandbox="fake", progress=progress)
        return names

    def test_each_once_and_none_whose_data_nobody_can_draw(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        said: list[str] = []
        found = self.measured(monkeypatch, folder, "", said)
        shared = {"one/run_0", "one/confirm_0"}
        assert {*found} == shared | {f"{of}/{name}" for of in ("one", "two") for name in ("run_1", "confirm_1")}
        assert len(found) == 6
        assert said == [
            "The records of one/confirm_2, two/confirm_2 do not say which seeds their data was drawn for, so they are"
            " not measured again."
        ]

    @pytest.mark.parametrize(("run", "name"), [("1", "run_1"), ("run_1", "run_1"), ("confirm_1", "confirm_1")])
    def test_one_that_is_named(self, monkeypatch: pytest.MonkeyPatch, folder: Path, run: str, name: str) -> None:
        assert self.measured(monkeypatch, folder, run) == [f"one/{name}", f"two/{name}"]

    @pytest.mark.parametrize(
        ("run", "why"), [("confirm_2", "do not say which seeds"), ("7", "no record of run_7"), ("x", "no record of x")]
    )
    def test_one_that_cannot_be_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, run: str, why: str
    ) -> None:
        with pytest.raises(BadInputError, match=why):
            self.measured(monkeypatch, folder, run)
