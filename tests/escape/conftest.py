"""Every case on every adapter that this machine has or could have, carried out in batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sandbox import docker_engine
from tests.escape.cases import Case
from tests.escape.scene import Seen
from tests.escape.stage import AS_IT_IS, WITHOUT, Stage


@cache
def runtimes() -> frozenset[str]:
    """Return the runtimes that the engine has; none where it does not answer."""
    try:
        return frozenset(docker_engine.connect().client.info()["Runtimes"])
    except Exception:  # noqa: BLE001 - the cases of that adapter then fail and say why
        return frozenset()


def ways() -> list[Any]:
    """Return each adapter with each mode; where an adapter is missing its cases fail, and are not skipped.

    Another runtime is the same adapter, whose controls were shown under the first one.
    """
    marks = {"local": pytest.mark.local, "docker": pytest.mark.docker}
    found = [(adapter, mode, mark) for adapter, mark in marks.items() for mode in (AS_IT_IS, WITHOUT)]
    if "runsc" in runtimes():
        found.append(("docker-runsc", AS_IT_IS, pytest.mark.docker))
    return [pytest.param(adapter, mode, marks=mark, id=f"{adapter}-{mode}") for adapter, mode, mark in found]


class Escapes:
    """What came of the cases that were chosen; an adapter's are all carried out when its first one is asked for."""

    def __init__(self, wanted: list[tuple[str, Case, str]], folder: Callable[[str], Path]) -> None:
        self._wanted, self._folder = wanted, folder
        self._found: dict[str, dict[tuple[str, str], Seen | BaseException]] = {}

    def of(self, adapter: str, case: Case, mode: str) -> Seen:
        """Return what was seen of one case."""
        if adapter not in self._found:
            wanted = [(case, mode) for name, case, mode in self._wanted if name == adapter]
            wanted = [one for one in wanted if one[1] == AS_IT_IS or not one[0].why_not(adapter)]
            stage = Stage(adapter, self._folder(adapter))
            try:
                self._found[adapter] = stage.play_all(wanted)
            finally:
                stage.close()
        seen = self._found[adapter][case.name, mode]
        if isinstance(seen, BaseException):
            raise seen
        return seen


@pytest.fixture(scope="session")
def escapes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Escapes:
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    told: list[dict[str, Any]] = [item.callspec.params for item in items if "escape_of" in item.callspec.params]
    wanted = [(one["adapter"], one["escape_of"], one["mode"]) for one in told]
    return Escapes(wanted, tmp_path_factory.mktemp)
