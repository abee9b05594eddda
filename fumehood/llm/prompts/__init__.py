"""The prompt files, filled in.

Every prompt below is a file of this folder with `$field`s. All fields are text and all must be given, no others; those
marked with a star may also be a tuple of texts that grows at its end from call to call.

| prompt | fields |
|---|---|
| `system` | `template_system` |
| `idea` | `task`, `direction`, `code`, `metrics`, `may_change`, `parent`, `catalogue`, `archive`*, `guidance`, `number`, `total` |
| `reflection` | `task`, `direction`, `code`, `metrics`, `may_change`, `parent`, `catalogue`, `archive`*, `idea`, `round`, `rounds` |
| `novelty_query` | `idea`, `task`, `found`*, `round`, `rounds` |
| `novelty_decision` | `idea`, `task`, `found`, `facts` |
| `coder` | `title`, `experiment`, `task`, `may_change`, `run`, `runs`, `editable`, `history`*, `failure`, `guidance` |
| `fidelity` | `title`, `experiment`, `registered`, `code`, `run`, `plan`, `diff`, `facts` |
| `plot` | `title`, `experiment`, `runs`, `facts`, `failure` |
| `drawing` | `facts` |
| `notes` | `run`, `output`, `facts` |
| `title` | `idea`, `abstract`, `notes`, `facts` |
| `section` | `subject`, `written`*, `notes`, `facts`; `tips` is added from `tips_<subject>.md` |
| `refine` | `subject`, `draft`, `problems`, `notes`, `facts` |
| `citation` | `draft`, `cited`, `most` |
| `review` | `paper`, `examples`, `facts` |
| `draft` | `direction`, `code`, `facts`, `examples`, `draft`, `failure` |
| `judge` | `instructions`, `kind`, `text` |

`facts` is JSON made by the platform. What comes from experiments, searches, papers and people stands in fences that no
value can open or close, and every field has a greatest length (`fences.py`).

What calls have in common stands first. A line `<!-- repeated above -->` says that what is above it comes again in a
later call, so that a provider may keep it; an item of a tuple is a block of its own, so that what was kept with fewer
items still is a beginning.

`versions.txt` lists every file with its version and its SHA-256. Whoever changes a file raises its version there.
"""  # noqa: E501 - a row of a table

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Iterator, Mapping
from importlib import resources

from fumehood.llm.prompts import fences
from fumehood.ports import Prompt

MARK = "<!-- repeated above -->\n"
_NAME = re.compile(r"^[a-z][a-z_]*$")
_ALONE = re.compile(r"^\$(\w+)\n?", re.MULTILINE)


class PackagedPrompts:
    """The prompts that come with the platform."""

    def render(self, name: str, **fields: str | tuple[str, ...]) -> Prompt:
        """Fill in a prompt; `KeyError` for an unknown name, a field left open or one that it does not have."""
        return render(name, **fields)


def render(name: str, /, **fields: str | tuple[str, ...]) -> Prompt:
    """Fill in a prompt; `KeyError` for an unknown name, a field left open or one that it does not have."""
    text = read(name)
    sha256 = hashlib.sha256(text.encode())
    if name == "section" and "tips" not in fields:
        tips = read(f"tips_{fields['subject']}")
        sha256.update(tips.encode())
        fields["tips"] = tips.strip()
    known = string.Template(text).get_identifiers()
    if strange := sorted(set(fields) - set(known)):
        raise KeyError(f"The prompt {name!r} has no field {strange[0]!r}.")
    filled = {field: fences.field(field, value) for field, value in fields.items() if isinstance(value, str)}
    growing = {field: fences.items(field, value) for field, value in fields.items() if not isinstance(value, str)}
    blocks: list[str] = []
    repeated: list[int] = []
    for part in text.split(MARK):
        if blocks:
            repeated.append(len(blocks))
        blocks += _joined(_pieces(part, filled, growing))
    return Prompt(
        name=name,
        text="".join(blocks),
        sha256=sha256.hexdigest(),
        blocks=tuple(blocks),
        repeated=tuple(repeated),
    )


def _pieces(part: str, filled: Mapping[str, str], growing: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Return a part of a file filled in; each item of a field that grows is a piece of its own."""
    at = 0
    for match in _ALONE.finditer(part):
        if match[1] in growing:
            yield string.Template(part[at : match.start()]).substitute(filled)
            yield from (f"{item}\n" for item in growing[match[1]])
            at = match.end()
    yield string.Template(part[at:]).substitute(filled)


def _joined(pieces: Iterator[str]) -> list[str]:
    """Return the pieces without empty ones, which no provider takes: what is blank goes with what is before it."""
    found: list[str] = []
    for piece in pieces:
        if found and not piece.strip():
            found[-1] += piece
        elif piece:
            found.append(piece)
    return found


def names() -> tuple[str, ...]:
    """Return the names of all prompt files."""
    found = (file.name for file in resources.files("fumehood.llm.prompts").iterdir())
    return tuple(sorted(name.removesuffix(".md") for name in found if name.endswith(".md")))


@functools.cache
def read(name: str) -> str:
    """Return a prompt file as it is; `KeyError` for an unknown name."""
    file = resources.files("fumehood.llm.prompts").joinpath(f"{name}.md")
    if not _NAME.match(name) or not file.is_file():
        raise KeyError(f"There is no prompt named {name!r}.")
    return file.read_text(encoding="utf-8")
