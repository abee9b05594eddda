"""Commands that ask a server: submit, list, watch, show, cancel, paper and feedback."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fumehood.artifacts.files import new_file, write_all
from fumehood.cli import following, options, output
from fumehood.cli.options import AsJson, SandboxOption, Url
from fumehood.cli.remote import Server
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import Verdict
from fumehood.domain.ids import IDEA_NAME, ULID, DirectionId
from fumehood.errors import BadInputError, NotFoundError
from fumehood.settings import Settings

app = typer.Typer()
KINDS = {"dir": "directions", "exp": "experiments", "run": "runs"}
"""What an id's prefix is called in addresses."""
Id = Annotated[str, typer.Argument(metavar="ID", help="An id, such as dir_01kaw3v6rsv2xq8s5y9m4tz7hn.")]
SHOWN = ("id", "state", "hold", "template", "model", "profile", "ideas", "runs")


@app.command()
def submit(
    template: Annotated[str, typer.Option(help="A shipped template's name.")],
    text: options.Text = None,
    ideas: options.Ideas = 50,
    runs: options.Runs = 5,
    model: options.Model = "offline",
    review_model: options.ReviewModel = None,
    profile: options.Profile = "cpu",
    sandbox: SandboxOption = "auto",
    novelty: options.NoveltyCheck = "on",
    budget_usd: options.Budget = None,
    budget_experiment_usd: options.ExperimentBudget = None,
    budget_call_usd: options.CallBudget = None,
    budget_gpu_s: options.GpuBudget = None,
    budget_wall_s: options.WallBudget = None,
    priority: Annotated[int, typer.Option(help="From -5 to 5: among one's own, a higher one goes first.")] = 0,
    parent: Annotated[
        str | None, typer.Option(metavar="EXPERIMENT", help="A confirmed experiment whose code is the new baseline.")
    ] = None,
    strategy: options.Strategy = "list",
    seed: options.Seed = 0,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Submit a research direction to a server."""
    asked = {
        "template": template,
        "text": text,
        "model": model,
        "review_model": review_model,
        "profile": profile,
        "ideas": ideas,
        "runs": runs,
        "novelty": novelty == "on",
        "seed": seed,
        "sandbox": sandbox,
        "budget": {
            "usd": budget_usd,
            "usd_per_experiment": budget_experiment_usd,
            "usd_per_call": budget_call_usd,
            "gpu_seconds": budget_gpu_s,
            "wall_s": budget_wall_s,
        },
        "priority": priority,
        "parent": parent,
        "strategy": strategy,
    }
    with Server.of(Settings(), url) as server:
        direction = server.post("/v1/directions", asked)
        if watch_it:
            output.print_lines([f"submitted {direction['id']}"], error=as_json)
            _watch(server, direction["id"], as_json=as_json)
    if as_json:
        output.print_json(direction)
    else:
        output.print_lines([f"submitted {direction['id']}; `fumehood watch {direction['id']}` follows it"])


@app.command("list")
def list_directions(
    state: Annotated[DirectionState | None, typer.Option(help="Only those in this state.")] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """List a server's directions, oldest first."""
    with Server.of(Settings(), url) as server:
        found = list(server.pages("/v1/directions", **({"state": state.value} if state else {})))
    if as_json:
        output.print_json(found)
        return
    table = Table(*SHOWN)
    for one in found:
        table.add_row(*(str(one[name]) for name in SHOWN))
    output.print_table(table)


@app.command()
def watch(known: Id, url: Url = "", as_json: AsJson = False) -> None:
    """Follow a direction to its end; the exit status is 0 where it is done, else 1."""
    kind_of(known, "dir")
    with Server.of(Settings(), url) as server:
        _watch(server, known, as_json=as_json)


def _watch(server: Server, known: str, *, as_json: bool) -> None:
    progress = output.Progress(as_json=as_json)
    progress.start(f"following {known}")
    try:
        following.follow(server, DirectionId(known), progress)
    finally:
        progress.stop()
    direction = server.get(f"/v1/directions/{known}")
    summary = next(server.pages("/v1/reports/summary", direction=known))
    if as_json:
        output.print_json({"direction": direction, "summary": summary})
    else:
        output.print_table(output.results_table(summary))
        output.print_lines([output.totals(summary, direction["ideas"]), *output.reasons(summary)])
        output.print_lines(output.reviews(summary["experiments"]))
        output.print_lines([f"{known} is {direction['state']}{_because(direction)}"])
        if summary["papers"]:
            output.print_lines([f"`fumehood paper {known}` fetches its papers"])
    raise typer.Exit(0 if direction["state"] == DirectionState.DONE else 1)


def _because(direction: Mapping[str, Any]) -> str:
    return f": {direction['error']}" if direction["error"] else ""


@app.command()
def show(
    known: Id,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of a run: print what its program prints, to its end.")
    ] = False,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Show a direction with its experiments, an experiment with its runs, or a run; `--follow` is a run's log."""
    path = f"/v1/{kind_of(known, *(['run'] if follow else KINDS))}/{known}"
    with Server.of(Settings(), url) as server:
        if follow:
            _follow_log(server, known, as_json=as_json)
            return
        found = server.get(path)
        inner = {"dir": "experiments", "exp": "runs"}.get(known.partition("_")[0])
        if inner:
            found[inner] = list(server.pages(f"{path}/{inner}"))
        if inner == "experiments" and Hold.POLICY in {found["hold"], *(one["hold"] for one in found[inner])}:
            ideas = server.pages(f"{path}/ideas")
            found["waiting"] = [f"{one['name']} ({one['id']}): {one['waits_for']}" for one in ideas if one["waits_for"]]
    if as_json:
        output.print_json(found)
    else:
        output.print_lines(lines(found))


def _follow_log(server: Server, run_id: str, *, as_json: bool) -> None:
    """Print a run's log as it comes; as JSON, only what it was in the end."""
    verdict, texts = "", list[str]()
    for text, word in following.printed(server, run_id):
        verdict = word
        if as_json:
            texts.append(text)
        else:
            output.print_program(text)
    if as_json:
        output.print_json({"run": run_id, "verdict": verdict, "log": "".join(texts)})
    else:
        output.print_lines([f"{run_id}: {verdict}"], error=True)
    raise typer.Exit(0 if verdict == Verdict.SUCCEEDED else 1)


def lines(found: Mapping[str, Any], margin: str = "") -> Iterator[str]:
    """Return what a server says of a thing, a line for each field; what is empty is left out."""
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{margin}{name}:"
            for one in value:
                yield from lines(one, f"{margin}  ")
                yield ""
        elif isinstance(value, dict):
            yield f"{margin}{name}:"
            yield from lines(value, f"{margin}  ")
        elif value not in ("", None, [], ()):
            yield f"{margin}{name}: {_shown(name, value)}"


def _shown(name: str, value: Any) -> Any:
    """Return a field's value in words: several with commas, and when something was, in a clock's words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if name.rpartition("_")[2] == "at" and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    return value


@app.command()
def cancel(known: Id, url: Url = "", as_json: AsJson = False) -> None:
    """Cancel a direction; what runs of it is stopped."""
    kind_of(known, "dir")
    with Server.of(Settings(), url) as server:
        found = server.post(f"/v1/directions/{known}/cancel")
    output.print_json(found) if as_json else output.print_lines([f"{known} is {found['state']}"])


@app.command()
def feedback(
    known: Id,
    text: Annotated[str, typer.Argument(help="What the next step is to read.")],
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Say something about a direction or an experiment, which its next step reads."""
    kind = kind_of(known, "dir", "exp")
    with Server.of(Settings(), url) as server:
        found = server.post(f"/v1/{kind}/{known}/feedback", {"text": text})
    output.print_json(found) if as_json else output.print_lines([f"said of {known}"])


@app.command()
def paper(
    known: Id,
    out: Annotated[
        Path | None,
        typer.Option(help="An experiment's file, or a direction's folder.", parser=options.folder, metavar="PATH"),
    ] = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Fetch an experiment's paper, or all papers of a direction; a file that is there is never written over."""
    is_direction = kind_of(known, "dir", "exp") == "directions"
    with Server.of(Settings(), url) as server:
        found = _with_papers(server, known) if is_direction else [server.get(f"/v1/experiments/{known}")]
        told = []
        for one in found:
            place = (out or Path()) / file_name(one) if is_direction or out is None else out
            told.append({"experiment": one["id"], "name": one["name"], "path": str(place)})
            _write(place, server.download(f"/v1/experiments/{one['id']}/paper"))
    output.print_json({"papers": told}) if as_json else output.print_lines(one["path"] for one in told)


def _with_papers(server: Server, known: str) -> Iterable[Mapping[str, Any]]:
    found = [one for one in server.pages(f"/v1/directions/{known}/experiments") if one["has_paper"]]
    if not found:
        raise NotFoundError(f"{known} has no paper yet.")
    return found


def file_name(experiment: Mapping[str, Any]) -> str:
    """Return an experiment's file; a name that a server could lead out of the folder with is not used."""
    name = str(experiment["name"])
    if not IDEA_NAME.fullmatch(name):
        raise BadInputError(f"{name!r} is no experiment's name: give --out.")
    return f"{name}.pdf"


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with new_file(place.parent, 0o644) as (handle, new):
        write_all(handle, data)
        try:
            # Unlike a rename, it refuses a name that is taken.
            place.hardlink_to(new)
        except FileExistsError as error:
            raise BadInputError(f"{place} is there already: give another --out.") from error


def kind_of(known: str, *allowed: str) -> str:
    """Return what an id is called in addresses; `BadInputError` for what is no id of the kinds allowed."""
    prefix = known.partition("_")[0]
    if prefix not in allowed or not re.fullmatch(rf"{prefix}_{ULID}", known):
        wanted = " or ".join(f"{one}_..." for one in allowed)
        raise BadInputError(f"{known!r} is no id that this command takes: it is {wanted}.")
    return KINDS[prefix]
