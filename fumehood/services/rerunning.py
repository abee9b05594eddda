"""Did a recorded run come to the same when it was run again: conditions to the letter, numbers within the noise.

Without any randomness of the machine's own the numbers are the same to the bit. Where they are not, a number may
differ as another seed's would: `DEVIATIONS` standard deviations of a difference between two seeds, whose spread is
pooled over the records of the experiment, each data set by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEVIATIONS = 3.0
CONDITIONS = (
    "code",
    "template",
    "evaluator",
    "data",
    "profile",
    "arguments",
    "evaluate_arguments",
    "prepare_arguments",
    "query_count",
    "limits",
    "seeds",
)
"""What of a record must be the same, or it was not the same measurement."""
PLACES = ("image", "device", "processor", "gpu", "platform")
"""What may differ, and is said."""
MEAN = "mean"
_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number as it was recorded and as it is."""

    dataset: str
    metric: str
    seed: str
    """Or `mean`, over the seeds."""
    recorded: float
    again: float
    allowed: float
    """How far the two may be apart; 0 where the seeds' noise is not known."""
    decides: bool
    """Whether a disagreement counts: what a run says of itself, such as its time, is only shown."""

    @property
    def is_same(self) -> bool:
        """Whether the two are the same to the bit."""
        return self.recorded == self.again

    @property
    def holds(self) -> bool:
        """Whether they are the same, or as near as the noise lets them be."""
        return self.is_same or abs(self.again - self.recorded) <= self.allowed


@dataclass(slots=True)
class Compared:
    """A run that was run again."""

    name: str
    rows: list[Row] = field(default_factory=list)
    noise: dict[str, float | None] = field(default_factory=dict)
    """Data set and metric, such as `circle/error`, to the standard deviation from seed to seed."""
    different: list[str] = field(default_factory=list)
    """What does not hold, one sentence each."""
    elsewhere: list[str] = field(default_factory=list)
    """What differs and may, one sentence each."""

    @property
    def holds(self) -> bool:
        """Whether it came to the same."""
        return not self.different


def compare(
    name: str, recorded: Mapping[str, Any], again: Mapping[str, Any], all_records: Sequence[Mapping[str, Any]]
) -> Compared:
    """Compare two records (their predicates) of one run; the noise is that of all records of its experiment."""
    found = Compared(name)
    found.different += [_told(name, one, recorded, again) for one in CONDITIONS if recorded.get(one) != again.get(one)]
    found.elsewhere += [_told(name, one, recorded, again) for one in PLACES if recorded.get(one) != again.get(one)]
    deciding = decisive(recorded)
    for metric, entry in sorted(recorded["metrics"].items()):
        for dataset, series in sorted(entry["datasets"].items()):
            was, now = series["seeds"], _series(again, metric, dataset)
            if len(was) != len(now):
                found.different.append(f"{name}: {dataset}/{metric} had {len(was)} values and has {len(now)}")
                continue
            sd = pooled_sd(one for one in (_series(record, metric, dataset) for record in all_records) if one)
            found.noise[f"{dataset}/{metric}"] = sd
            found.rows += _rows(dataset, metric, _seeds(recorded, len(was)), was, now, sd, decides=metric in deciding)
    found.different += [_beyond(name, row) for row in found.rows if row.decides and not row.holds]
    return found


def decisive(record: Mapping[str, Any]) -> frozenset[str]:
    """Return the metrics by which a run is judged: the evaluator's; without those the primary one, or else all."""
    metrics = record["metrics"]
    evaluated = frozenset(name for name, entry in metrics.items() if entry["source"] == "evaluator")
    primary = frozenset(name for name, entry in metrics.items() if entry["primary"])
    return evaluated or primary or frozenset(metrics)


def pooled_sd(series: Iterator[Sequence[float]]) -> float | None:
    """Return the standard deviation within series, weighted by their degrees of freedom; None where there are none."""
    squares, freedom = 0.0, 0
    for values in series:
        mean = math.fsum(values) / len(values)
        squares += math.fsum((value - mean) ** 2 for value in values)
        freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _series(record: Mapping[str, Any], metric: str, dataset: str) -> list[float]:
    found = record["metrics"].get(metric, {}).get("datasets", {}).get(dataset, {}).get("seeds", ())
    return [float(value) for value in found]


def _seeds(record: Mapping[str, Any], count: int) -> list[str]:
    """Return what to call the values: their seeds, or their number where the template controls none."""
    seeds = record["seeds"]
    return [str(one) for one in seeds] if isinstance(seeds, list) and len(seeds) == count else _numbered(count)


def _numbered(count: int) -> list[str]:
    return [f"#{number}" for number in range(1, count + 1)]


def _rows(
    dataset: str,
    metric: str,
    seeds: Sequence[str],
    was: Sequence[float],
    now: Sequence[float],
    sd: float | None,
    *,
    decides: bool,
) -> Iterator[Row]:
    pairs = [(seed, float(old), new) for seed, old, new in zip(seeds, was, now, strict=True)]
    if len(pairs) > 1:
        pairs.append((MEAN, math.fsum(map(float, was)) / len(was), math.fsum(now) / len(now)))
    for seed, old, new in pairs:
        # A mean moves less than its seeds do, and shows what each of them could still hide.
        spread = (sd or 0.0) * math.sqrt(2.0 / (len(was) if seed == MEAN else 1))
        yield Row(
            dataset=dataset,
            metric=metric,
            seed=seed,
            recorded=old,
            again=new,
            allowed=DEVIATIONS * spread,
            decides=decides,
        )


def _told(name: str, what: str, recorded: Mapping[str, Any], again: Mapping[str, Any]) -> str:
    was, now = (json.dumps(one.get(what), sort_keys=True)[:_SHOWN] for one in (recorded, again))
    return f"{name}: its {what.replace('_', ' ')} was {was} and is {now}"


def _beyond(name: str, row: Row) -> str:
    what = "the mean over seeds" if row.seed == MEAN else f"seed {row.seed}"
    return (
        f"{name}: {row.dataset}/{row.metric} of {what} was {row.recorded:.6g} and is {row.again:.6g}, "
        f"{abs(row.again - row.recorded):.2g} apart where the seeds' noise allows {row.allowed:.2g}"
    )
