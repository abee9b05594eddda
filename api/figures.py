"""The database's figures as Prometheus metrics, right over restarts and the same from every process."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Collection, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.figures import ExecutionCount, Figures, Spending, Standing, StateCount, StepCount, Taking
from fumehood.domain.step import Side
from fumehood.domain.worker import Part
from fumehood.errors import FumehoodError
from fumehood.ports import Clock, Store
from fumehood.services import presence

KEPT_S = 5.0
SHARE = 10
"""However often it is asked, the database counts for a tenth of the time at most."""
OTHER = "other"
"""Models whose name is not known beforehand; anyone may ask for a model by any name."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    figures: Figures
    workers: dict[Part, int]
    now: float


class StoreFigures(Collector):
    """Reads the figures when Prometheus asks, and keeps them for a few seconds."""

    def __init__(self, store: Store, clock: Clock, models: Collection[str], *, kept_s: float = KEPT_S) -> None:
        self._store = store
        self._clock = clock
        self._models = frozenset(models)
        self._kept_s = kept_s
        self._one_at_a_time = threading.Lock()
        self._reading: _Reading | None = None
        self._stale_at = 0.0

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the database is not asked before Prometheus asks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give every metric; while the database does not answer, only that it does not."""
        with self._one_at_a_time:
            reading = self._read()
        yield GaugeMetricFamily(
            "fumehood_database_up", "Whether the database answered.", value=float(reading is not None)
        )
        if reading is not None:
            yield from _steps(reading.figures.steps, reading.now)
            yield _states("directions", reading.figures.directions, [state.value for state in DirectionState])
            yield _states("experiments", reading.figures.experiments, [state.value for state in ExperimentState])
            yield from _executions(reading.figures.executions)
            yield from _spending(reading.figures.spending, self._models)
            yield from _takings(reading.figures.takings)
            yield GaugeMetricFamily(
                "fumehood_gpus_held", "GPUs that an execution has now.", value=reading.figures.gpus_held
            )
            yield _workers(reading.workers)

    def _read(self) -> _Reading | None:
        began = time.monotonic()
        if began < self._stale_at:
            return self._reading
        now = self._clock.now()
        try:
            with self._store.begin(write=False) as tx:
                self._reading = _Reading(tx.figures(now), presence.fresh(tx, now), now)
        except FumehoodError:
            self._reading = None
        ended = time.monotonic()
        self._stale_at = ended + max(self._kept_s, SHARE * (ended - began))
        return self._reading


def _steps(counts: Iterable[StepCount], now: float) -> Iterator[Metric]:
    steps = GaugeMetricFamily("fumehood_steps", "Steps that are not done yet.", labels=["side", "standing"])
    age = GaugeMetricFamily(
        "fumehood_oldest_due_step_age_seconds", "How long the oldest step has been due.", labels=["side"]
    )
    found = {(one.side, one.standing): one for one in counts}
    for side in Side:
        for standing in Standing:
            one = found.get((side, standing))
            steps.add_metric([side, standing], one.number if one else 0)
        due = found.get((side, Standing.DUE))
        age.add_metric([side], max(now - due.oldest_due_at, 0.0) if due else 0.0)
    yield steps
    yield age


def _states(what: str, counts: Iterable[StateCount], states: Iterable[str]) -> Metric:
    metric = GaugeMetricFamily(f"fumehood_{what}", f"{what.capitalize()} by state and hold.", labels=["state", "hold"])
    found = {(state, Hold.NONE.value): 0 for state in states} | {(one.state, one.hold): one.number for one in counts}
    for labels, number in found.items():
        metric.add_metric(labels, number)
    return metric


def _executions(counts: Iterable[ExecutionCount]) -> Iterator[Metric]:
    executions = GaugeMetricFamily("fumehood_executions", "Executions by state.", labels=["kind", "state"])
    verdicts = CounterMetricFamily("fumehood_verdicts", "How executions ended.", labels=["kind", "verdict"])
    states = {(kind, state): 0 for kind in Kind for state in ExecutionState}
    ended = {(kind, verdict): 0 for kind in Kind for verdict in Verdict}
    for one in counts:
        states[one.kind, one.state] += one.number
        if one.verdict is not None:
            ended[one.kind, one.verdict] += one.number
    for (kind, state), number in states.items():
        executions.add_metric([kind, state], number)
    for (kind, verdict), number in ended.items():
        verdicts.add_metric([kind, verdict], number)
    yield executions
    yield verdicts


def _spending(spent: Iterable[Spending], models: Collection[str]) -> Iterator[Metric]:
    usd = CounterMetricFamily("fumehood_spent_usd", "US dollars that model calls cost.", labels=["model", "role"])
    reserved = GaugeMetricFamily(
        "fumehood_reserved_usd", "US dollars set aside for model calls under way.", labels=["model", "role"]
    )
    tokens = CounterMetricFamily("fumehood_tokens", "Tokens of model calls.", labels=["model", "role", "kind"])
    # Names that share a label are one series.
    sums: dict[tuple[str, str], list[float]] = {}
    for one in spent:
        labels = (one.model if one.model in models else OTHER, one.role)
        given = (one.usd, one.reserved_usd, one.input_tokens, one.cached_tokens, one.output_tokens)
        sums[labels] = [mine + more for mine, more in zip(sums.get(labels, [0.0] * 5), given, strict=True)]
    for labels, (paid, aside, *counted) in sums.items():
        usd.add_metric(labels, paid)
        reserved.add_metric(labels, aside)
        for kind, number in zip(("input", "cached", "output"), counted, strict=True):
            tokens.add_metric([*labels, kind], number)
    yield usd
    yield reserved
    yield tokens


def _takings(taken: Iterable[Taking]) -> Iterator[Metric]:
    cpu = CounterMetricFamily("fumehood_cpu_seconds", "Processor time of executions that are over.", labels=["kind"])
    gpu = CounterMetricFamily("fumehood_gpu_seconds", "GPU time of executions that are over.", labels=["kind"])
    found = {one.kind: one for one in taken}
    for kind in Kind:
        one = found.get(kind)
        cpu.add_metric([kind], one.cpu_s if one else 0.0)
        gpu.add_metric([kind], one.gpu_s if one else 0.0)
    yield cpu
    yield gpu


def _workers(fresh: dict[Part, int]) -> Metric:
    metric = GaugeMetricFamily("fumehood_workers", "Worker processes that are at work.", labels=["part"])
    for part, number in fresh.items():
        metric.add_metric([part], number)
    return metric
