"""`fumehood keys`: provider keys, never printed."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from fumehood.cli import handover, output
from fumehood.errors import BadInputError
from fumehood.gateway.keys import Keys
from fumehood.settings import Settings
from sandbox.egress import capabilities

PROVIDERS = (*handover.VARIABLES, *(one.name for one in capabilities.ALL.values() if one.takes_key))

app = typer.Typer(help="Provider keys, kept in the state folder and never printed.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("set")
def set_key(
    name: Annotated[str, typer.Argument(help="The provider, such as anthropic.")], as_json: AsJson = False
) -> None:
    """Keep a key, asked for without echo or read from standard input."""
    if name not in PROVIDERS:
        raise BadInputError(f"There is no provider {name!r}: keys are kept for {', '.join(PROVIDERS)}.")
    value = getpass.getpass(f"Key of {name}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not value.strip():
        raise BadInputError("The key is empty.")
    Keys(Settings().state_dir).set(name, value.strip())
    output.print_json({"set": name}) if as_json else output.print_lines([f"The key of {name} is kept."])


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Name the providers that have a key."""
    names = list(Keys(Settings().state_dir).list())
    output.print_json({"keys": names}) if as_json else output.print_lines(names or ["no key is kept"])


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The provider.")], as_json: AsJson = False) -> None:
    """Forget a key."""
    Keys(Settings().state_dir).remove(name)
    output.print_json({"removed": name}) if as_json else output.print_lines([f"The key of {name} is forgotten."])
