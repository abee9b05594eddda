"""What a paper may speak of comes out of records, and every number finds its way back."""

from __future__ import annotations

import base64
import json

import pytest

from fumehood.domain.template import Template
from fumehood.errors import NotFoundError
from fumehood.gateway.upstreams import offline_paper
from fumehood.services import facts, numbers, setup_facts
from tests.fakes import papers


def test_every_number_resolves_to_its_value_again() -> None:
    records = {f"run_{index}": papers.record(index, {"dino": -2.0 * index}) for index in range(3)}
    runs = [papers.run(index) for index in range(3)]
    found = facts.gather(
        papers.direction(), papers.template(), papers.idea(), papers.experiment(), runs, {}, records, coder="c"
    )
    assert len(found["numbers"]) > 100
    for name, number in found["numbers"].items():
        record = records[number["source"].split("/")[0]]
        value = numbers.resolve(number["pointer"], record, records["run_0"], papers.template().metrics)
        assert value == number["value"], name


def test_facts_are_json() -> None:
    assert json.loads(json.dumps(papers.make(), allow_nan=False)) == papers.make()


def test_a_failed_run_is_told_with_its_attempts_and_without_numbers() -> None:
    found = papers.make([None, {"dino": -1}], attempts={})
    failed = found["runs"][0]
    assert failed["metrics"] == {}
    assert [one["error"][:12] for one in failed["attempts"]] == ["RuntimeError"] * 4
    assert not any(name.startswith("run_1.") for name in found["numbers"])


def test_a_difference_is_described_by_the_metrics_own_direction() -> None:
    shift = dict.fromkeys(papers.BASE, -8.0)
    found = papers.make([shift, {name: -value for name, value in shift.items()}])
    first, second = found["runs"]
    assert first["metrics"]["kl_divergence"]["judgement"] == "better"
    assert first["label"] == "promising"
    assert second["metrics"]["kl_divergence"]["judgement"] == "worse"
    assert second["label"] == "not shown"


def test_a_run_beyond_the_budget_is_never_promising() -> None:
    records = {"run_0": papers.record(0, {}), "run_1": papers.record(1, dict.fromkeys(papers.BASE, -9.0))}
    records["run_1"]["counts"] = {"parameters": 148000, "updates": 500, "samples_seen": 64000}
    runs = [papers.run(0), papers.run(1)]
    found = facts.gather(papers.direction(), papers.template(), papers.idea(), papers.experiment(), runs, {}, records)
    told = found["runs"][0]
    assert told["label"] == "not shown"
    assert "148,000 parameters" in told["budget"][0]


@pytest.mark.parametrize("part", ["image", "template", "secret"])
def test_a_run_that_was_not_measured_as_the_baseline_was_is_not_compared(part: str) -> None:
    records = {f"run_{index}": papers.record(index, dict.fromkeys(papers.BASE, -9.0 * index)) for index in range(2)}
    records["run_0"][part], records["run_1"][part] = "before", "renewed"
    runs = [papers.run(0), papers.run(1)]
    found = facts.gather(papers.direction(), papers.template(), papers.idea(), papers.experiment(), runs, {}, records)
    told = found["runs"][0]
    assert (told["label"], told["contrast"]) == ("not_comparable: protocol_changed", None)
    assert told["metrics"]["kl_divergence"]["mean"] is not None
    assert not [name for name in found["numbers"] if name.startswith("run_1.kl") and name.endswith("difference")]
    assert "since the baseline was measured the lab, the template or the secret was renewed" in found["limitations"][-1]
    with pytest.raises(NotFoundError, match="protocol_changed"):
        numbers.resolve("kl_divergence/difference", records["run_1"], records["run_0"])
    text = offline_paper.compose("results", found, {})
    assert "not measured as the baseline was" in text
    assert "promising" not in text


@pytest.mark.parametrize("change", ["drops its worst seed", "tells each seed three times"])
def test_a_run_without_one_result_for_each_seed_is_never_promising(change: str) -> None:
    records = {f"run_{index}": papers.record(index, dict.fromkeys(papers.BASE, -9.0 * index)) for index in range(2)}
    runs = [papers.run(0), papers.run(1)]

    def label() -> str:
        given = (papers.direction(), papers.template(), papers.idea(), papers.experiment())
        return facts.gather(*given, runs, {}, records)["runs"][0]["label"]

    for record in records.values():
        record["seeds"] = [1, 2, 3]
    assert label() == "promising"
    for entry in records["run_1"]["metrics"]["kl_divergence"]["datasets"].values():
        seeds = entry["seeds"]
        entry["seeds"] = sorted(seeds)[:2] if change.startswith("drops") else seeds * 3
    assert label() == "not shown"


def test_a_time_is_not_compared_across_machines_and_other_numbers_are() -> None:
    records = {f"run_{index}": papers.record(index, dict.fromkeys(papers.BASE, -9.0 * index)) for index in range(2)}
    records["run_0"]["processor"], records["run_1"]["processor"] = "a slow one", "a fast one"
    assert numbers.incomparable("kl_divergence", records["run_1"], records["run_0"]) == ""
    for record in records.values():
        record["metrics"]["training_time"]["is_time"] = True
    assert numbers.incomparable("training_time", records["run_1"], records["run_0"]) == "protocol_changed"
    del records["run_0"]["processor"]
    assert numbers.incomparable("training_time", records["run_1"], records["run_0"]) == "", "it was not written down"


def test_the_setup_comes_from_the_record_and_names_nothing_else() -> None:
    rows = {row["name"]: row["value"] for row in papers.make()["setup"]}
    assert rows["Parameters per model (self-reported)"] == "74,882"
    assert "Parameters per model" not in rows
    assert rows["Held-out points per data set and seed"] == "2,000"
    assert rows["Seeds"] == "1, 2, 3"
    assert "Device" not in rows


def test_the_setup_tells_what_was_counted_from_what_a_run_says() -> None:
    record = papers.record(0, {}) | {
        "counted": {"parameters": 74000.0, "flops": 1234.0},
        "usage": {"run": {"gpu_s": 3}},
    }
    rows = setup_facts.setup_rows(
        papers.direction(), papers.template(), papers.template().profiles["tiny"], record, "run_0/record.json", {}
    )
    told = {row["name"]: row["value"] for row in rows}
    assert told["Parameters per model"] == "74,000"
    assert told["Parameters per model (self-reported)"] == "74,882"
    assert told["Floating-point operations per answer"] == "1,234"
    assert told["GPU time of the baseline run (s)"] == "3.00"


def test_the_setup_counts_the_promises_that_were_held_and_names_the_others() -> None:
    def told(**isolation: str) -> str:
        rows = setup_facts.setup_rows(
            papers.direction(),
            papers.template(),
            papers.template().profiles["tiny"],
            papers.record(0, {}, isolation=isolation),
            "run_0/record.json",
            {},
        )
        return next(row["value"] for row in rows if row["name"] == "Isolation")

    every = dict.fromkeys(setup_facts.PROMISES, "by something")
    assert told(**every) == "16 of 16 promises held and recorded"
    some = {name: how for name, how in every.items() if name not in {"S2", "S12"}}
    assert told(**some) == (
        "14 of 16 promises held and recorded; not held: S2, S12 (network capabilities and GPUs are refused)"
    )
    loose = told(**some | {"S5": "not held: the spec asks for storage without a quota"})
    assert loose.startswith("13 of 16 promises held and recorded; not held: S2, S5, S12 (")


@pytest.mark.parametrize(
    ("model", "own", "used"), [("offline", True, False), ("offline", False, True), ("m", True, True)]
)
def test_it_is_known_whether_the_model_read_the_directions_text(model: str, own: bool, used: bool) -> None:
    found = papers.make(direction=papers.direction(model=model), own_text=own)
    assert found["model"]["direction_text_used"] is used


def test_a_minimal_template_is_described_and_never_compared() -> None:
    def info(day: float) -> dict[str, object]:
        return {"SEIR": {"means": {"peak": day, "total": 2991.4}, "solution": [1, 2, 3]}}

    runs = [papers.run(0, seeds=()), papers.run(1, seeds=(), title="Run 1: Slower decay")]
    found = facts.gather(
        papers.direction(template="seir", profile="cpu"),
        Template(title="seir"),
        papers.idea(metric="", expected=""),
        papers.experiment(products={}),
        runs,
        {"run_0": info(694.8), "run_1": info(640.2)},
        {},
    )
    assert found["metric"] == "peak"
    assert found["template"]["metrics"]["peak"]["source"] == "self"
    assert found["runs"][0]["label"] == ""
    assert found["runs"][0]["title"] == "Slower decay"
    assert found["numbers"]["run_1.peak.mean"]["source"] == "run_1/final_info.json"


def test_a_record_is_read_out_of_its_envelope() -> None:
    statement = {"_type": "s", "predicate": {"seeds": [1]}}
    envelope = {"payload": base64.b64encode(json.dumps(statement).encode()).decode(), "signatures": []}
    assert facts.predicate(json.dumps(envelope).encode()) == {"seeds": [1]}
    assert facts.predicate(b'{"seeds": [2]}') == {"seeds": [2]}


@pytest.mark.parametrize(
    ("value", "digits", "printed"),
    [
        (0.41349, 3, "0.413"),
        (0.0996, 2, "0.10"),
        (296450.0, 6, "296,450"),
        (-0.0612, 2, "-0.061"),
        (0.0, 3, "0"),
        (1.23e-7, 2, "1.2e-7"),
        (120.0, 3, "120"),
        (1234.5, 2, "1,200"),
    ],
)
def test_numbers_are_rounded_to_significant_digits(value: float, digits: int, printed: str) -> None:
    assert numbers.rounded(value, digits) == printed


def test_a_pointer_to_nothing_is_an_error() -> None:
    record = papers.record(1, {})
    for pointer in ("kl_divergence/mars/mean", "kl_divergence", "nothing/mean", "counts", "kl_divergence/contrast"):
        with pytest.raises(NotFoundError):
            numbers.resolve(pointer, record)
