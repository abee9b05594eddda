"""Hand-made runs with records, as a paper is written from."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics as stats
import struct
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Attempt, Experiment, ExperimentOutcome, ExperimentState, Run, RunResult
from fumehood.domain.idea import Evidence, Idea, IdeaKind, Novelty, Score
from fumehood.domain.ids import DirectionId, ExperimentId, IdeaId, RunId, TenantId
from fumehood.domain.template import Template
from fumehood.services import facts as gathering
from fumehood.services.fact_types import Facts

FOLDER = Path(__file__).parents[2] / "templates" / "2d_diffusion"
ULID = "01jz0000000000000000000000"
BASE = {"circle": 0.61, "dino": 1.42, "line": 0.33, "moons": 0.27}
SPREAD = {"circle": 0.03, "dino": 0.08, "line": 0.012, "moons": 0.02}
FIGURES = ("generated_samples.png", "kl_by_run.png", "train_loss.png")


def playbook() -> dict[str, Any]:
    """Return the shipped template's playbook."""
    return tomllib.loads((FOLDER / "offline.toml").read_text(encoding="utf-8"))


def template() -> Template:
    """Return the shipped template."""
    return Template.model_validate(tomllib.loads((FOLDER / "template.toml").read_text(encoding="utf-8")))


def direction(**changes: Any) -> Direction:
    """Return a direction on the shipped template."""
    given = Direction(
        id=DirectionId(f"dir_{ULID}"), tenant=TenantId(f"ten_{ULID}"), template="2d_diffusion",
        text="Study noise schedules.", model="offline", review_model="offline", profile="tiny", ideas=1, runs=2,
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def idea(**changes: Any) -> Idea:
    """Return the playbook's first idea."""
    first = playbook()["ideas"][0]
    given = Idea(
        id=IdeaId(f"idea_{ULID}"), direction_id=DirectionId(f"dir_{ULID}"), index=0, name=first["name"],
        title=first["title"], experiment=first["experiment"], interestingness=Score(value=6, reason=""),
        feasibility=Score(value=9, reason=""), novelty_score=Score(value=3, reason=""), scored_by="playbook",
        kind=IdeaKind.IMPROVEMENT, hypothesis=first["hypothesis"], metric="kl_divergence", expected="lower",
        changes=("schedule",), novelty=Novelty.UNKNOWN, novelty_reason="",
        evidence=(
            Evidence(key="lin2024common", title="Common Diffusion Noise Schedules", overlap=0.8),
            Evidence(key="nichol2021improved", title="Improved Denoising Diffusion Probabilistic Models", overlap=0.6),
        ),
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def experiment(**changes: Any) -> Experiment:
    """Return an experiment about to be written up."""
    given = Experiment(
        id=ExperimentId(f"exp_{ULID}"), direction_id=DirectionId(f"dir_{ULID}"), idea_id=IdeaId(f"idea_{ULID}"),
        name="cosine_noise_schedule", index=0, state=ExperimentState.WRITING, baseline_id=RunId(f"run_{ULID}"),
        outcome=ExperimentOutcome.INCONCLUSIVE, label="not_comparable: screen_only",
        products=dict.fromkeys(FIGURES, "0" * 64),
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def run(index: int, **changes: Any) -> Run:
    """Return a measured run."""
    titles = (
        "Baseline",
        "Cosine schedule",
        "Stretched linear schedule",
        "Quadratic schedule",
        "Sigmoid schedule",
        "Two stages",
    )
    given = Run(
        id=RunId(f"run_{ULID[:-1]}{index}"), direction_id=DirectionId(f"dir_{ULID}"),
        experiment_id=ExperimentId(f"exp_{ULID}") if index else None, index=index, title=titles[index],
        description=f"The {titles[index].lower()} replaces the linear one; everything else stays." if index else "",
        result=RunResult.MEASURED, seeds=(1, 2, 3),
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def series(values: Sequence[float]) -> dict[str, Any]:
    """Return one data set's entry of a record."""
    spread = stats.stdev(values) if len(values) > 1 else 0.0
    return {"mean": stats.fmean(values), "stderr": spread / math.sqrt(len(values)), "seeds": list(values)}


def metric(values: Mapping[str, Sequence[float]], **words: Any) -> dict[str, Any]:
    """Return one metric's entry of a record."""
    columns = [stats.fmean(column) for column in zip(*values.values(), strict=True)]
    datasets = {name: series(list(one)) for name, one in values.items()}
    return {
        "source": "evaluator",
        "direction": "lower",
        "unit": "nats",
        "primary": False,
        "datasets": datasets,
        **words,
    } | series(columns)


def record(index: int, shift: Mapping[str, float], **changes: Any) -> dict[str, Any]:
    """Return a record whose KL divergences are the baseline's moved by `shift` baseline standard deviations."""
    rng = random.Random(1000 + index)
    kl = {d: [m + SPREAD[d] * (shift.get(d, 0.0) + rng.gauss(0, 1)) for _ in range(3)] for d, m in BASE.items()}
    coverage = {d: [0.8 + rng.gauss(0, 0.02) for _ in range(3)] for d in BASE}
    loss = {d: [0.6 + rng.gauss(0, 0.02) for _ in range(3)] for d in BASE}
    seconds = {d: [0.7 + rng.gauss(0, 0.02) for _ in range(3)] for d in BASE}
    copies = {d: [0.0, 0.0, 0.0] for d in BASE}
    words = template()
    made = {
        "run": {"index": index, "title": "", "kind": "run" if index else "baseline"},
        "image": "sha256:" + "ab" * 32,
        "evaluator": "cd" * 32,
        "arguments": list(words.profiles["tiny"].arguments),
        "prepare_arguments": list(words.profiles["tiny"].prepare_arguments),
        "evaluate_arguments": list(words.profiles["tiny"].evaluate_arguments),
        "query_count": 1000,
        "limits": {"run": {"wall_s": 120.0, "memory_mib": 2048, "storage_mib": 256, "processes": 64, "cpus": 2.0}},
        "seeds": [1, 2, 3],
        "usage": {"run": {"wall_s": 11.37, "cpu_s": 20.1, "peak_memory_mib": 412.4, "peak_storage_mib": 3.1}},
        "metrics": {
            "kl_divergence": metric(kl, primary=True),
            "coverage": metric(coverage, direction="higher", unit="share"),
            "train_copies": metric(copies, unit="share"),
            "train_loss": metric(loss, source="self", unit=""),
            "training_time": metric(seconds, source="self", unit="s"),
        },
        "counts": {"parameters": 74882, "updates": 500, "samples_seen": 64000},
        "isolation": {f"S{n}": "held" for n in range(1, 12)},
    }
    return made | changes


def make(
    shifts: Sequence[Mapping[str, float] | None] = (
        {"circle": -2, "dino": -3, "line": -1, "moons": 1},
        {"dino": 3, "line": 4},
    ),
    *,
    attempts: Mapping[int, int] | None = None,
    figures: Sequence[str] = FIGURES,
    **changes: Any,
) -> Facts:
    """Return the facts of a paper whose runs are moved by these shifts; None is a run without a number."""
    tries = {1: 1} if attempts is None else attempts
    error = "Traceback\nRuntimeError: The size of tensor a (101) must match the size of tensor b (100)"
    runs, records = [run(0)], {"run_0": record(0, {})}
    for index, shift in enumerate(shifts, start=1):
        count = tries.get(index, 0 if shift is not None else 4)
        failed = tuple(Attempt(number=n + 1, verdict="failed", error_tail=error) for n in range(count))
        result = RunResult.MEASURED if shift is not None else RunResult.FAILED
        runs.append(run(index, attempts=failed, result=result))
        if shift is not None:
            records[f"run_{index}"] = record(index, shift)
    return gathering.gather(
        changes.get("direction", direction()),
        template(),
        changes.get("idea", idea()),
        experiment(products=dict.fromkeys(figures, "0" * 64)),
        runs,
        {},
        records,
        coder="search-replace",
        own_text=changes.get("own_text", False),
        code=(FOLDER / "experiment.py").read_text(encoding="utf-8"),
    )


def png(width: int = 700, height: int = 500) -> bytes:
    """Return a small valid picture."""
    rows = b"".join(
        b"\0" + bytes((x * 255 // width, y * 255 // height, 160)[c] for x in range(width) for c in range(3))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
