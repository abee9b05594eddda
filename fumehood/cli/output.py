"""What commands print: progress while they work, tables and sentences when they are done."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fumehood.domain.step import Event

WIDTH = 132
"""Columns of a table that goes to a file or another program."""


class Progress:
    """Shows events as they come: a spinner above plain lines on a terminal, plain lines elsewhere."""

    def __init__(self, *, as_json: bool) -> None:
        self._console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._status: Status | None = None

    def start(self, text: str) -> None:
        """Show what is under way."""
        if self._console.is_terminal:
            self._status = self._console.status(Text(visible(text)))
            self._status.start()
        else:
            self._line(text)

    def event(self, event: Event) -> None:
        """Show one event."""
        self._line(event.text)
        if self._status:
            self._status.update(Text(visible(event.text)))

    def say(self, text: str) -> None:
        """Show one line."""
        self._line(text)

    def stop(self) -> None:
        """End the display."""
        if self._status:
            with contextlib.suppress(OSError):  # the terminal may be gone, and what ends is told elsewhere
                self._status.stop()

    def _line(self, text: str) -> None:
        elapsed = int(time.monotonic() - self._began)
        self._console.print(f"[{elapsed // 60:02d}:{elapsed % 60:02d}] {visible(text)}", markup=False)


COLUMNS = {"experiment": 13, "runs": 6, "outcome": 12, "label": 14, "score": 6, "state": 9}
"""The results table's columns, each as wide as its longest word, or as 80 columns allow; nothing in them is cut."""


def results_table(summary: Mapping[str, Any]) -> Table:
    """Return the results table of a direction."""
    table = Table(title=f"{summary['template']} · {summary['model']} · {summary['profile']}")
    for name, least in COLUMNS.items():
        table.add_column(name, overflow="fold", min_width=least, max_width=least if name == "score" else None)
    for line in summary["experiments"]:
        measured = sum(result == "measured" for result in line["runs"].values())
        score = "not judged" if line["score"] is None else str(line["score"])
        table.add_row(
            line["name"],
            f"{measured} of {len(line['runs'])}",
            str(line["outcome"] or "-"),
            str(line["label"] or "-"),
            score,
            str(line["state"]),
        )
    for refused in summary["refused"]:
        table.add_row(refused["name"], "-", "-", str(refused["verdict"]).replace("_", " "), "-", "refused")
    return table


def reasons(summary: Mapping[str, Any]) -> Iterable[str]:
    """Return why each idea that was not carried out was refused."""
    return [f"{refused['name']} was refused: {refused['reason']}" for refused in summary["refused"]]


def reviews(experiments: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Return what was checked of the papers, wrapped: once for all papers of which the same was."""
    names: dict[tuple[str, ...], list[str]] = {}
    for line in experiments:
        if line["paper"]:
            names.setdefault(tuple(str(one) for one in line["reviewed"]), []).append(str(line["name"]))
    for checked, papers in names.items():
        text = f"review of {', '.join(papers)} checked: {', '.join(checked) or 'nothing'}"
        yield from textwrap.wrap(text, _width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def totals(summary: Mapping[str, Any], asked: int | None = None) -> str:
    """Return a direction's row of the results table as one line; with how many ideas were asked, if fewer came."""
    mean = "not judged" if summary["mean_score"] is None else f"{summary['mean_score']:.2f}"
    highest = "not judged" if summary.get("max_score") is None else f"{summary['max_score']:g}"
    fewer = f" of {asked} asked" if asked is not None and summary["ideas"] < asked else ""
    return (
        f"ideas {summary['ideas']}{fewer}, novel {summary['novel']}, novelty unknown {summary['novelty_unknown']}, "
        f"experiments passed {summary['experiments_passed']}, papers {summary['papers']}, "
        f"mean score {mean}, max score {highest}, cost {summary['cost_usd']:.2f} USD"
    )


def print_json(value: object) -> None:
    """Print one JSON document, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_lines(lines: Iterable[str], *, error: bool = False) -> None:
    """Print lines, but for what could steer the terminal."""
    (sys.stderr if error else sys.stdout).write("".join(f"{visible(line)}\n" for line in lines))


def print_program(text: str) -> None:
    """Print what a program printed, at once."""
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def visible(text: str) -> str:
    """Return a text that a program or a model may have a part in; what could steer the terminal is replaced."""
    told = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(one if one in "\n\t" or one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in told)


def print_table(table: Table) -> None:
    """Print a table."""
    Console(width=_width()).print(table)


def _width() -> int:
    console = Console()
    return console.width if console.is_terminal else WIDTH
