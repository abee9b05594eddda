"""Traces: off they cost nothing; on, all that a direction led to is one of them, told to a real receiver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fumehood.errors import MachineUnfitError
from fumehood.observe import traces
from tests.fakes.collector import collecting

ROOT = Path(__file__).parents[2]
IMPORTS = """
import sys
import api.__main__, worker.__main__, worker.local, fumehood.gateway.__main__, fumehood.cli.main
from fumehood.observe import traces
with traces.span("x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", n=1) as span:
    span.set_attribute("y", 2)
    assert traces.carried() == {}
traces.ended("x", "", 0.0, 1.0)
traces.flush()
print("opentelemetry.sdk" in sys.modules, "opentelemetry.exporter" in sys.modules)
"""
CARRIES_OUT = """
import sys
from pathlib import Path
from fumehood.observe import traces
from tests.fakes.laboratory import Laboratory

traces.switch_on(sys.argv[1], "test")
lab = Laboratory(Path(sys.argv[2]))
with traces.span("request"):
    lab.submit(ideas=1, runs=1)
lab.go_on()
lab.submit(ideas=1, runs=1)
lab.go_on()
print(len(lab.steps()), len(lab.executions()))
lab.artifacts.close()
traces.flush()
"""


def test_nothing_is_imported_while_they_are_off() -> None:
    told = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True)
    assert told.stderr == ""
    assert told.stdout.splitlines()[-1] == "False False"


def test_a_direction_is_one_trace_from_its_request_or_its_first_step(tmp_path: Path) -> None:
    with collecting() as collector:
        command = [sys.executable, "-c", CARRIES_OUT, collector.url, str(tmp_path)]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
    steps, executions = map(int, told.stdout.split())
    [request] = collector.named("request")
    spans = {span.id: span for span in collector.spans}
    assert len([one for one in spans.values() if one.name.startswith("step ")]) == steps
    first, second = sorted({span.trace for span in spans.values()}, key=lambda one: one != request.trace)
    joined = [span for span in spans.values() if span.trace == first and span is not request]
    assert {span.parent for span in joined if span.name.startswith("step ")} == {request.id}
    [begin] = [span for span in spans.values() if span.trace == second and span.parent == ""]
    assert begin.name == "step begin"
    others = {span.parent for span in spans.values() if span.trace == second and span.name.startswith("step ")}
    assert others == {"", begin.id}
    containers = [span for span in spans.values() if span.name.startswith("execution ")]
    assert len(containers) == executions
    assert {spans[span.parent].name for span in containers} == {"step launch"}
    for span in containers:
        assert spans[span.parent].attributes["fumehood.execution"] == span.attributes["fumehood.execution"]
        assert span.attributes["fumehood.verdict"] == "succeeded"


@pytest.mark.parametrize("payload", [{}, {"traceparent": ""}, None, 5])
def test_what_carries_no_trace_carries_nothing(payload: object) -> None:
    assert traces.carried_by(payload) == ""


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MachineUnfitError, match=r"pip install 'fumehood\[otel\]'"):
        traces.switch_on("http://127.0.0.1:1", "test")
