"""Reading a template's folder: its snapshot, its own words, and whether it keeps the contract."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import threading
import tomllib
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from fumehood.domain import catalogue, extra_packages
from fumehood.domain.catalogue import ASKED, MODELS, EntryKind
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.extra_packages import REQUEST, WHEELS
from fumehood.domain.template import FROZEN_FILES, REQUIRED_FILES, Curve, Profile, Template
from fumehood.errors import BadInputError, NotFoundError
from fumehood.ports import Artifacts
from fumehood.services import data_above

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_DATA_BYTES = 256 * 1024 * 1024
"""Of a file of data from above the folder; the largest of the original's is a text of 180 MB."""
MAX_FILES = 500
DATA = f"{data_above.PLACE}/"
SKIPPED = re.compile(r"__pycache__|\.git|\.venv|run_\d+")
"""Folders that are no part of a template: what a run by hand left would pass for a run of ours."""
NOT_IN_WORKSPACE = (
    *FROZEN_FILES,
    "offline.toml",
    "template.toml",
    "prompt.json",
    "seed_ideas.json",
    "README.md",
    "LOG.md",
    "draft.json",
    "approval.json",
    REQUEST,
    ASKED,
)
"""What an experiment's container never sees: the frozen parts, and what speaks to models or people only."""
DRAFT, APPROVAL = "draft.json", "approval.json"
"""Of a drafted template: the first lies there until a person approves what is frozen, the second from then on."""
_PARSING = threading.Lock()


def find(name_or_folder: str, shipped: Path) -> Path:
    """Return the folder of a template given by name or path; `BadInputError` when there is none."""
    if not name_or_folder.strip():
        raise BadInputError("A template's name or folder is needed.")
    if name_or_folder in names(shipped):
        return shipped / name_or_folder
    folder = Path(name_or_folder)
    try:
        if folder.is_dir():
            return folder.resolve()
    except OSError as error:
        raise BadInputError(f"The template's folder cannot be used: {error.strerror}.") from error
    known = ", ".join(names(shipped)) or "none"
    raise BadInputError(f"There is no template {name_or_folder!r}: it is neither a folder nor one of {known}.")


def names(shipped: Path) -> tuple[str, ...]:
    """Return the names of the shipped templates."""
    if not shipped.is_dir():
        return ()
    return tuple(sorted(item.name for item in shipped.iterdir() if (item / "experiment.py").is_file()))


def snapshot(folder: Path, artifacts: Artifacts) -> dict[str, str]:
    """Keep every file of the folder and return path to SHA-256; links are followed nowhere.

    Where it has no `data/` of its own and draws none, what its programs read from above it counts as that.
    """
    files = _kept(folder, "", artifacts, MAX_FILE_BYTES)
    if "prepare.py" not in files and not any(path.startswith(DATA) for path in files):
        sources = [artifacts.get(sha) for path, sha in files.items() if path.endswith(".py") and "/" not in path]
        for above in data_above.folders(folder, sources):
            files = _kept(above, DATA, artifacts, MAX_DATA_BYTES) | files
    if ASKED in files:
        raise BadInputError(f"The template has a file {ASKED}: that name is kept for what its ideas ask for.")
    if len(files) > MAX_FILES:
        raise BadInputError(f"The template has more than {MAX_FILES} files.")
    return files


def brought_from(folder: Path) -> tuple[Path, ...]:
    """Return the folders above a template's from which its snapshot has data; links are followed nowhere."""
    own = {path.relative_to(folder).as_posix(): path for path in _members(folder)}
    if "prepare.py" in own or any(path.startswith(DATA) for path in own):
        return ()
    sources = [path.read_bytes() for name, path in own.items() if name.endswith(".py") and "/" not in name]
    return tuple(place for place in data_above.folders(folder, sources) if any(_members(place)))


def _members(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_skipped = any(map(SKIPPED.fullmatch, path.relative_to(folder).parts))
        if not is_skipped and not path.is_symlink() and path.is_file():
            yield path


def _kept(folder: Path, below: str, artifacts: Artifacts, most_bytes: int) -> dict[str, str]:
    files: dict[str, str] = {}
    for path in sorted(_members(folder)):
        relative = path.relative_to(folder)
        if path.stat().st_size > most_bytes:
            raise BadInputError(f"The template's file {below}{relative} is larger than {most_bytes // 2**20} MiB.")
        files[below + relative.as_posix()] = artifacts.put_file(path)
        if len(files) > MAX_FILES:
            raise BadInputError(f"The template has more than {MAX_FILES} files.")
    return files


def load(files: Mapping[str, str], artifacts: Artifacts, name: str) -> Template:
    """Return a template's own words; a folder without `template.toml` gets the defaults.

    A draft that nobody approved, and one that is no longer as it was approved, are refused.
    """
    _is_approved(files, artifacts, name)
    if "template.toml" not in files:
        return Template(title=name)
    try:
        told = Template.model_validate(tomllib.loads(artifacts.get(files["template.toml"]).decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"The template's template.toml is not readable TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"The template's template.toml is wrong at {where}: {first['msg']}.") from error
    return _with_asked(told, files, artifacts)


def _with_asked(template: Template, files: Mapping[str, str], artifacts: Artifacts) -> Template:
    """Return a template with what an idea was given of the catalogue: its data are data sets like the others."""
    asked = catalogue.read(artifacts.get(files[ASKED])) if ASKED in files else {}
    more = [one.id for one in asked.values() if one.kind is EntryKind.DATA and one.id not in template.datasets]
    return template.model_copy(update={"asked": asked, "datasets": (*template.datasets, *more)})


def _is_approved(files: Mapping[str, str], artifacts: Artifacts, name: str) -> None:
    if DRAFT in files:
        raise BadInputError(
            f"The template {name} is a draft that nobody approved: `fumehood template new --resume --out DIR` shows"
            " its baseline and asks."
        )
    if APPROVAL not in files:
        return
    try:
        frozen = dict(json.loads(artifacts.get(files[APPROVAL]))["frozen"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"The template's {APPROVAL} does not say what was approved.") from error
    changed = [path for path, sha in frozen.items() if files.get(path) != sha]
    if changed:
        raise BadInputError(
            f"The template's {changed[0]} is not what was approved: put it back, or remove {APPROVAL} to answer for it"
            " yourself."
        )


def profile_of(template: Template, name: str) -> Profile:
    """Return a profile; a template that declares none has one size, whatever its name."""
    if name in template.profiles:
        return template.profiles[name]
    if set(template.profiles) == {"cpu"} and template.profiles["cpu"] == Profile():
        return template.profiles["cpu"]
    raise BadInputError(f"The template has no profile {name!r}; it has {', '.join(sorted(template.profiles))}.")


def read(direction: Direction, artifacts: Artifacts) -> tuple[Template, Profile]:
    """Return the template's words and the direction's profile."""
    template = load(direction.template_files, artifacts, direction.template)
    return template, profile_of(template, direction.profile)


def template_hash(files: Mapping[str, str]) -> str:
    """Return one hash over a folder's files, their paths and bytes."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def workspace(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files that an experiment starts from; where data is prepared, the folder's own data stays out."""
    prepared = "prepare.py" in files
    return {
        path: sha
        for path, sha in files.items()
        if path not in NOT_IN_WORKSPACE
        and not path.startswith(("latex/", WHEELS, MODELS))
        and (path.endswith(".py") or not prepared)
    }


def start_of(direction: Direction) -> dict[str, str]:
    """Return the files that a direction's experiments start from: the template's, and its parent's code over them.

    The parent's files are never the template's own, so that an evaluator never lies beside them.
    """
    return {**workspace(direction.template_files), **direction.parent_files}


def prompt_of(files: Mapping[str, str], artifacts: Artifacts) -> tuple[str, str]:
    """Return `system` and `task_description` of `prompt.json`."""
    try:
        words = json.loads(artifacts.get(files["prompt.json"]))
        return str(words["system"]), str(words["task_description"])
    except (KeyError, TypeError, ValueError, NotFoundError) as error:
        raise BadInputError("The template's prompt.json must be JSON with system and task_description.") from error


def seed_ideas(files: Mapping[str, str], artifacts: Artifacts) -> tuple[dict[str, object], ...]:
    """Return the ideas that the archive starts from."""
    try:
        ideas = json.loads(artifacts.get(files["seed_ideas.json"]))
        return tuple({str(key): value for key, value in idea.items()} for idea in ideas)
    except (KeyError, AttributeError, TypeError, ValueError, NotFoundError) as error:
        raise BadInputError("The template's seed_ideas.json must be a JSON list of ideas.") from error


def check(files: Mapping[str, str], artifacts: Artifacts, name: str) -> tuple[str, ...]:
    """Return what the folder lacks of the template contract, one sentence each; empty when it keeps it."""
    problems = [f"The required file {path} is missing." for path in REQUIRED_FILES if path not in files]
    for path in sorted(files):
        if path.endswith(".py"):
            problems += _syntax(path, artifacts.get(files[path]))
    for part in FROZEN_FILES:
        other = FROZEN_FILES[1 - FROZEN_FILES.index(part)]
        if part in files and other not in files:
            problems.append(f"{part} is there without {other}: the frozen pair goes together.")
    for path, read in (
        ("", lambda: _consistent(load(files, artifacts, name), files)),
        ("prompt.json", lambda: prompt_of(files, artifacts)),
        ("seed_ideas.json", lambda: seed_ideas(files, artifacts)),
    ):
        if path and path not in files:
            continue  # that it is missing was said
        try:
            read()
        except BadInputError as error:
            problems.append(str(error))
    return tuple(dict.fromkeys(problems))


def _consistent(template: Template, files: Mapping[str, str]) -> None:
    """Refuse what would break only when it is used: limits out of range, a query that nothing answers."""
    for name, profile in template.profiles.items():
        for kind in Kind:
            try:
                profile.limits_of(kind)
            except BadInputError as error:
                raise BadInputError(f"The template's profile {name} has unusable limits of {kind}: {error}") from error
        if profile.gpu_memory_mib is not None and not profile.gpus:
            raise BadInputError(f"The template's profile {name} says gpu_memory_mib, and asks for no GPU (gpus).")
    frozen = [path for path in template.editable if path in FROZEN_FILES]
    if frozen:
        raise BadInputError(f"The template's template.toml calls the frozen {frozen[0]} editable.")
    for name, profile in template.profiles.items():
        if profile.confirm and (why := unconfirmable(template, profile, files)):
            raise BadInputError(f"The template's profile {name} is to confirm, but {why}.")
    if template.curve:
        _of_curve(template, template.curve, files)
    _of_packages(template, files)
    if template.catalogue.takes_any and "prepare.py" not in files:
        raise BadInputError("The template's template.toml takes of the catalogue, which needs prepare.py.")
    if template.query and not {"serve.py", "evaluate.py"} <= set(files):
        raise BadInputError("The template's template.toml has a query, which needs serve.py and evaluate.py.")


def _of_packages(template: Template, files: Collection[str]) -> None:
    for path in template.wheels:
        if path not in files:
            raise BadInputError(f"The template's template.toml names the wheel {path}, which is not there.")
    pins = [extra_packages.pin(one) for one in template.packages if extra_packages.is_pinned(one)]
    extra_packages.merged(pins, {path.removeprefix(WHEELS): "" for path in template.wheels})


def _of_curve(template: Template, curve: Curve, files: Collection[str]) -> None:
    if template.query is None or template.query.kind != "predict" or "prepare.py" not in files or not template.datasets:
        raise BadInputError(
            "The template's template.toml has a curve, which needs data sets, prepare.py and a query of kind predict."
        )
    for name in curve.metrics:
        if name not in template.metrics or template.metrics[name].source != "evaluator":
            raise BadInputError(f"The template's curve names {name}, which is no metric of the evaluator.")


def unconfirmable(template: Template, profile: Profile, files: Collection[str]) -> str:
    """Return in words why a template's results cannot be confirmed in a profile; empty where they can."""
    metric = template.metrics.get(template.primary or "")
    if metric is None or metric.direction is None:
        return "no primary metric says where better lies"
    if metric.source != "evaluator":
        return "the primary metric is self-reported"
    if missing := sorted(set(FROZEN_FILES) - set(files)):
        return f"there is no {missing[0]}"
    return "" if profile.seeds else "the profile names no seeds"


def parsed(source: bytes, path: str = "<unknown>") -> ast.Module:
    """Return a Python source's syntax tree; what Python only warns of is no matter here."""
    # Python 3.11's parser counts its depth for all threads together, and breaks when two parse at once.
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source, filename=path)


def _syntax(path: str, source: bytes) -> list[str]:
    try:
        parsed(source, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        return [f"{path} is not valid Python{where}: {getattr(error, 'msg', None) or error}."]
    return []


def imports(source: bytes) -> frozenset[str]:
    """Return the top-level names that a Python source imports."""
    found: set[str] = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return frozenset(found)
