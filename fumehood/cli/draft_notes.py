"""What `draft.json` says of a draft, and whether this installation wrote it.

To go on with a model's draft is to read what `draft.json` names on this machine, to show it to a model, and to pay for
that. So what a model drafted is sealed; of a folder without this installation's seal no more is believed than what it
says of itself to a reader.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fumehood.artifacts import files
from fumehood.artifacts.signing import derive_key, installation_secret
from fumehood.errors import BadInputError
from fumehood.services import templates
from fumehood.services.drafting import Sort
from fumehood.settings import Settings

PURPOSE = "the seal of draft.json"


class Notes(BaseModel):
    """A draft under way."""

    model_config = ConfigDict(populate_by_name=True)

    sort: Sort | Literal[""] = ""
    """Empty until a model has drafted something that could be taken."""
    source: str = Field(default="", alias="from")
    model: str = ""
    """Empty where questions made the draft."""
    asked: dict[str, Any] = {}
    """What a person gave; empty where this installation did not make the draft."""
    assumed: list[str] = []
    wrong: str = ""
    wrote: dict[str, str] = {}
    """Path to SHA-256 of each file as a model wrote it last."""
    wrote_by: str = ""
    """That model."""
    told: list[str] = []
    """Names of the checks that did not hold when a person was last shown the draft."""
    directions: list[str] = []
    """What its calls are booked on, one for each command."""
    budget_usd: float | None = None
    """The most that the calls of all its commands may cost."""
    seal: str = ""

    def sealed(self, settings: Settings) -> Notes:
        """Return these notes as this installation's."""
        return self.model_copy(update={"seal": _seal(settings, self)})

    def believed(self, settings: Settings) -> Notes:
        """Return these notes, or what a reader is told of them where this installation did not write them."""
        if hmac.compare_digest(self.seal.encode(), _seal(settings, self).encode()):
            return self
        says = "".join(filter(str.isprintable, self.model))[:100]
        return Notes(sort=self.sort, source=self.source, model=f"{says} (as it says itself)")

    def text(self) -> bytes:
        """Return `draft.json`."""
        told = self.model_dump(by_alias=True, exclude_defaults=True)
        return json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n"


def read(out: Path) -> Notes:
    """Return what a folder says of the draft in it; `BadInputError` where there is none, or none that can be used."""
    place = out / templates.DRAFT
    if not place.is_file():
        raise BadInputError(f"There is no draft at {out} to go on with.")
    # What is written into the folder must land there.
    links = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_symlink() or not _is_plain(path)]
    if links := [link for link in links if not any(map(templates.SKIPPED.fullmatch, link.parts))]:
        raise BadInputError(f"{links[0]} of the draft is a link or no file: put the file itself there.")
    try:
        return Notes.model_validate_json(place.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInputError(f"{place} is not what `fumehood template new` writes: begin anew with --from.") from error


def replace(place: Path, content: bytes) -> None:
    """Put a file in the place of whatever lies there; a link is replaced, and not followed."""
    with files.new_file(place.parent, 0o644) as (handle, new):
        files.write_all(handle, content)
        new.rename(place)


def hashes(of: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, by path."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in sorted(of.items())}


def _is_plain(path: Path) -> bool:
    return path.is_dir() or path.is_file()


def _seal(settings: Settings, notes: Notes) -> str:
    key = derive_key(installation_secret(settings.state_dir), PURPOSE)
    told = json.dumps(notes.model_dump(exclude={"seal"}), sort_keys=True).encode()
    return hmac.digest(key, told, "sha256").hex()
