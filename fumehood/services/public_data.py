"""Public data that was fetched for templates: how it becomes a template's files, and what stands in where it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fumehood.domain.template import PublicData, Template
from fumehood.errors import TamperedError
from fumehood.ports import Artifacts

FETCHED, STAND_IN = "fetched", "stand-in"
Files = Mapping[str, str]
"""Path to SHA-256."""


class FetchedData:
    """The folder of what was fetched: each file under its SHA-256, and beside it a note of where it came from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where bytes of this hash lie, or would."""
        return self.folder / sha256

    def note(self, sha256: str) -> Path:
        """Return where it is written whence they came, and who vouched for the hash."""
        return self.folder / f"{sha256}.json"

    def hash_of(self, source: PublicData) -> str:
        """Return the hash that a source must have: the template's, else the one that an admin gave; empty for none."""
        if source.sha256:
            return source.sha256
        for path in sorted(self.folder.glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["url"] == source.url and told["vouched_by"] == "admin":
                return str(told["sha256"])
        return ""

    def has(self, source: PublicData) -> bool:
        """Return whether a source was fetched; its bytes are checked when they are read."""
        sha256 = self.hash_of(source)
        return bool(sha256) and self.path(sha256).is_file()

    def files(self, template: Template, artifacts: Artifacts) -> dict[str, str]:
        """Keep what is here of a template's data, and return it as files of the template; others stay as they are.

        Raises:
            TamperedError: The bytes here do not have the hash that they were fetched by.
        """
        found = {}
        for name, source in template.data.items():
            if self.has(source):
                sha256 = self.hash_of(source)
                if artifacts.put_file(self.path(sha256)) != sha256:
                    raise TamperedError(f"The fetched data of {name}, {self.path(sha256)}, no longer match their hash.")
                found[place(name)] = sha256
        return found


def place(name: str) -> str:
    """Return where a template finds a data set that was fetched."""
    return f"data/{name}"


def stand_in(name: str) -> str:
    """Return where a template has what stands in for a data set."""
    return f"stand_in/{name}.txt"


def origins(template: Template, files: Files) -> dict[str, dict[str, Any]]:
    """Return, by data set, whether it was fetched or something stands in for it, and the hash of what is used.

    What an idea asked for of the catalogue is told as it stands there: `from`, `kind`, `title`, `url`, `licence`, ...
    """
    own: dict[str, dict[str, Any]] = {
        name: {"from": FETCHED, "sha256": files[place(name)]}
        if place(name) in files
        else {"from": STAND_IN, "sha256": files.get(stand_in(name), "")}
        for name in template.data
    }
    return own | {name: dict(one.told()) for name, one in template.asked.items()}


def limitations(template: Template, files: Files) -> tuple[str, ...]:
    """Return what a paper has to say where not all data are what the template is about, and where others came in."""
    asked = tuple(
        f"This study asked for {one.kind.value} beside the template's own and was given {name} of the installation's"
        f" catalogue ({one.title}, from {one.url}, under {one.licence}, SHA-256 {one.sha256}): the baseline was"
        " measured with it as well, and no number here can be set beside those of studies without it."
        for name, one in template.asked.items()
    )
    standing = [name for name, one in origins(template, files).items() if one["from"] == STAND_IN]
    if not standing:
        return asked
    named = ", ".join(template.data[name].title or name for name in standing)
    return (
        f"The published data were not at hand ({named}): a small text that comes with the template stood in, so"
        " no number here can be set beside published ones.",
        *asked,
    )
