"""The Aider coder: Aider in a session of a process of its own, its edits read from the files."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fumehood.domain.caps import Cap
from fumehood.domain.token import mint
from fumehood.errors import BadInputError, ModelUnavailableError, OverBudgetError
from fumehood.llm.aider_sessions import AiderSessions
from fumehood.llm.client import ASKS
from fumehood.llm.search_replace import MAX_FILE_BYTES, MAX_NEW_FILES, is_added_module
from fumehood.ports import Call, Clock, Edit

_GRACE_S = 15.0
"""Between the driver's own limit and the end that is put to its process."""
_OVER_BUDGET = "urn:fumehood:problem:over-budget"
_AWAY = "urn:fumehood:problem:model-away"
_REFUSED = "urn:fumehood:problem:model-refused"
_TOKEN_REFUSED = "urn:fumehood:problem:token-refused"  # noqa: S105 - a problem's name
_CAP = re.compile(r'"cap"\s*:\s*"(\w+)"')
_MESSAGE = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"')
"""In the gateway's answer, which Aider tells as part of a longer text."""


class AiderCoder:
    """Changes code through Aider, which runs in the coder environment."""

    name = "aider"

    def __init__(
        self,
        sessions: AiderSessions,
        gateway_url: str,
        secret: bytes,
        clock: Clock,
        *,
        timeout_s: float = 600.0,
        cap_usd: float | None = None,
    ) -> None:
        self._sessions = sessions
        self._gateway_url = gateway_url
        self._secret = secret
        self._clock = clock
        self._timeout_s = timeout_s
        self._cap_usd = cap_usd

    def edit(
        self, call: Call, files: Mapping[str, bytes], editable: Sequence[str], read_only: Mapping[str, bytes]
    ) -> Edit:
        """Let Aider edit a copy, then compare: what it changed beyond its right is put back and told.

        Where the session came to its own cap, what it had changed until then is what it did.
        """
        may_change = [path for path in files if path in editable or is_added_module(path, editable)]
        with tempfile.TemporaryDirectory(prefix="fumehood-aider-") as scratch:
            folder, home = Path(scratch, "work"), Path(scratch, "home")
            home.mkdir()
            for path, data in {**read_only, **files}.items():
                _write(folder, path, data)
            request = {
                "folder": str(folder),
                "model": call.claims.model,
                "system": call.system,
                "message": call.prompt,
                "max_tokens": call.max_tokens,
                "temperature": call.temperature,
                "editable": may_change,
                "read_only": [path for path in {**files, **read_only} if path not in may_change],
                "timeout_s": self._timeout_s,
            }
            for _ in range(ASKS):
                report = self._drive(call, request, home)
                problems = _problems(report)
                if not report.get("unanswered") or _is_refused(problems):
                    break
            found = _read(folder, set(read_only) - set(files))
        after, faults = _accepted(files, found, may_change, editable)
        changed = tuple(sorted(path for path, data in after.items() if files.get(path) != data))
        _raise_for(problems, is_of_use=bool(changed))
        reply = str(report.get("reply", ""))
        if not changed and not problems and not faults and "<<<<<<<" in reply:
            problems = ("Aider changed nothing, though the reply holds blocks.",)
        if not changed and not problems and not faults and not reply:
            problems = ("Aider changed nothing and said nothing.",)
        return Edit(files=after, reply=reply, changed=changed, problems=(*problems, *faults))

    def _drive(self, call: Call, request: dict[str, Any], home: Path) -> dict[str, Any]:
        life_s = self._timeout_s + _GRACE_S
        claims = dataclasses.replace(call.claims, cap_usd=self._cap_usd, expires_at=self._clock.now() + life_s)
        token = mint(claims, self._secret)
        environment = {"HOME": str(home), "ANTHROPIC_API_KEY": token, "ANTHROPIC_API_BASE": self._gateway_url}
        report = self._sessions.run({**request, "environment": environment}, home / "output", life_s)
        cleaned: dict[str, Any] = json.loads(json.dumps(report).replace(token, "[secret]"))
        return cleaned


def _is_refused(problems: Sequence[str]) -> bool:
    """Whether it is the gateway that gave no answer: it has tried again already."""
    words = (_OVER_BUDGET, _AWAY, _REFUSED, _TOKEN_REFUSED)
    return any(word in problem for problem in problems for word in words)


def _raise_for(problems: Sequence[str], *, is_of_use: bool) -> None:
    """Raise what the gateway answered where that is no fault of an edit.

    A session that came to its own cap has raised something only where nothing came of it.
    """
    for problem in problems:
        found = _MESSAGE.search(problem)
        told = json.loads(f'"{found[1]}"', strict=False) if found else ""
        if _OVER_BUDGET in problem:
            cap = named[1] if (named := _CAP.search(problem)) else ""
            if cap == Cap.TOKEN and is_of_use:
                continue
            why = told or "The gateway refused the coder's call: the budget would be passed."
            if cap == Cap.TOKEN:
                why += " FUMEHOOD_CODER_CAP_USD sets what a coder's session may cost."
            raise OverBudgetError(why, is_directions=cap == Cap.DIRECTION, cap=cap)
        mendable = _REFUSED in problem or _TOKEN_REFUSED in problem
        if _AWAY in problem or mendable:
            raise ModelUnavailableError(
                told or "The coder's model did not answer.", retryable=_AWAY in problem, mendable=mendable
            )


def _problems(report: Mapping[str, Any]) -> tuple[str, ...]:
    said = [str(line) for line in report.get("said", ())]
    return tuple(text for text in (str(report.get("error", "")), *said) if text)


def _write(folder: Path, path: str, data: bytes) -> None:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise BadInputError(f"{path} does not lie in the working copy.")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _read(folder: Path, left_out: set[str]) -> dict[str, bytes]:
    found = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
        if file.is_file() and not file.is_symlink() and not hidden and path not in left_out:
            with file.open("rb") as stream:
                found[path] = stream.read(MAX_FILE_BYTES + 1)
    return found


def _accepted(
    files: Mapping[str, bytes], found: Mapping[str, bytes], may_change: Sequence[str], editable: Sequence[str]
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    after, faults, new = dict(files), [], 0
    for path, data in found.items():
        if data == files.get(path) or (path in files and len(files[path]) > MAX_FILE_BYTES):
            continue
        new += path not in files
        if len(data) > MAX_FILE_BYTES:
            faults.append(f"{path}: the file would grow past {MAX_FILE_BYTES // 1024} KiB.")
        elif path not in may_change and (path in files or not is_added_module(path, editable)):
            faults.append(f"{path}: this file may not be changed.")
        elif new > MAX_NEW_FILES:
            faults.append(f"{path}: too many new files.")
        else:
            after[path] = data
    faults += [f"{path}: this file may not be removed." for path in files if path not in found]
    return after, tuple(faults)
