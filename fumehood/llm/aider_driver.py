"""Drives Aider: `python aider_driver.py`, with a socket as standard input over which each session's own socket comes.

Aider and LiteLLM take seconds to import, so that is done once; each session is a fork of the process that did, which
has seen no other session. Runs in the coder environment and imports only the standard library and Aider. What a session
edited is for the caller to find out by looking at the files; what it reports is what Aider said.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_TOKENS = 200_000
_REPORT_LINES = 40
_IDLE_S = 900.0
_IMPORTED = ("litellm.main", "aider.coders", "aider.models", "aider.io")
LENGTH = struct.Struct("!Q")
"""Stands before a request and before a report, both JSON."""


def main() -> int:
    """Fork a session for each socket that comes, until nobody is there to send one, or none came for long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever asked ends its sessions; a terminal tells all.
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # What all sessions share stays shared.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody asks how a session ended but by its socket.
    control = socket.socket(fileno=os.dup(0))
    control.settimeout(_IDLE_S)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        try:
            _, sockets, _, _ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            return 0
        if not sockets:
            return 0
        with socket.socket(fileno=sockets[0]) as session:
            if os.fork() == 0:
                os.setsid()
                control.close()
                try:
                    _session(session)
                finally:
                    _end()


def _end() -> None:
    """End this session: its process, and what that may have started."""
    os.killpg(0, signal.SIGKILL)


def _session(caller: socket.socket) -> None:
    """Read the request, let Aider edit, tell what it said."""
    # LiteLLM leaves it answers that broke off; closed while another is begun, they wait for that one's lock, in vain.
    gc.disable()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    caller.setblocking(True)
    caller.sendall(b"+")
    stream = caller.makefile("rb")
    request = json.loads(stream.read(*LENGTH.unpack(stream.read(LENGTH.size))))
    threading.Thread(target=_die_with, args=(caller,), daemon=True).start()
    # Read by LiteLLM and Aider when they ask.
    os.environ.update(request["environment"])  # noqa: TID251 - no setting of ours
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    report: dict[str, Any] = {"reply": "", "said": [], "error": ""}
    once = threading.Lock()

    def give() -> None:
        if once.acquire(blocking=False):
            told = json.dumps(report).encode()
            caller.sendall(LENGTH.pack(len(told)) + told)

    def too_late() -> None:
        report["error"] = f"Aider was stopped after {request['timeout_s']:.0f} s."
        try:
            give()
        finally:
            _end()

    timer = threading.Timer(request["timeout_s"], too_late)
    timer.daemon = True
    timer.start()
    try:
        edit(request, report)
    except Exception as error:  # noqa: BLE001 - whatever Aider raises is told to the caller
        report["error"] = f"{type(error).__name__}: {error}"[:2000]
    timer.cancel()
    give()


def _die_with(caller: socket.socket) -> None:
    try:
        caller.recv(1)
    finally:
        _end()


def edit(request: dict[str, Any], report: dict[str, Any]) -> None:
    """Run one message through Aider in the working folder."""
    os.chdir(request["folder"])
    models = importlib.import_module("aider.models")
    name = f"anthropic/{request['model']}"
    # LiteLLM asks OpenAI for what it knows as a model of theirs, whatever stands before its name.
    importlib.import_module("litellm").open_ai_chat_completion_models.discard(request["model"])
    # Given here, or it is fetched from the web.
    facts = {
        "max_tokens": request["max_tokens"],
        "max_input_tokens": _TOKENS,
        "max_output_tokens": request["max_tokens"],
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
        "litellm_provider": "anthropic",
        "mode": "chat",
    }
    models.model_info_manager.local_model_metadata[name] = facts
    model = models.Model(name, weak_model=name, editor_model=False)
    model.system_prompt_prefix = request["system"] or None
    model.use_temperature = float(request["temperature"])
    model.extra_params = {"max_tokens": request["max_tokens"]}
    base_coder: Any = importlib.import_module("aider.coders.base_coder")
    base_coder.RETRY_TIMEOUT = 0  # the gateway has tried again already

    allowed = _allow(request)
    coder = importlib.import_module("aider.coders").Coder.create(
        main_model=model,
        io=_quiet_io(request["folder"], report["said"], allowed),
        fnames=request["editable"],
        read_only_fnames=request["read_only"],
        edit_format="diff",
        use_git=False,
        stream=False,
        map_tokens=0,
        auto_commits=False,
        dirty_commits=False,
        auto_lint=False,
        auto_test=False,
        suggest_shell_commands=False,
        detect_urls=False,
        # Its last breakpoint stands after the files that are edited, which differ each time: what is kept of them costs
        # a quarter more and is never read.
        cache_prompts=False,
    )
    coder.abs_fnames = InOrder(coder.abs_fnames)
    coder.abs_read_only_fnames = InOrder(coder.abs_read_only_fnames)
    aider_allows = coder.allowed_to_edit
    coder.allowed_to_edit = lambda path: allowed(path) and aider_allows(path)
    _keep_replies(coder, report)
    # Without Aider's own reading of the message: a line that begins with `!` or `/` would be taken for a command.
    coder.run(with_message=request["message"], preproc=False)
    # Refused, empty or cut off: Aider then changed nothing, and to ask again is no other attempt at the run.
    is_error = any("litellm." in line for line in report["said"])
    report["unanswered"] = coder.num_exhausted_context_windows > 0 or not (report["reply"].strip() or is_error)


class InOrder(set[str]):
    """A set that is gone through in order: Aider shows files as its sets give them, which is another way each time."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))


def _keep_replies(coder: Any, report: dict[str, Any]) -> None:
    """Keep what the model says each time; Aider's own history has lines in the model's name that it never said."""
    add = coder.add_assistant_reply_to_cur_messages

    def keep() -> None:
        report["reply"] = "\n\n".join(filter(None, (report["reply"], coder.partial_response_content)))
        add()

    coder.add_assistant_reply_to_cur_messages = keep


def _allow(request: dict[str, Any]) -> Callable[[str], bool]:
    root = Path(request["folder"]).resolve()
    editable = set(request["editable"])

    def allowed(path: str) -> bool:
        full = (root / path).resolve()
        if not full.is_relative_to(root):
            return False
        inside = full.relative_to(root).as_posix()
        return inside in editable or (inside not in request["read_only"] and not full.exists() and full.suffix == ".py")

    return allowed


def _quiet_io(folder: str, said: list[str], allowed: Callable[[str], bool]) -> Any:
    """Return Aider's way to the outside: it asks nobody, opens nothing and writes where it may only."""
    io_module: Any = importlib.import_module("aider.io")
    root = Path(folder).resolve()
    made: set[Path] = set()

    class QuietIO(io_module.InputOutput):  # type: ignore[misc]
        def confirm_ask(self, question: str, *_: object, subject: str | None = None, **__: object) -> bool:
            if question != "Create new file?" or subject is None or not allowed(subject):
                return False
            made.add((root / subject).resolve())
            return True

        def write_text(self, filename: str, content: str, *rest: Any, **named: Any) -> None:
            full = Path(filename).resolve()
            if full not in made and not (full.is_relative_to(root) and allowed(str(full.relative_to(root)))):
                raise ValueError(f"{filename} may not be changed.")
            super().write_text(filename, content, *rest, **named)

        def offer_url(self, *_: object, **__: object) -> bool:
            return False

        def tool_error(self, message: str = "", strip: bool = True) -> None:
            self._keep(message)
            super().tool_error(message, strip)

        def tool_warning(self, message: str = "", strip: bool = True) -> None:
            self._keep(message)
            super().tool_warning(message, strip)

        def _keep(self, message: str) -> None:
            if message.strip() and len(said) < _REPORT_LINES:
                said.append(message.strip()[:1000])

    return QuietIO(
        yes=True, pretty=False, fancy_input=False, chat_history_file=None, input_history_file=None, root=folder
    )


if __name__ == "__main__":
    sys.exit(main())
