"""How numbers are rounded for print, and how a claim's pointer finds its number again in a record.

A pointer is a path of names joined by `/`. In a run's record it names
- a measured value: `kl_divergence/mean`, `kl_divergence/stderr`, `kl_divergence/circle/mean`;
- a value derived from that record and the baseline's: `kl_divergence/difference`, `.../change` (without its sign),
  `.../relative_percent`, `.../relative_change`, `.../contrast`, `.../contrast_se`, `.../df`, `.../p`, and
  `kl_divergence/circle/difference|change|relative_percent|relative_change`;
- anything else that the record holds: `counts/parameters`, `usage/run/wall_s`, `limits/run/memory_mib`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fumehood.domain.confirmation import Reason
from fumehood.domain.template import Metric
from fumehood.errors import NotFoundError
from fumehood.services import protocol, statistics
from fumehood.services.estimates import Way

Record = Mapping[str, Any]
DERIVED = ("difference", "change", "relative_percent", "relative_change")
CONTRASTS = {"contrast": "value", "contrast_se": "se", "df": "df", "p": "p"}
BASELINE_FOLDER = "run_0"


def rounded(value: float, digits: int) -> str:
    """Return a number with this many significant digits, as it is printed: `0.413`, `296,450`, `1.2e-7`."""
    if value == 0:
        return "0"
    mantissa, power = f"{value:.{max(digits, 1) - 1}e}".split("e")
    exponent = int(power)
    if exponent < -4 or exponent >= 9:
        return f"{mantissa}e{exponent}"
    decimals = max(digits, 1) - 1 - exponent
    if decimals <= 0:
        return f"{round(value, decimals):,.0f}"
    return f"{value:,.{decimals}f}"


def in_latex(text: str) -> str:
    """Return a printed number as LaTeX that works in text and in mathematics."""
    if "e" in text:
        mantissa, power = text.split("e")
        return rf"\ensuremath{{{mantissa}\times10^{{{power}}}}}"
    text = text.replace(",", "{,}")
    return rf"\ensuremath{{-}}{text[1:]}" if text.startswith("-") else text


def all_digits(value: float, otherwise: int = 3) -> int:
    """Return how many digits print a whole number in full; another number gets `otherwise`."""
    return len(str(abs(int(value)))) if float(value).is_integer() and abs(value) < 1e9 else otherwise


def digits_beside(value: float, stderr: float | None) -> int:
    """Return how many digits of a value its standard error supports: down to the error's second digit, 1 to 6."""
    if value == 0:
        return 1
    if not stderr:
        return all_digits(value, otherwise=4)
    last = math.floor(math.log10(abs(stderr))) - 1
    return max(1, min(6, math.floor(math.log10(abs(value))) - last + 1))


def resolve(
    pointer: str, record: Record, base: Record | None = None, metrics: Mapping[str, Metric] | None = None
) -> float:
    """Return the number that a pointer names; `NotFoundError` when the record does not hold it."""
    first, *rest = pointer.split("/")
    if first not in record.get("metrics", {}):
        return _number(_walk(record, [first, *rest]), pointer)
    if rest and rest[-1] in DERIVED:
        return _derived(pointer, first, rest, record, base, metrics or {})
    if len(rest) == 1 and rest[0] in CONTRASTS:
        found = contrast_of(first, record, base, metrics or {})
        return _number(getattr(found, CONTRASTS[rest[0]], None), pointer)
    entry = record["metrics"][first]
    if len(rest) == 2:
        entry = entry["datasets"].get(rest[0], {})
    return _number(entry.get(rest[-1]) if rest else None, pointer)


def direction_of(name: str, record: Record, metrics: Mapping[str, Metric]) -> Way | None:
    """Return where better lies for a metric, by its template or else by its record."""
    if name in metrics:
        return metrics[name].direction
    found = record["metrics"][name].get("direction")
    return cast(Way, found) if found in {"lower", "higher"} else None


def incomparable(name: str, *records: Record | None) -> str:
    """Return why a metric of these records is compared with nothing, such as `shared_device`; empty where it is."""
    known = [one for one in records if one is not None and "metrics" in one]
    entries = [one["metrics"].get(name, {}) for one in known]
    if why := next((entry["not_comparable"] for entry in entries if entry.get("not_comparable")), ""):
        return str(why)
    differs = protocol.differs if any(entry.get("is_time") for entry in entries) else protocol.changed
    return Reason.PROTOCOL_CHANGED.value if any(differs(one, known[0]) for one in known[1:]) else ""


def contrast_of(
    name: str, record: Record, base: Record | None, metrics: Mapping[str, Metric]
) -> statistics.Contrast | None:
    """Return the contrast of a metric between two records; None when it cannot be formed."""
    if base is None or name not in base.get("metrics", {}) or name not in record.get("metrics", {}):
        return None
    if incomparable(name, record, base):
        return None
    metric = metrics.get(name, Metric())
    ours, theirs = _per_seed(record, name), _per_seed(base, name)
    return statistics.contrast(
        theirs,
        # Who leaves out a seed, or tells one twice, has no result where the baseline has one for each of its seeds.
        {
            one: found
            for one, found in ours.items()
            if is_whole(record, found) or not is_whole(base, theirs.get(one, ()))
        },
        direction=direction_of(name, record, metrics),
        resolution=metric.resolution,
        transform=metric.transform,
    )


def is_whole(record: Record, values: Sequence[object]) -> bool:
    """Whether these are one value for each of a record's seeds; never where the template controls none."""
    seeds = record.get("seeds")
    return isinstance(seeds, list) and len(values) == len(seeds)


def _per_seed(record: Record, name: str) -> dict[str, Sequence[float]]:
    datasets = record["metrics"][name]["datasets"]
    return {dataset: [float(one) for one in entry.get("seeds") or ()] for dataset, entry in datasets.items()}


def _derived(
    pointer: str, name: str, rest: list[str], record: Record, base: Record | None, metrics: Mapping[str, Metric]
) -> float:
    stem = "/".join([name, *rest[:-1]])
    if base is None:
        raise NotFoundError(f"The number {pointer} needs the baseline's record.")
    if why := incomparable(name, record, base):
        raise NotFoundError(f"The number {pointer} cannot be formed: {why}.")
    ours, theirs = resolve(f"{stem}/mean", record), resolve(f"{stem}/mean", base)
    found = statistics.difference(ours, theirs, None, None, direction_of(name, record, metrics))
    value = found.relative_percent if "relative" in rest[-1] else found.value
    number = _number(value, pointer)
    return abs(number) if rest[-1].endswith("change") else number


def _walk(record: Record, parts: list[str]) -> object:
    value: object = record
    for part in parts:
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _number(value: object, pointer: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise NotFoundError(f"There is no number {pointer} in the record.")
    return float(value)
