"""Templates that were read a moment ago, so that many who submit one of them have its folder read once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fumehood.domain.template import Template
from fumehood.errors import BadInputError
from fumehood.ports import Artifacts
from fumehood.services import templates
from fumehood.services.public_data import FetchedData

HOLDS_S = 60.0
"""So often a folder is kept anew, whatever became of the artifacts meanwhile."""
Marks = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a folder that keeps the contract says."""

    name: str
    files: Mapping[str, str]
    """Path to SHA-256; the bytes are kept."""
    template: Template
    task: str


class KnownTemplates:
    """Reads folders, and remembers each for as long as no file of it changes, but no longer than `holds_s`.

    One that breaks the contract is read again each time: somebody is mending it.
    """

    def __init__(
        self, holds_s: float = HOLDS_S, now: Callable[[], float] = time.monotonic, fetched: FetchedData | None = None
    ) -> None:
        self._fetched = fetched
        self._holds_s = holds_s
        self._now = now
        self._known: dict[Path, tuple[float, Marks, Read]] = {}

    def knows(self, folder: Path) -> bool:
        """Say whether a folder was read lately, so that reading it again is done in no time."""
        known = self._known.get(folder)
        return known is not None and self._now() < known[0]

    def read(self, folder: Path, artifacts: Artifacts) -> Read:
        """Keep a folder's files and return what it says; `BadInputError` when it does not keep the contract."""
        marks, now = _marks(folder, *([self._fetched.folder] if self._fetched else [])), self._now()
        known = self._known.get(folder)
        if known and now < known[0] and known[1] == marks:
            return known[2]
        # Several may do this at once, and come to the same: none waits for another whose artifacts are away.
        found = read(folder, artifacts, self._fetched)
        self._known[folder] = (now + self._holds_s, marks, found)
        return found


def read(folder: Path, artifacts: Artifacts, fetched: FetchedData | None = None) -> Read:
    """Keep a folder's files and return what it says; `BadInputError` when it does not keep the contract.

    What was fetched for it counts as its own files, below `data/`; what the folder itself has there comes before.
    """
    files = templates.snapshot(folder, artifacts)
    problems = templates.check(files, artifacts, folder.name)
    if problems:
        raise BadInputError(f"The template {folder.name} does not keep the contract: {problems[0]}")
    _, task = templates.prompt_of(files, artifacts)
    template = templates.load(files, artifacts, folder.name)
    if fetched:
        files = {**fetched.files(template, artifacts), **files}
    return Read(name=folder.name, files=files, template=template, task=task)


def _marks(*folders: Path) -> Marks:
    """Return what tells that a file is another one, or has other bytes; taken before any of them is read."""
    found = []
    for folder in folders:
        for top, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(top, name)  # noqa: PTH118 - hundreds a second
                seen = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - the same
                found.append((path, seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(sorted(found))
