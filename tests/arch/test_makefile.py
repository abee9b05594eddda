"""The Makefile is a list of commands, each with a sentence, and holds no program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RECIPE_LINES = 3


@pytest.fixture(scope="module")
def makefile(root: Path) -> str:
    return (root / "Makefile").read_text(encoding="utf-8")


def test_every_target_says_what_it_does(makefile: str) -> None:
    targets = re.findall(r"^([a-z-]+):(?!=)(.*)$", makefile, re.MULTILINE)
    assert [name for name, rest in targets if "## " not in rest] == []
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    assert {name for name, _ in targets} == phony


def test_every_recipe_is_short(makefile: str) -> None:
    recipes = re.findall(r"^([a-z-]+):(?!=).*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert [name for name, recipe in recipes if recipe.count("\n") > RECIPE_LINES] == []


def test_every_script_it_starts_is_there_and_can_be_started(root: Path, makefile: str) -> None:
    for name in set(re.findall(r"(?<!\S)@?(scripts/\w+)(?=\s)", makefile)):
        assert (root / name).stat().st_mode & 0o111, name
