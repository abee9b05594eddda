"""Is every run of an experiment's folder in the log, and every entry of the log in the folder; all offline.

The log's entries of an experiment are numbered, so one that is not shown leaves a number out. What is shown is proved
to be in the tree that the installation signed, and the paper's own root to be of an earlier state of that tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fumehood.domain import merkle
from fumehood.domain.log import EntryKind, canonical
from fumehood.errors import FumehoodError
from fumehood.services import log, log_line
from fumehood.services.log_file import FILE, PAPER

_RECORD = re.compile(r"(?P<folder>(?:run|confirm)_\d+(?:_seed_\d+)?)/record\.json")
"""Where the platform puts records; a program may leave a file of that name deeper in its own folder."""
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(slots=True)
class Checked:
    """How many entries were looked at, and what does not hold."""

    entries: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    size: int
    root: bytes
    counts: Mapping[str, int]
    leaves: Sequence[Mapping[str, Any]]
    paper: Mapping[str, Any] | None

    def of(self, kind: EntryKind) -> list[Mapping[str, Any]]:
        return [leaf["entry"] for leaf in self.leaves if leaf["entry"]["kind"] == kind]


def check(
    paths: Sequence[str],
    read: Callable[[str], bytes],
    digest: Callable[[str], str],
    opened: Callable[[bytes, str], bytes],
) -> Checked:
    """Check an experiment's folder.

    `read` returns a file's bytes and `digest` their SHA-256, or nothing where there is no such file; `opened` takes an
    envelope and its payload's type, returns the payload, and raises `TamperedError` where no trusted key signed it.
    """
    found = Checked()
    if FILE not in paths:
        found.problems.append(f"{FILE} is missing: nothing shows that no run was left out")
        return found
    try:
        told = _parse(read(FILE), opened)
        found.entries = len(told.leaves)
        found.problems += _tree(told)
        found.problems += _numbers(told)
        found.problems += _records(told, paths, digest)
        found.problems += _attempts(told, read)
        found.problems += _paper(told, paths, read)
    except FumehoodError as error:
        found.problems.append(f"{FILE}: {error}")
    except _MALFORMED as error:
        found.problems.append(f"{FILE} cannot be read ({type(error).__name__}: {error})")
    return found


def _parse(data: bytes, opened: Callable[[bytes, str], bytes]) -> _Log:
    told = json.loads(data)
    head = json.loads(opened(json.dumps(told["head"]).encode(), log.TREE_HEAD_TYPE))
    scopes = [told["experiment"], *told["baselines"]]
    counts = {scope: int(told["counts"][scope]) for scope in scopes}
    for leaf in told["leaves"]:
        # Whose an entry is, is said by the entry itself, which is what was hashed.
        if _scope(leaf["entry"]) not in counts:
            raise ValueError(f"{_name(leaf['entry'])} is neither the experiment's nor its baseline's")
    return _Log(
        size=int(head["size"]),
        root=bytes.fromhex(head["root"]),
        counts=counts,
        leaves=told["leaves"],
        paper=told["paper"],
    )


def _scope(entry: Mapping[str, Any]) -> str:
    return str(entry["experiment"] or entry["run"])


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['folder']} (attempt {entry['attempt']}, {entry['verdict']})"


def _tree(told: _Log) -> list[str]:
    problems = []
    for leaf in told.leaves:
        proof = [bytes.fromhex(one) for one in leaf["proof"]]
        hashed = merkle.leaf_hash(canonical(leaf["entry"]).encode())
        if not merkle.is_included(int(leaf["index"]), told.size, hashed, proof, told.root):
            problems.append(f"{FILE}: the entry of {_name(leaf['entry'])} is not in the log that was signed")
    return problems


def _numbers(told: _Log) -> list[str]:
    """Name the entries that are not shown, by the numbers that are."""
    problems = []
    for scope, count in told.counts.items():
        shown = [int(leaf["entry"]["number"]) for leaf in told.leaves if _scope(leaf["entry"]) == scope]
        problems += [
            f"{FILE}: entry {number} of the {count} of {scope} is missing: a run or an attempt was left out"
            for number in range(1, max([count, *shown]) + 1)
            if number not in shown
        ]
        if len(set(shown)) != len(shown) or max(shown, default=0) > count:
            problems.append(f"{FILE}: {scope} has {len(shown)} entries and says {count}")
    return problems


def _records(told: _Log, paths: Sequence[str], digest: Callable[[str], str]) -> list[str]:
    logged = {entry["folder"]: entry for entry in told.of(EntryKind.RECORD)}
    problems = []
    for path in paths:
        place = _RECORD.fullmatch(path)
        if place and place["folder"] not in logged:
            problems.append(f"{path} is not in the log")
    for folder, entry in logged.items():
        path = f"{folder}/record.json"
        if path not in paths:
            problems.append(f"{_name(entry)} is in the log and was left out: there is no {path}")
        elif digest(path) != entry["record"]:
            problems.append(f"{path} is not the record that is in the log")
    return problems


def _attempts(told: _Log, read: Callable[[str], bytes]) -> list[str]:
    """Compare the attempts that `runs.json` tells of with those of the log, each way."""
    runs = json.loads(read("runs.json"))
    shown = {(run["folder"], attempt["number"]): attempt["verdict"] for run in runs for attempt in run["attempts"]}
    logged = {(entry["folder"], entry["attempt"]): entry for entry in told.of(EntryKind.ATTEMPT)}
    problems = [
        f"runs.json: attempt {number} of {folder} ({verdict}) is not in the log"
        for (folder, number), verdict in shown.items()
        if (folder, number) not in logged or logged[folder, number]["verdict"] != verdict
    ]
    return problems + [
        f"{_name(entry)} is in the log and was left out: runs.json does not tell of it"
        for place, entry in logged.items()
        if place not in shown
    ]


def _paper(told: _Log, paths: Sequence[str], read: Callable[[str], bytes]) -> list[str]:
    if PAPER not in paths:
        return []
    printed = log_line.read(read(PAPER).decode(errors="replace"))
    if printed is None:
        return [f"{PAPER} does not print the log's size and root"]
    proof = [bytes.fromhex(one) for one in (told.paper or {}).get("consistency", ())]
    root = bytes.fromhex(printed.root)
    if not merkle.is_prefix(printed.size, told.size, root, told.root, proof):
        return [f"{PAPER} prints {printed.size} entries and root {printed.root}, which the log never had"]
    # What a fork took over was in the log before, as another experiment's.
    return [
        f"{_name(leaf['entry'])} came into the log after {PAPER} had counted its entries"
        for leaf in told.leaves
        if int(leaf["index"]) >= printed.size and not leaf["entry"]["shared"]
    ]
