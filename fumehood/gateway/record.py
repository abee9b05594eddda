"""The calls of a direction as its folder keeps them, and where a call now differs from one of them.

What is compared is what the platform says: the words of the prompts, the form of the answer, the code. Measured
material is not, since another machine measures other numbers: of what a program printed nothing is compared, and of
facts, the notebook, drafts and whatever else stands in a fence all but the numbers. Of what programs ask, the words are
not compared either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.domain.ledger import Claims
from fumehood.domain.token import EXECUTION_ROLE
from fumehood.errors import BadInputError
from fumehood.gateway.scrub import without_secrets

FILE = "llm_calls.jsonl"
NAMED = ("role", "idea", "index", "run", "attempt", "subject")
"""The claims by which a call is found again."""
COMPARED = ("model", "max_tokens", "temperature", "tool_choice", "tools", "system", "messages")
_OK = 200
_FENCE = re.compile(
    r'^<(?P<tag>untrusted from="(?P<by>[^"\n]+)"|facts|draft)>\n(?P<inside>.*?)^</(?:untrusted|facts|draft)>$',
    re.MULTILINE | re.DOTALL,
)
_PROGRAMS = frozenset({"a program", "checks and reviewers"})
"""Whose words are not compared: they tell of a machine, of times and of numbers."""
_TOLD = frozenset({"error", "word", "judgement"})
"""Of the facts, what a program said when it failed, and which way a number went, in a word."""
_SAME = frozenset({"the code", "the archive of ideas", "the idea", "people", "the researcher", "your last answer"})
"""Whose words are compared to the letter: nothing in them was measured."""
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?")
_OF_MACHINE = re.compile(r"^- (?:Platform|Shell|Language|Current date):.*\n?", re.MULTILINE)
"""What Aider says of where and when it runs."""
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Line:
    """One call that was answered."""

    at: str
    """Where it stands, such as `llm_calls.jsonl line 3`."""
    named: tuple[Any, ...]
    request: Mapping[str, Any]
    reply: dict[str, Any]
    token: str = ""
    """Whose call it was: one launch of an execution has one."""


class Record:
    """All calls of a direction, by what they were for; each is given out once, in the order in which they were made."""

    def __init__(self, lines: list[Line]) -> None:
        self.coders = tuple(str(line.request.get("system")) for line in lines if line.named[0] in {"coder", "plot"})
        """What stands above each call for an edit: by that it can be told who asked."""
        self.models = frozenset(str(line.request["model"]) for line in lines)
        self._left: dict[tuple[Any, ...], list[Line]] = {}
        for line in lines:
            before = self._left.setdefault(line.named, [])
            if line.named[0] == EXECUTION_ROLE:
                # A launch that was lost asked in vain; whoever asks twice the same in one launch means it.
                before[:] = [one for one in before if one.token == line.token]
            elif before and before[-1].request == line.request:
                # The first answer was paid, and not kept: a worker was killed before its step was done.
                before.pop()
            before.append(line)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of a direction's folder; `BadInputError` names the place that cannot be read."""
        files = [folder / FILE, *sorted((folder / "experiments").glob(f"*/{FILE}"))]
        if missing := [file for file in files if not file.is_file()]:
            raise BadInputError(f"{missing[0]} is missing, and without it no call can be repeated.")
        lines = [line for file in files for line in _lines(file, file.relative_to(folder).as_posix())]
        if not lines:
            raise BadInputError(f"{folder} records no call that was answered, so there is nothing to repeat.")
        return cls(lines)

    def take(self, claims: Claims, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was answered to this call; `BadInputError` says where it differs from the recorded one."""
        named = tuple(getattr(claims, name) for name in NAMED)
        left = self._left.get(named)
        if not left:
            raise BadInputError(f"The record holds no further call {_of(named)}.")
        # What was taken out of the record is taken out here too, so that it makes no difference.
        request, place = without_secrets(request), 0
        if claims.role == EXECUTION_ROLE:
            # A program may ask several things at once, and its words may tell of what it measured.
            same = (at for at, line in enumerate(left) if not difference(line.request, request))
            place = next(same, 0)
            request = {**request, "messages": left[place].request.get("messages")}
        if different := difference(left[place].request, request):
            raise BadInputError(f"The call {_of(named)} is not the recorded one ({left[place].at}): {different}.")
        return left.pop(place).reply

    def left(self) -> list[str]:
        """Return where the calls stand that nobody has asked for."""
        return [line.at for lines in self._left.values() for line in lines]


def _lines(file: Path, place: str) -> Iterator[Line]:
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        at = f"{place} line {number}"
        try:
            told = json.loads(text)
            claims, request, reply, status = (told[name] for name in ("claims", "request", "reply", "status"))
            line = Line(at, tuple(claims[name] for name in NAMED), request, reply, claims.get("id", ""))
            is_whole = isinstance(request["messages"], list) and (status != _OK or isinstance(reply["content"], list))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInputError(f"{at} is no recorded call: it was cut off or changed.") from error
        if not is_whole:
            raise BadInputError(f"{at} is no recorded call: it was cut off or changed.")
        if status == _OK:
            yield line


def _of(named: tuple[Any, ...]) -> str:
    told = [f"{name} {value}" for name, value in zip(NAMED, named, strict=True) if value or name == "role"]
    return f"of {', '.join(told)}"


def difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first field in which two requests differ, and how; nothing where they are the same."""
    for name in COMPARED:
        if name == "messages":
            continue
        old, new = (_plain(one.get(name)) for one in (recorded, now))
        if old != new:
            return f"`{name}` was {_short(old)} and is {_short(new)}"
    old_texts, new_texts = (_texts(one.get("messages")) for one in (recorded, now))
    if len(old_texts) != len(new_texts):
        return f"`messages` were {len(old_texts)} and are {len(new_texts)}"
    for at, (old_text, new_text) in enumerate(zip(old_texts, new_texts, strict=True)):
        if found := _in_text(old_text, new_text):
            return f"`messages[{at}]` differs {found}"
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in value):
        value = _joined(value)
    return _OF_MACHINE.sub("", value) if isinstance(value, str) else value


def _texts(messages: Any) -> list[str]:
    return [f"{one.get('role')}: {_OF_MACHINE.sub('', _joined(one.get('content')))}" for one in messages or []]


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    # What asks a provider to keep a beginning changes nothing of what is said, and no answer's id is said twice.
    unsaid = {"cache_control", "id", "tool_use_id"}
    return "".join(
        str(block["text"])
        if block.get("type") == "text"
        else json.dumps({key: value for key, value in block.items() if key not in unsaid}, sort_keys=True)
        for block in content or []
    )


def _in_text(old: str, new: str) -> str:
    old_parts, new_parts = (list(_parts(text)) for text in (old, new))
    for (where, by, was), (other, _, now) in zip(old_parts, new_parts, strict=False):
        if where != other:
            return f"where {where} stood: there is {other}"
        if found := _in_part(where, by, was, now):
            return found
    return "" if len(old_parts) == len(new_parts) else "at its end"


def _parts(text: str) -> Iterator[tuple[str, str, str]]:
    """Split a text into what stands in fences and what does not: where it stands, whose it is, and what it says."""
    at = 0
    for match in _FENCE.finditer(text):
        yield "the prompt", "", text[at : match.start()]
        tag = match["tag"].split()[0]
        yield (f"what is from {match['by']}" if match["by"] else f"the {tag}"), match["by"] or tag, match["inside"]
        at = match.end()
    yield "the prompt", "", text[at:]


def _in_part(where: str, by: str, was: str, now: str) -> str:
    if by in _PROGRAMS:
        return ""
    if by == "facts":
        try:
            return _in_facts(json.loads(was), json.loads(now), "facts")
        except ValueError:
            return "in the facts, which are no JSON"
    if by and by not in _SAME:
        was, now = (_NUMBER.sub("#", text) for text in (was, now))
    if was == now:
        return ""
    at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    start = was.rfind("\n", 0, at) + 1
    return f"in {where}: {_short(was[start : start + _SHOWN])} became {_short(now[start : start + _SHOWN])}"


def _in_facts(old: Any, new: Any, path: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if name not in old or name not in new:
                return f"in {path}: {name} {'is new' if name in new else 'is gone'}"
            if name not in _TOLD and (found := _in_facts(old[name], new[name], f"{path}/{name}")):
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        each = (_in_facts(a, b, f"{path}/{at}") for at, (a, b) in enumerate(zip(old, new, strict=True)))
        return next(filter(None, each), "")
    if _is_number(old) and _is_number(new):
        return ""
    was, now = (_NUMBER.sub("#", one) if isinstance(one, str) else one for one in (old, new))
    return "" if was == now else f"in {path}: {_short(old)} became {_short(new)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
