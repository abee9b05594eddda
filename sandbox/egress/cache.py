"""Answers kept on disk, so that a run that asked for them can be repeated without a network.

A gateway has no right to write there: it appends what it hears to a file that it was given open, and whoever
collects the execution takes that file in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sandbox.egress import process
from sandbox.egress.request import RefusedError, Wanted
from sandbox.egress.upstream import MAX_BODY, Answer
from sandbox.installation import Installation

MAX_HEARD = 64 * 1024 * 1024
"""Bytes that one execution may have recorded."""
_KEY = re.compile(r"[0-9a-f]{64}")
_MAX_HEAD = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is kept beside the bytes of an answer."""

    key: str
    capability: str
    target: str
    content_type: str
    sha256: str
    recorded_at: str


class Cache:
    """Finds what was recorded; opened before a gateway gives up its rights, and only read."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def find(self, wanted: Wanted) -> Answer | None:
        """Return what was answered to the same request, or None; RefusedError when it is damaged."""
        try:
            descriptor = os.open(wanted.key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            try:
                head, body = _entry(file)
            except ValueError:
                raise RefusedError(502, "What was recorded of this request is damaged.") from None
        if head.key != wanted.key:
            raise RefusedError(502, "What was recorded of this request is damaged.")
        return Answer(body=body, content_type=head.content_type)


class Heard:
    """Where a gateway appends what it hears."""

    def __init__(self, file: Path) -> None:
        self._descriptor = process.create(str(file), 0o600)

    def add(self, wanted: Wanted, answer: Answer) -> None:
        """Keep an answer, as long as there is room for it."""
        head = Head(
            key=wanted.key,
            capability=wanted.capability.name,
            target=wanted.target(),
            content_type=answer.content_type,
            sha256=hashlib.sha256(answer.body).hexdigest(),
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        told, before = _written(head, answer.body), os.fstat(self._descriptor).st_size
        if before + len(told) > MAX_HEARD:
            return
        try:
            is_whole = os.write(self._descriptor, told) == len(told)
        except OSError:
            is_whole = False
        if not is_whole:
            # The host's disk is full: the program gets its answer, and what follows can still be read.
            os.ftruncate(self._descriptor, before)


def take_in(home: Installation, heard: Path) -> int:
    """Put what an execution's gateway heard where later ones find it; how many answers that were."""
    folder = place(home)
    count = 0
    try:
        file = heard.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        for head, body in _entries(file):
            target = folder / head.key
            temporary = folder / f".{head.key}.{secrets.token_hex(4)}"
            temporary.write_bytes(_written(head, body))
            temporary.chmod(0o644)
            home.give(temporary)
            temporary.replace(target)
            count += 1
    return count


def place(home: Installation) -> Path:
    """Return the folder of recorded answers, made if need be."""
    return home.make_folder(home.state_dir / "egress")


def _written(head: Head, body: bytes) -> bytes:
    line = json.dumps(asdict(head), sort_keys=True).encode() + b"\n"
    return line + f"{len(body)}\n".encode() + body


def _entries(file: BinaryIO) -> Iterator[tuple[Head, bytes]]:
    while True:
        try:
            yield _entry(file)
        except ValueError:
            # The end, or an entry that a killed gateway did not finish.
            return


def _entry(file: BinaryIO) -> tuple[Head, bytes]:
    """Return the next entry; ValueError when there is none, or not a whole one."""
    try:
        head = Head(**json.loads(file.readline(_MAX_HEAD)))
    except TypeError as error:
        raise ValueError("not an entry") from error
    length = int(file.readline(16))
    if not (0 <= length <= MAX_BODY and _KEY.fullmatch(head.key)):
        raise ValueError("not an entry")
    body = file.read(length)
    if len(body) != length or hashlib.sha256(body).hexdigest() != head.sha256:
        raise ValueError("the bytes do not match their hash")
    return head, body
