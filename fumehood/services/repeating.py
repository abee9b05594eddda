"""Did a replay come to the same: the code to the byte, the text but for the numbers that were measured anew.

The text of a paper is compared with the numbers taken from the record. Where a number of the repeated paper differs, it
must be one of its claims, and the recorded claim in the same place must print the number that stands there in the
recorded paper, for the same pointer; any other difference is one of text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fumehood.errors import BadInputError
from fumehood.services import log_line, numbers
from fumehood.services.verification import Folder

CODE = re.compile(r"(?:experiment|plot|run_\d+)\.py")
PAPER = "latex/main.tex"
_NUMBER = re.compile(r"\\ensuremath\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}[\d.{},]*|\d+(?:\{,\}\d+)*(?:\.\d+)?")
_SHOWN = 100


@dataclass(slots=True)
class Repeated:
    """What is the same and what differs, one sentence each; measured values may differ and are told apart."""

    same: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether code and text are the same."""
        return not self.different


def compare(recorded: Folder, repeated: Folder, name: str) -> Repeated:
    """Compare the folders of one experiment, as it was recorded and as it was repeated."""
    found = Repeated()
    code = sorted({path for folder in (recorded, repeated) for path in folder.paths if CODE.fullmatch(path)})
    for path in code:
        shas = [_sha(folder, path) for folder in (recorded, repeated)]
        if shas[0] == shas[1]:
            found.same.append(f"{name}/{path} (SHA-256 {shas[0][:12]}...)")
        else:
            was, now = (sha[:12] or "missing" for sha in shas)
            found.different.append(f"{name}/{path}: its SHA-256 was {was} and is {now}")
    _papers(recorded, repeated, name, found)
    return found


def _sha(folder: Folder, path: str) -> str:
    return hashlib.sha256(folder.read(path)).hexdigest() if path in folder.paths else ""


def _papers(recorded: Folder, repeated: Folder, name: str, found: Repeated) -> None:
    sources = [
        log_line.without(folder.read(PAPER).decode()) if PAPER in folder.paths else ""
        for folder in (recorded, repeated)
    ]
    if not all(sources):
        if any(sources):
            found.different.append(f"{name}/{PAPER}: only one of the two has a paper")
        return
    if sources[0] == sources[1]:
        found.same.append(f"{name}/{PAPER}, but for the log's root to the byte")
        return
    was, now = (_NUMBER.split(source) for source in sources)
    at = next((at for at, (old, new) in enumerate(zip(was, now, strict=False)) if old != new), None)
    if at is not None or len(was) != len(now):
        at = min(len(was), len(now)) - 1 if at is None else at
        told = f"{was[at].strip()[:_SHOWN]!r} became {now[at].strip()[:_SHOWN]!r}"
        found.different.append(f"{name}/{PAPER}: {told}")
        return
    allowed = _measured(recorded, repeated, name, found)
    for old, new in zip(*(_NUMBER.findall(source) for source in sources), strict=True):
        if old != new and (old, new) not in allowed:
            found.different.append(f"{name}/{PAPER}: {old} became {new}, and is no measured number")
            return
    found.same.append(f"{name}/{PAPER}, with the recorded numbers")


def _measured(recorded: Folder, repeated: Folder, name: str, found: Repeated) -> set[tuple[str, str]]:
    """Return which printed numbers may stand for which, and tell of those that differ."""
    old, new = (_claims(folder) for folder in (recorded, repeated))
    pairs = set()
    for was, now in zip(old, new, strict=False):
        if [was[key] for key in ("section", "source", "pointer")] != [
            now[key] for key in ("section", "source", "pointer")
        ]:
            break
        if was["text"] != now["text"]:
            told = f"{name}: {was['pointer']} of {was['source']} was {was['text']} and is {now['text']}"
            found.measured.append(told)
        printed = [_NUMBER.findall(numbers.in_latex(str(one["text"]))) for one in (was, now)]
        pairs |= {(a, b) for a, b in zip(*printed, strict=False)}
    found.measured = list(dict.fromkeys(found.measured))
    return pairs


def _claims(folder: Folder) -> list[Mapping[str, Any]]:
    try:
        claims = json.loads(folder.read("claims.json"))
        return [{key: one[key] for key in ("section", "source", "pointer", "text")} for one in claims]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError("The claims.json of a paper cannot be read.") from error
