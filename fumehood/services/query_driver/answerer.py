"""One batch of streams, answered: imports `serve.py`, and gives a distribution for each character before it is read.

Started by `characters.py` for one batch only, without rights of its own: all it reads are the characters that were
already answered for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def main() -> int:
    """Answer until nothing more is asked."""
    parser = argparse.ArgumentParser()
    for name in ("--code", "--outputs", "--dataset"):
        parser.add_argument(name, required=True)
    for name in ("--seed", "--streams", "--symbols", "--questions", "--answers"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--count", type=int, default=0, help="answers that the model's size is told by, in their place")
    asked = parser.parse_args()
    if asked.count and any(b"torch" in path.read_bytes() for path in Path(asked.code).rglob("*.py")):
        # What counts torch's operations makes a folder when it is imported, which cannot be made later.
        counting.load()
    try:
        confinement.give_up()
    except confinement.ConfinementError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's last word
        return 1
    sys.path[0] = asked.code
    import serve  # type: ignore[import-not-found]

    model = serve.load(asked.outputs, asked.dataset, asked.seed)
    with os.fdopen(asked.questions, "rb") as questions, os.fdopen(asked.answers, "wb") as answers:
        if asked.count:
            answers.write(json.dumps(_size(serve, model, questions, asked.count)).encode())
            return 0
        state = serve.begin(model, asked.streams)
        while characters := _read(questions, asked.streams):
            told = serve.step(model, state, characters)
            answers.write(_bytes(told, asked.streams, asked.symbols))
            answers.flush()
    return 0


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
