"""What executions of an installation have on this machine: everything that would be a leak if nobody removed it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fumehood.domain.execution import NAME
from sandbox import cgroups, kernel, records, uids
from sandbox.installation import Installation


@dataclass(frozen=True, slots=True)
class Trace:
    """One thing of one execution."""

    name: str
    kind: str
    since: float
    """When it was made or last changed; 0 where that is not known."""


def find(home: Installation, groups: cgroups.Hierarchy | None) -> list[Trace]:
    """Return everything that is known without asking an engine."""
    found = [
        *_in_state(home),
        *(Trace(name.removesuffix(".egress"), "user id", 0.0) for name in uids.claims(home.run_dir, home.id)),
        *_below(home.volumes, "volume"),
        *_below(home.folder, "folder"),
        *_of_kernel(home),
        *_processes(home),
    ]
    for root in groups.roots if groups else ():
        found += _below(root / cgroups.TOP / home.id, "control group")
    return [one for one in found if NAME.match(one.name)]


def kinds(traces: list[Trace]) -> dict[str, tuple[str, ...]]:
    """Return what there is of each execution."""
    found: dict[str, set[str]] = {}
    for one in traces:
        found.setdefault(one.name, set()).add(one.kind)
    return {name: tuple(sorted(told)) for name, told in sorted(found.items())}


def age_s(traces: list[Trace], name: str) -> float:
    """Return how long ago the youngest thing of an execution was made."""
    return time.time() - max((one.since for one in traces if one.name == name), default=0.0)


def _in_state(home: Installation) -> Iterator[Trace]:
    for name in records.names(home):
        told = records.find(home, name).read("spec.json")
        since = float(told["launched_at"]) if told else _since(home.executions / name)
        yield Trace(name, "state", since)


def _below(folder: Path, kind: str) -> Iterator[Trace]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(folder.iterdir()):
            yield Trace(path.name.partition(".")[0], kind, _since(path))


def _of_kernel(home: Installation) -> Iterator[Trace]:
    for mount in kernel.mounts(home.folder):
        if mount.target != home.folder:
            yield Trace(mount.target.relative_to(home.folder).parts[0], "mount", 0.0)
    for image in kernel.loops(home.volumes).values():
        yield Trace(image.name.partition(".")[0], "loop device", 0.0)


def _processes(home: Installation) -> Iterator[Trace]:
    place = os.fsencode(home.executions) + b"/"
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            for word in words:
                if word.startswith(place):
                    yield Trace(os.fsdecode(word[len(place) :]).partition("/")[0], "process", 0.0)


def _since(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return 0.0
