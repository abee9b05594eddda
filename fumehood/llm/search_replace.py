"""Our own coder: asks for SEARCH/REPLACE blocks and applies them to copies, or says why not."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from fumehood.ports import Call, Edit, Model

MAX_FILE_BYTES = 512 * 1024
MAX_REPLY_CHARS = 1024 * 1024
MAX_NEW_FILES = 8

FORMAT = """\
Give each change as a block of exactly this form, and nothing else that looks like one:

path/of/the/file.py
```python
<<<<<<< SEARCH
lines that stand in the file now, copied exactly, enough of them to be found only once
=======
lines to stand there instead
>>>>>>> REPLACE
```

Blocks are applied in their order. An empty SEARCH part makes a new file. Change only the files named as editable, or
add a new `.py` file beside them. A reply without any block changes nothing."""

_HEAD = re.compile(r"^<{5,9} ?SEARCH>?\s*$")
_MIDDLE = re.compile(r"^={5,9}\s*$")
_TAIL = re.compile(r"^>{5,9} ?REPLACE\s*$")
_NEW_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,60}\.py$")
_FROZEN = frozenset({"prepare.py", "evaluate.py"})
_TAKEN = sys.stdlib_module_names | {"sitecustomize", "usercustomize", "conftest"}
"""A module of such a name would be imported in place of another."""


class Block(NamedTuple):
    """One change asked for."""

    path: str
    search: str
    replace: str


class Parsed(NamedTuple):
    """What a reply asks for, and what in it cannot be read."""

    blocks: tuple[Block, ...]
    problems: tuple[str, ...]


class Applied(NamedTuple):
    """Files after the blocks that applied, and why the others did not."""

    files: dict[str, bytes]
    problems: tuple[str, ...]


class SearchReplaceCoder:
    """Changes code by SEARCH/REPLACE blocks; needs nothing but a model."""

    name = "search_replace"

    def __init__(self, model: Model) -> None:
        self._model = model

    def edit(
        self, call: Call, files: Mapping[str, bytes], editable: Sequence[str], read_only: Mapping[str, bytes]
    ) -> Edit:
        """Ask for an edit and apply it to copies; what was given is never changed."""
        # What is edited most comes last, so that a provider can keep what it has read of the others.
        last = {path: data for path, data in files.items() if path in editable[:1]}
        others = {path: data for path, data in files.items() if path not in last}
        first = show(others, editable, {path: data for path, data in read_only.items() if path not in last})
        before = (f"{first}\n\n",) if first else ()
        blocks = (*before, *(call.blocks or (call.prompt,)), f"\n\n{show(last, editable, {})}")
        repeated = (*((1,) if before else ()), *(number + len(before) for number in call.repeated))
        asked = dataclasses.replace(
            call,
            system=f"{call.system}\n\n{FORMAT}".strip(),
            prompt="".join(blocks),
            blocks=blocks,
            repeated=repeated,
        )
        reply = self._model.text(asked)
        parsed = parse(reply)
        applied = apply(parsed.blocks, files, editable, frozen=read_only)
        changed = tuple(sorted(path for path, data in applied.files.items() if files.get(path) != data))
        return Edit(files=applied.files, reply=reply, changed=changed, problems=parsed.problems + applied.problems)


def show(files: Mapping[str, bytes], editable: Sequence[str], read_only: Mapping[str, bytes]) -> str:
    """Return the files as a model is shown them."""
    parts = []
    for path, data in files.items():
        note = "editable" if path in editable else "not editable"
        parts.append(_shown(path, data, note))
    parts += [_shown(path, data, "for reading only") for path, data in read_only.items() if path not in files]
    return "\n\n".join(parts)


def _shown(path: str, data: bytes, note: str) -> str:
    text = data.decode("utf-8", "replace")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`{3,}", text)), default=2))
    return f"{path} ({note})\n{fence}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def parse(reply: str) -> Parsed:
    """Read the blocks of a reply; never raises, whatever the text."""
    if len(reply) > MAX_REPLY_CHARS:
        return Parsed((), ("The reply is too long to be read.",))
    lines = reply.replace("\r\n", "\n").split("\n")
    blocks: list[Block] = []
    problems: list[str] = []
    path, at = "", 0
    while at < len(lines):
        if not _HEAD.match(lines[at]):
            at += 1
            continue
        path = _path_above(lines, at) or path
        middle = _find(_MIDDLE, lines, at + 1)
        tail = _find(_TAIL, lines, middle + 1) if middle is not None else None
        if middle is None or tail is None:
            problems.append(f"A block for {path or 'an unnamed file'} has no end.")
            break
        if path:
            blocks.append(Block(path, _join(lines[at + 1 : middle]), _join(lines[middle + 1 : tail])))
        else:
            problems.append("A block does not say which file it changes.")
        at = tail + 1
    return Parsed(tuple(blocks), tuple(problems))


def _find(pattern: re.Pattern[str], lines: Sequence[str], start: int) -> int | None:
    # The next head ends the search: a block that was not closed must not swallow the one after it.
    for at in range(start, len(lines)):
        if pattern.match(lines[at]):
            return at
        if _HEAD.match(lines[at]):
            return None
    return None


def _path_above(lines: Sequence[str], head: int) -> str:
    for line in reversed(lines[max(0, head - 3) : head]):
        text = line.strip()
        if not text or text.startswith(("```", "~~~")):
            continue
        if _TAIL.match(line):
            return ""
        name = text.strip("*`#: \t").removesuffix(" (editable)").strip()
        return name if name and not re.search(r"\s", name) and "." in name else ""
    return ""


def _join(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)


def apply(
    blocks: Sequence[Block], files: Mapping[str, bytes], editable: Sequence[str], frozen: Mapping[str, bytes]
) -> Applied:
    """Apply blocks in their order to copies of the files."""
    result = dict(files)
    problems: list[str] = []
    new = 0
    for number, block in enumerate(blocks, 1):
        path = block.path.removeprefix("./")
        fault = _fault(path, files, editable, frozen)
        if not fault and path not in files and path not in result:
            new += 1
            fault = "too many new files" if new > MAX_NEW_FILES else ""
        outcome = fault or _replaced(result.get(path), block)
        if isinstance(outcome, str):
            problems.append(f"Block {number} ({block.path[:120]}): {outcome}.")
        elif len(outcome) > MAX_FILE_BYTES:
            problems.append(f"Block {number} ({path}): the file would grow past {MAX_FILE_BYTES // 1024} KiB.")
        else:
            result[path] = outcome
    return Applied(result, tuple(problems))


def _fault(path: str, files: Mapping[str, bytes], editable: Sequence[str], frozen: Mapping[str, bytes]) -> str:
    if path in frozen or PurePosixPath(path).name.lower() in _FROZEN:
        return "this file is frozen"
    if path in editable:
        return ""
    if path in files:
        # A module that an earlier edit added may be worked on; everything else was given as not editable.
        return "" if is_added_module(path, editable) else "this file may not be changed"
    if not is_added_module(path, editable):
        return "this is not an editable file, nor a new .py file with a plain name beside one"
    return ""


def is_added_module(path: str, editable: Sequence[str]) -> bool:
    """Tell whether a path is that of a plain new module beside an editable file."""
    folder, _, name = path.rpartition("/")
    beside = {item.rpartition("/")[0] for item in editable}
    is_plain = _NEW_NAME.match(name) is not None and name.removesuffix(".py") not in _TAKEN
    return is_plain and folder in beside and name.lower() not in _FROZEN and path not in editable


def _replaced(data: bytes | None, block: Block) -> bytes | str:
    if data is None:
        if block.search.strip():
            return "there is no such file, and only an empty SEARCH part makes one"
        return block.replace.encode("utf-8", "replace")
    if not block.search.strip():
        if not data.strip():
            return block.replace.encode("utf-8", "replace")
        return "the SEARCH part is empty, but the file is not"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "the file is not text"
    outcome = replace(text, block.search, block.replace)
    return outcome.text.encode("utf-8", "replace") if not outcome.problem else outcome.problem


class Replaced(NamedTuple):
    """A text after a replacement, or why there was none."""

    text: str
    problem: str = ""


def replace(text: str, search: str, by: str) -> Replaced:
    """Replace lines that stand exactly once in a text; if they stand nowhere, spaces are looked at more kindly."""
    lines, wanted, new = text.split("\n"), _lines(search), _lines(by)
    found = _places(lines, wanted)
    if not found:
        found = _places([line.rstrip() for line in lines], [line.rstrip() for line in wanted])
    shift = ""
    if not found:
        found, shift = _shifted(lines, wanted)
        new = [shift + line if line.strip() else line for line in new]
    if len(found) != 1:
        times = "does not stand in the file" if not found else f"stands in the file {len(found)} times"
        return Replaced(text, f"the SEARCH part {times}")
    at = found[0]
    if lines[at].endswith("\r"):
        new = [line.rstrip("\r") + "\r" for line in new]
    return Replaced("\n".join([*lines[:at], *new, *lines[at + len(wanted) :]]))


def _lines(part: str) -> list[str]:
    return part.removesuffix("\n").split("\n") if part else []


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if not wanted:
        return []
    size, first = len(wanted), wanted[0]
    wanted = list(wanted)
    return [at for at in range(len(lines) - size + 1) if lines[at] == first and list(lines[at : at + size]) == wanted]


def _shifted(lines: Sequence[str], wanted: Sequence[str]) -> tuple[list[int], str]:
    """Find lines that are all indented by the same text more than those wanted."""
    first = next((at for at, line in enumerate(wanted) if line.strip()), None)
    if first is None:
        return [], ""
    found: dict[int, str] = {}
    for at in range(len(lines) - len(wanted) + 1):
        line = lines[at + first].rstrip()
        if line.endswith(wanted[first].rstrip()):
            shift = line[: len(line) - len(wanted[first].rstrip())]
            if shift and not shift.strip() and _same(lines[at : at + len(wanted)], wanted, shift):
                found[at] = shift
    return list(found), next(iter(found.values()), "")


def _same(lines: Sequence[str], wanted: Sequence[str], shift: str) -> bool:
    return all(
        line.rstrip() == (shift + want.rstrip() if want.strip() else "")
        for line, want in zip(lines, wanted, strict=True)
    )
