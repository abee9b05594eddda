"""The tree in the README is the tree that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GLYPHS = re.compile(r"^[├└]─+ ")


@pytest.fixture(scope="module")
def named(root: Path) -> set[str]:
    """The top-level entries of the README's tree: the first words of each line that is not indented."""
    blocks = re.findall(
        r"^```\w*\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    trees = [block for block in blocks if re.search(r"^(?:[├└]─+ )?fumehood/(?:\s|$)", block, re.MULTILINE)]
    assert len(trees) == 1, "the README has one code block that shows the tree, with a line for fumehood/"
    lines = [GLYPHS.sub("", line) for line in trees[0].splitlines()]
    return {entry for line in lines if line[:1] not in {"", " ", "│", "."} for entry in entries(line)}


def entries(line: str) -> list[str]:
    """Return the names that a line of the tree begins with; what says what they are follows after two spaces."""
    names: list[str] = []
    for field in re.split(r"\s{2,}|\s+#", line.strip()):
        if names and not re.fullmatch(r"[\w.*-]+(/|\.\w+|\.\*)|Makefile|LICENSE", field):
            break
        names.append(field)
    return names


def test_what_the_readme_names_is_there(root: Path, named: set[str]) -> None:
    assert sorted(entry for entry in named if not list(root.glob(entry.rstrip("/")))) == []


def test_every_folder_is_named_in_the_readme(root: Path, named: set[str], repository_files: list[Path]) -> None:
    folders = {path.relative_to(root).parts[0] for path in repository_files if path.parent != root}
    shown = {entry.rstrip("/") for entry in named}
    assert sorted(folder for folder in folders - shown if not folder.startswith(".")) == []
