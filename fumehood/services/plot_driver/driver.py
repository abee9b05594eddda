"""Starts `plot.py` and keeps what its figures show: `python /in/driver.py`, where the `run_*` folders lie.

For each `NAME.png` that Matplotlib saves in this folder it writes `drawn/NAME.json`: the series and the words of the
figure, what `plot.py` calls the runs, and which of the runs' files had been read until then. `plot.py` shares the
process, so this tells what an honest program drew; what it was given is known outside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = "plot.py"
FOLDER = "drawn"
MOST_NUMBERS = 100_000
"""Of one figure; what a series has beyond is counted and left out."""
MOST_SERIES = 500
MOST_WORDS = 500
LONGEST_WORDS = 300
DIGITS = 9
_RUN = re.compile(r"run_\d+", re.ASCII)


def main() -> None:
    """Start the program as `python plot.py` would."""
    place = Path.cwd()
    read: set[str] = set()
    sys.argv, sys.path[0] = [PROGRAM], str(place)
    program = types.ModuleType("__main__")
    program.__file__ = str(place / PROGRAM)
    sys.modules["__main__"] = program
    code = compile(Path(PROGRAM).read_bytes(), program.__file__, "exec")
    _watch_figures(place, read, program.__dict__)
    sys.addaudithook(functools.partial(_heard, place, read))
    exec(code, program.__dict__)  # noqa: S102 - to start this program is what the execution is for


def _heard(place: Path, read: set[str], event: str, arguments: tuple[Any, ...]) -> None:
    """Note a file of a run that is opened to be read; whatever is raised here would be the program's own error."""
    if event != "open":
        return
    with contextlib.suppress(Exception):
        name, _, flags = arguments
        path = Path(os.path.normpath(place / os.fsdecode(name))).relative_to(place)
        is_of_run = _RUN.fullmatch(path.parts[0]) is not None
        if is_of_run and flags & os.O_ACCMODE == os.O_RDONLY and (place / path).is_file():
            read.add(path.as_posix())


def _watch_figures(place: Path, read: set[str], names: dict[str, Any]) -> None:
    try:
        figure: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        return
    save = figure.Figure.savefig

    @functools.wraps(save)
    def savefig(self: Any, fname: Any, *rest: Any, **named: Any) -> Any:
        done = save(self, fname, *rest, **named)
        # A figure that cannot be told of is drawn all the same.
        with contextlib.suppress(Exception):
            _keep(self, place, os.fspath(fname), sorted(read), names)
        return done

    figure.Figure.savefig = savefig


def _keep(figure: Any, place: Path, name: str, read: list[str], names: dict[str, Any]) -> None:
    file = Path(name).absolute()
    if file.parent != place or file.suffix != ".png":
        return
    told = {
        "figure": file.name,
        "names": _names_of_runs(names),
        "words": _words(figure),
        "read": read,
        "axes": [
            {
                "title": _said(one.get_title()),
                "x": _said(one.get_xlabel() or figure.get_supxlabel()),
                "y": _said(one.get_ylabel() or figure.get_supylabel()),
            }
            for one in figure.axes
        ],
        "series": _series(figure),
    }
    (place / FOLDER).mkdir(exist_ok=True)
    (place / FOLDER / f"{file.stem}.json").write_text(json.dumps(told, allow_nan=False) + "\n", encoding="utf-8")


def _names_of_runs(names: dict[str, Any]) -> dict[str, str]:
    """Return what the program calls the runs: every dictionary of its own from runs' folders to texts."""
    tables = [value for value in names.values() if isinstance(value, dict)]
    found = [(key, value) for one in tables for key, value in one.items() if isinstance(key, str)]
    return {key: _said(value) for key, value in found if isinstance(value, str) and _RUN.fullmatch(key)}


def _words(figure: Any) -> list[str]:
    """Return the texts that can be seen in a figure, without those that are a number alone."""
    texts = figure.findobj(importlib.import_module("matplotlib.text").Text)
    said = [_said(one.get_text()) for one in texts if one.get_visible()]
    return list(dict.fromkeys(one for one in said if any(map(str.isalpha, one))))[:MOST_WORDS]


def _said(text: str) -> str:
    return " ".join(text.split())[:LONGEST_WORDS]


def _series(figure: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    room = MOST_NUMBERS
    for number, axes in enumerate(figure.axes):
        for kind, label, points in _drawn(axes):
            shown = points[: room // 2]
            room -= 2 * len(shown)
            found.append(
                {
                    "axes": number,
                    "kind": kind,
                    "label": "" if label.startswith("_") else _said(label),
                    "n": len(points),
                    "x": [_number(x) for x, _ in shown],
                    "y": [_number(y) for _, y in shown],
                }
            )
    return found[:MOST_SERIES]


def _drawn(axes: Any) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Yield kind, label and points of what is drawn on one pair of axes, in the data's own units."""
    for line in axes.lines:
        yield "line", str(line.get_label()), _pairs(line.get_xydata())
    for one in axes.collections:
        if type(one).__name__ == "PathCollection":
            yield "points", str(one.get_label()), _pairs(one.get_offsets())
        else:
            corners = [corner for path in one.get_paths() for corner in path.vertices]
            yield "outline", str(one.get_label()), _pairs(corners)
    for one in axes.containers:
        if type(one).__name__ == "BarContainer":
            tops = [(bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in one.patches]
            yield "bars", str(one.get_label()), _pairs(tops)
    for one in axes.images:
        values = one.get_array()
        yield "image", str(one.get_label()), [(at, float(value)) for at, value in enumerate(values.ravel().tolist())]


def _pairs(points: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


if __name__ == "__main__":
    main()
