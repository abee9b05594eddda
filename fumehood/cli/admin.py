"""`fumehood admin ...`: tenants, keys, quotas, budgets and switches of a server, for a key with the scope `admin`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import typer

from fumehood.cli import admin_catalogue, output, own_state
from fumehood.cli.client import lines
from fumehood.cli.options import AsJson, Url
from fumehood.cli.remote import Server
from fumehood.domain.audit import HEAD
from fumehood.domain.tenant import LOCAL_ACTOR
from fumehood.errors import BadInputError
from fumehood.services import approvals as held
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant's id.")]
OneTenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant; all when left out.")]
Key = Annotated[str, typer.Argument(metavar="ID", help="A key's id.")]
Token = Annotated[
    str, typer.Argument(metavar="ID", help="A gateway token's id, as calls and the gateway's log name it.")
]
Held = Annotated[str, typer.Argument(metavar="ID", help="Of the direction, the idea or the experiment.")]
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

app = typer.Typer(help="Tenants, keys, quotas, budgets and switches of a server.", no_args_is_help=True)
tenant_app = typer.Typer(help="Who uses the server.", no_args_is_help=True)
key_app = typer.Typer(help="What lets them in.", no_args_is_help=True)
token_app = typer.Typer(help="What lets work ask models.", no_args_is_help=True)
quota_app = typer.Typer(help="How much of each thing they may have.", no_args_is_help=True)
budget_app = typer.Typer(help="How much they may spend.", no_args_is_help=True)
lease_app = typer.Typer(help="Who holds what of the machine now.", no_args_is_help=True)
for name, inner in (
    ("tenant", tenant_app),
    ("key", key_app),
    ("token", token_app),
    ("quota", quota_app),
    ("budget", budget_app),
    ("lease", lease_app),
    ("catalogue", admin_catalogue.app),
):
    app.add_typer(inner, name=name)


@tenant_app.command("create")
def create_tenant(name: Annotated[str, typer.Argument()], url: Url = "", as_json: AsJson = False) -> None:
    """Make a tenant."""
    with Server.of(Settings(), url) as server:
        _tell(server.post("/v1/admin/tenants", {"name": name}), as_json=as_json)


@tenant_app.command("list")
def list_tenants(url: Url = "", as_json: AsJson = False) -> None:
    """List the tenants."""
    with Server.of(Settings(), url) as server:
        _tell_all(server.pages("/v1/admin/tenants"), as_json=as_json)


@key_app.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Whose it is.")],
    scope: Annotated[list[str], typer.Option(help="What it allows, such as read; may be given again.")],
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, this once."""
    body = {"tenant": tenant, "scopes": scope} | ({"name": name} if name is not None else {})
    with Server.of(Settings(), url) as server:
        _tell(server.post("/v1/admin/keys", body), as_json=as_json)


@key_app.command("list")
def list_keys(url: Url = "", as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    with Server.of(Settings(), url) as server:
        _tell_all(server.pages("/v1/admin/keys"), as_json=as_json)


@key_app.command("rotate")
def rotate_key(key: Key, url: Url = "", as_json: AsJson = False) -> None:
    """Give a key a new secret and print it, this once."""
    with Server.of(Settings(), url) as server:
        _tell(server.post(f"/v1/admin/keys/{_part(key)}/rotate"), as_json=as_json)


@key_app.command("revoke")
def revoke_key(key: Key, url: Url = "", as_json: AsJson = False) -> None:
    """Take a key away."""
    with Server.of(Settings(), url) as server:
        _tell(server.delete(f"/v1/admin/keys/{_part(key)}") or {"revoked": key}, as_json=as_json)


@token_app.command("revoke")
def revoke_token(token: Token, url: Url = "", as_json: AsJson = False) -> None:
    """Let a gateway token ask no model any more."""
    with Server.of(Settings(), url) as server:
        _tell(server.post(f"/v1/admin/tokens/{_part(token)}/revoke"), as_json=as_json)


@quota_app.command("set")
def set_quota(
    tenant: Tenant,
    quotas: Annotated[list[str], typer.Argument(metavar="NAME=VALUE ...", help="Such as runs=4.")],
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Set quotas of a tenant."""
    body = dict(_quota(one) for one in quotas)
    with Server.of(Settings(), url) as server:
        _tell(server.put(f"/v1/admin/quotas/{_part(tenant)}", body), as_json=as_json)


@quota_app.command("show")
def show_quota(tenant: Tenant, url: Url = "", as_json: AsJson = False) -> None:
    """Show a tenant's quotas, and what is used of each."""
    with Server.of(Settings(), url) as server:
        _tell(server.get(f"/v1/admin/quotas/{_part(tenant)}"), as_json=as_json)


@budget_app.command("set")
def set_budget(
    tenant: Tenant,
    usd_day: Annotated[float | None, typer.Option(min=0, help="US dollars a day.")] = None,
    usd_total: Annotated[float | None, typer.Option(min=0, help="US dollars in all.")] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Set what a tenant may spend on models."""
    body = {name: usd for name, usd in (("usd_day", usd_day), ("usd", usd_total)) if usd is not None}
    if not body:
        raise BadInputError("Nothing is to be set: give --usd-day or --usd-total.")
    with Server.of(Settings(), url) as server:
        _tell(server.put(f"/v1/admin/budgets/{_part(tenant)}", body), as_json=as_json)


@budget_app.command("show")
def show_budget(tenant: Tenant, url: Url = "", as_json: AsJson = False) -> None:
    """Show what a tenant may spend."""
    with Server.of(Settings(), url) as server:
        _tell(server.get(f"/v1/admin/budgets/{_part(tenant)}"), as_json=as_json)


@lease_app.command("list")
def list_leases(url: Url = "", as_json: AsJson = False) -> None:
    """List who holds a GPU, or a part of the processors."""
    with Server.of(Settings(), url) as server:
        _tell_all(server.pages("/v1/admin/leases"), as_json=as_json)


@app.command()
def pause(
    tenant: OneTenant = None,
    kill: Annotated[bool, typer.Option("--kill", help="Also stop what runs.")] = False,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Let nothing new begin, of one tenant or of all."""
    with Server.of(Settings(), url) as server:
        _tell(server.post("/v1/admin/pause", {"tenant": tenant, "kill": kill}), as_json=as_json)


@app.command()
def resume(tenant: OneTenant = None, url: Url = "", as_json: AsJson = False) -> None:
    """Let work go on, of one tenant or of all."""
    with Server.of(Settings(), url) as server:
        _tell(server.post("/v1/admin/resume", {"tenant": tenant}), as_json=as_json)


@app.command()
def approvals(url: Url = "", as_json: AsJson = False) -> None:
    """List what the policy wants a person for: of a server where one is named, else of this machine's state folder."""
    settings = Settings()
    if url or settings.url:
        with Server.of(settings, url) as server:
            _tell_all(server.pages("/v1/admin/approvals"), as_json=as_json)
        return
    with own_state.opened(settings) as (store, artifacts):
        _tell_all([dataclasses.asdict(one) for one in held.waiting(store, artifacts)], as_json=as_json)


@app.command()
def approve(subject: Held, url: Url = "", as_json: AsJson = False) -> None:
    """Let go on what the policy holds: on a server where one is named, else in this machine's state folder."""
    _decide(subject, "approve", url, as_json=as_json)


@app.command()
def refuse(subject: Held, url: Url = "", as_json: AsJson = False) -> None:
    """End what the policy holds: on a server where one is named, else in this machine's state folder."""
    _decide(subject, "refuse", url, as_json=as_json)


def _decide(subject: str, word: Literal["approve", "refuse"], url: str, *, as_json: bool) -> None:
    settings = Settings()
    if url or settings.url:
        with Server.of(settings, url) as server:
            _tell(server.post(f"/v1/admin/approvals/{_part(subject)}/{word}"), as_json=as_json)
        return
    with own_state.opened(settings) as (store, _):
        decide = held.approve if word == "approve" else held.refuse
        decide(store, SystemClock(), LOCAL_ACTOR, subject)
    _tell({"id": subject, "decision": f"{word}d"}, as_json=as_json)


@app.command()
def audit(
    after: Annotated[int | None, typer.Option(min=0, help="Only what followed the entry of this number.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Say instead whether all is as it was written.")] = False,
    head: Annotated[
        str | None, typer.Option(metavar="SEQ:SEAL", help="With --verify: what it said before, which must be there.")
    ] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """List who changed what, oldest first."""
    if verify:
        _verify(after, head, url, as_json=as_json)
        return
    if head is not None:
        raise BadInputError("--head is checked by --verify: give both.")
    query = {} if after is None else {"after": after}
    with Server.of(Settings(), url) as server:
        _tell_all(server.pages("/v1/admin/audit", **query), as_json=as_json)


@app.command()
def usage(tenant: OneTenant = None, url: Url = "", as_json: AsJson = False) -> None:
    """Show what was used, by one tenant or by all."""
    query = {} if tenant is None else {"tenant": tenant}
    with Server.of(Settings(), url) as server:
        _tell_all(server.pages("/v1/admin/usage", **query), as_json=as_json)


def _verify(after: int | None, head: str | None, url: str, *, as_json: bool) -> None:
    if after is not None:
        raise BadInputError("--verify looks at the whole audit: leave --after out.")
    if head is not None and not re.fullmatch(HEAD, head):
        raise BadInputError(f"{head!r} is no head: give SEQ:SEAL, as --verify prints it.")
    with Server.of(Settings(), url) as server:
        _tell(server.get("/v1/admin/audit/verify", **({} if head is None else {"head": head})), as_json=as_json)


def _part(given: str) -> str:
    """Return an id as a part of an address; what could lead to another address is refused."""
    if not NAME.fullmatch(given) or not given.strip("."):
        raise BadInputError(f"{given!r} is no id.")
    return given


def _quota(given: str) -> tuple[str, int | float]:
    """Return a quota's name and value."""
    name, is_given, value = given.partition("=")
    if not is_given or not name:
        raise BadInputError(f"{given!r} is no quota: give NAME=VALUE.")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise BadInputError(f"{given!r} is no quota: its value must be a number.") from error


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    output.print_json(found) if as_json else output.print_lines(lines(found))


def _tell_all(found: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    items = list(found)
    output.print_json(items) if as_json else output.print_lines(line for one in items for line in (*lines(one), ""))
