"""An interpreter that has imported torch once: each program that it is asked to run is a fork of it.

`serve SOCKET` is that interpreter, and ends with its standard input. `ask SOCKET WORDS...` is called as an interpreter
is, with options, a program and its arguments: the program has the caller's environment, folder and open files, and the
caller ends as the program does. All forks share one seed of Python's hashes, so whoever looks whether two processes do
the same has at least one of them begin by itself. Libraries have one thread, and have drawn no random number.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SLOW_TO_IMPORT = ("numpy", "scipy.optimize", "scipy.stats", "torch", "torch.utils.flop_counter", "torch._dynamo")
"""The last is what the first optimiser of a process imports."""
OF_THE_LAB = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MPLBACKEND", "MPLCONFIGDIR")
"""What the interpreter was told itself, and whatever a program starts has to know too."""
STREAMS = (0, 1, 2)
MAX_REQUEST = 1 << 20


def ask(place: str, words: Sequence[str]) -> int:
    """Have a program run, and end as it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
        line.connect(place)
        asked = {"words": list(words), "folder": str(Path.cwd()), "environment": dict(os.environ)}  # noqa: TID251 - handed on
        socket.send_fds(line, [json.dumps(asked).encode()], STREAMS)
        status = int(line.recv(64) or b"-9")
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def serve(place: str) -> dict[str, Any]:
    """Wait for requests; what returns is a fork, with the request that it is for."""
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    gc.freeze()  # a collection would write to every page that is shared
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        raise SystemExit(f"a process of {len(threads)} threads cannot be forked safely")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(place)
        door.listen(16)
        os.write(1, b"ready\n")
        while door in select.select([door, sys.stdin], [], [])[0]:
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                return _begun(line)
            line.close()
            _forget_ended()
    raise SystemExit


def _forget_ended() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _begun(line: socket.socket) -> dict[str, Any]:
    """Return in the program's process; the one that waits for it ends here, and ends it when nobody asks any more."""
    words, streams, _, _ = socket.recv_fds(line, MAX_REQUEST, len(STREAMS))
    program = os.fork()
    if program == 0:
        line.close()
        for stream, own in zip(streams, STREAMS, strict=True):
            os.dup2(stream, own)
            os.close(stream)
        asked: dict[str, Any] = json.loads(words)
        return asked
    for stream in streams:
        os.close(stream)
    watched = os.pidfd_open(program)
    if line in select.select([line, watched], [], [])[0]:
        os.kill(program, signal.SIGKILL)
    _, ended = os.waitpid(program, 0)
    with suppress(OSError):
        line.send(str(os.waitstatus_to_exitcode(ended)).encode())
    os._exit(0)


def run(asked: dict[str, Any]) -> None:
    """Become the program."""
    os.chdir(asked["folder"])
    environment = {**asked["environment"], **{name: os.environ[name] for name in OF_THE_LAB}}  # noqa: TID251
    os.environ.clear()  # noqa: TID251 - it is the program's from here on
    os.environ.update(environment)  # noqa: TID251
    sys.modules["numpy"].random.seed()  # as in a new process; `random` does so itself
    words = asked["words"]
    while words[0] in {"-B", "-s"}:
        words = words[1:]
    main = types.ModuleType("__main__")
    if words[0] == "-c":
        text, name, sys.argv = words[1], "<string>", ["-c", *words[2:]]
        sys.path.insert(0, "")
    else:
        text, name, sys.argv = Path(words[0]).read_text(encoding="utf-8"), words[0], words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        main.__file__ = words[0]
    sys.dont_write_bytecode = True
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(text, name, "exec"), main.__dict__)  # noqa: S102 - that is what an interpreter does
    except SystemExit as ended:
        status = _status(ended.code)
    except BaseException:  # noqa: BLE001 - whatever it is, it is told, and the program ends with 1
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # An interpreter that takes itself down touches all that was imported, which costs more than most programs do.
    os._exit(status)


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - as an interpreter does
    return 1


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    run(serve(sys.argv[2]))
