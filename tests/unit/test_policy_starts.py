"""With a policy that cannot be read nothing starts; and on one's own machine what it holds is let go by a command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fumehood.cli import run as running
from fumehood.cli.main import main
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Subject
from fumehood.errors import PolicyError, WorkFailedError
from fumehood.services import submissions
from fumehood.settings import Settings
from tests.fakes.laboratory import Laboratory
from worker import worlds

ROOT = Path(__file__).parents[2]
MISSPELT = '[[rules]]\nname = "no-malware"\n'
RULES = Policy(
    rules=(
        Rule(
            name="patients",
            applies_to=frozenset({Subject.DIRECTION}),
            terms=("patients",),
            verdict=PolicyVerdict.NEEDS_A_PERSON,
            reason="Ask the ethics committee.",
        ),
    )
)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--template", "2d_diffusion", "--profile", "tiny"),
        ("template", "baseline", str(ROOT / "templates/2d_diffusion"), "--profile", "tiny"),
        ("serve", "--port", "0"),
        ("smoke",),
    ],
)
def test_no_command_that_works_starts_without_the_policy_that_was_meant(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    (tmp_path / "policy.toml").write_text(MISSPELT)
    monkeypatch.setenv("FUMEHOOD_POLICY", str(tmp_path / "policy.toml"))
    given = (*words, "--out", str(tmp_path / "out")) if words[0] == "run" else words
    assert main(given) == 2
    said = capsys.readouterr().err
    assert f"The policy file {tmp_path / 'policy.toml'} has the unknown key 'rules'" in said
    assert not state.exists()


@pytest.mark.parametrize(
    "words", [("-m", "api"), ("-m", "worker", "--side", "write", "--gateway", "http://127.0.0.1:9")]
)
@pytest.mark.parametrize("name", ["policy.toml", "nowhere.toml"])
def test_no_process_does_either(tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    (tmp_path / "policy.toml").write_text(MISSPELT)
    environment = {
        "PATH": os.environ["PATH"],  # noqa: TID251 - the child's own
        "PYTHONPATH": str(ROOT),
        "FUMEHOOD_STATE_DIR": str(tmp_path / "state"),
        "FUMEHOOD_POLICY": str(tmp_path / name),
    }
    ended = subprocess.run(
        [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip().splitlines()[-1].partition(": ")[2].startswith(f"The policy file {tmp_path / name}")


def test_a_held_run_is_status_four_with_the_lines_to_type(make_lab: Callable[..., Laboratory]) -> None:
    lab = make_lab(policy=RULES)
    direction = lab.submit(text="Study patients.")
    with pytest.raises(PolicyError) as held:
        running.raise_for(lab.direction(), lab.store, lab.artifacts)
    assert str(held.value) == (
        "The rule patients of the policy wants an admin to look at this: Ask the ethics committee. Let it go on with "
        f"`fumehood admin approve {direction.id}` and give --resume, or end it with "
        f"`fumehood admin refuse {direction.id}`."
    )
    assert held.value.exit_status == 4
    assert running._lifted(lab.store, direction, lab.asked()).hold is Hold.POLICY


@pytest.mark.parametrize(
    ("word", "state_then"), [("approve", DirectionState.QUEUED), ("refuse", DirectionState.FAILED)]
)
def test_whoever_works_on_the_machine_is_its_admin(
    lab: Laboratory, state: Path, capsys: pytest.CaptureFixture[str], word: str, state_then: DirectionState
) -> None:
    settings = Settings(state_dir=state)
    worlds.prepare_state(settings)
    store = worlds.store_of(settings)
    asked = lab.asked(text="Study patients.")
    made = submissions.submit(store, worlds.artifacts_of(settings), lab.clock, asked, lab.template.parent, policy=RULES)
    assert main(("admin", "approvals", "--json")) == 0
    (waiting,) = json.loads(capsys.readouterr().out)
    assert (waiting["id"], waiting["text"]) == (made.id, "Study patients.")
    assert main(("admin", word, made.id)) == 0
    assert f"decision: {word}d" in capsys.readouterr().out
    with store.begin(write=False) as tx:
        found = tx.directions.get(made.id)
        assert [one.actor for one in tx.audit.since() if one.action == f"policy.{word}d"] == ["local"]
    store.close()
    assert (found.hold, found.state) == (Hold.NONE, state_then)
    assert main(("admin", word, made.id)) == 2


def test_a_judge_without_a_key_is_told_before_any_work(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = '[judge]\nmodel = "claude-sonnet-4-5"\napplies_to = ["idea"]\ninstructions = "Be strict."\n'
    (tmp_path / "policy.toml").write_text(judge)
    monkeypatch.setenv("FUMEHOOD_POLICY", str(tmp_path / "policy.toml"))
    assert main(("run", "--template", "2d_diffusion", "--profile", "tiny", "--out", str(tmp_path / "out"))) == 2
    assert "The model claude-sonnet-4-5 needs a key" in capsys.readouterr().err
    assert not state.exists()


def test_a_state_folder_that_is_not_there_is_not_made(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("admin", "approve", "dir_" + "0" * 26)) == 2
    assert "There is no state folder" in capsys.readouterr().err
    assert not state.exists()


def test_a_final_direction_waits_for_nobody(make_lab: Callable[..., Laboratory]) -> None:
    lab = make_lab(policy=RULES)
    direction = lab.submit(text="Study patients.")
    lab.save(dataclasses.replace(direction.to(DirectionState.CANCELLED), error="because"))
    with pytest.raises(WorkFailedError, match="The direction cancelled: because"):
        running.raise_for(lab.direction(), lab.store, lab.artifacts)
