"""The leak counter finds what is left, of each kind, and only of installations below the folder that it is shown."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Bench
from tests.leaks import left_by_all

KINDS = {
    "local": {"run", "mounts", "loops", "cgroups", "uids", "processes"},
    "docker": {"run", "mounts", "loops", "cgroups", "uids", "processes", "containers"},
}


@pytest.mark.parametrize(
    "bench",
    [
        pytest.param("local", marks=pytest.mark.local),
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.alone]),
    ],
    indirect=True,
)
def test_everything_that_an_execution_has_is_counted_until_it_is_removed(bench: Bench) -> None:
    name = bench.launch("sleep", "30")
    found = left_by_all(bench.folder, patience_s=0.0)
    assert set(found) == {str(bench.state_dir)}
    assert set(found[str(bench.state_dir)]) == KINDS[bench.adapter]
    (bench.folder / "beside").mkdir()
    assert left_by_all(bench.folder / "beside", patience_s=0.0) == {}
    bench.sandbox.remove(name)
    assert left_by_all(bench.folder) == {}
