"""Data that a template's program reads from above its folder, as those of the original AI Scientist do: `../../data`.

They come along as files of the template, below `data/`. A sandbox shows these at `/data` too, where `../../data` and
`../../../data` both lead from the workspace, so that the program runs as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PLACE = "data"
_READ = re.compile(rb"""(?:(?<![\w./])|(?<=["'}]/))(?:\./)?((?:\.\./)+)data(?![\w.-])""")
"""Also behind a program's own folder, as in `f"{HERE}/../../data"`, which is where it runs."""


def levels(sources: Iterable[bytes]) -> tuple[int, ...]:
    """Return how many folders up the `data` lie that programs name, nearest first; none where they name none."""
    return tuple(sorted({len(found[1]) // 3 for source in sources for found in _READ.finditer(source)}))


def folders(template: Path, sources: Iterable[bytes]) -> tuple[Path, ...]:
    """Return the folders of data above a template's that are there, nearest first; links are followed nowhere."""
    above = template.resolve().parents
    places = [above[up - 1] / PLACE for up in levels(sources) if up <= len(above)]
    return tuple(place for place in places if place.is_dir() and not place.is_symlink())
