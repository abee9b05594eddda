"""The engine's figures: what is read from a direction's rows, and what is said of them."""

from __future__ import annotations

import json

from bench import engine
from fumehood.domain.execution import Kind, Outcome, Usage, Verdict
from fumehood.domain.experiment import Execution, Run
from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId, RunId
from fumehood.domain.ledger import ModelCall
from fumehood.domain.step import Event

DIR, EXP = DirectionId("dir_1"), ExperimentId("exp_1")


def call(role: str, run: int, at: float, duration_s: float) -> ModelCall:
    claims = json.dumps({"run": run})
    return ModelCall(
        id=f"{role}{run}", direction_id=DIR, experiment_id=EXP, role=role, model="m", upstream="u", claims=claims,
        request="", reply="", status=200, at=at, duration_s=duration_s,
    )  # fmt: skip


def execution(wall_s: float) -> Execution:
    usage = Usage(wall_s=wall_s, cpu_s=1, peak_memory_mib=1, peak_storage_mib=1)
    outcome = Outcome(
        name="fh-1", verdict=Verdict.SUCCEEDED, exit_code=0, usage=usage, output_tail="", truncated=False,
        artifacts=(), rejected=(), image="lab",
    )  # fmt: skip
    return Execution(
        id=ExecutionId("exec_1"), direction_id=DIR, kind=Kind.RUN, image="lab", command=("true",), outcome=outcome
    )


def test_a_runs_overhead_is_what_is_neither_execution_nor_model() -> None:
    run = Run(id=RunId("run_1"), direction_id=DIR, experiment_id=EXP, index=1)
    events = [
        Event(direction_id=DIR, experiment_id=EXP, kind="code.edited", text=f"it run_{number}: aider changed x", at=at)
        for number, at in ((1, 100.0), (2, 120.0))
    ]
    calls = (
        call("notes", 1, 112.5, 2.0), call("coder", 2, 115.0, 3.5), call("fidelity", 2, 119.0, 0.5),
        call("coder", 3, 121.0, 9.0),
    )  # fmt: skip
    edited = engine._times(events, "code.edited")
    row = engine._row(run, edited, (execution(10.0), execution(1.0)), calls)
    assert row == {"run": 1, "executions_s": 11.0, "overhead_s": 1.5, "edit_s": 1.5}
    assert engine._coder(events) == "aider"


def test_targets_are_judged_by_the_median_and_said() -> None:
    rows = [
        {"run": number, "executions_s": 10.0, "overhead_s": overhead, "edit_s": edit}
        for number, overhead, edit in ((1, 0.5, 1.2), (2, 1.6, 1.4), (3, 0.9, None))
    ]
    told = {"coder": "aider", "runs": rows}
    told |= {"targets": engine.judged(told)}
    assert [one["met"] for one in told["targets"]] == [True, True, False]  # type: ignore[index, union-attr]
    lines = list(engine.table(told))
    assert "overhead_s 0.900, at most 1.5 asked: met" in lines
    assert "edit_s 1.300, at most 1 asked: NOT MET" in lines


def test_the_playbook_edits_what_the_edit_before_left() -> None:
    text = engine.playbook(3)
    assert text.count("[[ideas.runs]]") == 3
    assert "SCALE = 0.99\n=======\nSCALE = 0.98\n" in text
