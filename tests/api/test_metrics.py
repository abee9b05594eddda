"""The figures, as Prometheus reads them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.figures import StoreFigures
from fumehood.domain.ids import ID, DirectionId, ExecutionId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.machine import Lease
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.domain.worker import Part, Worker
from fumehood.errors import StoreUnavailableError
from fumehood.store.memory import FixedClock, MemoryStore
from tests.api.test_api import ASKED, UNKNOWN, Served

LABELS = {"side", "standing", "state", "hold", "kind", "verdict", "model", "role", "part", "route", "method", "status"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


def by_name(families: Iterable[Metric]) -> dict[str, float]:
    """Return each sample's value by its name and its labels' values, the labels in the order of their names."""
    return {
        " ".join([sample.name, *(sample.labels[label] for label in sorted(sample.labels))]): sample.value
        for family in families
        for sample in family.samples
    }


def figures(served: Served) -> dict[str, float]:
    """Return what `/metrics` tells."""
    answer = served.nobody.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return by_name(text_string_to_metric_families(answer.text))


def test_a_new_installation_has_all_its_series_at_nought(served: Served) -> None:
    told = figures(served)
    for name in ("fumehood_directions none running", "fumehood_experiments none writing",
                 "fumehood_steps write due", "fumehood_oldest_due_step_age_seconds run",
                 "fumehood_executions run launched", "fumehood_verdicts_total run out_of_memory",
                 "fumehood_workers watch", "fumehood_event_streams"):  # fmt: skip
        assert told[name] == 0.0, name
    assert told["fumehood_database_up"] == 1.0
    assert told["process_resident_memory_bytes"] > 0


def test_what_was_done_is_counted(served: Served) -> None:
    served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
    served.lab.clock.advance(7.0)
    waiting = figures(served)
    assert waiting["fumehood_steps write due"] == 1.0
    assert waiting["fumehood_oldest_due_step_age_seconds write"] == 7.0
    served.lab.go_on()
    with served.lab.store.begin() as tx:
        tx.workers.save(Worker(id="worker_1", part=Part.WRITE, seen_at=served.lab.clock.now()))
        tx.workers.save(Worker(id="worker_2", part=Part.WRITE, seen_at=served.lab.clock.now() - 31.0))
        ended = [one for one in tx.executions.find() if one.succeeded]
    samples = by_name(StoreFigures(served.lab.store, served.lab.clock, ["offline"]).collect())
    assert samples["fumehood_directions none done"] == 1.0
    assert samples["fumehood_experiments none done"] == 1.0
    assert samples["fumehood_steps write due"] == 0.0
    assert samples["fumehood_workers write"] == 1.0
    verdicts = [value for name, value in samples.items() if re.fullmatch("fumehood_verdicts_total .* succeeded", name)]
    assert sum(verdicts) == len(ended) > 0


def test_money_is_counted_by_known_models_only(served: Served) -> None:
    line = LedgerEntry(
        id="evt_1",
        call_id="call_1",
        tenant="ten_1",
        direction_id=UNKNOWN,
        kind="reserved",
        role="idea",
        model="offline",
        usd=0.5,
    )  # type: ignore[arg-type]
    lines = [
        line,
        dataclasses.replace(line, id="evt_2", kind="settled", usd=-0.25, input_tokens=10, output_tokens=3),
        dataclasses.replace(line, id="evt_3", call_id="call_2", model="offline-made-up-1", usd=1.0),
        dataclasses.replace(line, id="evt_4", call_id="call_3", model="offline-made-up-2", usd=2.0),
    ]
    with served.lab.store.begin() as tx:
        for one in lines:
            tx.ledger.add(one)
    told = figures(served)
    assert told["fumehood_spent_usd_total offline idea"] == 0.25
    assert told["fumehood_tokens_total input offline idea"] == 10.0
    assert told["fumehood_reserved_usd other idea"] == 3.0
    assert not [name for name in told if "made-up" in name]


def test_what_executions_took_is_counted_when_they_are_over(served: Served) -> None:
    reserved = LedgerEntry(
        id="exec_1:1:reserved", call_id="exec_1", tenant=LOCAL_TENANT, direction_id=DirectionId("dir_1"),
        kind="reserved", role="run", model="", cpu_s=20.0, gpu_s=10.0, running=1, gpus=1,
    )  # fmt: skip
    with served.lab.store.begin() as tx:
        tx.ledger.add(reserved)
        tx.ledger.add(dataclasses.replace(reserved, id="exec_1:1:settled", kind="settled", cpu_s=-12.0, gpu_s=-6.0))
        tx.leases.save(Lease(id="1", tenant=LOCAL_TENANT, execution_id=ExecutionId("exec_1"), gpus=("0",)))
    told = figures(served)
    assert told["fumehood_cpu_seconds_total run"] == 8.0
    assert told["fumehood_gpu_seconds_total run"] == 4.0
    assert told["fumehood_gpus_held"] == 1.0
    assert not [name for name in told if name.startswith("fumehood_spent_usd_total")]


def test_requests_are_counted_by_their_route(served: Served) -> None:
    for name in (UNKNOWN, "dir_1", "dir_2"):
        served.client.get(f"/v1/directions/{name}")
    served.nobody.get("/v1/made-up")
    told = figures(served)
    assert told["fumehood_http_requests_total GET /v1/directions/{direction_id} 404"] == 3.0
    assert told["fumehood_http_requests_total GET other 401"] == 1.0
    assert told["fumehood_http_request_seconds_count GET /v1/directions/{direction_id}"] == 3.0


def test_no_label_is_an_id(served: Served) -> None:
    made = served.client.post("/v1/directions", json=ASKED | {"ideas": 1}).json()["id"]
    served.client.get(f"/v1/directions/{made}/ideas")
    served.lab.go_on()
    text = served.nobody.get("/metrics").text
    assert made not in text
    assert not re.search(ID.pattern.strip("^$").replace(r"\Z", ""), text)
    for family in text_string_to_metric_families(text):
        if family.name.startswith("fumehood_"):
            assert {name for sample in family.samples for name in sample.labels} <= LABELS | {"le"}


class AwayStore(MemoryStore):
    """A database that may go away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked = 0

    def begin(self, *, write: bool = True, durable: bool = True) -> object:  # type: ignore[override]
        self.asked += 1
        if self.is_away:
            raise StoreUnavailableError("it is away at db.internal")
        return super().begin(write=write, durable=durable)


def test_a_database_that_is_away_is_a_figure_too() -> None:
    store = AwayStore()
    collector = StoreFigures(store, FixedClock(), [], kept_s=0.0)
    assert len(list(collector.collect())) > 5
    store.is_away = True
    collector = StoreFigures(store, FixedClock(), [], kept_s=0.0)
    [metric] = collector.collect()
    assert (metric.name, metric.samples[0].value) == ("fumehood_database_up", 0.0)


def test_who_asks_often_makes_no_more_work() -> None:
    store = AwayStore()
    collector = StoreFigures(store, FixedClock(), [], kept_s=60.0)
    for _ in range(5):
        list(collector.collect())
    assert store.asked == 1
