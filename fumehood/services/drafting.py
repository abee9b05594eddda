"""Drafting a template around somebody's own program, table or topic: which files it has, and what is frozen in it.

A draft is one of four sorts. `contract`: the program takes `--out_dir` and writes `final_info.json`, and stays as it
is. `functions`: it has `fit` and `predict`, and is judged on rows of a table that it never saw. `topic`: there is a
table and no program, and a linear model is the first one. `printed`: any other program; a number is read off what it
prints, and stays its own word. Nothing of a program is run here.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fumehood.domain.template import FROZEN_FILES, REQUIRED_FILES
from fumehood.errors import BadInputError
from fumehood.services import templates

PARTS = Path(__file__).with_name("template-parts")
"""Programs that are copied into drafts as they stand, and run in the sandbox only: no module of ours."""
NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
MOST_TABLE_BYTES = 32 * 1024 * 1024
LEAST_ROWS, MOST_CLASSES = 80, 100
SEEDS = {"tiny": (1, 2, 3), "cpu": (1, 2, 3, 4, 5, 6)}
"""Of each profile of a draft that takes seeds."""
FROZEN = ("prepare.py", "evaluate.py", "template.toml", "printed.json")
SYSTEM = "You are a careful researcher who reports what was measured."
OURS = frozenset({"experiment.py", "plot.py", "prepare.py", "evaluate.py", "serve.py", "template.toml"})


class Sort(StrEnum):
    """How a draft measures."""

    CONTRACT = "contract"
    FUNCTIONS = "functions"
    TOPIC = "topic"
    PRINTED = "printed"
    WRITTEN = "written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that a draft predicts the last column of."""

    name: str
    content: bytes
    """CSV, with a header, the target last."""
    classes: tuple[str, ...]
    """Empty where the targets are numbers."""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person told of the template that they want."""

    title: str
    task: str
    files: Mapping[str, bytes]
    """Their own, by path; empty for a topic."""
    program: str = ""
    """Which of these is run, or has `fit` and `predict`."""
    table: Table | None = None
    metric: str = ""
    better: str = ""
    """`lower` or `higher`; empty where they did not say."""
    pattern: str = ""
    arguments: tuple[str, ...] = ()


def sort_of(program: bytes | None, *, has_table: bool) -> Sort:
    """Say how a program can be measured, from its text alone; `BadInputError` where it is no Python."""
    if program is None:
        return Sort.TOPIC
    try:
        tree = templates.parsed(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInputError(f"The program is not valid Python: {getattr(error, 'msg', None) or error}.") from error
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    if any("final_info.json" in one for one in words) and any("--out_dir" in one for one in words):
        return Sort.CONTRACT
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return Sort.FUNCTIONS if has_table and {"fit", "predict"} <= defined else Sort.PRINTED


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return a folder's files as a template's would be taken: no links, no runs of it, no hidden folders."""
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or templates.SKIPPED.fullmatch(part) for part in relative.parts)
        if hidden or path.is_symlink() or not path.is_file():
            continue
        total += path.stat().st_size
        if len(files) == templates.MAX_FILES or total > templates.MAX_FILE_BYTES:
            most = f"{templates.MAX_FILES} files or {templates.MAX_FILE_BYTES // 2**20} MiB"
            raise BadInputError(f"{folder} has more than {most}, so it is no folder to draft a template from.")
        files[relative.as_posix()] = path.read_bytes()
    return files


def read_table(content: bytes, name: str, target: str) -> Table:
    """Return a CSV with its target last; `BadInputError` says what cannot be learnt from."""
    if len(content) > MOST_TABLE_BYTES:
        raise BadInputError(f"The table is larger than {MOST_TABLE_BYTES // 2**20} MiB.")
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    except (ValueError, csv.Error) as error:
        raise BadInputError(f"The table is no CSV with a header ({error}).") from error
    place = header.index(target) if target in header else -1
    if target and place < 0:
        raise BadInputError(f"The table has no column {target!r}; it has {', '.join(header)}.")
    place = place % len(header)
    if len(header) < 2 or any(len(row) != len(header) for row in rows):
        raise BadInputError("The table needs two columns at least, and as many in each row.")
    if len(rows) < LEAST_ROWS:
        raise BadInputError(f"The table has {len(rows)} rows, and {LEAST_ROWS} are the least that can be split.")
    for number, column in enumerate(header):
        if number != place and not all(_is_number(row[number]) for row in rows):
            raise BadInputError(f"The column {column!r} holds what is no number: code it in numbers, or leave it out.")
    targets = [row[place] for row in rows]
    words = [number for number, target in enumerate(targets, start=1) if not _is_number(target)]
    if 0 < len(words) < len(rows) / 2:
        raise BadInputError(
            f"The column {header[place]!r} holds numbers, but {targets[words[0] - 1]!r} in row {words[0]}: leave such"
            " rows out, or name its classes by words."
        )
    classes = () if not words else tuple(sorted(set(targets)))
    if len(classes) > MOST_CLASSES:
        raise BadInputError(f"The column {header[place]!r} has {len(classes)} classes; {MOST_CLASSES} are the most.")
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([*row[:place], *row[place + 1 :], row[place]])
    return Table(name=_name(name), content=told.getvalue().encode(), classes=classes, rows=len(rows))


def files_of(wish: Wish, sort: Sort, skeleton: bytes) -> dict[str, bytes]:
    """Return a draft's files, path to bytes; the person's own are there unchanged."""
    files = dict(wish.files)
    if sort is Sort.PRINTED:
        files |= _printed(wish)
    if sort in {Sort.FUNCTIONS, Sort.TOPIC}:
        files |= _of_table(wish)
        if sort is Sort.FUNCTIONS and wish.program != "model.py":
            del files[wish.program]
    if sort is Sort.CONTRACT and wish.program != "experiment.py":
        files["experiment.py"] = files.pop(wish.program)
    files = around(wish.task, (), skeleton) | {"template.toml": _settings(wish, sort).encode()} | files
    if missing := [path for path in REQUIRED_FILES if path not in files]:
        raise BadInputError(f"The draft would lack {missing[0]}.")
    return files


def around(task: str, ideas: Sequence[Mapping[str, object]], skeleton: bytes) -> dict[str, bytes]:
    """Return the files that every draft has beside its programs: how it is drawn, told and written about."""
    return {
        "plot.py": _part("any_plot.py"),
        "prompt.json": _json({"system": SYSTEM, "task_description": task}),
        "seed_ideas.json": _json(list(ideas)),
        "latex/template.tex": skeleton,
    }


def frozen_of(files: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of those files that say what is measured, and that a person approves."""
    frozen = {*FROZEN, *(("experiment.py",) if "printed.json" in files else ())}
    data = "data/" if "prepare.py" in files else "\0"
    return {path: sha for path, sha in sorted(files.items()) if path in frozen or path.startswith(data)}


def has_our_pair(files: Mapping[str, str]) -> bool:
    """Say whether a folder's frozen pair is the one for tables, by the hashes of its files."""
    return all(files.get(path) == hashlib.sha256(_part(f"table_{path}")).hexdigest() for path in FROZEN_FILES)


def approval(files: Mapping[str, str], **told: object) -> bytes:
    """Return what is kept of an approval: the hashes of all that was frozen, path to SHA-256, and what `told` adds."""
    return _json({"frozen": frozen_of(files), **told})


def check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression with one group, by which a number is found."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise BadInputError(f"The pattern {pattern!r} is no regular expression: {error}.") from error
    if groups != 1:
        raise BadInputError(f"The pattern {pattern!r} must have one group, which is the number.")


def _printed(wish: Wish) -> dict[str, bytes]:
    if clash := sorted({"experiment.py", "printed.json", "template.toml", *FROZEN_FILES} & set(wish.files)):
        raise BadInputError(f"The program's folder has a {clash[0]}, a name that means another thing here: rename it.")
    check_pattern(wish.pattern)
    told = {
        "program": wish.program,
        "arguments": list(wish.arguments),
        "pattern": wish.pattern,
        "metric": wish.metric,
        "dataset": "printed",
    }
    return {"experiment.py": _part("printed_experiment.py"), "printed.json": _json(told)}


def _of_table(wish: Wish) -> dict[str, bytes]:
    if wish.table is None:
        raise BadInputError("A topic needs a table to learn from: give --data a CSV file, or a folder with one.")
    taken = (OURS | {"model.py"}) - ({"model.py"} if wish.program == "model.py" else set())
    if clash := sorted(taken & (set(wish.files) - {wish.program})):
        raise BadInputError(f"The program's folder has a {clash[0]} of its own, which a draft must write: rename it.")
    columns = {"dataset": wish.table.name, "classes": list(wish.table.classes)}
    return {
        "model.py": wish.files[wish.program] if wish.program else _part("table_model.py"),
        "data/table.csv": wish.table.content,
        "data/columns.json": _json(columns),
        **{name: _part(f"table_{name}") for name in ("prepare.py", "evaluate.py", "experiment.py", "serve.py")},
    }


def _settings(wish: Wish, sort: Sort) -> str:
    """Return a draft's `template.toml`."""
    on_table = sort in {Sort.FUNCTIONS, Sort.TOPIC}
    editable = ["model.py", "plot.py"] if on_table else ["experiment.py", "plot.py"]
    if sort is Sort.PRINTED:
        editable = [wish.program, "plot.py"]
    head: dict[str, object] = {
        "title": wish.title,
        "summary": wish.task,
        "outputs": ["*.pkl", "*.json"] if on_table else ["**"],
        "editable": editable,
    }
    metrics: dict[str, dict[str, object]] = {}
    if wish.table and on_table:
        head["datasets"] = [wish.table.name]
        name = "error_rate" if wish.table.classes else "rmse"
        metrics = {
            name: {"direction": "lower", "source": "evaluator", "primary": True, "resolution": 0.001},
            "fit_time": {"direction": "lower", "unit": "s", "source": "self", "is_time": True},
        }
    elif wish.metric:
        metrics = {wish.metric: {"source": "self", "primary": True}}
        if wish.better:
            metrics[wish.metric]["direction"] = wish.better
    reads_seeds = sort is Sort.CONTRACT and b"FUMEHOOD_SEEDS" in wish.files[wish.program]
    takes_seed = on_table or reads_seeds or any("{seed}" in one for one in wish.arguments)
    tables: dict[str, dict[str, object]] = {f"metrics.{name}": facts for name, facts in metrics.items()}
    if on_table:
        tables["query"] = {"kind": "predict"}
    for name, seeds in SEEDS.items():
        told = {"seeds": list(seeds) if takes_seed else [], "confirm": on_table and name == "cpu"}
        more = {"arguments": list(wish.arguments)} if sort is Sort.CONTRACT and wish.arguments else {}
        tables[f"profiles.{name}"] = told | more
    return toml(head, tables)


def toml(head: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]) -> str:
    """Return texts, truths, numbers and lists of these as TOML, whose strings are those of JSON."""
    parts = [head, *tables.values()]
    names = ["", *(f"\n[{name}]\n" for name in tables)]
    lines = [
        "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in part.items()) for part in parts
    ]
    return "".join(name + text for name, text in zip(names, lines, strict=True))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _part(name: str) -> bytes:
    return (PARTS / name).read_bytes()


def _name(text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    return slug if NAME.fullmatch(slug) else "table"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
