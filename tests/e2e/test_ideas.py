"""A direction of several ideas, each confirmed, is killed and resumed: all end, and nothing is run twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import ideas
from tests import leaks

pytestmark = [pytest.mark.kill, pytest.mark.local, pytest.mark.latex]


def test_ideas_end_and_nothing_is_run_twice_though_the_command_is_killed(tmp_path: Path, lab_dir: Path) -> None:
    told = ideas.carry_out(tmp_path, lab_dir, ideas=2, kills=1)
    leaks.remove_empty_run_folders(tmp_path)
    assert told["wrong"] == []
    assert told["kills"] == 1
    assert len(told["labels"]) == 2
    assert all(label and "screen_only" not in label for label in told["labels"].values())
    # Two screened runs with their baseline, the pool, and a look or two for each idea.
    assert 6 <= told["runs"] <= 8
