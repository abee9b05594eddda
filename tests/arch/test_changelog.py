"""The changelog keeps the format of Keep a Changelog: newest first, one list for each kind of change."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(scope="module")
def changelog(root: Path) -> str:
    return (root / "CHANGELOG.md").read_text(encoding="utf-8")


def headings(text: str, level: int) -> list[str]:
    """Return the headings of one level."""
    return re.findall(rf"^#{{{level}}} (.+)$", text, re.MULTILINE)


def test_it_begins_with_what_is_not_released_yet(changelog: str) -> None:
    assert headings(changelog, 1) == ["Changelog"]
    assert headings(changelog, 2)[0] == "[Unreleased]"


def test_every_release_has_a_version_and_a_date_newest_first(changelog: str) -> None:
    released = []
    for heading in headings(changelog, 2)[1:]:
        found = re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading)
        assert found, f"not `[1.2.3] - 2026-01-31`: {heading}"
        released.append((date.fromisoformat(found[4]), tuple(int(part) for part in found.groups()[:3])))
    assert released == sorted(released, reverse=True)


def test_changes_are_listed_by_kind(changelog: str) -> None:
    assert set(headings(changelog, 3)) <= KINDS
    for section in re.split(r"^## .+$", changelog, flags=re.MULTILINE)[1:]:
        kinds = headings(section, 3)
        assert len(kinds) == len(set(kinds))
