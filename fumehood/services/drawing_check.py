"""Do the drawings of a finished folder show what `drawings.json` says: runs that there are, from files as signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from fumehood.services import drawings
from fumehood.services.drawings import Drawing, Drawings

PAPER = "latex/main.tex"


def problems(paths: Collection[str], read: Callable[[str], bytes], digest: Callable[[str], str]) -> list[str]:
    """Return what does not hold, one sentence each.

    `read` returns a file's bytes and `digest` their SHA-256, or nothing where there is no such file.
    """
    try:
        told = drawings.read(read(drawings.PRODUCT))
    except ValueError as error:
        return [f"it cannot be read ({type(error).__name__})"]
    found = []
    if digest(drawings.PROGRAM) != told.program:
        found.append(f"{drawings.PROGRAM} is not the program that drew")
    found += _of_runs(told, json.loads(read("runs.json")))
    found += [f"{path} is not the file that was drawn from" for path, sha in told.files.items() if digest(path) != sha]
    listed = {one.file for one in told.drawings}
    found += [
        f"{path} is not in it"
        for path in sorted(paths)
        if path.endswith(".png") and "/" not in path and path not in listed
    ]
    for one in told.drawings:
        found += _of_drawing(told, one, read, digest)
    if PAPER in paths:
        found += _of_paper(told, read(PAPER).decode(errors="replace"))
    return found


def _of_runs(told: Drawings, runs: list[dict[str, Any]]) -> list[str]:
    """Compare the runs that there were to draw with those that were measured."""
    measured = {run["folder"]: run["title"] for run in runs if run["arm"] == "screen" and run["result"] == "measured"}
    found = [f"there is no run {run} that was measured" for run in told.runs if run not in measured]
    found += [f"{run} was left out of the drawings" for run in measured if run not in told.runs]
    found += [
        f"it calls {run} {title!r}, which is {measured[run]!r}"
        for run, title in told.runs.items()
        if run in measured and measured[run] != title
    ]
    return found + [f"{path} is no file of a run" for path in told.files if path.split("/")[0] not in told.runs]


def _of_drawing(told: Drawings, one: Drawing, read: Callable[[str], bytes], digest: Callable[[str], str]) -> list[str]:
    found = [
        f"{path} is not the one that was drawn"
        for path, sha in {one.file: one.sha256, **one.data}.items()
        if digest(path) != sha
    ]
    found += [
        f"{one.file} was drawn from {path}, which it was not given" for path in one.read if path not in told.files
    ]
    if found:
        return found
    place = drawings.place_of(one.file)
    drawn = drawings.drawn_of(read(place)) if place in one.data else None
    if (one.runs, one.known_by) != drawings.runs_in(drawn, told.runs):
        found.append(f"{one.file} does not show the runs that it names")
    if strays := drawings.strays(drawn, told.runs):
        found.append(f"{one.file} shows {strays[0]}, and there is no such run")
    return found


def _of_paper(told: Drawings, source: str) -> list[str]:
    """Compare the runs that captions name with those that are shown."""
    runs = {one.file: one.runs for one in told.drawings}
    named = drawings.captions_of(source)
    found = [f"{PAPER} shows {file}, which is not in it" for file in named if file not in runs]
    return found + [
        f"the caption of {file} in {PAPER} names {', '.join(named[file]) or 'no run'}, and it shows {', '.join(shown)}"
        for file, shown in runs.items()
        if file in named and named[file] != shown
    ]
