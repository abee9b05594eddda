"""Each trick is contained, and each succeeds once the one protection that stands against it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.escape.cases import INCIDENTS, PROGRAMS, Case, everything
from tests.escape.conftest import ways
from tests.escape.figures import HELD, UNCOUNTED
from tests.escape.scene import contained, succeeded
from tests.escape.stage import WITHOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.escape.conftest import Escapes

CASES = everything()
FEWEST = 60


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("escape_of", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize(("adapter", "mode"), ways())
def test_escape(
    adapter: str, escape_of: Case, mode: str, escapes: Escapes, record_property: Callable[[str, object], None]
) -> None:
    why_not = escape_of.why_not(adapter)
    if why_not and mode == WITHOUT:
        record_property("escape", [adapter, escape_of.name, mode, UNCOUNTED, why_not])
        pytest.xfail(why_not)
    judge = succeeded if mode == WITHOUT else contained
    found = judge(escape_of, escapes.of(adapter, escape_of, mode))
    record_property("escape", [adapter, escape_of.name, mode, "" if found else HELD, "; ".join(found)])
    assert found == []


def test_there_are_enough_cases_and_none_is_forgotten() -> None:
    assert len(CASES) >= FEWEST
    assert {case.name for case in CASES} == {path.stem for path in PROGRAMS.glob("*.py")}
    assert set(INCIDENTS) <= {case.name for case in CASES}
    assert all(case.name.startswith(f"{case.promise.lower()}_") for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_case_has_its_control_on_each_adapter(case: Case) -> None:
    for adapter in ("local", "docker"):
        assert case.off(adapter) or case.why_not(adapter), adapter
