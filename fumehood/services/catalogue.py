"""What an admin lets ideas ask for, which of it a template's ideas are offered, and why something is not given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fumehood.domain.catalogue import MOST_ASKED, NAME, Entry, EntryKind, Format, is_name, removed
from fumehood.domain.direction import Direction
from fumehood.domain.template import Template
from fumehood.errors import BadInputError, ConflictError, NotFoundError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit, formats
from fumehood.services.replies import Once, keep, made_by

MOST_BYTES = 16 * 1024**3
_WORDS = r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"
_SHOWN = re.compile(r"[^A-Za-z0-9_.-]")
Short = Annotated[str, Field(min_length=1, max_length=100, pattern=_WORDS)]


class Offer(BaseModel):
    """An entry as an admin gives it."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=NAME)
    kind: EntryKind
    title: str = Field(min_length=1, max_length=200, pattern=_WORDS)
    url: str = Field(max_length=2000, pattern=r"^https?://[^\s/@\x00]+/[^\s\x00]*$")
    licence: str = Field(min_length=1, max_length=200, pattern=_WORDS)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=1, le=MOST_BYTES)
    format: Format
    split: float = Field(default=0.05, gt=0, le=0.3, allow_inf_nan=False)
    """Of data: the share that each arm holds out."""
    templates: list[Short] = Field(default_factory=list, max_length=50)
    """Whose ideas may ask for it; empty for every template that takes its format."""
    tenants: list[Short] = Field(default_factory=list, max_length=100)
    """Ids or names of those who may use it; empty for everybody."""

    @model_validator(mode="after")
    def _is_readable(self) -> Self:
        if self.kind is EntryKind.MODEL and self.format is not Format.SAFETENSORS:
            raise ValueError("a model is taken as safetensors only: other formats are pickles, or hide some")
        return self


def offer(**given: object) -> Offer:
    """Return what an admin gave on a command line; `BadInputError` for what makes no entry."""
    try:
        return Offer.model_validate({name: one for name, one in given.items() if one is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise BadInputError(f"This makes no entry of the catalogue: {where}: {first['msg']}.") from error


def add(store: Store, clock: Clock, actor: str, given: Offer, once: Once | None = None) -> Entry:
    """Let ideas ask for an entry; the same again is the same entry.

    Raises `ConflictError` where another is there under its name, `NotFoundError` for a tenant that there is not.
    """
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.catalogue.get(known)
        fields = given.model_dump(exclude={"name"})
        fields |= {"templates": tuple(given.templates), "tenants": tuple(_tenant(tx, one) for one in given.tenants)}
        entry = Entry(id=given.name, **fields, added_at=clock.now())
        there = next((one for one in tx.catalogue.find(id=entry.id) if one.removed_at is None), None)
        if there is not None:
            if (there.told(), there.templates, there.tenants) == (entry.told(), entry.templates, entry.tenants):
                return there
            raise ConflictError(f"The catalogue has another {entry.id} already: remove that first.")
        tx.catalogue.save(entry)
        keep(tx, clock, once, entry.id)
        told = {"kind": entry.kind.value, "url": entry.url, "licence": entry.licence, "sha256": entry.sha256}
        audit.note(tx, clock, actor, "catalogue.added", subject=entry.id, **told, bytes=entry.bytes)
    return entry


def _tenant(tx: Transaction, key: str) -> str:
    found = tx.tenants.find(id=key) or tx.tenants.find(name=key)
    if not found:
        raise NotFoundError("There is no tenant with this id or name.")
    return found[0].id


def remove(store: Store, clock: Clock, actor: str, name: str) -> Entry:
    """Let no idea ask for an entry any more; what was measured with it stays."""
    with store.begin() as tx:
        found = tx.catalogue.find(id=name, removed_at=None) if is_name(name) else ()
        if not found:
            raise NotFoundError("The catalogue has no entry of this name.")
        entry = removed(found[0], clock.now())
        tx.catalogue.save(entry)
        audit.note(tx, clock, actor, "catalogue.removed", subject=entry.id, sha256=entry.sha256)
    return entry


def entries(store: Store, after: str | None, limit: int) -> tuple[Entry, ...]:
    """Return a page of the entries that ideas may ask for now, by name."""
    with store.begin(write=False) as tx:
        return tx.catalogue.page(after, limit, removed_at=None)


def offered(tx: Transaction, direction: Direction, template: Template) -> tuple[Entry, ...]:
    """Return the entries that a direction's ideas are told of, by name: those that were there when it was submitted.

    So all its ideas are told the same, also in a replay; what is added later is given to an idea that asks for it.
    """
    if not template.catalogue.takes_any:
        return ()
    there = [one for one in tx.catalogue.find(removed_at=None) if one.added_at <= direction.created_at]
    return tuple(sorted((one for one in there if not _unfit(direction, template, one)), key=lambda one: one.id))


def of_record(tx: Transaction, direction: Direction, template: Template) -> tuple[Entry, ...]:
    """Return what a direction's folder says of the catalogue: what ideas were told of, and what any was given."""
    added = {sha for one in tx.experiments.find(direction_id=direction.id) for sha in one.added.values()}
    told = {one.id: one for one in offered(tx, direction, template)}
    told |= {one.id: one for one in tx.catalogue.find(removed_at=None) if one.sha256 in added}
    return tuple(told[name] for name in sorted(told))


def asked(answer: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a model's answer asks for, each once, as they can be told; they may name nothing."""
    # One character more than a name has, so that what is cut off names nothing.
    return tuple(dict.fromkeys(_SHOWN.sub("_", one.strip())[:41] for one in answer if one.strip()))


def given(
    tx: Transaction, direction: Direction, template: Template, requests: Sequence[str]
) -> tuple[tuple[Entry, ...], str]:
    """Return the entries of these names, or none and why one of them is not given."""
    if len(requests) > MOST_ASKED:
        return (), f"it asks for {len(requests)} entries of the catalogue, and {MOST_ASKED} are the most"
    if why := missing(tx, direction, requests):
        return (), why
    found = tuple(tx.catalogue.get(name) for name in requests)
    for entry in found:
        if why := _unfit(direction, template, entry):
            return (), f"it asks for {entry.id}, {why}"
    return found, ""


def missing(tx: Transaction, direction: Direction, requests: Sequence[str]) -> str:
    """Return in words which of these names the catalogue does not have for a direction; empty where it has them all."""
    for name in requests:
        known = tx.catalogue.find(id=name, removed_at=None) if is_name(name) else ()
        if not known or not known[0].is_for(direction.tenant, direction.template):
            # Whether somebody else may have it is nobody's business.
            return f"it asks for {name}, which is not in the catalogue, or not for this tenant and template"
    return ""


def check_file(entry: Entry, path: Path) -> None:
    """Return when a file is as large as its entry says and of its format; else `BadInputError` says why it is not."""
    if (size := path.stat().st_size) != entry.bytes:
        raise BadInputError(f"The file of {entry.id} has {size:,} bytes, and the catalogue says {entry.bytes:,}.")
    try:
        formats.check(path, entry.format)
    except BadInputError as error:
        raise BadInputError(f"The file of {entry.id} {error}.") from error


def _unfit(direction: Direction, template: Template, entry: Entry) -> str:
    if not entry.is_for(direction.tenant, direction.template):
        return "which is not for this tenant and template"
    if not template.catalogue.takes(entry):
        return f"and this template takes no {entry.kind.value} in the format {entry.format.value}"
    if entry.kind is EntryKind.DATA and entry.id in template.datasets:
        return "which is the name of a data set of the template"
    return ""
