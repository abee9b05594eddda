"""Our own coder: blocks are read, applied once or refused, and never reach past their files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.llm import search_replace as sr
from fumehood.llm.search_replace import Block, SearchReplaceCoder
from fumehood.ports import Call, Edit, Shape

EDITABLE = ("experiment.py", "plot.py")
FILES = {"experiment.py": b"lr = 1\nfor step in range(3):\n    x = step\n", "plot.py": b"# plot\n"}
CALL = Call(
    claims=Claims(tenant=TenantId("ten_1"), direction_id=DirectionId("dir_1"), role="coder", model="offline"),
    system="You edit.",
    prompt="Lower it.",
)


class Saying:
    """A model that says one thing."""

    def __init__(self, reply: str) -> None:
        self.reply = reply
        self.asked: list[Call] = []

    def text(self, call: Call) -> str:
        self.asked.append(call)
        return self.reply

    def answer(self, call: Call, shape: type[Shape]) -> Shape:
        raise NotImplementedError


def block(path: str, search: str, replace: str) -> str:
    return f"{path}\n```python\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n```\n"


def edit(reply: str, files: dict[str, bytes] | None = None) -> Edit:
    return SearchReplaceCoder(Saying(reply)).edit(CALL, files or FILES, EDITABLE, {"evaluate.py": b"frozen\n"})


def test_a_block_changes_its_file_and_nothing_that_was_given() -> None:
    done = edit("I lower it.\n\n" + block("experiment.py", "lr = 1\n", "lr = 2\n"))
    assert done.files["experiment.py"].startswith(b"lr = 2\nfor step")
    assert (done.changed, done.problems) == (("experiment.py",), ())
    assert FILES["experiment.py"].startswith(b"lr = 1")


def test_the_model_is_shown_the_files_and_the_form() -> None:
    model = Saying("ALL_COMPLETED")
    done = SearchReplaceCoder(model).edit(CALL, FILES, EDITABLE, {"evaluate.py": b"frozen\n"})
    (asked,) = model.asked
    assert "experiment.py (editable)\n```\nlr = 1" in asked.prompt
    assert "evaluate.py (for reading only)" in asked.prompt
    assert "<<<<<<< SEARCH" in asked.system
    assert asked.claims == CALL.claims
    assert (done.reply, done.changed, done.problems) == ("ALL_COMPLETED", (), ())


def test_blocks_are_applied_in_their_order() -> None:
    reply = block("experiment.py", "lr = 1\n", "lr = 2\n") + block("experiment.py", "lr = 2\n", "lr = 3\n")
    assert edit(reply).files["experiment.py"].startswith(b"lr = 3")


def test_a_second_block_without_a_name_goes_to_the_same_file() -> None:
    reply = block("experiment.py", "lr = 1\n", "lr = 2\n") + "\n" + block("", "    x = step\n", "    x = 2 * step\n")
    done = edit(reply)
    assert done.problems == ()
    assert b"2 * step" in done.files["experiment.py"]


@pytest.mark.parametrize(
    "name", ["**experiment.py**", "`experiment.py`", "# experiment.py", "experiment.py:", "./experiment.py"]
)
def test_a_name_may_be_dressed_up(name: str) -> None:
    assert edit(block(name, "lr = 1\n", "lr = 2\n")).changed == ("experiment.py",)


def test_indentation_that_is_left_out_is_put_back() -> None:
    done = edit(block("experiment.py", "x = step\n", "x = step\nif x:\n    y = x\n"))
    assert done.files["experiment.py"].endswith(b"    x = step\n    if x:\n        y = x\n")


def test_space_at_the_ends_of_lines_does_not_matter() -> None:
    assert edit(block("experiment.py", "lr = 1   \n", "lr = 2\n")).changed == ("experiment.py",)


def test_windows_line_ends_are_kept() -> None:
    done = edit(block("experiment.py", "b\n", "c\nd\n"), {"experiment.py": b"a\r\nb\r\n"})
    assert done.files["experiment.py"] == b"a\r\nc\r\nd\r\n"


def test_what_stands_twice_or_nowhere_is_a_problem() -> None:
    twice = {"experiment.py": b"a\na\n"}
    assert "2 times" in edit(block("experiment.py", "a\n", "b\n"), twice).problems[0]
    nowhere = edit(block("experiment.py", "nothing like it\n", "b\n"))
    assert "does not stand" in nowhere.problems[0]
    assert nowhere.changed == ()


def test_an_empty_search_makes_a_new_module() -> None:
    done = edit(block("helpers.py", "", "def f():\n    return 1\n"))
    assert done.changed == ("helpers.py",)
    assert done.files["helpers.py"] == b"def f():\n    return 1\n"


def test_a_module_that_an_earlier_edit_made_may_be_changed() -> None:
    done = edit(block("helpers.py", "a = 1\n", "a = 2\n"), {**FILES, "helpers.py": b"a = 1\n"})
    assert done.changed == ("helpers.py",)


@pytest.mark.parametrize(
    "path",
    [
        "../escape.py",
        "/etc/escape.py",
        "a/../../escape.py",
        "folder/new.py",
        "prepare.py",
        "evaluate.py",
        "Evaluate.py",
        "./evaluate.py",
        "random.py",
        "sitecustomize.py",
        "notes.txt",
        ".hidden.py",
        "two.dots.py",
        "a\\b.py",
        "~/x.py",
    ],
)
def test_no_other_path_can_be_written(path: str) -> None:
    done = edit(block(path, "", "x = 1\n"))
    assert done.changed == ()
    assert done.problems


def test_a_file_that_was_given_for_reading_cannot_be_changed() -> None:
    done = edit(block("evaluate.py", "frozen\n", "kind\n"))
    assert "frozen" in done.problems[0]
    assert "evaluate.py" not in done.files
    given = SearchReplaceCoder(Saying(block("given.py", "", "x = 1\n")))
    assert given.edit(CALL, FILES, EDITABLE, {"given.py": b"x = 0\n"}).changed == ()


def test_a_file_cannot_grow_without_end() -> None:
    done = edit(block("experiment.py", "lr = 1\n", "x" * sr.MAX_FILE_BYTES + "\n"))
    assert "KiB" in done.problems[0]
    assert sr.parse("x" * (sr.MAX_REPLY_CHARS + 1)).problems
    many = "".join(block(f"new{at}.py", "", "x\n") for at in range(sr.MAX_NEW_FILES + 1))
    assert "too many" in edit(many).problems[0]


def test_a_block_that_is_not_closed_does_not_swallow_the_next() -> None:
    reply = "experiment.py\n<<<<<<< SEARCH\nlr = 1\n=======\nlr = 2\n" + block("plot.py", "# plot\n", "# new\n")
    done = edit(reply)
    assert "no end" in done.problems[0]
    assert done.files["experiment.py"] == FILES["experiment.py"]


def test_a_block_without_a_file_is_a_problem() -> None:
    assert "which file" in edit("<<<<<<< SEARCH\nlr = 1\n=======\nlr = 2\n>>>>>>> REPLACE\n").problems[0]


MARKS = ("<", "=", ">")
lines = st.lists(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=12).filter(
        lambda line: not line.startswith(MARKS)
    ),
    max_size=12,
)


@given(lines, lines.filter(lambda found: any(line.strip() for line in found)), lines, lines)
def test_a_block_puts_its_lines_in_the_place_of_those_it_names(
    before: list[str], old: list[str], new: list[str], after: list[str]
) -> None:
    text = "".join(line + "\n" for line in [*before, *old, *after])
    search, replace = ("".join(line + "\n" for line in part) for part in (old, new))
    reply = block("experiment.py", search, replace)
    assert sr.parse(reply) == (((Block("experiment.py", search, replace)),), ())
    outcome = sr.replace(text, search, replace)
    every = text.split("\n")
    places = [at for at in range(len(every) - len(old) + 1) if every[at : at + len(old)] == old]
    if len(places) == 1:
        wanted = "".join(line + "\n" for line in [*before, *new, *after])
        assert (outcome.text, outcome.problem) == (wanted, "")
        done = edit(reply, {"experiment.py": text.encode()})
        assert done.files["experiment.py"] == wanted.encode()
    else:
        assert outcome.text == text
        assert f"{len(places)} times" in outcome.problem


pieces = st.sampled_from(
    [
        "<<<<<<< SEARCH\n",
        "=======\n",
        ">>>>>>> REPLACE\n",
        "```\n",
        "experiment.py\n",
        "../x.py\n",
        "\n",
        "lr = 1\n",
        "\r\n",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=9)), max_size=40).map("".join)))
def test_no_reply_breaks_the_coder_or_its_bounds(reply: str) -> None:
    done = edit(reply)
    assert set(done.files) >= set(FILES)
    assert all(path in EDITABLE or sr.is_added_module(path, EDITABLE) for path in done.changed)
    assert edit(reply) == done


@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_replacing_changes_a_text_only_when_it_tells_of_no_problem(text: str, search: str, by: str) -> None:
    outcome = sr.replace(text, search, by)
    assert not outcome.problem or outcome.text == text
