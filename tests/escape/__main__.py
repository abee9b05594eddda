"""`python -m tests.escape`: every trick on every adapter, the table of what came of them, and the figures in docs/."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.escape.cases import everything

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "threat-model.md"
WITHOUT_EXCUSE = ("local", "docker")
"""Adapters that every machine could have; runsc is a runtime that an admin installs."""


class Told:
    """What the tests said of each case."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a case recorded."""
        if report.when == "call":
            self.words += [value for name, value in report.user_properties if name == "escape"]  # type: ignore[misc]


def main() -> int:
    """Run the suite; not 0 when anything was not contained, not shown to matter, or not run."""
    told, begun = Told(), time.monotonic()
    code = int(pytest.main([str(HERE), "-q", "-p", "no:randomly", *sys.argv[1:]], plugins=[told]))
    # Not before: pytest wants to see its plugins' modules imported by itself.
    from tests.escape import figures

    table = figures.rows(everything(), told.words)
    sys.stdout.write(figures.text(table) + "\n")
    found = {one.adapter: one for one in figures.sums(table)}
    not_run = [adapter for adapter in WITHOUT_EXCUSE if adapter not in found]
    if not_run:
        sys.stdout.write(f"not run at all: {', '.join(not_run)}\n")
    is_whole = not not_run and not sys.argv[1:]
    if is_whole:
        figures.write(DOCUMENT, figures.block(table, time.monotonic() - begun))
    held = all(one.tried == one.contained == one.controls for one in found.values())
    return code or int(not_run != [] or not held)


if __name__ == "__main__":
    sys.exit(main())
