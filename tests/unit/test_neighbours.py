"""Who ran beside a run stands in its record, without another tenant's ids, and a time counts only where nobody did."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.confirmation import Reason, not_comparable
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Run
from fumehood.domain.ids import ExecutionId, TenantId
from fumehood.domain.machine import Lease
from fumehood.domain.template import Metric, Template
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.services import confirmation_check, facts, neighbours, numbers, records, tables
from fumehood.services.verification import Report, _placements
from tests.fakes import papers
from tests.fakes.laboratory import TINY, Laboratory

TIMED = {**TINY, "template.toml": TINY["template.toml"] + '[metrics.loss]\ndirection = "lower"\nis_time = true\n'}
MINE, THEIRS = ExecutionId("exec_mine"), ExecutionId("exec_of_another_tenant")


def measured(lab: Laboratory, *beside: Lease) -> list[tuple[Run, dict[str, Any]]]:
    """Measure a baseline and a run on a clock that goes on, while these hold something of the machine."""
    with lab.store.begin() as tx:
        tx.leases.save(*beside)
    lab.submit(runs=1)

    def is_plot_due() -> bool:
        lab.clock.advance(0.01)
        return bool(lab.steps("plot"))

    lab.go_on(until=is_plot_due)
    key = lab.signer.public_key_bytes()
    opened = [
        json.loads(open_envelope(lab.artifacts.get(run.record), {key_id_of(key): key}, records.PAYLOAD_TYPE))
        for run in lab.runs()
    ]
    return [(run, one["predicate"]) for run, one in zip(lab.runs(), opened, strict=True)]


def lease(execution: ExecutionId, tenant: TenantId = LOCAL_TENANT, **changes: Any) -> Lease:
    return Lease(id=f"{execution}:0", tenant=tenant, execution_id=execution, **changes)


def test_a_run_that_had_the_machine_alone_says_so_and_its_time_counts(make_lab: Callable[..., Laboratory]) -> None:
    lab = make_lab(files=TIMED)
    (_, base), (run, told) = measured(lab)
    assert set(told["placement"]) == {"run", "evaluate"}
    for placed in told["placement"].values():
        assert (placed["neighbours"], placed["beside"], placed["gpus"]) == (0, [], [])
        assert placed["since"] < placed["until"]
    assert told["placement"]["run"]["execution"] == lab.executions(run_id=run.id, kind=Kind.RUN)[0].id
    assert told["placement"]["run"]["until"] < told["placement"]["evaluate"]["since"]
    assert {name: one["is_time"] for name, one in told["metrics"].items()} == {"loss": True, "error": False}
    assert {one["not_comparable"] for one in told["metrics"].values()} == {""}
    assert (told["device"], base["device"]) == ("cpu", "cpu")


def test_who_ran_beside_it_is_named_and_of_other_tenants_only_counted(make_lab: Callable[..., Laboratory]) -> None:
    lab = make_lab(files=TIMED)
    _, (_, told) = measured(lab, lease(MINE), lease(THEIRS, TenantId("ten_b")))
    placed = told["placement"]["run"]
    assert (placed["neighbours"], placed["beside"]) == (2, [MINE])
    assert THEIRS not in json.dumps(told)
    assert {name: one["not_comparable"] for name, one in told["metrics"].items()} == {
        "loss": "shared_device", "error": "",
    }  # fmt: skip


def test_more_than_a_record_names_are_counted(make_lab: Callable[..., Laboratory]) -> None:
    many = [lease(ExecutionId(f"exec_{number}")) for number in range(neighbours.MOST_NAMED + 5)]
    lab = make_lab()
    _, (_, told) = measured(lab, *many)
    placed = told["placement"]["run"]
    assert (placed["neighbours"], len(placed["beside"])) == (neighbours.MOST_NAMED + 5, neighbours.MOST_NAMED)


PLACED = {"execution": "exec_1", "gpus": [], "since": 1.0, "until": 2.0, "neighbours": 0, "beside": []}
SHARED = {**PLACED, "neighbours": 1}


@pytest.mark.parametrize(
    ("source", "placed", "counts"),
    [
        ("self", {"run": PLACED, "evaluate": SHARED}, True),
        ("self", {"run": SHARED, "evaluate": PLACED}, False),
        ("self", {"run": {**PLACED, "neighbours": None}}, False),
        ("self", {}, False),
        ("evaluator", {"run": PLACED, "query": PLACED, "evaluate": PLACED}, True),
        ("evaluator", {"run": PLACED, "query": SHARED, "evaluate": PLACED}, False),
        ("evaluator", {"run": PLACED, "evaluate": SHARED}, False),
    ],
)
def test_a_time_counts_where_all_that_it_came_about_in_was_alone(
    source: str, placed: dict[str, Any], *, counts: bool
) -> None:
    found = neighbours.incomparable({"source": source, "is_time": True}, placed)
    assert found == ("" if counts else Reason.SHARED_DEVICE)
    assert neighbours.incomparable({"source": source, "is_time": False}, placed) == ""


class TestVerify:
    def records(self) -> dict[str, dict[str, Any]]:
        first = {**PLACED, "neighbours": 1, "beside": ["exec_2"]}
        second = {**PLACED, "execution": "exec_2", "since": 1.5, "neighbours": 1, "beside": ["exec_1"]}
        metric = {"source": "self", "is_time": True, "not_comparable": "shared_device"}
        return {
            "run_1": {"placement": {"run": first}, "metrics": {"seconds": dict(metric)}},
            "run_2": {"placement": {"run": second}, "metrics": {"seconds": dict(metric)}},
            "run_3": {"metrics": {"seconds": {"source": "self"}}},
        }

    def test_what_follows_holds(self) -> None:
        report = Report()
        _placements(report, "", self.records())
        assert (report.problems, report.checks) == ([], {"placements": 2})

    def test_a_time_that_is_said_to_count_does_not(self) -> None:
        told = self.records()
        told["run_1"]["metrics"]["seconds"]["not_comparable"] = ""
        assert list(neighbours.problems(told)) == [
            "run_1: whether seconds counts does not follow from who ran beside it"
        ]

    def test_of_two_that_met_one_names_the_other(self) -> None:
        told = self.records()
        told["run_2"]["placement"]["run"]["beside"] = []
        assert list(neighbours.problems(told)) == [], "the clock may have been set back"
        told["run_1"]["placement"]["run"]["beside"] = []
        assert list(neighbours.problems(told)) == [
            "run_1 (run) and run_2 (run) ran at the same time, and their records do not say so"
        ]
        for one, device in (("run_1", "0"), ("run_2", "1")):
            told[one]["placement"]["run"]["gpus"] = [device]
        assert list(neighbours.problems(told)) == []

    def test_a_record_of_another_shape_is_told_and_breaks_nothing(self) -> None:
        report = Report()
        _placements(report, "", {"run_1": {"placement": {"run": {"execution": "x"}}, "metrics": {}}})
        assert "cannot be checked" in report.problems[0]


class TestPaper:
    def gathered(self, shared: str, *, primary: bool = False) -> Any:
        """Return facts where one run, `run_0` or `run_1`, shared its device."""
        template = papers.template()
        name = "kl_divergence" if primary else "training_time"
        metric = template.metrics[name].model_copy(update={"is_time": True})
        template = template.model_copy(update={"metrics": {**template.metrics, name: metric}})
        told = {"run_0": papers.record(0, {}), "run_1": papers.record(1, dict.fromkeys(papers.BASE, -8.0))}
        told[shared]["metrics"][name]["not_comparable"] = "shared_device"
        runs = [papers.run(0), papers.run(1)]
        return facts.gather(papers.direction(), template, papers.idea(), papers.experiment(), runs, {}, told)

    @pytest.mark.parametrize("shared", ["run_0", "run_1"])
    def test_a_time_is_kept_and_not_compared(self, shared: str) -> None:
        found = self.gathered(shared)
        told = found["runs"][0]["metrics"]["training_time"]
        assert told["not_comparable"] == "shared_device"
        assert told["mean"] is not None
        assert (told["difference"], told["word"], told["judgement"]) == (None, "", "")
        assert "run_1.training_time.mean" in found["numbers"]
        assert "run_1.training_time.difference" not in found["numbers"]
        assert found["runs"][0]["label"] == "promising"
        assert any("training time" in one and "compared with none" in one for one in found["limitations"])
        table = tables.build("secondary", found, str)
        assert table.count(r"$^{\dagger}$") >= 2
        assert "A dagger" in table

    def test_without_one_nothing_is_marked(self) -> None:
        assert "dagger" not in tables.build("secondary", papers.make(), str)

    def test_a_run_judged_by_it_has_no_other_label(self) -> None:
        found = self.gathered("run_0", primary=True)
        run = found["runs"][0]
        assert (run["label"], run["contrast"]) == ("not_comparable: shared_device", None)
        assert r"not\_comparable: shared\_device" in tables.build(
            "results", found, lambda text: text.replace("_", r"\_")
        )
        with_template = Template(title="t", metrics={"kl_divergence": Metric(direction="lower")})
        record, base = papers.record(1, {}), papers.record(0, {})
        base["metrics"]["kl_divergence"]["not_comparable"] = "shared_device"
        assert numbers.contrast_of("kl_divergence", record, base, with_template.metrics) is None


def test_a_confirmation_by_a_time_ends_where_the_device_was_shared() -> None:
    plan = type("Plan", (), {"metric": "seconds", "baseline_seeds": (1,), "arguments": (), "comparison": None})()
    shared = {"metrics": {"seconds": {"not_comparable": "shared_device", "datasets": {}}}}
    told = {"label": not_comparable(Reason.SHARED_DEVICE), "outcome": "inconclusive"}
    records = {"run_0": {}, "confirm_0": shared}
    held = confirmation_check._of_result(plan, told, records, [], ["confirm_1"], {})
    wrong = confirmation_check._of_result(plan, {"label": "better"}, records, [], ["confirm_1"], {})
    assert (held, len(wrong)) == ([], 1)
