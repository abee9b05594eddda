"""Where batches of streams are answered: each by a process that imports `serve.py` and ends with its batch.

Started by `characters.py`, without rights of its own. It imports what takes long to import, and nothing of the
experiment; for each batch it is handed the ends of three pipes, forks, and says when the process is gone. Of the text
it sees nothing. Whoever answers gives a distribution for each character before it is read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

# In the sandbox it stands beside the others, without a package.
if TYPE_CHECKING or __package__:
    from fumehood.services.query_driver import confinement, counting
else:
    import confinement
    import counting

BEGIN = "\0"
"""In the place of a character: nothing of the stream was read yet."""
GONE = b"."
"""What is said of a process that has ended, and of the imports when they are done."""
LONGEST_WISH = 4096
SLOW = ("numpy", "torch")
"""What is imported once for all batches, where the code names it."""


def main() -> int:
    """Start a process for each batch that is asked for, one after the other, until nothing more is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--outputs", required=True)
    parser.add_argument("--packages", default="")
    parser.add_argument("--wishes", type=int, required=True, help="an open socket")
    asked = parser.parse_args()
    texts = [path.read_bytes() for path in asked.code.rglob("*.py")]
    slow = [name for name in SLOW if any(name.encode() in text for text in texts)]
    if "torch" in slow:
        counting.load()
    # torch's compiler, which an optimiser loads, tries out a folder and makes one, and neither can be done later.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.gettempdir()  # noqa: TID251 - its own, not a setting of ours
    try:
        confinement.give_up()
        for name in slow:
            with suppress(ImportError):
                importlib.import_module(name)
        # What a process that answers could change here, the next one would find.
        confinement.close()
        with socket.socket(fileno=asked.wishes) as wishes:
            wishes.send(GONE)
            while _batch(asked, wishes):
                pass
    except confinement.ConfinementError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's last word
        return 1
    return 0


def _batch(asked: argparse.Namespace, wishes: socket.socket) -> bool:
    told, pipes, _, _ = socket.recv_fds(wishes, LONGEST_WISH, 3)
    if not told:
        return False
    sys.stdout.flush()
    here = os.getpid()
    pid = os.fork()
    if not pid:
        _answer(asked, json.loads(told), pipes, here)
    for pipe in pipes:
        os.close(pipe)
    os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        wishes.send(GONE)
    return True


def _answer(asked: argparse.Namespace, batch: dict[str, Any], pipes: list[int], parent: int) -> None:
    """Answer a batch as a process of its own would that was just started."""
    status = 1
    try:
        questions, answers, output = pipes
        os.dup2(output, 1)
        os.dup2(output, 2)
        confinement.begin_anew(parent, {1, 2, questions, answers})
        os.open(os.devnull, os.O_RDONLY)  # the first that is free, which is the standard input
        sys.path[0] = str(asked.code)
        if asked.packages:
            # Not before: what they bring is the experiment's, and would run in the process that forks.
            sys.path.append(asked.packages)
        with os.fdopen(questions, "rb") as read, os.fdopen(answers, "wb") as written:
            _give(asked, batch, read, written)
        status = 0
    except confinement.ConfinementError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's last word
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - what Python itself would do with it
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _give(asked: argparse.Namespace, batch: dict[str, Any], questions: BinaryIO, answers: BinaryIO) -> None:
    import serve  # type: ignore[import-not-found]

    streams, symbols, count = batch["streams"], batch["symbols"], batch["count"]
    model = serve.load(asked.outputs, batch["dataset"], batch["seed"])
    if count:
        answers.write(json.dumps(_size(serve, model, questions, count)).encode())
        return
    state = serve.begin(model, streams)
    while characters := _read(questions, streams):
        told = serve.step(model, state, characters)
        answers.write(_bytes(told, streams, symbols))
        answers.flush()


def _size(serve: Any, model: object, questions: BinaryIO, count: int) -> dict[str, Any]:
    """Return how large a model is, and what each of so many characters of one stream takes it."""
    characters = [_read(questions, 1) for _ in range(count)]

    def ask() -> None:
        state = serve.begin(model, 1)
        for one in characters:
            serve.step(model, state, one)

    return counting.size(model, ask, count, "characters")


def _read(questions: BinaryIO, streams: int) -> list[str]:
    """Return the next character of each stream, each empty at the beginning; nothing at the end."""
    data = questions.read(4 * streams).decode("utf-32-le")
    return ["" if character == BEGIN else character for character in data]


def _bytes(told: Any, streams: int, symbols: int) -> bytes:
    import numpy

    values = numpy.asarray(told, dtype=numpy.float32)
    if values.shape != (streams, symbols):
        raise ValueError(f"serve.step must return ({streams}, {symbols}) numbers, not {values.shape}.")
    return values.tobytes()


if __name__ == "__main__":
    sys.exit(main())
