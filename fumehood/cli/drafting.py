"""`fumehood template new`: a draft from somebody's program, table or topic, its baseline, and their approval."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.cli import draft_notes, repositories
from fumehood.cli.draft_notes import Notes
from fumehood.cli.output import Progress
from fumehood.errors import BadInputError, FumehoodError, WorkFailedError
from fumehood.latex import skeleton
from fumehood.services import drafting, templates
from fumehood.services.drafting import Sort, Table, Wish
from fumehood.settings import Settings

FOLDER = re.compile(r"^[A-Za-z0-9][\w.-]{0,63}$")
MOST_WORDS = 2000
CANNOT = {
    Sort.CONTRACT: "Its metrics are its own word: no result can ever be `better` without an evaluator.",
    Sort.PRINTED: "Its metric is read off what it prints, and is its own word: no result can ever be `better`.",
    Sort.FUNCTIONS: "",
    Sort.TOPIC: "The first model is a linear one of ours, to begin with.",
}
NOT_OURS = "What is measured by is not Fumehood's own: read prepare.py and evaluate.py before you freeze them."


class ContractError(FumehoodError):
    """A draft does not keep the template contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was given on the command line; what is missing is asked for, where somebody can answer."""

    source: str
    data: Path | None = None
    title: str | None = None
    task: str | None = None
    entry: str | None = None
    target: str | None = None
    metric: str | None = None
    better: str | None = None
    pattern: str | None = None
    arguments: tuple[str, ...] = ()


def new(
    settings: Settings,
    answers: Answers,
    out: Path,
    *,
    resume: bool,
    approve: bool,
    profile: str,
    sandbox: str,
    progress: Progress,
    describe: Callable[[dict[str, Any]], list[str]],
) -> dict[str, Any]:
    """Write a draft, measure its baseline in the sandbox, and freeze it when a person approves; say what came of it.

    A draft appears whole or not at all; one that was not approved stays, and `resume` goes on with it. `describe` puts
    in words what a person should see before they approve.
    """
    if not resume:
        check_place(out)
        draft(answers, out, progress.say)
    sort = draft_notes.read(out).sort
    files, measured = _measured(settings, out, profile, sandbox, progress)
    told: dict[str, Any] = {
        "template": str(out),
        "sort": str(sort),
        "cannot": cannot(sort, files),
        "frozen": drafting.frozen_of(files),
        "baseline": measured,
    }
    told["approved"] = approve or asked_to_approve(describe(told), progress)
    if told["approved"]:
        freeze(out, files)
    return told


def draft(answers: Answers, out: Path, say: Callable[[str], None]) -> None:
    """Write a draft's folder, whole or not at all; nothing of the program is run."""
    files, program = _source(answers, say)
    table = _table(answers, say) if answers.data else None
    sort = drafting.sort_of(files[program] if program else None, has_table=table is not None)
    if table is not None and sort in {Sort.CONTRACT, Sort.PRINTED}:
        raise BadInputError(
            "The program has no top-level functions fit(x, y, seed) and predict(model, x), so it cannot be judged on"
            " --data: add them, or leave --data out."
        )
    _check_used(answers, sort, is_folder=bool(files) and not Path(answers.source).is_file())
    title = _said(answers.title, "--title", "What is the template called?", _check_words, out.name.replace("_", " "))
    default = answers.source if not files else title
    wish = Wish(
        title=title,
        task=_said(answers.task, "--task", "What is to be studied, in a sentence or two?", _check_words, default),
        files=files,
        program=program,
        table=table,
        arguments=answers.arguments,
        **_metric(answers, sort),
    )
    for words in wish.arguments:
        _check_words(words)
    made = drafting.files_of(wish, sort, skeleton.OWN.read_bytes())
    made[templates.DRAFT] = Notes(sort=sort, source=answers.source).text()
    place(made, out)
    say(f"drafted {out}: {len(made)} files, sort `{sort}`")


def _check_used(answers: Answers, sort: Sort, *, is_folder: bool) -> None:
    """Refuse what a person gave that a draft of this sort would leave out silently."""
    on_table = {"metric": "metric", "better": "better", "pattern": "pattern", "arguments": "argument"}
    unused = {"target": "target"} if sort in {Sort.CONTRACT, Sort.PRINTED} else on_table
    unused |= {"pattern": "pattern"} if sort is Sort.CONTRACT else {}
    unused |= {} if is_folder else {"entry": "entry"}
    if given := [option for name, option in unused.items() if getattr(answers, name)]:
        raise BadInputError(f"--{given[0]} says nothing about a draft of the sort `{sort}`: leave it out.")


def _metric(answers: Answers, sort: Sort) -> dict[str, Any]:
    if sort in {Sort.FUNCTIONS, Sort.TOPIC}:
        return {}
    metric = _said(answers.metric, "--metric", "What is the number called, such as val_loss?", _check_metric)
    better = _said(answers.better, "--better", "Which is better, lower or higher?", _check_better)
    told = {"metric": metric, "better": better}
    if sort is Sort.PRINTED:
        about = "By which pattern is it found in what the program prints, such as `loss: ([0-9.]+)`?"
        told["pattern"] = _said(answers.pattern, "--pattern", about, drafting.check_pattern)
    return told


def _source(answers: Answers, say: Callable[[str], None]) -> tuple[dict[str, bytes], str]:
    """Return the person's files and which of them is the program; neither for a topic."""
    files = own_files(answers.source, say)
    if not files:
        return {}, ""
    if Path(answers.source).is_file():
        return files, next(iter(files))
    python = [path for path in files if path.endswith(".py")]
    if not python:
        raise BadInputError(f"{answers.source} has no Python program.")

    def check(entry: str) -> None:
        if entry not in python:
            raise BadInputError(f"The folder has no program {entry!r}; it has {', '.join(python)}.")

    question = "Which file of the folder is the program?"
    return files, _said(answers.entry, "--entry", question, check, likely_entry(files))


def likely_entry(files: Mapping[str, bytes]) -> str | None:
    """Return which of a folder's files is the program, where that can be told from their names."""
    python = [path for path in files if path.endswith(".py")]
    return "experiment.py" if "experiment.py" in files else (python[0] if len(python) == 1 else None)


def own_files(told: str, say: Callable[[str], None]) -> dict[str, bytes]:
    """Return the files of a program, a folder or a repository; none where what was told is a topic."""
    if repositories.is_one(told):
        taken = repositories.read(told)
        for line in taken.left_out:
            say(line)
        if not taken.files:
            raise BadInputError(f"The repository {told} has no file that can be taken.")
        return dict(taken.files)
    source = Path(told)
    try:
        is_folder, is_file = source.is_dir(), source.is_file()
    except OSError:  # a topic may be longer than a path
        is_folder = is_file = False
    if is_file:
        if source.stat().st_size > templates.MAX_FILE_BYTES:
            raise BadInputError(f"{source} is too large for a program.")
        # Beside a file with a module's name, experiment.py would import that.
        is_taken = source.name in drafting.OURS or source.stem in sys.stdlib_module_names
        name = "program.py" if is_taken or source.suffix != ".py" else source.name
        return {name: source.read_bytes()}
    if is_folder:
        files = drafting.read_folder(source)
        if not files:
            raise BadInputError(f"The folder {source} has no file that can be taken: links and hidden ones stay out.")
        return files
    if "/" in told or told.endswith(".py"):
        raise BadInputError(f"There is no file or folder {told}.")
    return {}


def _table(answers: Answers, say: Callable[[str], None]) -> Table:
    data = answers.data
    if data is None:
        raise BadInputError("--data is missing.")
    found = [path for path in sorted(data.rglob("*.csv")) if not path.is_symlink()] if data.is_dir() else [data]
    if len(found) != 1 or not found[0].is_file():
        others = " With --model a model drafts from several files." if data.is_dir() else ""
        raise BadInputError(f"--data {data} must be a CSV file, or a folder with exactly one.{others}")
    if found[0].stat().st_size > drafting.MOST_TABLE_BYTES:
        raise BadInputError(f"{found[0]} is larger than {drafting.MOST_TABLE_BYTES // 2**20} MiB.")
    for path in sorted(data.rglob("*")) if data.is_dir() else ():
        if path != found[0] and not path.is_dir():
            say(f"{path.relative_to(data).as_posix()!r} is left out: without --model a draft is made from one CSV.")
    return drafting.read_table(found[0].read_bytes(), found[0].stem, answers.target or "")


def _said(given: str | None, flag: str, question: str, check: Callable[[str], None], default: str | None = None) -> str:
    """Return what was given, or what is answered on the terminal; without one the default, if there is one.

    What `check` refuses with `BadInputError` is asked for again on the terminal.
    """
    if given is not None and given.strip():
        check(given.strip())
        return given.strip()
    if sys.stdin.isatty():

        def checked(answer: str) -> str:
            try:
                check(answer.strip())
            except BadInputError as error:
                raise typer.BadParameter(str(error)) from error
            return answer.strip()

        return str(typer.prompt(question, default=default, err=True, value_proc=checked))
    if default is None:
        raise BadInputError(f"{flag} is missing, and nobody can be asked: {question}")
    check(default)
    return default


def _check_words(words: str) -> None:
    if not words or len(words) > MOST_WORDS or not words.isprintable():
        raise BadInputError(
            f"Titles, tasks and arguments are one line of printable text, {MOST_WORDS} letters at most."
        )


def _check_metric(name: str) -> None:
    if not drafting.NAME.fullmatch(name):
        raise BadInputError(f"The metric's name {name!r} must be lower-case letters, digits and underscores.")


def _check_better(word: str) -> None:
    if word not in {"lower", "higher"}:
        raise BadInputError(f"--better is lower or higher, not {word!r}.")


def check_place(out: Path) -> None:
    """Refuse a place where no draft can be put; what is there is never overwritten."""
    if not FOLDER.fullmatch(out.name):
        raise BadInputError(f"--out {out} does not end in a plain folder's name.")
    if out.is_symlink() or out.exists():
        draft_there = " `--resume` goes on with the draft there." if (out / templates.DRAFT).is_file() else ""
        raise BadInputError(f"--out {out} is there already, and is never overwritten.{draft_there}")
    if not out.parent.is_dir():
        raise BadInputError(f"There is no folder {out.parent} to put the draft in.")


def check_resumed(answers: Answers) -> None:
    """Refuse what would be left out silently: a draft that is there has its answers already."""
    given = [item.name for item in fields(answers) if getattr(answers, item.name)]
    if given:
        name = "argument" if given[0] == "arguments" else given[0]
        raise BadInputError(f"--{name} is for a new draft: leave it out to go on, and mend the files themselves.")


def place(files: dict[str, bytes], out: Path) -> None:
    """Write the files beside their place, and put them there at once; a folder that appeared meanwhile is kept."""
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for path, content in files.items():
            place = beside / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        beside.chmod(0o755)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _measured(
    settings: Settings, out: Path, profile: str, sandbox: str, progress: Progress
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the hashes of the draft's files, and the baseline of exactly these, which ran in the sandbox."""
    from fumehood.cli.baseline import measure

    files, again = hashes(out), f"fumehood template new --resume --out {out}"
    with tempfile.TemporaryDirectory(prefix="fumehood-draft-") as scratch:
        copy = Path(scratch) / out.name
        shutil.copytree(out, copy, symlinks=True, ignore=shutil.ignore_patterns(templates.DRAFT, "run_*"))
        try:
            check(copy)
            measured = measure(settings, str(copy), profile, sandbox, None, progress)
        except (ContractError, WorkFailedError) as error:
            raise type(error)(f"{str(error).rstrip('.')}. The draft stays: mend it, and `{again}`.") from error
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be what went away
                progress.say(f"the draft stays: `{again}` measures it anew")
            raise
    return files, measured


def check(folder: Path) -> None:
    """Refuse a folder that does not keep the template contract, but for its approval."""
    artifacts = MemoryArtifacts()
    try:
        problems = templates.check(templates.snapshot(folder, artifacts), artifacts, folder.name)
    finally:
        artifacts.close()
    if problems:
        raise ContractError(f"The draft does not keep the template contract: {' '.join(problems)}")


def hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each of a draft's files by path, but for what says that it is one."""
    artifacts = MemoryArtifacts()
    try:
        files = templates.snapshot(out, artifacts)
    finally:
        artifacts.close()
    return {path: sha for path, sha in files.items() if path != templates.DRAFT}


def cannot(sort: Sort | str, files: Mapping[str, str]) -> str:
    """Return in a sentence what a draft's numbers cannot say; a frozen pair is judged by its bytes, not by its sort."""
    if "evaluate.py" in files and not drafting.has_our_pair(files):
        return NOT_OURS
    return CANNOT.get(Sort(sort), "") if sort else ""


def asked_to_approve(lines: list[str], progress: Progress) -> bool:
    """Show what would be frozen and ask for it on the terminal; no where nobody can be asked."""
    if not sys.stdin.isatty():
        return False
    for line in lines:
        progress.say(line)
    return bool(typer.confirm("Freeze these files, so that this is what results are measured by?", err=True))


def freeze(out: Path, files: dict[str, str], **told: object) -> None:
    """Approve what was measured; what was changed meanwhile is not that. `told` is kept with the hashes."""
    if hashes(out) != files:
        raise FumehoodError(f"Files of {out} were changed while its baseline was measured: go on with --resume.")
    draft_notes.replace(out / templates.APPROVAL, drafting.approval(files, **told))
    (out / templates.DRAFT).unlink()
