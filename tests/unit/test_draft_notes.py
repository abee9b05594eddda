"""Going on with a draft: whose it is, what it may still cost, and what a killed command left."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fumehood.cli import draft_notes, draft_trials, left_behind, model_drafting
from fumehood.cli import drafting as command
from fumehood.cli.draft_notes import Notes
from fumehood.cli.drafting import Answers
from fumehood.cli.main import main
from fumehood.cli.output import Progress
from fumehood.domain.direction import Direction, DirectionState, Hold
from fumehood.domain.ids import DirectionId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import BadInputError
from fumehood.services import drafting
from fumehood.services.draft_answers import Given
from fumehood.services.draft_checks import Check
from fumehood.services.drafting import Sort
from fumehood.settings import Settings
from worker import worlds

MODEL = "claude-sonnet-4-5"
MINE = Notes(sort=Sort.WRITTEN, source="A topic", model=MODEL, asked={"source": "A topic"}, assumed=["It is so."])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    return Settings()


@pytest.fixture
def stored(settings: Settings) -> Settings:
    """Settings whose database is there."""
    worlds.prepare_state(settings)
    return settings


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


def lay(out: Path, notes: Notes) -> Path:
    (out / "draft.json").write_bytes(notes.text())
    return out


# Whose it is.


def test_notes_that_this_installation_wrote_are_read_back_and_others_say_no_more_than_what_they_are(
    settings: Settings, out: Path, tmp_path: Path
) -> None:
    mine = MINE.sealed(settings)
    assert draft_notes.read(lay(out, mine)).believed(settings) == mine
    foreign = Settings(state_dir=tmp_path / "elsewhere")
    foreign.state_dir.mkdir()
    changed = mine.model_copy(update={"asked": {"source": "/etc"}, "model": f"{MODEL}\x1b[2J"})
    for notes, of in ((mine, foreign), (changed, settings), (MINE, settings)):
        seen = draft_notes.read(lay(out, notes)).believed(of)
        assert seen == Notes(sort=Sort.WRITTEN, source="A topic", model=seen.model)
        assert seen.model.endswith("(as it says itself)")
        assert seen.model.isprintable()


@pytest.mark.parametrize("written", [b"", b"[]", b'{"sort": "unheard"}', b'{"asked": 3}', b"\xff", b"[" * 100_000])
def test_a_draft_json_of_another_form_is_refused_in_a_sentence(
    settings: Settings, out: Path, capsys: pytest.CaptureFixture[str], written: bytes
) -> None:
    (out / "draft.json").write_bytes(written)
    assert main(("template", "new", "--resume", "--out", str(out))) == 2
    assert "is not what `fumehood template new` writes: begin anew" in capsys.readouterr().err


def test_links_and_pipes_in_a_draft_are_refused_and_nothing_is_written_through_one(
    settings: Settings, out: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    lay(out, MINE.sealed(settings))
    for make in (lambda path: path.symlink_to(victim), os.mkfifo, lambda path: path.symlink_to(tmp_path)):
        make(out / "latex")
        with pytest.raises(BadInputError, match="latex of the draft is a link or no file"):
            draft_notes.read(out)
        (out / "latex").unlink()
    (out / "draft.json").unlink()
    (out / "draft.json").symlink_to(victim)
    with pytest.raises(BadInputError, match="link"):
        draft_notes.read(out)
    draft_notes.replace(out / "draft.json", b"new")
    assert (victim.read_text(), (out / "draft.json").read_text()) == ("mine", "new")
    assert not (out / "draft.json").is_symlink()


def test_no_model_is_asked_about_a_draft_that_somebody_else_made(
    stored: Settings, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_drafting, "_given", lambda *_: pytest.fail("what it names was read"))
    private = tmp_path / "private.py"
    private.write_text("SECRET = 1\n")
    lay(out, MINE.model_copy(update={"asked": {"source": str(private)}}))
    for words in ((), ("--model", "claude-sonnet-4-6")):
        assert main(("template", "new", "--resume", "--out", str(out), *words)) == 2
        assert "has no seal of this installation, so no model is shown what it names" in capsys.readouterr().err
    with worlds.store_of(stored).begin(write=False) as tx:
        assert not tx.directions.find()


def test_what_a_draft_that_is_there_cannot_take_is_refused(
    out: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(out, Notes(sort=Sort.CONTRACT, source="x.py"))
    for words, why in (
        (("--title", "Another"), "--title is for a new draft"),
        (("--argument=--seed={seed}",), "--argument is for a new draft"),
        (("--data", str(out)), "--data is for a new draft"),
        (("--model", MODEL), "Questions made the draft"),
        (("--budget-usd", "1"), "--budget-usd is for a draft by a model"),
    ):
        assert main(("template", "new", "--resume", "--out", str(out), *words)) == 2
        assert why in capsys.readouterr().err


# Who wrote what is measured by.


def test_who_wrote_the_frozen_pair_follows_from_its_bytes(settings: Settings, out: Path) -> None:
    def by(files: dict[str, bytes], wrote: dict[str, bytes]) -> tuple[str, str]:
        notes = Notes(sort=Sort.FUNCTIONS, wrote=draft_notes.hashes(wrote), wrote_by=MODEL)
        direction = Direction(
            id=DirectionId("dir_1"), tenant=LOCAL_TENANT, template="t", text="t", model=MODEL, review_model=MODEL,
            profile="tiny", ideas=0, runs=0,
        )  # fmt: skip
        draft = draft_trials.Draft(
            settings=settings, out=out, given=Given(words="", files={}, wishes={}), direction=direction,
            profile="tiny", sandbox="local", progress=Progress(as_json=False), notes=notes,
            files=draft_notes.hashes(files),
        )  # fmt: skip
        return model_drafting._pair_by(draft), command.cannot(notes.sort, draft.files)

    ours = {path: (drafting.PARTS / f"table_{path}").read_bytes() for path in ("prepare.py", "evaluate.py")}
    theirs = {"prepare.py": b"import numpy\n", "evaluate.py": b"print(1)\n"}
    assert by(ours, ours) == ("Fumehood", "")
    assert by(theirs, theirs) == (MODEL, command.NOT_OURS)
    for mended in (ours | {"evaluate.py": b"print(0)\n"}, theirs | {"evaluate.py": b"print(0)\n"}):
        for wrote in (ours, theirs):
            assert by(mended, wrote) == ("somebody, by hand", command.NOT_OURS)
    assert command.cannot(Sort.PRINTED, {}) == command.CANNOT[Sort.PRINTED]


def test_what_does_not_hold_is_frozen_only_when_it_was_told_before(
    stored: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ["arms_apart"]

    def measured(draft: draft_trials.Draft, *, asks: bool) -> None:
        assert not asks
        draft.files = command.hashes(draft.out)
        draft.checks = [Check(name=name, held=False, sentence=f"{name} held") for name in found]

    monkeypatch.setattr(model_drafting, "_carry_out", measured)

    def resume() -> bool:
        how: Any = {"resume": True, "approve": True, "profile": "tiny", "sandbox": "local", "describe": lambda _: []}
        answers, progress = Answers(source=""), Progress(as_json=True)
        told = model_drafting.new(stored, answers, out, model="offline", budget_usd=None, progress=progress, **how)
        return bool(told["approved"])

    lay(out, MINE)  # a stranger's, whose faults nobody was told of
    assert not resume()
    found.append("no_key")
    assert not resume()
    assert resume()
    assert json.loads((out / "approval.json").read_text())["did_not_hold"] == ["arms_apart held", "no_key held"]


# What it may cost.


def test_a_budget_is_for_all_commands_of_a_draft_and_killed_ones_count(stored: Settings, out: Path) -> None:
    notes = MINE.model_copy(update={"budget_usd": 1.0, "directions": []})
    given, left = Given(words="A topic", files={}, wishes={}), []
    for usd in (0.25, 0.5, 3.0, 0.0):
        with draft_trials.under_way(stored, out, given, notes, "local") as direction:
            notes.directions.append(direction.id)
            left.append(direction.budget_usd)
            store = worlds.store_of(stored)
            with store.begin() as tx:
                tx.ledger.add(
                    LedgerEntry(
                        id=f"evt_{usd}", call_id=f"call_{usd}", tenant=LOCAL_TENANT, direction_id=direction.id,
                        kind="reserved", role="draft", model=MODEL, usd=usd, at=0.0,
                    )
                )  # fmt: skip
            store.close()
    assert left == [1.0, 0.75, 0.25, 0.0]
    assert draft_trials.spent(stored, notes) == 3.75


# What a killed command left.


def test_what_a_killed_command_left_under_way_is_ended_by_the_next(
    stored: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted = []
    monkeypatch.setattr(left_behind, "halt", lambda _, sandbox, key: halted.append((sandbox, key)))
    store = worlds.store_of(stored)
    of: dict[str, Any] = {
        "killed": {}, "running": {}, "resumable": {"ideas": 3}, "held": {"hold": Hold.POLICY}, "servers": {},
        "done": {"state": DirectionState.DONE},
    }  # fmt: skip
    first = Direction(
        id=DirectionId("dir_0"), tenant=LOCAL_TENANT, template="t", text="t", model=MODEL, review_model=MODEL,
        profile="tiny", ideas=0, runs=0, sandbox="local", state=DirectionState.IDEATING,
    )  # fmt: skip
    with store.begin() as tx:
        for name, changes in of.items():
            tx.directions.save(dataclasses.replace(first, id=DirectionId(f"dir_{name}"), **changes))
    for name in set(of) - {"servers"}:
        place = worlds.command_lock(stored, DirectionId(f"dir_{name}"))
        place.parent.mkdir(exist_ok=True)
        place.touch()
    with worlds.only_one(worlds.command_lock(stored, DirectionId("dir_running"))):
        left_behind.end(stored)
        left_behind.end(stored)
    with store.begin(write=False) as tx:
        ended = {one.id for one in tx.directions.find() if one.state is DirectionState.CANCELLED}
    store.close()
    assert ended == {"dir_killed"}
    assert halted == [("local", "dir_killed")]


def test_a_new_draft_by_questions_says_no_more_than_its_sort(out: Path, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text("print('loss: 1')\n")
    answers = Answers(source=str(tmp_path / "prints.py"), task="T.", metric="loss", better="lower", pattern="(1)")
    command.draft(answers, tmp_path / "drafted", lambda _: None)
    told = json.loads((tmp_path / "drafted" / "draft.json").read_text())
    assert told == {"sort": "printed", "from": str(tmp_path / "prints.py")}
