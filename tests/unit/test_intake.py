"""Globs and caps of what may come out of a workspace."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.errors import BadInputError
from sandbox.globs import Globs, check_patterns
from sandbox.intake import Caps, collect

PART = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)
PATTERN = st.lists(st.one_of(PART, st.sampled_from(["*", "**", "a*", "?"])), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.txt", "a.txt", True),
        ("*.txt", "d/a.txt", False),
        ("**/*.txt", "a.txt", True),
        ("**/*.txt", "d/e/a.txt", True),
        ("run_1/**", "run_1/a/b", True),
        ("run_1/**", "run_1", False),
        ("run_1/**", "run_10/a", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a/b/c/z/y", False),
        ("[ab].txt", "a.txt", True),
        ("[!ab].txt", "a.txt", False),
        ("?.txt", "ab.txt", False),
        ("*", ".hidden", True),
        ("./a", "a", True),
        ("a.b", "axb", False),
    ],
)
def test_stars_cross_folders_only_in_pairs(pattern: str, path: str, fits: bool) -> None:
    assert Globs([pattern]).matches(path) is fits


@given(PATTERN, PATH)
def test_a_match_is_never_below_a_folder_that_was_passed_over(pattern: str, path: str) -> None:
    globs = Globs([pattern])
    parts = path.split("/")
    if globs.matches(path):
        assert all(globs.may_hold("/".join(parts[:depth])) for depth in range(1, len(parts)))


@given(PATTERN, PATH)
def test_globs_mean_what_a_plain_expression_means(pattern: str, path: str) -> None:
    parts = pattern.split("/")
    if any(a == b == "**" for a, b in itertools.pairwise(parts)):
        return
    text = ""
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if part == "**":
            text += "(?:[^/]+/)*[^/]+" if last else "(?:[^/]+/)*"
        else:
            text += re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") + ("" if last else "/")
    assert Globs([pattern]).matches(path) is (re.fullmatch(text, path) is not None)


@pytest.mark.parametrize("pattern", ["", "/", "/a", "..", "a/../b", "a//b", "a/", "."])
def test_a_glob_that_could_leave_is_refused(pattern: str) -> None:
    with pytest.raises(BadInputError):
        check_patterns([pattern])


def test_bytes_are_capped_in_all(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "work" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "work" / name).write_bytes(b"x" * 100)
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(total_bytes=250))
    assert [item.path for item in artifacts] == ["a", "b"]
    assert [(item.path, item.reason) for item in rejected] == [("c", "more than 250 bytes in all")]
    assert not (tmp_path / "out" / "c").exists()


def test_the_walk_ends_after_so_many_entries(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for number in range(20):
        (tmp_path / "work" / f"{number:02}").touch()
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(entries=10))
    assert len(artifacts) == 10
    assert [item.reason for item in rejected] == ["more than 10 entries; the rest was not looked at"]


def test_twenty_thousand_files_are_looked_at_and_not_taken(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for number in range(20_000):
        os.close(os.open(tmp_path / "work" / f"{number:06}", os.O_CREAT | os.O_WRONLY))
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(artifacts=10))
    assert [item.path for item in artifacts] == [f"{number:06}" for number in range(10)]
    assert len(rejected) == 1001
    assert rejected[-1].reason == "18990 further things were not let out"


def test_the_walk_ends_when_its_time_is_up(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for number in range(9):
        (tmp_path / "work" / str(number)).touch()
    seconds = iter(range(100))
    found = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(time_s=5), clock=lambda: float(next(seconds)))
    assert [item.path for item in found[0]] == ["0", "1", "2", "3", "4"]
    assert "took more than 5 s" in found[1][0].reason


def test_a_workspace_that_is_a_link_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "work").symlink_to(tmp_path / "real")
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"])
    assert (artifacts, rejected[0].path) == ((), ".")


def test_what_is_not_declared_is_not_mentioned(tmp_path: Path) -> None:
    (tmp_path / "work" / "other").mkdir(parents=True)
    (tmp_path / "work" / "other" / "a").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "work" / "pipe")
    assert collect(tmp_path / "work", tmp_path / "out", ["good/**"]) == ((), ())


def test_no_half_written_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").write_text("1", encoding="utf-8")
    collect(tmp_path / "work", tmp_path / "out", ["*"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_folder_and_a_file_that_differ_only_in_case_are_one(tmp_path: Path) -> None:
    for name in ("A/x", "a/y", "b/X", "stra\u00dfe", "strasse"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text("1", encoding="utf-8")
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["**"])
    assert [item.path for item in artifacts] == ["A/x", "b/X", "strasse"]
    assert [(item.path, item.reason) for item in rejected] == [
        ("a/y", "differs from A only in upper and lower case"),
        ("stra\u00dfe", "differs from strasse only in upper and lower case"),
    ]


@pytest.mark.parametrize("char", ["\x07", "\x85", "\u00a0", "\u2003", "\u2028", "\u202e", "\u2066", "\u3164", "\ufeff"])
def test_what_cannot_be_seen_is_in_no_name(tmp_path: Path, char: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"a{char}b").touch()
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"])
    assert (artifacts, len(rejected)) == ((), 1)
    assert rejected[0].reason == "its name holds characters that cannot be seen"
    assert rejected[0].path.isprintable()


def test_bytes_are_counted_as_a_file_says_it_has_them(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "a").open("wb") as file:
        file.write(b"x" * 600_000)
        file.truncate(1_000_000)
    assert (tmp_path / "work" / "a").stat().st_blocks * 512 < 900_000
    artifacts, rejected = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(total_bytes=900_000))
    assert (artifacts, [item.reason for item in rejected]) == ((), ["more than 900000 bytes in all"])


def test_a_copy_ends_when_the_time_of_the_walk_is_up(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").write_bytes(b"x" * 5 * 2**20)
    seconds = iter(range(100))
    found = collect(tmp_path / "work", tmp_path / "out", ["*"], Caps(time_s=3), clock=lambda: float(next(seconds)))
    assert (found[0], [item.reason for item in found[1]]) == ((), ["its copy was not done after 3 s"])
    assert list((tmp_path / "out").iterdir()) == []
