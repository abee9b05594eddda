"""Laboratories for tests of services, closed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.laboratory import Laboratory


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Laboratory]]:
    made: list[Laboratory] = []

    def make(**parts: Any) -> Laboratory:
        made.append(Laboratory(tmp_path / f"lab_{len(made)}", **parts))
        return made[-1]

    yield make
    for lab in made:
        lab.artifacts.close()


@pytest.fixture
def lab(make_lab: Callable[..., Laboratory]) -> Laboratory:
    return make_lab()
