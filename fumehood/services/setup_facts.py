"""The rows of a paper's set-up table, out of the baseline's record and the template's profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.template import Profile, Template
from fumehood.errors import NotFoundError
from fumehood.services import numbers, public_data
from fumehood.services.fact_types import Number, SetupRow

PROMISES = tuple(f"S{number}" for number in range(1, 17))
"""What a sandbox promises of an execution; a record names those that it held."""
NOT_HELD = "not held"
REFUSED = {"S2": "network capabilities", "S12": "GPUs"}
"""Promises about something that an execution may ask for, and that is refused where the promise cannot be held."""
_COUNTS = (
    ("counted.parameters", "Parameters per model", "counted/parameters"),
    ("counted.flops", "Floating-point operations per answer", "counted/flops"),
    ("parameters", "Parameters per model (self-reported)", "counts/parameters"),
    ("updates", "Updates per model (self-reported)", "counts/updates"),
    ("samples_seen", "Training samples seen per model (self-reported)", "counts/samples_seen"),
    ("flops_per_update", "Floating-point operations per update (self-reported)", "counts/flops_per_update"),
)
_LIMITS = (
    ("wall_s", "Time limit of a run (s)"),
    ("memory_mib", "Memory limit of a run (MiB)"),
    ("storage_mib", "Storage limit of a run (MiB)"),
    ("processes", "Process limit of a run"),
    ("cpus", "Processor limit of a run"),
)
_USED = (("wall_s", "Wall time of the baseline run (s)"), ("peak_memory_mib", "Peak memory of the baseline run (MiB)"))

_GPU = ("gpu_s", "GPU time of the baseline run (s)")


def setup_rows(
    direction: Direction,
    template: Template,
    profile: Profile,
    record: Mapping[str, Any] | None,
    source: str,
    table: dict[str, Number],
) -> list[SetupRow]:
    """Return the set-up and add its numbers to the table; what no record or profile says is left out."""
    rows = [SetupRow(name="Profile", value=direction.profile, number="", source="direction.json")]
    said: Mapping[str, Any] = record or {}

    def text(name: str, value: str, where: str = source) -> None:
        if value:
            rows.append(SetupRow(name=name, value=value, number="", source=where))

    def number(short: str, name: str, pointer: str, digits: int = 0) -> None:
        try:
            value = numbers.resolve(pointer, said)
        except NotFoundError:
            return
        digits = digits or numbers.all_digits(value)
        table[f"setup.{short}"] = Number(value=value, digits=digits, source=source, pointer=pointer)
        shown = numbers.rounded(value, digits)
        rows.append(SetupRow(name=name, value=shown, number=f"setup.{short}", source=source))

    text("Arguments of the experiment", " ".join(said.get("arguments") or profile.arguments))
    seeds = said.get("seeds") or list(profile.seeds)
    controlled = isinstance(seeds, list) and seeds
    text("Seeds", ", ".join(map(str, seeds)) if controlled else "not controlled by the template")
    for short, name, pointer in _COUNTS:
        number(short, name, pointer)
    prepared = [str(one) for one in said.get("prepare_arguments") or ()]
    prepared = prepared or [*template.prepare.arguments, *profile.prepare_arguments]
    text("Arguments of the data preparation", " ".join(prepared))
    held_out = next((one.split("=")[-1] for one in reversed(prepared) if one.startswith("--held_out_points=")), "")
    text("Held-out points per data set and seed", f"{int(held_out):,}" if held_out.isdigit() else "")
    used = public_data.origins(template, direction.template_files)
    text("Public data", ", ".join(f"{name}: {one['from']}" for name, one in used.items()), "direction.json")
    for entry in template.asked.values():
        told = f"{entry.title}, {entry.licence}, from {entry.url}, {entry.bytes:,} bytes, SHA-256 {entry.sha256[:12]}"
        text(f"Of the catalogue: {entry.id} ({entry.kind})", told, "direction.json")
    asked = int(said.get("query_count") or profile.query_count) if template.query else 0
    text("Samples asked of each model", f"{asked:,}" if asked else "")
    text("Arguments of the evaluator", " ".join(said.get("evaluate_arguments") or profile.evaluate_arguments))
    for short, name in _LIMITS:
        number(f"limits.{short}", name, f"limits/{Kind.RUN.value}/{short}")
    used = said.get("usage", {}).get(Kind.RUN.value, {})
    for short, name in (*_USED, *((_GPU,) if used.get("gpu_s") else ())):
        number(short, name, f"usage/{Kind.RUN.value}/{short}", 3)
    text("Device", str(said.get("device") or ""))
    text("Processor", str(said.get("processor") or ""))
    text("GPU", str(said.get("gpu") or ""))
    image = str(said.get("image") or "")
    text("Image (hash, shortened)", image.rsplit(":", 1)[-1][:12])
    text("Evaluator (hash, shortened)", str(said.get("evaluator") or "")[:12])
    isolation = said.get("isolation") or {}
    text("Isolation", _promises(isolation) if isolation else "")
    return rows


def _promises(isolation: Mapping[str, str]) -> str:
    """Return how many promises a record says were held, and name those that it does not."""
    open_ones = [one for one in PROMISES if str(isolation.get(one, NOT_HELD)).startswith(NOT_HELD)]
    said = f"{len(PROMISES) - len(open_ones)} of {len(PROMISES)} promises held and recorded"
    if not open_ones:
        return said
    known = [REFUSED[one] for one in open_ones if one in REFUSED and one not in isolation]
    why = f" ({' and '.join(known)} are refused)" if known else ""
    return f"{said}; not held: {', '.join(open_ones)}{why}"
