"""`fumehood report`: the results table of a server or of this machine's state folder, in several formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from fumehood.cli import output
from fumehood.cli.client import kind_of
from fumehood.cli.options import AsJson, Url
from fumehood.cli.remote import PAGE, Server
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import NotFoundError
from fumehood.latex.text import escape
from fumehood.services import browsing
from fumehood.settings import Settings
from worker import worlds

Row = Mapping[str, Any]
COLUMNS: Mapping[str, str] = {
    "direction": "direction",
    "model": "model",
    "template": "template",
    "ideas": "ideas",
    "novel": "novel",
    "experiments_passed": "experiments passed",
    "papers": "papers",
    "mean_score": "mean score",
    "max_score": "max score",
    "cost_usd": "cost (USD)",
}
TOKENS: Mapping[str, str] = {
    "direction": "direction",
    "stage": "stage",
    "calls": "calls",
    "input_tokens": "input",
    "cached_tokens": "from the cache",
    "output_tokens": "output",
    "usd": "cost (USD)",
}
TEXTS = ("direction", "model", "template", "stage")

app = typer.Typer()


@app.command()
def report(
    direction: Annotated[str | None, typer.Option(metavar="ID", help="Only this direction.")] = None,
    form: Annotated[
        Literal["table", "csv", "json", "latex"], typer.Option("--format", help="How it is printed.")
    ] = "table",
    by_tokens: Annotated[
        bool, typer.Option("--tokens", help="Tell the tokens of each stage instead, and how many a cache spared.")
    ] = False,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Print the results table: of a server where one is named, else of this machine's own state folder."""
    if direction is not None:
        kind_of(direction, "dir")
    settings = Settings()
    rows = list(_asked(settings, url, direction) if url or settings.url else _local(settings, direction))
    columns = TOKENS if by_tokens else COLUMNS
    if by_tokens:
        rows = [{"direction": row["direction"], **line} for row in rows for line in row["usage"]]
    if as_json or form == "json":
        output.print_json(rows)
    elif form == "table":
        output.print_table(table(rows, columns))
    else:
        output.print_lines(WRITERS[form](rows, columns))


def _asked(settings: Settings, url: str, direction: str | None) -> Iterator[Row]:
    with Server.of(settings, url) as server:
        yield from server.pages("/v1/reports/summary", **({"direction": direction} if direction else {}))


def _local(settings: Settings, direction: str | None) -> Iterator[Row]:
    if not settings.database_url and not settings.state_dir.exists():
        raise NotFoundError(f"There is no state folder {settings.state_dir} yet: name a server with --url.")
    worlds.prepare_state(settings)
    store, artifacts = worlds.store_of(settings), worlds.artifacts_of(settings)
    try:
        shelf = browsing.Shelf(store, LOCAL_TENANT)
        after: str | None = None
        while page := shelf.summaries(artifacts, after, PAGE, direction):
            yield from (row for _, row in page)
            if direction:
                return
            after = page[-1][0]
    finally:
        store.close()


def cells(row: Row, columns: Mapping[str, str] = COLUMNS) -> list[str]:
    """Return a row as texts; papers that nobody judged have no score, and where there is no paper a dash stands."""
    if columns is TOKENS:
        return [f"{row[name]:.4f}" if name == "usd" else str(row[name]) for name in columns]
    shown = {**row, "cost_usd": f"{row['cost_usd']:.2f}"}
    for name in ("mean_score", "max_score"):
        unknown = "not judged" if row["papers"] else "-"
        shown[name] = unknown if row[name] is None else f"{row[name]:.2f}"
    return [str(shown[name]) for name in COLUMNS]


def table(rows: Iterable[Row], columns: Mapping[str, str] = COLUMNS) -> Table:
    """Return the rows as a table for people."""
    made = Table()
    for name, title in columns.items():
        is_text = name in TEXTS
        made.add_column(title, overflow="fold", no_wrap=name == "direction", justify="left" if is_text else "right")
    for row in rows:
        made.add_row(*cells(row, columns))
    return made


def as_csv(rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> Iterator[str]:
    """Return the rows as lines of CSV; what is not known is empty."""
    for line in [list(columns), *([row[name] for name in columns] for row in rows)]:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(line)
        yield text.getvalue()


def as_latex(rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> Iterator[str]:
    """Return the rows as a LaTeX table, for the package booktabs."""
    yield rf"\begin{{tabular}}{{{''.join('l' if name in TEXTS else 'r' for name in columns)}}}"
    yield r"\toprule"
    yield " & ".join(columns.values()) + r" \\"
    yield r"\midrule"
    for row in rows:
        yield " & ".join(map(escape, cells(row, columns))) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


WRITERS: Mapping[str, Callable[[Sequence[Row], Mapping[str, str]], Iterable[str]]] = {"csv": as_csv, "latex": as_latex}
