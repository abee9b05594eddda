"""`fumehood admin catalogue ...`: the public data and models that ideas may ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from fumehood.cli import output, own_state
from fumehood.cli.client import lines
from fumehood.cli.options import AsJson, Url
from fumehood.cli.remote import Server
from fumehood.domain.catalogue import Entry, is_name
from fumehood.domain.tenant import LOCAL_ACTOR
from fumehood.errors import NotFoundError
from fumehood.services import catalogue
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock

PATH = "/v1/admin/catalogue"
MOST_SHOWN = 10_000
Name = Annotated[str, typer.Argument(metavar="NAME", help="What ideas call it.")]

app = typer.Typer(help="Public data and models that ideas may ask for.", no_args_is_help=True)


@app.command()
def add(
    name: Name,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="Where it is: http or https.")],
    sha256: Annotated[str, typer.Option(help="Its SHA-256; without one nothing is taken.")],
    size: Annotated[int, typer.Option("--bytes", min=1, help="How large it is.")],
    licence: Annotated[str, typer.Option(help="Under which licence it is.")],
    title: Annotated[str, typer.Option(help="What people call it.")],
    file_format: Annotated[str, typer.Option("--format", help="text, npz, parquet or safetensors.")],
    kind: Annotated[str, typer.Option(help="data, or model for weights.")] = "data",
    split: Annotated[float | None, typer.Option(help="Of data: the share that each arm holds out.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Whose ideas may ask for it; may be repeated. All that can when left out.")
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Who may use it; may be repeated. Everybody when left out.")
    ] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Let ideas ask for a file: on a server where one is named, else in this machine's state folder."""
    settings = Settings()
    given = catalogue.offer(
        name=name,
        kind=kind,
        title=title,
        url=source,
        licence=licence,
        sha256=sha256,
        bytes=size,
        format=file_format,
        split=split,
        templates=template,
        tenants=tenant,
    )
    if url or settings.url:
        with Server.of(settings, url) as server:
            _tell(server.post(PATH, given.model_dump(mode="json")), as_json=as_json)
        return
    with own_state.opened(settings, new=True) as (store, _):
        _tell(_row(catalogue.add(store, SystemClock(), LOCAL_ACTOR, given)), as_json=as_json)


@app.command("list")
def list_entries(url: Url = "", as_json: AsJson = False) -> None:
    """List what ideas may ask for: of a server where one is named, else of this machine's state folder."""
    settings = Settings()
    if url or settings.url:
        with Server.of(settings, url) as server:
            _tell_all(server.pages(PATH), as_json=as_json)
        return
    if not own_state.is_there(settings):
        _tell_all((), as_json=as_json)
        return
    with own_state.opened(settings) as (store, _):
        _tell_all((_row(one) for one in catalogue.entries(store, None, MOST_SHOWN)), as_json=as_json)


@app.command()
def remove(name: Name, url: Url = "", as_json: AsJson = False) -> None:
    """Let no idea ask for a file any more: on a server where one is named, else in this machine's state folder."""
    settings = Settings()
    is_elsewhere = bool(url or settings.url)
    if not is_name(name) or not (is_elsewhere or own_state.is_there(settings)):
        raise NotFoundError("The catalogue has no entry of this name.")
    if is_elsewhere:
        with Server.of(settings, url) as server:
            _tell(server.delete(f"{PATH}/{name}"), as_json=as_json)
        return
    with own_state.opened(settings) as (store, _):
        gone = catalogue.remove(store, SystemClock(), LOCAL_ACTOR, name)
    _tell({"name": gone.id, "removed_at": gone.removed_at}, as_json=as_json)


def _row(entry: Entry) -> dict[str, Any]:
    told = dataclasses.asdict(entry)
    name = told.pop("id")
    del told["removed_at"]
    return {"name": name, **told}


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    output.print_json(found) if as_json else output.print_lines(lines(found))


def _tell_all(found: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    items = list(found)
    if as_json:
        output.print_json(items)
    else:
        told = [line for one in items for line in (*lines(one), "")]
        output.print_lines(told or ["The catalogue is empty."])
