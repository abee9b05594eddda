"""`fumehood keys`: provider keys, never printed."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from fumehood.cli import checks, handover, output
from fumehood.errors import BadInputError
from fumehood.gateway import credentials
from fumehood.gateway.keys import VARIABLES, Keys, checked
from fumehood.settings import Settings
from sandbox.egress import capabilities

app = typer.Typer(help="Provider keys, kept in the state folder and never printed.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("set")
def set_key(
    name: Annotated[str, typer.Argument(help="The provider, such as anthropic.")], as_json: AsJson = False
) -> None:
    """Keep a key, asked for without echo or read from standard input."""
    settings = Settings()
    of_models = checks.table(settings).keys()
    known = (*of_models, *(one.name for one in capabilities.ALL.values() if one.takes_key))
    if name not in known:
        raise BadInputError(f"There is no provider {name!r}: keys are kept for {', '.join(known)}.")
    value = getpass.getpass(f"Key of {name}: ") if sys.stdin.isatty() else _read()
    if not value.strip():
        raise BadInputError("The key is empty.")
    credentials.check(of_models.get(name, ""), checked(name, value))
    Keys(settings.state_dir).set(name, value)
    wins = f" {VARIABLES[name]} is set, and wins." if name in handover.names() else ""
    output.print_json({"set": name}) if as_json else output.print_lines([f"The key of {name} is kept.{wins}"])


def _read() -> str:
    """Return a line, or all of it where it begins as a service account's JSON does, which is a file of many lines."""
    line = sys.stdin.readline()
    return line + sys.stdin.read() if line.lstrip().startswith("{") else line


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
