"""Sessions of Aider: one import for all, and each ends by itself, at its limit or with whoever asked for it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fumehood.llm.aider_sessions import AiderSessions
from tests.unit.test_coder_aider import SESSION, script

PIDS = "tell({'driver': os.getpid(), 'reply': os.environ.get('NAME', '')})\n"
"""A stand-in that ends after a session, as one that was idle for long does."""


def run(sessions: AiderSessions, tmp_path: Path, life_s: float = 30.0, **request: Any) -> dict[str, Any]:
    return sessions.run({"environment": {}, **request}, tmp_path / "output", life_s)


def test_a_driver_that_ended_is_started_again(tmp_path: Path) -> None:
    sessions = AiderSessions(script(tmp_path, PIDS))
    first, second = run(sessions, tmp_path), run(sessions, tmp_path)
    assert first["driver"] != second["driver"]


def test_a_driver_serves_many_sessions_and_is_gone_with_its_owner(tmp_path: Path) -> None:
    sessions = AiderSessions(forking(tmp_path, "tell({'driver': os.getppid(), 'session': os.getpid()})"))
    first, second = run(sessions, tmp_path), run(sessions, tmp_path)
    assert first["driver"] == second["driver"]
    assert first["session"] != second["session"]
    del sessions
    assert ends(first["driver"])


def test_sessions_go_on_beside_each_other(tmp_path: Path) -> None:
    met = tmp_path / "met"
    met.mkdir()
    sessions = AiderSessions(
        forking(
            tmp_path,
            f"met = pathlib.Path({str(met)!r})\n"
            "(met / str(os.getpid())).touch()\n"
            "while len(list(met.iterdir())) < 3: time.sleep(0.01)\n"
            "tell({'reply': 'met'})",
        )
    )
    told: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: told.append(run(sessions, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [{"reply": "met"}] * 3


def test_a_session_that_takes_too_long_is_let_go_of(tmp_path: Path) -> None:
    sessions = AiderSessions(script(tmp_path, "time.sleep(60)"))
    assert run(sessions, tmp_path, 0.5) == {"error": "Aider did not end within 0 s."}


def test_a_driver_that_hangs_is_not_asked_again(tmp_path: Path) -> None:
    hung = tmp_path / "hung"
    hung.touch()
    hangs = f"if pathlib.Path({str(hung)!r}).exists(): time.sleep(60)\n"
    path = script(tmp_path, "tell({'reply': 'here'})")
    path.write_text(path.read_text().replace("session = socket", f"{hangs}session = socket", 1))
    sessions = AiderSessions(path)
    assert run(sessions, tmp_path, 0.5)["error"] == "Aider did not end within 0 s."
    hung.unlink()
    assert run(sessions, tmp_path) == {"reply": "here"}


def test_a_session_that_is_killed_is_told_with_its_last_words(tmp_path: Path) -> None:
    sessions = AiderSessions(script(tmp_path, "print('the end', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)"))
    assert run(sessions, tmp_path) == {"error": "Aider's session ended without a word: the end"}


def test_the_real_driver_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Its packages are stood in for, so that this holds also where Aider cannot be had."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(SUBSTITUTE)} "$@"\n')
    python.chmod(0o755)
    program = (
        "import sys, pathlib; from fumehood.llm.aider_sessions import AiderSessions\n"
        "sessions = AiderSessions(pathlib.Path(sys.argv[1]))\n"
        "request = {'environment': {}, 'timeout_s': 60, 'folder': sys.argv[2]}\n"
        "sessions.run(request, pathlib.Path(sys.argv[2], 'output'), 60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(python), str(tmp_path)]) as owner:
        pids = [int(wait_for(tmp_path / name)) for name in ("driver", "session")]
        owner.send_signal(signal.SIGKILL)
    assert all(ends(pid) for pid in pids)


SUBSTITUTE = """
import importlib, os, pathlib, runpy, sys, time, types
real = importlib.import_module
def stand_in(name, *rest):
    if not name.startswith(("aider", "litellm")):
        return real(name, *rest)
    if name == "aider.models" and os.getcwd() != os.environ["HOME"]:
        pathlib.Path("driver").write_text(str(os.getppid()))
        pathlib.Path("session").write_text(str(os.getpid()))
        time.sleep(60)
    return types.ModuleType(name)
importlib.import_module = stand_in
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def forking(tmp_path: Path, body: str) -> Path:
    """Return a stand-in that forks for each session, as the real driver does."""
    begin, rest = SESSION.split("session =", 1)
    loop = (
        f"{begin}control = socket.socket(fileno=os.dup(0))\n"
        "os.dup2(os.open('/dev/null', os.O_RDONLY), 0)\n"
        "while (sockets := socket.recv_fds(control, 1, 1)[1]):\n"
        "    if os.fork() == 0: break\n"
        "    os.close(sockets[0])\n"
        "else: sys.exit()\n"
        "session = socket.socket(fileno=sockets[0])\n"
    )
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{loop}{rest.split(chr(10), 1)[1]}{body}\n")
    path.chmod(0o755)
    return path


def wait_for(file: Path) -> str:
    return until(lambda: file.read_text() if file.exists() else "")


def ends(pid: int) -> bool:
    return until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(found: Any, within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value
