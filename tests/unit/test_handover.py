"""A provider's key in the environment: it reaches the gateway's process, and stands in no environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fumehood.cli import children, handover
from fumehood.cli.children import Children
from fumehood.gateway.keys import handed
from fumehood.settings import Settings

KEY = "sk-ant-test-fake-0123456789"
COMMAND = (sys.executable, "-m", "fumehood")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(tmp_path / "state"), "ANTHROPIC_API_KEY": KEY}


@pytest.fixture
def hand_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Do what the command does before it starts itself again, and return the file's number."""

    def do() -> int:
        seen: list[dict[str, str]] = []
        monkeypatch.setenv("ANTHROPIC_API_KEY", f" {KEY}\n")
        monkeypatch.setattr(os, "execve", lambda *words: seen.append(words[-1]))
        handover.leave_environment()
        (environment,) = seen
        assert KEY not in str(environment)
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        monkeypatch.setenv("FUMEHOOD_HANDED_KEYS", environment["FUMEHOOD_HANDED_KEYS"])
        return int(environment["FUMEHOOD_HANDED_KEYS"])

    return do


def test_the_command_starts_itself_again_without_the_variable(environment: dict[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [*COMMAND, "verify", str(tmp_path), "--key", str(pipe)]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE) as process:
        with pipe.open("wb"):  # opening returns when the command has opened the other end
            place = Path("/proc") / str(process.pid)
            assert KEY.encode() not in (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
            assert b"FUMEHOOD_HANDED_KEYS=" in (place / "environ").read_bytes()
        process.wait(20)


def test_every_provider_s_variable_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    given = {variable: f"{KEY}-{name}" for name, variable in handover.VARIABLES.items()}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(os, "execve", lambda *words: seen.append(words[-1]))
    handover.leave_environment()
    (environment,) = seen
    assert not set(given) & set(environment)
    assert KEY not in str(environment)
    file = int(environment["FUMEHOOD_HANDED_KEYS"])
    assert handed(file) == {name: given[variable] for name, variable in handover.VARIABLES.items()}
    assert set(given) == {
        "ANTHROPIC_API_KEY",
        "AWS_BEARER_TOKEN_BEDROCK",
        "DEEPSEEK_API_KEY",
        "GOOGLE_CREDENTIALS",
        "OPENAI_API_KEY",
        "OPENROUTER_API_KEY",
    }
    os.close(file)


def test_what_is_no_key_is_refused_without_being_shown(environment: dict[str, str]) -> None:
    told = subprocess.run(
        [*COMMAND, "keys", "list"], env={**environment, "ANTHROPIC_API_KEY": "a b"}, cwd=ROOT, capture_output=True
    )
    assert told.returncode == 2
    assert b"given for ANTHROPIC_API_KEY is not a key" in told.stderr
    assert b"a b" not in told.stderr


def test_the_gateway_alone_gets_the_file(hand_over: Callable[[], int], tmp_path: Path) -> None:
    file = hand_over()
    handover.leave_environment()
    assert not os.get_inheritable(file)
    assert handover.names() == {"anthropic"}
    assert handed(file) == handed(file) == {"anthropic": KEY}
    started = Children(Settings(state_dir=tmp_path / "state"), [children.gateway()])
    try:
        started._start("gateway")
        place = Path("/proc") / str(started._running["gateway"].pid)
        assert KEY.encode() not in (place / "environ").read_bytes()
        assert "fumehood-keys" in str((place / f"fd/{file}").readlink())
        other = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True)
        assert "fumehood-keys" not in other.stdout
    finally:
        started.stop()
        os.close(file)


@pytest.mark.parametrize("number", ["", "x", "0", "99999"])
def test_a_number_that_names_no_such_file_means_nothing(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("FUMEHOOD_HANDED_KEYS", number)
    assert handover.handed_file() is None
    assert handover.names() == frozenset()


def test_a_folder_one_stands_in_lends_no_code_to_children(tmp_path: Path) -> None:
    (tmp_path / "fumehood").mkdir()
    (tmp_path / "fumehood/__init__.py").write_text("raise SystemExit('somebody else')")
    command = [*children.PYTHON, "-m", "fumehood.gateway", "--host", "::"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "--allow-remote" in told.stderr
