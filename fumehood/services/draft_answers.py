"""What a model drafts: what it is shown, its answer's form, the files that come of it, and what is wrong with them.

Nothing of an answer is run here, and none of it decides where a file lies but a few names that are listed below. Where
somebody's program or model is a `fit` and a `predict` on a table, the frozen pair is the platform's own (`functions`);
else the model writes that too (`written`), in one form only, so that it can be put to the test (`draft_checks`).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, Field

from fumehood.domain.finding import Severity
from fumehood.errors import BadInputError
from fumehood.services import draft_data, drafting, templates
from fumehood.services.draft_data import Data
from fumehood.services.drafting import PARTS, SEEDS, Sort, Wish
from fumehood.services.edit_audit import Rules, audit

ATTEMPTS = 4
"""How often a model may try, the first time counted, as in the original system."""
MOST_SHOWN, MOST_OF_A_FILE = 70_000, 20_000
"""Characters of somebody's program that a model is shown, and of one file of it."""
MOST_TASK = 4000
MOST_BYTES = 60_000
"""Of one file that a model writes."""
MAY_CHANGE = ("experiment.py", "model.py", "serve.py")
"""Files that a model writes, and that ideas may change."""
WRITES = (*MAY_CHANGE, "prepare.py", "evaluate.py")
SAYS: Mapping[str, tuple[str, ...]] = {
    "experiment.py": ("--out_dir", "FUMEHOOD_DATA", "FUMEHOOD_SEEDS", "final_info.json"),
    "prepare.py": ("--arm", "--part", "--key", "--seeds", "--out_dir"),
    "evaluate.py": ("--outputs", "--held_out", "--train", "--out_dir", "--seeds", "metrics.json"),
}
"""Words that each program of the contract has to know."""
DEFINES: Mapping[str, frozenset[str]] = {
    "serve.py": frozenset({"load", "predict"}),
    "model.py": frozenset({"fit", "predict"}),
}
ARGUMENT = re.compile(r"--[A-Za-z][\w-]*(=[\w.,:+-]*)?")
EXAMPLES = ("prepare.py", "evaluate.py", "experiment.py", "serve.py", "model.py")


class File(BaseModel):
    """A program."""

    path: str = Field(max_length=100)
    content: str = Field(max_length=MOST_BYTES)


class SeedIdea(BaseModel):
    """An idea to begin with."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")
    title: str = Field(max_length=200)
    experiment: str = Field(max_length=2000)
    interestingness: int = Field(ge=1, le=10)
    feasibility: int = Field(ge=1, le=10)
    novelty: int = Field(ge=1, le=10)


class Size(BaseModel):
    """What a profile adds."""

    arguments: list[str] = Field(default=[], max_length=20)
    prepare_arguments: list[str] = Field(default=[], max_length=20)
    minutes: float = Field(default=10.0, gt=0, le=600)


class DraftAnswer(BaseModel):
    """A draft as a model gives it; where `cannot` says why there can be none, the rest means nothing."""

    cannot: str = Field(default="", max_length=1000)
    title: str = Field(max_length=200)
    task: str = Field(max_length=MOST_TASK)
    sort: Literal["functions", "written"]
    table: str = Field(default="", max_length=200)
    target: str = Field(default="", max_length=200)
    datasets: list[str] = Field(default=[], max_length=5)
    metric: str = Field(default="", max_length=40)
    direction: Literal["lower", "higher"] = "lower"
    unit: str = Field(default="", max_length=40)
    files: list[File] = Field(default=[], max_length=len(WRITES))
    keep: list[str] = Field(default=[], max_length=50)
    tiny: Size = Size()
    cpu: Size = Size()
    ideas: list[SeedIdea] = Field(default=[], max_length=3)
    assumed: list[str] = Field(default=[], max_length=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a person gave."""

    words: str
    """The topic, or the task in their words; may be empty where there is a program."""
    title: str = ""
    files: Mapping[str, bytes]
    program: str = ""
    data: Data | None = None
    wishes: Mapping[str, str]
    """What they said of target, metric and the like."""
    left_out: tuple[str, ...] = ()
    """A sentence for each file of theirs that was not taken."""

    @property
    def fits(self) -> bool:
        """Whether their own program has `fit` and `predict`."""
        try:
            return bool(self.program) and DEFINES["model.py"] <= _defined(self.files[self.program])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False


def fields_of(given: Given, draft: Mapping[str, bytes], failure: str) -> dict[str, str]:
    """Return what a model is shown: the person's words, program and data, our example, and what was wrong before."""
    text, files = shown(given.files, given.program)
    has_table = given.data is not None and any(name.endswith(".csv") for name in given.data.files)
    facts = {
        "program": given.program,
        "program_has_fit_and_predict": given.fits,
        "files_of_the_program": files,
        "data": draft_data.told(given.data) if given.data else [],
        "data_files_in_all": len(given.data.files) if given.data else 0,
        "functions_is_possible": has_table,
        "wishes": dict(given.wishes),
    }
    return {
        "direction": given.words or "(nothing was said: take it from the program and the data)",
        "code": text or "(there is no program)",
        "facts": draft_data.as_facts(**facts),
        "examples": _joined((name, (PARTS / f"table_{name}").read_bytes()) for name in EXAMPLES),
        "draft": _joined((name, draft[name]) for name in WRITES if name in draft) or "(none yet)",
        "failure": failure or "(nothing yet: this is the first draft)",
    }


def shown(files: Mapping[str, bytes], program: str) -> tuple[str, list[dict[str, Any]]]:
    """Return a program's texts, the most telling first and cut to what fits, and of each file how much was shown."""
    texts, told, left = [], [], MOST_SHOWN
    for path in sorted(files, key=lambda path: _turn(path, program)):
        try:
            text = files[path].decode("utf-8")
        except UnicodeDecodeError:
            told.append({"file": path, "bytes": len(files[path]), "shown": "not text"})
            continue
        part = text[: min(MOST_OF_A_FILE, left)]
        left -= len(part)
        told.append({"file": path, "characters": len(text), "shown": len(part)})
        if part:
            texts.append((path, part.encode()))
    return _joined(texts), told[: templates.MAX_FILES]


def _turn(path: str, program: str) -> tuple[int, int, str]:
    name = PurePosixPath(path).name.lower()
    first = [path == program, name.startswith("readme"), path.endswith(".py"), path.endswith((".md", ".toml", ".txt"))]
    return next((place for place, is_so in enumerate(first) if is_so), len(first)), path.count("/"), path


def files_of(answer: DraftAnswer, given: Given, skeleton: bytes) -> tuple[Sort, dict[str, bytes]]:
    """Return a draft's sort and files; `BadInputError` says in a sentence for the model what cannot be one."""
    title = given.title or _line(answer.title, 200) or "A draft"
    task = _line(answer.task, MOST_TASK)
    if not task:
        raise BadInputError("`task` is empty: say in a few sentences what is to be studied.")
    made: dict[str, bytes] = {}
    for one in answer.files:
        if one.path not in WRITES:
            raise BadInputError(f"`files` has {one.path!r}; a draft's programs are {', '.join(WRITES)}.")
        if len(one.content.encode(errors="replace")) > MOST_BYTES:
            raise BadInputError(f"{one.path} is longer than {MOST_BYTES} bytes.")
        made[one.path] = one.content.encode(errors="replace")
    made |= _kept(answer, given)
    ideas = [
        {
            "Name": one.name,
            "Title": _line(one.title, 200),
            "Experiment": _line(one.experiment, 2000),
            "Interestingness": one.interestingness,
            "Feasibility": one.feasibility,
            "Novelty": one.novelty,
        }
        for one in answer.ideas
    ]
    if answer.sort == "functions":
        files = _functions(answer, given, made, Wish(title=title, task=task, files={}), skeleton)
        return Sort.FUNCTIONS, files | drafting.around(task, ideas, skeleton)
    return Sort.WRITTEN, _written(answer, given, made, title, task) | drafting.around(task, ideas, skeleton)


def _kept(answer: DraftAnswer, given: Given) -> dict[str, bytes]:
    """Return those files of the person's program that are taken along as they are."""
    for path in answer.keep:
        if path not in given.files or not path.endswith(".py") or not draft_data.PATH.fullmatch(path):
            raise BadInputError(f"`keep` has {path!r}, which is no Python file of the program's folder.")
        if path in {*WRITES, *drafting.OURS}:
            raise BadInputError(f"`keep` has {path!r}, a name that the draft needs itself: write that file instead.")
    return {path: given.files[path] for path in answer.keep}


def _functions(
    answer: DraftAnswer, given: Given, made: dict[str, bytes], wish: Wish, skeleton: bytes
) -> dict[str, bytes]:
    tables = [name for name in (given.data.files if given.data else ()) if name.endswith(".csv")]
    name = answer.table.removeprefix("data/") or (tables[0] if len(tables) == 1 else "")
    if given.data is None or name not in tables:
        raise BadInputError(f"`table` is {answer.table!r}; the sort `functions` needs one of {tables or 'no table'}.")
    if strange := sorted(set(made) - {"model.py", *answer.keep}):
        raise BadInputError(
            f"The sort `functions` has our own frozen pair, and you write model.py alone: {strange[0]}."
        )
    if given.fits:
        made["model.py"] = given.files[given.program]
    if "model.py" not in made:
        raise BadInputError(
            "The sort `functions` needs model.py in `files`, with fit(x, y, seed) and predict(model, x)."
        )
    table = drafting.read_table(
        given.data.files[name], PurePosixPath(name).stem, given.wishes.get("target", answer.target)
    )
    asked = Wish(title=wish.title, task=wish.task, files=made, program="model.py", table=table)
    return drafting.files_of(asked, Sort.FUNCTIONS, skeleton)


def _written(answer: DraftAnswer, given: Given, made: dict[str, bytes], title: str, task: str) -> dict[str, bytes]:
    needed = [name for name in WRITES if name != "model.py"]
    if missing := [name for name in needed if name not in made]:
        raise BadInputError(f"The sort `written` needs {missing[0]} in `files`.")
    metric = given.wishes.get("metric", answer.metric)
    for name in (metric, *answer.datasets):
        if not drafting.NAME.fullmatch(name):
            raise BadInputError(f"{name!r} must be lower-case letters, digits and underscores.")
    if not answer.datasets:
        raise BadInputError("`datasets` is empty: name what is predicted, such as `harvest`.")
    arguments = [*answer.tiny.arguments, *answer.cpu.arguments]
    for one in (*arguments, *answer.tiny.prepare_arguments, *answer.cpu.prepare_arguments):
        if not ARGUMENT.fullmatch(one):
            raise BadInputError(f"{one!r} is no argument of the form --name=value.")
    made |= {f"data/{name}": content for name, content in (given.data.files if given.data else {}).items()}
    changeable = [path for path in made if path in MAY_CHANGE or path in answer.keep]
    direction = given.wishes.get("better", answer.direction)
    head = {
        "title": title,
        "summary": task,
        "datasets": answer.datasets,
        "outputs": ["**"],
        "editable": [*changeable, "plot.py"],
    }
    about = {"direction": direction, "unit": _line(answer.unit, 40), "source": "evaluator", "primary": True}
    tables: dict[str, dict[str, object]] = {f"metrics.{metric}": about, "query": {"kind": "predict"}}
    for name, size in (("tiny", answer.tiny), ("cpu", answer.cpu)):
        tables[f"profiles.{name}"] = {
            "seeds": list(SEEDS[name]),
            "confirm": name == "cpu",
            "arguments": size.arguments,
            "prepare_arguments": size.prepare_arguments,
        }
        tables[f"profiles.{name}.limits.run"] = {"wall_s": round(60 * size.minutes, 1)}
    return made | {"template.toml": drafting.toml(head, tables).encode()}


def problems(files: Mapping[str, bytes], packages: frozenset[str]) -> tuple[str, ...]:
    """Return what is wrong with a draft's programs as texts, one sentence each; none of them is run.

    `packages` is what the lab has; empty where nobody knows.
    """
    found = []
    programs = {path: files[path] for path in WRITES if path in files}
    own = {PurePosixPath(path).parts[0].removesuffix(".py") for path in files if path.endswith(".py")}
    for path, content in programs.items():
        try:
            defined, imported = _defined(content), templates.imports(content)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            found.append(f"{path} is not valid Python{where}: {getattr(error, 'msg', None) or error}.")
            continue
        found += [f"{path} does not have {word!r}." for word in SAYS.get(path, ()) if word.encode() not in content]
        found += [f"{path} has no top-level function {name}." for name in sorted(DEFINES.get(path, set()) - defined)]
        found += _imports(path, imported, own, packages)
    ours = {path: content for path, content in programs.items() if path in MAY_CHANGE}
    rules = Rules(editable=frozenset(files), packages=packages)
    found += [one.sentence for one in audit({}, ours, rules) if one.severity is Severity.REFUSED]
    return tuple(dict.fromkeys(found))


def _imports(path: str, imported: Iterable[str], own: set[str], packages: frozenset[str]) -> list[str]:
    foreign = sorted(set(imported) - set(sys.stdlib_module_names))
    if path in {"prepare.py", "evaluate.py"} and (theirs := [name for name in foreign if name in own]):
        return [f"{path} imports {theirs[0]}, which it never finds beside it: it stands alone."]
    lacking = [name for name in foreign if name not in own | packages] if packages else []
    return [f"{path} imports {lacking[0]}, which the lab does not have."] if lacking else []


def _defined(content: bytes) -> set[str]:
    return {node.name for node in templates.parsed(content).body if isinstance(node, ast.FunctionDef)}


def _joined(files: Iterable[tuple[str, bytes]]) -> str:
    return "\n".join(f"# file: {path}\n{content.decode(errors='replace').rstrip()}\n" for path, content in files)


def _line(text: str, most: int) -> str:
    """Return a text on one line, without what cannot be printed."""
    return "".join(one for one in " ".join(text.split()) if one.isprintable())[:most]
