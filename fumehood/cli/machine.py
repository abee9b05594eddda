"""What this machine can do: the sandbox tried for real, LaTeX, the lab, services, keys."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fumehood.cli import checks, handover
from fumehood.cli.children import ask_machine
from fumehood.errors import FumehoodError
from fumehood.gateway.keys import Keys
from fumehood.settings import Settings
from worker import worlds
from worker.probe import REMEDIES

ANSWER_S = 1.0
"""How long a service may take to answer."""
T = TypeVar("T")


def examine(settings: Settings, adapter: str) -> dict[str, Any]:
    """Return what `fumehood doctor` says: what could not be looked into is None, and why stands in `error`."""
    problems: list[str] = []
    told = _tried(lambda: ask_machine(settings, adapter), problems, settings.state_dir)
    told = told or {"promises": [], "adapter": adapter}
    problems += [told["error"]] if told.get("error") else _not_held(told["promises"])
    lab = _tried(lambda: _lab(settings), problems, settings.state_dir)
    coder = _tried(lambda: "aider" if worlds.coder_python(settings) else "search_replace", problems, settings.state_dir)
    keys = _tried(lambda: _keys(settings), problems, settings.state_dir)
    takes = _tried(lambda: list(checks.table(settings).keys()), problems, settings.state_dir)
    return {
        "ready": not problems,
        "error": " ".join(problems),
        "problems": problems,
        "adapter": told["adapter"],
        "promises": told["promises"],
        "state_dir": str(settings.state_dir),
        "root": os.geteuid() == 0,
        "lab": lab or None,
        "latex": shutil.which("pdflatex"),
        "coder": coder,
        "keys": keys,
        "keys_missing": None if keys is None or takes is None else [name for name in takes if name not in keys],
        "gpus": [str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*"))],
        "services": {"redis": _redis_answers(settings.redis_url), "docker": _docker_answers()},
    }


def _not_held(promises: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{one['promise']} cannot be held here: {one['mechanism']}." for one in promises if not one["held"]]


def _tried(look: Callable[[], T], problems: list[str], state_dir: Path) -> T | None:
    """Return what a look finds; where it fails, keep why, each reason once."""
    try:
        return look()
    except FumehoodError as error:
        problem = str(error)
    except OSError as error:
        refused = str(error.filename or "a file")
        problem = f"The system refuses {refused}: {error.strerror or error}."
        if isinstance(error, PermissionError) and Path(refused).is_relative_to(state_dir):
            remedy = "Ask as the user whose it is, or set FUMEHOOD_STATE_DIR to a folder of your own."
            problem = f"The state folder {state_dir} may not be read by this user. {remedy}"
    if problem not in problems:
        problems.append(problem)
    return None


def _keys(settings: Settings) -> list[str]:
    """Return the names there is a key for, kept or in the environment."""
    return sorted({*Keys(settings.state_dir).list(), *handover.names()})


def _lab(settings: Settings) -> str:
    return str(worlds.lab_folder(settings).resolve()) if worlds.lab_packages(settings) else ""


def _redis_answers(url: str) -> bool:
    place = urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "127.0.0.1", place.port or 6379), ANSWER_S) as asked:
            if place.scheme != "redis":
                return True
            asked.sendall(b"PING\r\n")
            # One that asks for a password answers, too.
            return asked.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except (OSError, ValueError):
        return False


def _docker_answers() -> bool:
    try:
        from sandbox import docker_engine

        docker_engine.connect().client.close()
    except (ImportError, FumehoodError):
        return False
    return True


def describe(told: Mapping[str, Any]) -> Iterable[str]:
    """Return `fumehood doctor` as lines."""
    yield f"sandbox: {told['adapter']}"
    for one in told["promises"]:
        yield f"  {one['promise']:>3} {'held' if one['held'] else 'NOT HELD'}: {one['mechanism']}"
    yield f"state: {told['state_dir']}"
    yield f"lab: {told['lab'] or 'not found; run `make setup`'}"
    yield f"LaTeX: {told['latex'] or 'no pdflatex here. ' + REMEDIES['latex']}"
    yield f"coder: {told['coder'] or 'unknown'}"
    if told["keys"] is None:
        yield "keys: they may not be read"
    else:
        missing = f" (none for {', '.join(told['keys_missing'])})" if told["keys_missing"] else ""
        yield f"keys: {', '.join(told['keys']) or 'none; the offline model needs none'}{missing}"
    yield f"GPUs: {', '.join(told['gpus']) or 'none'}"
    answers = (f"{name} {'answers' if up else 'does not answer'}" for name, up in told["services"].items())
    yield f"services: {', '.join(answers)}; `fumehood run` needs Docker's only with --sandbox docker"
    yield from (f"not ready: {problem}" for problem in told["problems"]) if told["problems"] else ("ready",)
