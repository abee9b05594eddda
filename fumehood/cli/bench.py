"""`fumehood bench ...`: the project's own measurements, as a table and as JSON."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fumehood.cli import gateway_figures, options, output, queue_figures
from fumehood.errors import BadInputError, MachineUnfitError, WorkFailedError
from fumehood.settings import Settings
from sandbox import overhead as measuring
from sandbox.choose import choose
from worker import worlds

if TYPE_CHECKING:
    from fumehood.ports import Sandbox

app = typer.Typer(help="Measure this machine's own figures.", no_args_is_help=True, add_completion=False)
RESULTS = Path("bench/results")


@app.command("overhead")
def overhead(
    turns: Annotated[int, typer.Option("--turns", "-n", min=3, help="How often each way is taken.")] = 30,
    adapter: Annotated[str, typer.Option(help="auto (both), docker or local.")] = "auto",
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Measure what a sandbox costs beside bare `docker run` of the same image."""
    settings = Settings()
    found: dict[str, Any] = {name: _sandbox(name, settings, adapter) for name in ("local", "docker")}
    told = measuring.measure(found["local"], found["docker"], turns, _say)
    _keep(told, results, "overhead", table(told), as_json=as_json)


@app.command("queue")
def queue(
    turns: Annotated[int, typer.Option("--turns", "-n", min=3, help="How many submits are timed one by one.")] = 50,
    clients: Annotated[int, typer.Option(min=1, max=200, help="How many submit at once.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long they do.")] = 10.0,
    streams: Annotated[int, typer.Option(min=1, max=900, help="How many follow events.")] = 500,
    sandbox: Annotated[str, typer.Option(help="docker or local, to launch what is wanted too.")] = "",
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Measure what a submit costs, on a PostgreSQL and a Redis that are started for it."""
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-", dir="/var/tmp") as folder:
        told = queue_figures.measure(
            Path(folder),
            turns=turns,
            clients=clients,
            seconds=seconds,
            streams=streams,
            sandbox=sandbox,
            lab=worlds.lab_folder(Settings()),
            say=_say,
        )
    _keep(told, results, "queue", queue_figures.table(told), as_json=as_json)


@app.command("gateway")
def gateway(
    turns: Annotated[int, typer.Option("--turns", "-n", min=3, help="How many calls are timed one by one.")] = 200,
    streams: Annotated[int, typer.Option(min=1, max=240, help="How many streams are read at once.")] = 100,
    database: Annotated[str, typer.Option(help="sqlite, as for one machine, or postgresql.")] = "sqlite",
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Measure what the gateway adds to a model call, beside asking a stand-in for the provider directly."""
    if database not in {"postgresql", "sqlite"}:
        raise BadInputError(f"--database is postgresql or sqlite, not {database!r}.")
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-", dir="/var/tmp") as folder:
        told = gateway_figures.measure(Path(folder), turns=turns, streams=streams, database=database, say=_say)
    _keep(told, results, f"gateway-{database}", gateway_figures.table(told), as_json=as_json)


@app.command("statistics")
def statistics(
    directions: Annotated[int, typer.Option("--directions", "-n", min=2, help="How many, for each row.")] = 1000,
    pairs: Annotated[int, typer.Option(min=2, help="How many runs whose effect differs between data sets.")] = 4000,
    quiet: Annotated[int, typer.Option(min=1, help="How many directions without any effect.")] = 20,
    planted: Annotated[int, typer.Option(min=1, help="How many directions with one effect to find.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 1,
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Measure how often the confirmation's rule is wrong, and what it finds, on simulated directions."""
    from fumehood.cli import statistics_figures

    told = statistics_figures.measure(
        directions=directions, pairs=pairs, quiet=quiet, planted=planted, seed=seed, say=_say
    )
    _keep(told, results, "statistics", statistics_figures.table(told), as_json=as_json)


@app.command("redteam")
def redteam(
    adapter: Annotated[str, typer.Option(help="The sandbox: local or docker.")] = "local",
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many cases at once.")] = 2,
    family: Annotated[str, typer.Option(help="Only the family whose name holds this.")] = "",
    template: Annotated[str, typer.Option(help="Only edits of the template whose name holds this.")] = "",
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Let the platform judge planted cheats and honest edits that look like them."""
    planted = _of_checkout("bench.redteam")
    settings = Settings()
    lab = worlds.lab_folder(settings).resolve()
    told = planted.measure(
        sandbox=lambda state: choose(adapter, settings.model_copy(update={"state_dir": state, "lab_dir": lab})),
        say=_say,
        workers=workers,
        chosen=lambda case: family in case.family and template in case.over,
    )
    if family or template:
        output.print_lines([json.dumps(told, indent=2)] if as_json else planted.table(told))
    else:
        _keep(told, results, "redteam", planted.table(told), as_json=as_json)
    raise typer.Exit(0 if told["detected"] == told["planted"] else 1)


@app.command("templates")
def templates(
    template: Annotated[list[str] | None, typer.Option(help="A shipped template's name; all without it.")] = None,
    profile: Annotated[str, typer.Option(help="Of each of them.")] = "tiny",
    seeds: Annotated[int, typer.Option(min=0, help="How many; 0 takes the profile's own.")] = 0,
    results: Annotated[
        Path, typer.Option(help="The folder for the JSON file.", parser=options.folder, metavar="PATH")
    ] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Measure what a profile of the shipped templates costs and comes to, with the lab's packages and no sandbox."""
    measured = _of_checkout("bench.templates")
    known = measured.names()
    if unknown := sorted(set(template or ()) - set(known)):
        raise BadInputError(f"No template is called {unknown[0]!r}; there are {', '.join(known)}.")
    for name in template or known:
        if profile not in (has := measured.profiles(name)):
            raise BadInputError(f"{name} has no profile {profile!r}; it has {', '.join(has)}.")
    lab = worlds.lab_folder(Settings())
    try:
        python = json.loads((lab / "lab.json").read_text(encoding="utf-8"))["python"]
    except OSError as error:
        raise MachineUnfitError("There is no lab with the templates' packages.", remedy="Run `make setup`.") from error
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-", dir="/var/tmp") as folder:
        command = [python, "-s", measured.__file__, f"--profile={profile}", f"--seeds={seeds}", f"--results={folder}"]
        command += [f"--template={name}" for name in template or known]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(lab / "site-packages")}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": folder}
        done = subprocess.run(command, env=environment, stdout=sys.stderr.fileno(), check=False)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("templates-*.json")]
    if done.returncode or not found:
        raise WorkFailedError("The measurement ended with an error, which stands above.")
    lines = (line for one in found[0]["profiles"] for line in measured.table(one))
    _keep(found[0], results, f"templates-{profile}", lines, as_json=as_json)


def _of_checkout(module: str) -> Any:
    """Return what lies in the repository, and in no installed package."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MachineUnfitError(
            f"{module} is not here ({error}).", remedy="Run this in a checkout of the repository."
        ) from error


def _keep(told: dict[str, Any], results: Path, name: str, lines: Iterable[str], *, as_json: bool) -> None:
    """Write a measurement down and print it."""
    place = results / f"{name}-{time.strftime('%Y-%m-%d')}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    output.print_lines([json.dumps(told, indent=2)] if as_json else [*lines, f"written to {place}"])


def _sandbox(name: str, settings: Settings, asked: str) -> Sandbox | None:
    """Return one adapter; with `auto` the one that this machine lacks is left out, and that is said."""
    if asked not in {"auto", name}:
        return None
    try:
        return choose(name, settings)
    except MachineUnfitError as error:
        if asked == name:
            raise
        _say(f"without the {name} sandbox: {error}")
        return None


def table(told: dict[str, Any]) -> Iterable[str]:
    """Return a measurement as lines."""
    width = max(len(row["name"]) for row in told["rows"])
    yield f"{'':{width}}  {'p50 ms':>9} {'p95 ms':>9}  to bare"
    for row in told["rows"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:8.2f}"
        yield f"{row['name']:{width}}  {row['p50_ms']:9.1f} {row['p95_ms']:9.1f} {ratio}"
    for one in told["targets"]:
        said = "met" if one["met"] else "NOT MET"
        yield f"{one['adapter']}: {one['name']} {one['measured']:.1f}, at most {one['most']:.0f} asked: {said}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
