"""Two small runs on one machine whose limits have room for one: both run at once, and their times count for nothing."""

from __future__ import annotations

import base64
import dataclasses
import json
import textwrap
import time
from pathlib import Path
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.machine import Machine
from fumehood.services import neighbours, paper, wanting
from fumehood.store.clock import SystemClock
from sandbox.fake import FakeSandbox
from tests.fakes.laboratory import TINY, Laboratory, step_of
from tests.fakes.model import ScriptedCoder

EXPERIMENT = """
    import json
    import os
    import pathlib
    import sys
    import time

    SCALE = 1.0

    out = pathlib.Path(sys.argv[1].removeprefix("--out_dir="))
    out.mkdir(exist_ok=True)
    started = time.perf_counter()
    if SCALE == 1.0:
        time.sleep(0.3)  # so long that its memory is seen
    else:
        meeting = pathlib.Path("MEETING")
        (meeting / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(meeting.iterdir())) < 2:
            if time.monotonic() > deadline:
                sys.exit("nobody else came")
            time.sleep(0.01)
    seeds = os.environ["FUMEHOOD_SEEDS"].split(",")
    (out / "samples.json").write_text(json.dumps([SCALE + int(seed) / 4 for seed in seeds]))
    means = {"seconds": time.perf_counter() - started}
    (out / "final_info.json").write_text(json.dumps({"circle": {"means": means}}))
"""
TOML = """
[metrics.seconds]
title = "time taken"
direction = "lower"
unit = "s"
is_time = true

[profiles.packed]
seeds = [1, 2]
[profiles.packed.limits]
"""
LIMITS = "".join(
    f"{kind} = {{ wall_s = 120, memory_mib = 512, storage_mib = 16, processes = 16, cpus = 1.0 }}\n"
    for kind in ("prepare", "run", "evaluate")
)
ROOM = Machine(cpus=8.0, memory_mib=900)


def work(lab: Laboratory, until: Any) -> None:
    deadline = time.monotonic() + 300
    while not until():
        assert time.monotonic() < deadline, lab.told()
        if not lab.once():
            time.sleep(0.01)


def predicate(lab: Laboratory, record: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(base64.b64decode(lab.get(record)["payload"]))["predicate"]
    return told


def facts_of(lab: Laboratory, direction: Direction) -> Any:
    (experiment,) = (one for one in lab.experiments() if one.direction_id == direction.id)
    return paper.read(lab.write, step_of(direction, "write", experiment)).facts


def test_two_small_runs_are_packed_and_their_times_are_compared_with_none(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    code = textwrap.dedent(EXPERIMENT).replace("MEETING", str(meeting))
    files = {**TINY, "experiment.py": code, "template.toml": TINY["template.toml"] + TOML + LIMITS}
    edited = ({"experiment.py": code.replace("SCALE = 1.0", "SCALE = 0.5").encode()}, "RUN: Half | the scale is halved")
    lab = Laboratory(
        tmp_path, files=files, sandbox=FakeSandbox(tmp_path / "fake"), coder=ScriptedCoder({(1, 1): edited})
    )
    lab.write = dataclasses.replace(lab.write, clock=SystemClock())
    lab.run = dataclasses.replace(lab.run, clock=SystemClock(), machine=ROOM)
    lab.clock = SystemClock()  # type: ignore[assignment]
    try:
        first = lab.submit(runs=1, profile="packed")
        work(lab, lambda: any(run.record for run in lab.runs()))
        with lab.store.begin(write=False) as tx:
            (known,) = tx.peaks.find(id=wanting.measured_as(first, Kind.RUN))
        assert 0 < known.memory_mib < 200
        second = lab.submit(runs=1, profile="packed")
        work(lab, lambda: len(lab.steps("plot")) == 2)

        base, *runs = sorted((run for run in lab.runs() if run.record), key=lambda run: run.index)
        ours, theirs = (predicate(lab, run.record) for run in runs if run.index == 1)
        placed = [one["placement"]["run"] for one in (ours, theirs)]
        for one, other in (placed, placed[::-1]):
            assert other["execution"] in one["beside"]
        limits = [one["limits"]["run"]["memory_mib"] for one in (ours, theirs)]
        assert limits == [512, 512]
        assert sum(limits) > ROOM.memory_mib
        for one in (ours, theirs):
            assert one["metrics"]["seconds"]["not_comparable"] == "shared_device"
            assert one["metrics"]["error"]["not_comparable"] == ""
            assert list(neighbours.problems({"run_0": predicate(lab, base.record), "run_1": one})) == []
        alone = predicate(lab, base.record)
        assert (alone["placement"]["run"]["neighbours"], alone["metrics"]["seconds"]["not_comparable"]) == (0, "")

        for direction in (first, second):
            told = facts_of(lab, direction)
            (run,) = told["runs"]
            assert run["metrics"]["seconds"]["not_comparable"] == "shared_device"
            assert run["metrics"]["seconds"]["difference"] is None
            assert run["metrics"]["error"]["difference"] == -0.5
            assert "run_1.seconds.difference" not in told["numbers"]
            assert any("time taken" in one for one in told["limitations"])
    finally:
        for name in lab.sandbox.held():
            lab.sandbox.remove(name)
        lab.artifacts.close()
