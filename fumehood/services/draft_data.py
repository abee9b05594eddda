"""The data that a draft is made around: which files are taken, and what a model is told of them.

CSV with a header, `.npz` and `.npy` of plain arrays, and text in UTF-8. Nothing is unpickled, and of arrays only the
heads and a few values are read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fumehood.errors import BadInputError
from fumehood.services import templates

TYPES = (".csv", ".npz", ".npy", ".txt")
PATH = re.compile(r"(?!\.)[\w.+-]+(/(?!\.)[\w.+-]+){0,8}", re.ASCII)
"""A file's path that may become one of a template."""
MOST_BYTES = 64 * 1024 * 1024
MOST_FILES = 50
MOST_TOLD_FILES, MOST_COLUMNS, MOST_ARRAYS, ROWS, VALUES = 20, 60, 20, 3, 6
CELL, BEGINNING = 60, 300
"""Characters of a cell, and of a text's beginning, that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What was taken, and what was not."""

    files: Mapping[str, bytes]
    """By path, relative to the folder that was given."""
    left_out: tuple[str, ...] = ()
    """A sentence for each file that was not taken."""


def read(place: Path) -> Data:
    """Return the data of a file or a folder; `BadInputError` where there is none that can be taken, or too much."""
    if not place.exists():
        raise BadInputError(f"There is no file or folder {place} of data.")
    files: dict[str, bytes] = {}
    left_out = []
    total = 0
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        name = path.relative_to(place).as_posix() if place.is_dir() else path.name
        if path.is_dir() and not path.is_symlink():
            continue
        if why := _why_not(path, name):
            left_out.append(f"{name!r} {why}, and is left out.")
            continue
        total += path.stat().st_size
        if len(files) == MOST_FILES or total > MOST_BYTES:
            raise BadInputError(
                f"--data {place} has more than {MOST_FILES} files or {MOST_BYTES // 2**20} MiB of data."
            )
        content = path.read_bytes()
        try:
            _told(name, content)
        except Exception as error:  # noqa: BLE001 - somebody's file can fail in zip, in zlib, in the tokeniser, in a cast
            left_out.append(f"{name!r} cannot be read ({str(error)[:200]}), and is left out.")
            continue
        files[name] = content
    if not files:
        raise BadInputError(f"--data {place} has no CSV, npz, npy or text. {' '.join(left_out)[:2000]}".strip())
    return Data(files=files, left_out=tuple(left_out))


def told(data: Data) -> list[dict[str, Any]]:
    """Return what a model is told of the files, as JSON: columns, types, shapes, and a few values."""
    shown = [{"file": f"data/{name}", **_told(name, content)} for name, content in data.files.items()]
    return shown[:MOST_TOLD_FILES]


def _why_not(path: Path, name: str) -> str:
    if path.is_symlink() or not path.is_file():
        return "is a link or no file"
    if any(part.startswith(".") or templates.SKIPPED.fullmatch(part) for part in name.split("/")):
        return "is hidden"
    if path.suffix.lower() not in TYPES:
        return "is none of CSV, npz, npy and text (.txt)"
    return "" if PATH.fullmatch(name) else "has a name of other characters than letters, digits, `.`, `+`, `-` and `_`"


def _told(name: str, content: bytes) -> dict[str, Any]:
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        return _table(content)
    if suffix == ".npy":
        return {"kind": "npy", **_array(io.BytesIO(content))}
    if suffix == ".npz":
        return {"kind": "npz", "arrays": _archive(content)}
    text = content.decode("utf-8")
    told = {"kind": "text", "characters": len(text), "lines": text.count("\n") + 1}
    return {**told, "beginning": text[:BEGINNING]}


def _table(content: bytes) -> dict[str, Any]:
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    if len(rows) < 2:
        raise ValueError("it has no header and rows below it")
    header, body = rows[0], rows[1:]
    columns = [
        {"name": name[:CELL], **_column([row[at] if at < len(row) else "" for row in body])}
        for at, name in enumerate(header[:MOST_COLUMNS])
    ]
    first = [[cell[:CELL] for cell in row[:MOST_COLUMNS]] for row in body[:ROWS]]
    return {
        "kind": "csv",
        "rows": len(body),
        "columns_in_all": len(header),
        "columns": columns,
        "first_rows": first,
        "is_ragged": any(len(row) != len(header) for row in body),
    }


def _column(cells: Sequence[str]) -> dict[str, Any]:
    numbers = [number for number in map(_number, cells) if number is not None]
    empty = sum(not cell.strip() for cell in cells)
    kind = "number" if len(numbers) == len(cells) else "mixed" if numbers else "word"
    found: dict[str, Any] = {"type": kind, "distinct": len(set(cells)), "empty": empty}
    return found | ({"least": min(numbers), "most": max(numbers)} if numbers else {})


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _archive(content: bytes) -> dict[str, Any]:
    found = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for item in archive.infolist()[:MOST_ARRAYS]:
            with archive.open(item) as stream:
                found[item.filename.removesuffix(".npy")[:CELL]] = _array(stream)
    return found


def _array(stream: BinaryIO | Any) -> dict[str, Any]:
    """Return an array's head and first values; only so much of it is read, however large it says that it is."""
    import numpy

    version = numpy.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = numpy.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = numpy.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    count = min(math.prod(shape), VALUES)
    raw = stream.read(count * dtype.itemsize)
    values = numpy.frombuffer(raw, dtype=dtype, count=len(raw) // dtype.itemsize if dtype.itemsize else 0)
    return {"shape": list(shape), "dtype": str(dtype), "first_values": [_plain(one) for one in values.tolist()]}


def _plain(value: object) -> object:
    is_number = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number else str(value)[:CELL]


def as_facts(**told: Any) -> str:
    """Return facts as JSON for a prompt."""
    return json.dumps(told, ensure_ascii=False, allow_nan=False)
