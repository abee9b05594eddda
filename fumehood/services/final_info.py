"""`final_info.json`: reading what an experiment or an evaluator wrote, and merging the two."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fumehood.errors import BadInputError

MAX_DATASETS = 200
MAX_METRICS = 200
MAX_DEEP = 4
MAX_BYTES = 16 * 1024 * 1024
MAX_NUMBER = 1e100
"""Larger numbers mean nothing, and their squares could not be computed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric on one data set: a number per seed."""

    values: tuple[float, ...]
    source: str
    """`evaluator` or `self`."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def sd(self) -> float:
        """The standard deviation over seeds (n - 1); 0 for one seed."""
        if len(self.values) < 2:
            return 0.0
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def stderr(self) -> float | None:
        """The standard deviation over seeds divided by the square root of their number; None for one seed."""
        return self.sd / math.sqrt(len(self.values)) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalInfo:
    """Data set to metric to series."""

    datasets: Mapping[str, Mapping[str, Series]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return it in the template contract's shape."""
        shape = {
            dataset: {
                "means": {name: series.mean for name, series in metrics.items()},
                "stderrs": {name: one.stderr for name, one in metrics.items() if one.stderr is not None},
                "final_info_dict": {name: list(series.values) for name, series in metrics.items()},
            }
            for dataset, metrics in self.datasets.items()
        }
        return json.dumps(shape, indent=2, allow_nan=False).encode() + b"\n"


def read(data: bytes, source: str) -> FinalInfo:
    """Return what a `final_info.json` or `metrics.json` says; `BadInputError` names what is malformed or not finite."""
    if len(data) > MAX_BYTES:
        raise BadInputError(f"the results are larger than {MAX_BYTES // 2**20} MiB")
    try:
        shape = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the results are not JSON: {error}") from error
    if not isinstance(shape, dict) or not shape:
        raise BadInputError("the results must be a JSON object with at least one data set")
    if len(shape) > MAX_DATASETS:
        raise BadInputError(f"the results have more than {MAX_DATASETS} data sets")
    return FinalInfo(datasets={str(name)[:100]: _metrics(str(name), entry, source) for name, entry in shape.items()})


def _metrics(dataset: str, entry: object, source: str) -> dict[str, Series]:
    if not isinstance(entry, dict) or "means" not in entry:
        raise BadInputError(f"the results of {dataset} have no means")
    means = entry["means"]
    if isinstance(means, (int, float)):
        means = {"value": means}
    if not isinstance(means, dict):
        raise BadInputError(f"the means of {dataset} must be an object with at most {MAX_METRICS} metrics")
    per_seed = entry.get("final_info_dict")
    per_seed = per_seed if isinstance(per_seed, dict) else {}
    found = _series(dataset, means, per_seed, source) or _series(dataset, _flat(means), _flat(per_seed), source)
    if not found:
        raise BadInputError(f"the results of {dataset} hold no number")
    return found


def _flat(nested: Mapping[str, Any], above: str = "", deep: int = 0) -> dict[str, Any]:
    """Return nested metrics by the names on the way to them, joined by dots; a template has its data sets there."""
    found: dict[str, Any] = {}
    for name, told in nested.items():
        if isinstance(told, dict) and deep < MAX_DEEP:
            found |= _flat(told, f"{above}{name}.", deep + 1)
        else:
            found[f"{above}{name}"] = told
    return found


def _series(dataset: str, means: Mapping[str, Any], per_seed: Mapping[str, Any], source: str) -> dict[str, Series]:
    if len(means) > MAX_METRICS:
        raise BadInputError(f"the means of {dataset} must be an object with at most {MAX_METRICS} metrics")
    found: dict[str, Series] = {}
    for name, mean in means.items():
        values = per_seed.get(name)
        numbers = values if isinstance(values, list) and values else [mean]
        if isinstance(mean, (list, dict)) and not isinstance(values, list):
            continue  # templates of the original system leave curves beside their metrics; those are no numbers
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
            raise BadInputError(f"{name} of {dataset} is not a number")
        if any(isinstance(value, float) and not math.isfinite(value) for value in numbers):
            raise BadInputError(f"{name} of {dataset} is not finite")
        if any(abs(value) > MAX_NUMBER for value in numbers):
            raise BadInputError(f"{name} of {dataset} is larger than {MAX_NUMBER:g}")
        found[str(name)[:100]] = Series(values=tuple(float(value) for value in numbers), source=source)
    return found


def merge(own: FinalInfo, evaluated: FinalInfo | None) -> FinalInfo:
    """Return the experiment's own numbers with the evaluator's put over those of the same name."""
    if evaluated is None:
        return own
    datasets = {name: dict(metrics) for name, metrics in own.datasets.items() if name in evaluated.datasets}
    for name, metrics in evaluated.datasets.items():
        datasets[name] = {**datasets.get(name, {}), **metrics}
    return FinalInfo(datasets=datasets)


def overall(info: FinalInfo, metric: str) -> Series | None:
    """Return a metric's mean over data sets, seed by seed; None unless every data set has it with as many seeds."""
    series = [metrics[metric] for metrics in info.datasets.values() if metric in metrics]
    if not series or len(series) < len(info.datasets) or len({len(one.values) for one in series}) != 1:
        return None
    columns = zip(*(one.values for one in series), strict=True)
    return Series(values=tuple(math.fsum(column) / len(column) for column in columns), source=series[0].source)
