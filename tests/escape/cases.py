"""The cases: one hostile program each, and what its header says of it.

A header is TOML in comments between `# /// escape` and `# ///`:

    promise   which promise it attacks
    trick     what it tries, in one sentence
    control   by adapter, the protections without which it succeeds: that is its positive control
    verdict   how it must end; `succeeded` where nothing is said
    limits    those that differ from LIMITS
    collect   what it declares as artifacts
    network   its network, where it has one
    comes     how many of its files may come out; none where nothing is said
    needs     what it finds around it: `listeners`, `neighbour`
    host      what is done from outside while it runs: `cancel`, or `end`: it is written down that it is over
    checks    what is looked at besides what always is: `disk`, `responsive`, `cpu`
    breaks    what is no longer true outside once the protection is off
    already   protections that are off also in the case itself, where another one stands behind them
    gets      how many things it must get hold of in its control; 1 where nothing is said
    lacks     by adapter, why the case does not count there
    alone     whether it runs by itself, because it is timed
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"
ADAPTERS = ("local", "docker", "docker-runsc")
LIMITS: Mapping[str, Any] = {
    "wall_s": 20.0,
    "memory_mib": 256,
    "storage_mib": 32,
    "processes": 64,
    "output_bytes": 200_000,
}
INCIDENTS: Mapping[str, str] = {
    "s6_relaunches_itself": "self-relaunch",
    "s5_checkpoint_each_step": "a checkpoint at every step",
    "s6_extends_its_limit": "extending its own time limit",
    "s15_unknown_package": "importing unknown packages",
}
"""What the original AI Scientist did, by the case that does the same."""
_HEADER = re.compile(r"^# /// escape\n((?:#(?: .*)?\n)+?)# ///$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trick, where it must end, and without which protections it succeeds."""

    name: str
    program: Path
    promise: str
    trick: str
    control: Mapping[str, tuple[str, ...]]
    verdict: tuple[str, ...] = ("succeeded",)
    limits: Mapping[str, Any] = field(default_factory=dict)
    collect: tuple[str, ...] = ()
    network: str = "none"
    comes: int = 0
    needs: frozenset[str] = frozenset()
    host: str = ""
    checks: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()
    already: tuple[str, ...] = ()
    gets: int = 1
    lacks: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False

    def off(self, adapter: str) -> frozenset[str]:
        """Return the protections that its control goes without on an adapter."""
        return frozenset(self.control.get(adapter.partition("-")[0], ()))

    def why_not(self, adapter: str) -> str:
        """Say why it does not count on an adapter, or return an empty string."""
        return self.lacks.get(adapter, self.lacks.get(adapter.partition("-")[0], ""))


def read(program: Path) -> Case:
    """Return the case of a program, or raise with what its header lacks."""
    found = _HEADER.search(program.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{program.name} has no header")
    told = tomllib.loads("".join(line.removeprefix("#").removeprefix(" ") for line in found[1].splitlines(True)))
    verdict = told.pop("verdict", "succeeded")
    lists: dict[str, Any] = {name: tuple(told.pop(name)) for name in ("collect", "already") if name in told}
    sets: dict[str, Any] = {name: frozenset(told.pop(name)) for name in ("needs", "checks", "breaks") if name in told}
    control = {adapter: tuple(off) for adapter, off in told.pop("control").items()}
    return Case(
        name=program.stem,
        program=program,
        verdict=(verdict,) if isinstance(verdict, str) else tuple(verdict),
        control=control,
        **lists,
        **sets,
        **told,
    )


def everything() -> list[Case]:
    """Return every case, by promise and name."""
    found = [read(program) for program in PROGRAMS.glob("*.py")]
    return sorted(found, key=lambda case: (int(case.promise[1:]), case.name))
