"""What processes that carry a direction out say of it: lines, figures, readiness and one trace."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fumehood.cli.servers import lasting_port
from fumehood.domain.execution import ExecutionState
from fumehood.domain.ids import DirectionId
from fumehood.domain.ledger import Claims
from fumehood.domain.step import StepState
from fumehood.gateway import tokens
from tests.e2e.test_doors import ASKED, KEY, STARTS_WITHIN_S, WORKERS, Doors
from tests.fakes.collector import Collector, collecting

pytestmark = [pytest.mark.slow, pytest.mark.local, pytest.mark.latex, pytest.mark.redis]
REQUEST = "request-of-the-test"
PROCESSES = ("api", "gateway", *WORKERS)


class Observed:
    """A direction from its request to its first container's end, a model call for it, and all that was said of it."""

    def __init__(self, doors: OwnPorts, collector: Collector, ports: dict[str, int]) -> None:
        self.doors, self.collector, self.ports = doors, collector, ports
        self.ready_at_first = doors.client.get("/readyz")
        doors.start("gateway", *WORKERS)
        doors.until(lambda: doors.client.get("/readyz").status_code == 200, within_s=STARTS_WITHIN_S)
        self.ready = doors.client.get("/readyz")
        answer = doors.client.post("/v1/directions?", json=ASKED, headers={"X-Request-Id": REQUEST})
        assert answer.headers["x-request-id"] == REQUEST
        self.direction: str = answer.json()["id"]
        doors.until(lambda: doors.executions(self.direction, state=ExecutionState.REMOVED))
        self.ask_a_model()
        assert doors.client.post(f"/v1/directions/{self.direction}/cancel").status_code == 200
        # One that was only wanted when it was cancelled is closed too.
        gone = ExecutionState.REMOVED
        doors.until(lambda: all(one.state is gone for one in doors.executions(self.direction)))
        doors.until(lambda: not doors.left())
        doors.until(self.told_of_the_end)
        self.of_process = {name: self.read(f"http://127.0.0.1:{port}/metrics") for name, port in ports.items()}

    def told_of_the_end(self) -> bool:
        """Read the figures, which may be some seconds old, and say whether they know of all that has ended."""
        self.figures = self.read(f"{self.doors.url}/metrics")
        told = sum(value for name, value in self.figures.items() if name.startswith("fumehood_verdicts_total"))
        return told == sum(one.outcome is not None for one in self.doors.executions(self.direction))

    def ask_a_model(self) -> None:
        """Ask as a coder's program does: with a token, and without a word of any trace."""
        doors = self.doors
        with doors.store.begin(write=False) as tx:
            direction = tx.directions.get(DirectionId(self.direction))
        claims = Claims(
            tenant=direction.tenant,
            direction_id=direction.id,
            role="idea",
            model="offline",
            playbook=direction.template_files["offline.toml"],
            expires_at=time.time() + 60,
        )
        answer = httpx.post(
            doors.url_of("gateway") + "/v1/messages",
            headers={"x-api-key": tokens.mint(claims, tokens.secret(doors.house.state))},
            json={"model": "offline", "max_tokens": 100, "messages": [{"role": "user", "content": "An idea?"}]},
        )
        assert answer.status_code == 200, answer.text

    def read(self, url: str) -> dict[str, float]:
        return {
            " ".join([sample.name, *(sample.labels[label] for label in sorted(sample.labels))]): sample.value
            for family in text_string_to_metric_families(self.doors.client.get(url).text)
            for sample in family.samples
        }

    def lines(self, process: str) -> list[dict[str, Any]]:
        """Return what a process logged; its standard output, which is none of that, goes to the same file here."""
        told = [line for line in self.doors.log(process).splitlines() if not line.startswith(('{"url"', "worker: "))]
        return [json.loads(line) for line in told if line]


class OwnPorts(Doors):
    """Doors whose processes each tell their figures on a port of their own."""

    ports: dict[str, int] = {}  # noqa: RUF012 - one for each test run

    def environment(self) -> dict[str, str]:
        return super().environment() | {"FUMEHOOD_METRICS_PORT": str(self.ports.get(self.starting, 0))}

    starting = ""

    def url_of(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def start(self, *names: str) -> None:
        for self.starting in names:
            super().start(self.starting)


@pytest.fixture(scope="module")
def observed(make_house: Any, slow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    ports = {name: lasting_port() for name in ("gateway", *WORKERS)}
    with collecting() as collector:
        told = {"FUMEHOOD_LOG_FORMAT": "json", "FUMEHOOD_OTEL_ENDPOINT": collector.url}
        told["FUMEHOOD_TEMPLATES_DIR"] = str(slow_template.parent)
        doors = OwnPorts(make_house("observed", **told), tmp_path_factory.mktemp("logs"))
        doors.ports = ports
        try:
            doors.start("redis", "api")
            doors.until(doors.is_up, within_s=STARTS_WITHIN_S)
            made = Observed(doors, collector, ports)
            doors.stop(*PROCESSES)
            yield made
        finally:
            doors.end()


def test_the_work_can_be_done_once_its_workers_are_there(observed: Observed) -> None:
    assert observed.ready_at_first.status_code == 503
    away = {check["name"] for check in observed.ready_at_first.json()["checks"] if not check["ok"]}
    assert away == {"write worker", "run worker", "watcher"}
    assert {check["name"] for check in observed.ready.json()["checks"]} == {"database", "artifacts", "broker"} | away


def test_every_line_of_every_process_is_json(observed: Observed) -> None:
    for process in PROCESSES:
        lines = observed.lines(process)
        assert lines, process
        for line in lines:
            assert {"ts", "level", "logger", "message"} <= set(line)
        assert KEY not in observed.doors.log(process)


def test_a_request_is_one_line(observed: Observed) -> None:
    [line] = [line for line in observed.lines("api") if line.get("request_id") == REQUEST]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/directions", 202)
    assert line["duration_s"] > 0


def test_a_step_is_one_line_with_its_ids(observed: Observed) -> None:
    with observed.doors.store.begin(write=False) as tx:
        steps = {step.id: step for step in tx.steps.find(direction_id=observed.direction)}
        direction = tx.directions.get(observed.direction)  # type: ignore[arg-type]
    told = [line for side in WORKERS for line in observed.lines(side) if "name_of_step" in line]
    # One that waits for the machine is done again.
    assert {line["outcome"] for line in told} <= {"done", "again"}
    done = {line["step"] for line in told if line["outcome"] == "done"}
    assert done == {step.id for step in steps.values() if step.state is StepState.DONE}
    assert {"begin", "prepare", "launch", "collect", "remove"} <= {line["name_of_step"] for line in told}
    for line in told:
        step = steps[line["step"]]
        assert (line["name_of_step"], line["side"]) == (step.name, step.side)
        assert (line["direction"], line["tenant"]) == (direction.id, direction.tenant)
        assert line.get("experiment") == step.experiment_id
        assert line.get("execution") == step.payload.get("execution")


def test_a_model_call_is_one_line(observed: Observed) -> None:
    with observed.doors.store.begin(write=False) as tx:
        calls = {call.id for call in tx.calls.find()}
    told = [line for line in observed.lines("gateway") if "call" in line]
    assert {line["call"] for line in told} == calls
    assert {line["direction"] for line in told} == {observed.direction}


def test_the_figures_are_those_of_the_database(observed: Observed) -> None:
    told = observed.figures
    with observed.doors.store.begin(write=False) as tx:
        ended = [one for one in tx.executions.find() if one.outcome]
    assert told["fumehood_directions none cancelled"] == 1.0
    assert told["fumehood_tokens_total output offline idea"] > 0.0
    assert sum(value for name, value in told.items() if name.startswith("fumehood_verdicts_total")) == len(ended)
    assert [told[f"fumehood_workers {part}"] for part in ("run", "watch", "write")] == [1.0, 1.0, 1.0]
    assert told["fumehood_http_requests_total POST /v1/directions 202"] == 1.0


def test_a_process_tells_what_the_database_does_not_know(observed: Observed) -> None:
    told = observed.of_process
    assert told["write"]["fumehood_step_seconds_count begin done"] == 1.0
    assert told["run"]["fumehood_step_seconds_count launch done"] >= 1.0
    assert 0.0 <= told["run"]["fumehood_watcher_lag_seconds"] < 60.0
    assert told["run"]["fumehood_reaped_total"] == 0.0
    assert told["gateway"]["fumehood_model_call_seconds_count idea 200 offline"] >= 1.0


def test_all_that_a_request_led_to_is_one_trace(observed: Observed) -> None:
    spans = observed.collector.spans
    request = next(one for one in observed.collector.named("request")
                   if one.attributes["fumehood.request_id"] == REQUEST)  # fmt: skip
    assert request.parent == ""
    ours = {span.id: span for span in spans if span.trace == request.trace}
    assert {span.service for span in ours.values()} == {f"fumehood.{name}" for name in ("api", "worker", "gateway")}
    with observed.doors.store.begin(write=False) as tx:
        steps = {step.id for step in tx.steps.find(direction_id=observed.direction, state=StepState.DONE)}
        executions = {one.id: one for one in tx.executions.find(direction_id=observed.direction)}
        calls = {call.id for call in tx.calls.find()}
    told = [span for span in ours.values() if span.name.startswith("step ")]
    assert {span.attributes["fumehood.step"] for span in told} == steps
    assert {span.parent for span in told} == {request.id}

    containers = [span for span in ours.values() if span.name.startswith("execution ")]
    launched = {key for key, one in executions.items() if one.launched_at is not None}
    assert {span.attributes["fumehood.execution"] for span in containers} == launched
    for span in containers:
        execution = executions[span.attributes["fumehood.execution"]]  # type: ignore[index]
        assert ours[span.parent].name == "step launch"
        assert ours[span.parent].attributes["fumehood.execution"] == execution.id
        assert execution.outcome is not None
        assert span.attributes["fumehood.verdict"] == execution.outcome.verdict
        assert span.ended - span.began == pytest.approx(execution.outcome.usage.wall_s, abs=0.01)

    asked = [span for span in ours.values() if span.name == "model call"]
    assert {span.attributes["fumehood.call"] for span in asked} == calls
    assert {span.parent for span in asked} == {request.id}
