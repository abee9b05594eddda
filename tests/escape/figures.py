"""What the suite found, as a table for a terminal and as the figures in docs/threat-model.md."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups, docker_engine
from tests.escape.cases import INCIDENTS, Case
from tests.escape.stage import AS_IT_IS, WITHOUT

HELD, UNCOUNTED = "held", "does not count"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_NUMBERED = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case on one adapter."""

    case: Case
    adapter: str
    contained: bool
    control: bool
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """An adapter's figures."""

    adapter: str
    tried: int
    contained: int
    controls: int
    uncounted: int


def rows(cases: Iterable[Case], told: Iterable[list[str]]) -> list[Row]:
    """Return a row for each case and adapter of which something was told."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for adapter, name, mode, word, _ in told:
        found.setdefault((name, adapter), {})[mode] = word
    adapters = sorted({adapter for _, adapter in found}, reverse=True)
    return [
        Row(
            case=case,
            adapter=adapter,
            contained=words.get(AS_IT_IS) == HELD,
            # Another runtime is the same adapter, whose controls were shown under the first one.
            control=found.get((case.name, adapter.partition("-")[0]), words).get(WITHOUT) == HELD,
            counts=UNCOUNTED not in words.values(),
        )
        for case in cases
        for adapter in adapters
        if (words := found.get((case.name, adapter)))
    ]


def sums(table: list[Row]) -> list[Sum]:
    """Return each adapter's figures."""
    return [
        Sum(
            adapter=adapter,
            tried=sum(row.counts for row in table if row.adapter == adapter),
            contained=sum(row.counts and row.contained for row in table if row.adapter == adapter),
            controls=sum(row.counts and row.control for row in table if row.adapter == adapter),
            uncounted=sum(not row.counts for row in table if row.adapter == adapter),
        )
        for adapter in dict.fromkeys(row.adapter for row in table)
    ]


def text(table: list[Row]) -> str:
    """Return the table as a terminal shows it."""
    lines = [f"{'case':32} {'promise':8} {'adapter':13} {'contained':10} control seen"]
    for row in table:
        words = ["yes" if held else "NO" for held in (row.contained, row.control)] if row.counts else ["-", "-"]
        lines.append(f"{row.case.name:32} {row.case.promise:8} {row.adapter:13} {words[0]:10} {words[1]}")
    told = sums(table)
    lines += [
        f"{one.adapter}: {one.tried} tried, {one.contained} contained, {one.controls} controls seen" for one in told
    ]
    return "\n".join(lines)


def block(table: list[Row], took_s: float) -> str:
    """Return the figures as they stand in the document."""
    lines = ["| adapter | tried | contained | controls seen |", "|---|---:|---:|---:|"]
    lines += [f"| {one.adapter} | {one.tried} | {one.contained} | {one.controls} |" for one in sums(table)]
    promises = dict.fromkeys(row.case.promise for row in table)
    counted = {promise: len({row.case.name for row in table if row.case.promise == promise}) for promise in promises}
    lines += ["", "Cases by promise: " + ", ".join(f"{name} {number}" for name, number in counted.items()) + "."]
    missing = [
        f"- `{row.case.name}` on {row.adapter}: {row.case.why_not(row.adapter)}." for row in table if not row.counts
    ]
    lines += ["", "Not counted, since no control could be shown:", "", *missing] if missing else []
    seen = [f"`{name}` ({what})" for name, what in INCIDENTS.items() if any(row.case.name == name for row in table)]
    lines += ["", f"The original's four incidents: {', '.join(seen)}."]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines += ["", f"Measured on {today} in {took_s:.0f} s on {os.cpu_count()} processors: {machine()}."]
    return "\n".join(lines)


def write(place: Path, figures: str) -> None:
    """Put the figures between the two marks of the document."""
    document = place.read_text(encoding="utf-8")
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    place.write_text(f"{head}{BEGIN}\n{figures}\n{END}{tail}", encoding="utf-8")


def machine() -> str:
    """Return the versions of what isolates, and nothing that names this machine."""
    groups = cgroups.find()
    told = [f"Linux {_number(os.uname().release)}", f"cgroup v{groups.version}" if groups else "no cgroups"]
    told.append(f"bubblewrap {_number(_said('bwrap', '--version'))}")
    try:
        version = docker_engine.connect().client.version()
    except SandboxUnavailableError:
        return ", ".join([*told, "no container engine"])
    parts = {one["Name"]: one["Version"] for one in version.get("Components", ())}
    names = (("Docker", _number(version["Version"])), ("runc", _number(parts.get("runc", ""))))
    return ", ".join([*told, *(f"{name} {number}" for name, number in names if number)])


def _number(told: str) -> str:
    found = _NUMBERED.search(told)
    return found[0] if found else ""


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout
