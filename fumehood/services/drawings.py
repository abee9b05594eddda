"""What a paper's drawings rest on, as it is kept beside them: `drawings.json`, and the series of each in `drawn/`.

Which runs there were to draw, and every file of theirs that `plot.py` could read, the platform knows. What it drew and
what it read is told by the program that starts it, from inside the sandbox, and is read here as anybody's word is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fumehood.domain.experiment import Execution, Run

PRODUCT = "drawings.json"
FOLDER = "drawn"
PROGRAM = "plot.py"
KEPT = re.compile(rf"{FOLDER}/[A-Za-z0-9][\w-]{{0,80}}\.(?:json|csv)", re.ASCII)
"""Products that hold what a drawing was drawn from."""
_PICTURE = re.compile(r"[A-Za-z0-9][\w-]{0,80}\.png", re.ASCII)
"""A name that means nothing to LaTeX; a drawing of any other is none of the paper's."""
MOST_BYTES = 16 * 1024 * 1024
_FOLDER = re.compile(r"run_\d{1,3}", re.ASCII)
_NAMED = re.compile(r"(run_\d{1,3})(?:/.*)?", re.ASCII | re.DOTALL)
_NUMBERED = re.compile(r"(?<![A-Za-z0-9])[Rr]un[ _~]?(\d{1,3})(?!\d)")
_INPUTS = "work/"

Text = Annotated[str, Field(max_length=300)]
Value = float | None
Way = Literal["labels", "read", "given"]
"""How the runs of a drawing are known: by the words in it, by the files that were read, or only as all there were."""


class Axes(BaseModel):
    """One pair of axes."""

    title: Text = ""
    x: Text = ""
    y: Text = ""


class Series(BaseModel):
    """Points that were drawn with one mark."""

    axes: int = Field(ge=0)
    kind: str = Field(max_length=20)
    label: Text = ""
    n: int = Field(ge=0)
    """How many there are; `x` and `y` may hold fewer."""
    x: list[Value]
    y: list[Value]


class Drawn(BaseModel):
    """What one drawing shows."""

    names: dict[Text, Text] = Field(default_factory=dict, max_length=200)
    """Run's folder to what the program calls it."""
    words: list[Text] = Field(default_factory=list, max_length=500)
    read: list[str] = Field(default_factory=list, max_length=100_000)
    axes: list[Axes] = Field(default_factory=list, max_length=500)
    series: list[Series] = Field(default_factory=list, max_length=500)


class Drawing(BaseModel):
    """One drawing of `drawings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    runs: tuple[str, ...]
    """Folders of the runs that it shows."""
    known_by: Way
    read: tuple[str, ...]
    """Files of runs that had been read when it was saved; empty where nothing tells of that."""
    data: dict[str, str]
    """Path to SHA-256 of what was drawn, below `drawn/`; empty where the program did not draw by Matplotlib."""


class Drawings(BaseModel):
    """All of `drawings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    program: str
    """SHA-256 of `plot.py`."""
    runs: dict[str, str]
    """Folder to title of every run that there was to draw."""
    files: dict[str, str]
    """Path to SHA-256 of every file of theirs that `plot.py` could read."""
    drawings: tuple[Drawing, ...]

    def to_json(self) -> bytes:
        """Return it as it is kept."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def read(data: bytes) -> Drawings:
    """Return what `drawings.json` says; `ValueError` for what is none."""
    return Drawings.model_validate_json(data)


def drawn_of(data: bytes) -> Drawn | None:
    """Return what the driver told of a drawing; None for what cannot be read."""
    if len(data) > MOST_BYTES:
        return None
    try:
        return Drawn.model_validate_json(data)
    except ValidationError:
        return None


def pictures_of(execution: Execution) -> dict[str, str]:
    """Return the pictures that an execution left, path to SHA-256."""
    return {path: item.sha256 for path, item in execution.artifacts.items() if _PICTURE.fullmatch(path)}


def place_of(picture: str) -> str:
    """Return where the driver tells of a drawing."""
    return f"{FOLDER}/{picture.removesuffix('.png')}.json"


def data_of(execution: Execution, picture: str) -> dict[str, str]:
    """Return what is kept of a drawing: the series that it shows, and the table that `plot.py` wrote beside it."""
    table = f"{picture.removesuffix('.png')}.csv"
    places = {place_of(picture): place_of(picture), table: f"{FOLDER}/{table}"}
    return {place: execution.artifacts[path].sha256 for path, place in places.items() if path in execution.artifacts}


def products(kept: Drawings) -> dict[str, str]:
    """Return the files of a finished folder that drawings come with, path to SHA-256."""
    found: dict[str, str] = {}
    for one in kept.drawings:
        found |= {one.file: one.sha256, **one.data}
    return found


def titles_of(runs: Iterable[Run]) -> dict[str, str]:
    """Return folder to title of runs, as a drawing may name them."""
    return {run.folder: run.title for run in runs}


def told(execution: Execution, drawn: Mapping[str, Drawn | None], titles: Mapping[str, str]) -> Drawings:
    """Return what is kept of the drawings of an execution.

    Args:
        execution: What drew them.
        drawn: Each picture that is kept, with what the driver told of it.
        titles: Folder to title of every run that there was to draw.
    """
    given = {path.removeprefix(_INPUTS): sha for path, sha in sorted(execution.inputs.items())}
    files = {path: sha for path, sha in given.items() if path.split("/")[0] in titles and "/" in path}
    pictures = pictures_of(execution)
    found = []
    for picture, one in sorted(drawn.items()):
        runs, way = runs_in(one, titles)
        read = tuple(sorted(set(one.read) & set(files))) if one else ()
        data = data_of(execution, picture)
        found.append(Drawing(file=picture, sha256=pictures[picture], runs=runs, known_by=way, read=read, data=data))
    return Drawings(program=given[PROGRAM], runs=dict(titles), files=files, drawings=tuple(found))


def runs_in(drawn: Drawn | None, titles: Mapping[str, str]) -> tuple[tuple[str, ...], Way]:
    """Return the runs that a drawing shows, in order, and how that is known.

    Args:
        drawn: What the driver told of it.
        titles: Folder to title of every run that there was to draw.
    """
    way: Way = "given"
    found: set[str] = set()
    if drawn is not None:
        called = {run: [run, title, drawn.names.get(run, "")] for run, title in titles.items()}
        found, way = named(drawn.words, called), "labels"
        if not found:
            found, way = {path.split("/")[0] for path in drawn.read} & set(titles), "read"
    if not found:
        found, way = set(titles), "given"
    return tuple(run for run in titles if run in found), way


def named(texts: Iterable[str], names: Mapping[str, Iterable[str]]) -> set[str]:
    """Return those whose names stand in texts, the longest first, so that no name is found in a longer one."""
    left = [_plain(text) for text in texts]
    found = set()
    every = {(_plain(name), key) for key, some in names.items() for name in some if name.strip()}
    for name, key in sorted(every, key=lambda one: (-len(one[0]), one)):
        whole = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        if any(whole.search(text) for text in left):
            found.add(key)
        if sum(other == name for other, _ in every) == 1:
            left = [whole.sub("\0", text) for text in left]
    return found


def _plain(text: str) -> str:
    """Return a text without case and line breaks, which may follow a hyphen."""
    return re.sub(r"-\s+", "-", " ".join(text.casefold().split()))


def strays(drawn: Drawn | None, titles: Mapping[str, str]) -> list[str]:
    """Return the runs that a drawing speaks of and that there are not."""
    if drawn is None:
        return []
    texts = [*drawn.words, *drawn.names.values()]
    said = {f"run_{int(number)}" for text in texts for number in _NUMBERED.findall(text)}
    called = {name for name in drawn.names if _FOLDER.fullmatch(name)}
    return sorted((said | called) - set(titles) - _own_words(titles))


def _own_words(titles: Mapping[str, str]) -> set[str]:
    """Return the runs that other runs' titles speak of, such as `As run 7, for longer`."""
    return {f"run_{int(number)}" for title in titles.values() for number in _NUMBERED.findall(title)}


def strays_of_program(source: bytes, titles: Mapping[str, str]) -> list[str]:
    """Return the runs whose folders `plot.py` names and that there are not; none for what is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return []
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = {match[1] for text in texts if (match := _NAMED.fullmatch(text))}
    return sorted(found - set(titles))


def refusal(strays: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return why drawings of runs that there are not are refused, as one sentence."""
    are = "there is no such run" if len(strays) == 1 else "there are no such runs"
    return f"plot.py names {', '.join(strays)}, and {are} to draw: there are {', '.join(titles)}."


def summary(drawn: Drawn) -> dict[str, Any]:
    """Return a drawing in few numbers, for who writes of it."""
    return {
        "axes": [one.model_dump() for one in drawn.axes[:_MOST_AXES]],
        "series": [_in_short(one) for one in drawn.series[:_MOST_SERIES]],
        "series_in_all": len(drawn.series),
    }


_MOST_AXES, _MOST_SERIES = 12, 32


def _in_short(series: Series) -> dict[str, Any]:
    heights = [value for value in series.y if value is not None]
    told: dict[str, Any] = {"axes": series.axes, "kind": series.kind, "label": series.label, "n": series.n}
    if heights:
        mean = sum(heights) / len(heights)
        ends = {"first": heights[0], "last": heights[-1], "lowest": min(heights), "highest": max(heights), "mean": mean}
        told |= {name: float(f"{value:.4g}") for name, value in ends.items()}
    return told


def caption(runs: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return the words by which a caption names the runs that its drawing shows, as LaTeX.

    Args:
        runs: Folders.
        titles: Folder to title, as LaTeX.
    """
    told = [f"{titles.get(run, run)} ({_in_latex(run)})" for run in runs]
    return f"Runs shown: {'; '.join(told)}."


def _in_latex(run: str) -> str:
    return rf"\texttt{{{run.replace('_', chr(92) + '_')}}}"


_FLOAT = re.compile(
    r"\\includegraphics(?:\[[^\]]*\])?\{(?P<file>[^}]*)\}\s*\\caption\{(?P<caption>.*?)\}\s*\\label\{fig:", re.DOTALL
)
_RUN_IN_LATEX = re.compile(r"\\texttt\{(run)\\_(\d+)\}")


def captions_of(source: str) -> dict[str, tuple[str, ...]]:
    """Return the runs that each caption of a paper names, by the drawing's file."""
    floats = _FLOAT.finditer(source)
    return {
        one["file"]: tuple(f"{word}_{number}" for word, number in _RUN_IN_LATEX.findall(one["caption"]))
        for one in floats
    }
