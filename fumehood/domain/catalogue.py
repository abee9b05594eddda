"""The admin's catalogue: public data and models that an idea may ask for by name, each told by its hash."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

NAME = r"^[a-z][a-z0-9_]{0,39}$"
"""As data sets are named; an entry's name becomes one, and a file's."""
ASKED = "catalogue.json"
"""The file among template files that says which entries an experiment's idea was given; its hash tells its data."""
DATA, MODELS = "data/catalogue/", "models/"
"""Where among template files the entries' own bytes are."""
MOST_ASKED = 5
"""Entries that one idea may ask for."""
_NAME = re.compile(NAME)


class EntryKind(StrEnum):
    """What an entry is to an experiment."""

    DATA = "data"
    """One more data set, which `prepare.py` cuts."""
    MODEL = "model"
    """Weights that runs may begin from, and read only."""


class Format(StrEnum):
    """What the bytes of an entry are; all of these are read without running anything of them."""

    TEXT = "text"
    NPZ = "npz"
    PARQUET = "parquet"
    SAFETENSORS = "safetensors"


SUFFIXES: Mapping[Format, str] = {
    Format.TEXT: ".txt",
    Format.NPZ: ".npz",
    Format.PARQUET: ".parquet",
    Format.SAFETENSORS: ".safetensors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file that the admin allows."""

    id: str
    """Its name, by which ideas ask for it."""
    kind: EntryKind
    title: str
    url: str
    licence: str
    sha256: str
    bytes: int
    format: Format
    split: float = 0.05
    """Of data: the share that each arm holds out of it, by its own key."""
    templates: tuple[str, ...] = ()
    """Whose ideas may ask for it; empty for every template that takes its format."""
    tenants: tuple[str, ...] = ()
    """Who may use it, by id; empty for everybody."""
    added_at: float = 0.0
    removed_at: float | None = None

    @property
    def place(self) -> str:
        """Where it lies among a template's files."""
        return f"{DATA if self.kind is EntryKind.DATA else MODELS}{self.id}{SUFFIXES[self.format]}"

    def is_for(self, tenant: str, template: str) -> bool:
        """Whether the ideas of a tenant about a template may ask for it now."""
        is_theirs = not self.tenants or tenant in self.tenants
        return self.removed_at is None and is_theirs and (not self.templates or template in self.templates)

    def told(self) -> dict[str, str | int | float]:
        """Return what a record and a paper say of it, and what makes the data that come of it."""
        return {
            "from": "catalogue",
            "kind": self.kind.value,
            "title": self.title,
            "url": self.url,
            "licence": self.licence,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "format": self.format.value,
            "split": self.split,
        }


def is_name(text: str) -> bool:
    """Whether a text can be an entry's name; whatever else a model says is never looked for."""
    return _NAME.match(text) is not None and not text.endswith("\n")


def document(given: Iterable[Entry]) -> bytes:
    """Return `catalogue.json`: the same bytes for the same entries, however they are ordered."""
    return written({one.id: one.told() for one in given})


def written(told: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return `catalogue.json` of what a record says of its entries."""
    return json.dumps({name: dict(told[name]) for name in sorted(told)}, indent=2, sort_keys=True).encode() + b"\n"


def read(data: bytes) -> dict[str, Entry]:
    """Return the entries of a `catalogue.json`, by name."""
    found = {}
    for name, told in json.loads(data).items():
        fields = {one: value for one, value in told.items() if one != "from"}
        fields |= {"kind": EntryKind(fields["kind"]), "format": Format(fields["format"])}
        found[name] = Entry(id=name, **fields)
    return found


def removed(entry: Entry, at: float) -> Entry:
    """Return an entry that nothing new asks for; what was measured with it stays what it is."""
    return dataclasses.replace(entry, removed_at=at)
