"""Asks a language model for each character of a held-out text, and tells it the character only then (prequential).

Runs inside a `query` execution: `python /in/driver/characters.py --block=64 --streams=8 --tolerance=0.001
--datasets=tales --seeds=1,2`. Reads `held_out/<dataset>.json` below the writable folder and removes it before any
code of the experiment starts: `{"alphabet": "...", "text": {"1": "..."}, "draw": {"1": 123}}`. Writes
`answers/logits_<dataset>_<seed>.npy`, float32, (characters, alphabet), as `serve.step` gave them, and
`answers/counted.json`, how large the first model is.

The text is cut into streams of one block, each of which is read by a process that ends with it. `draw`, which is drawn
from the installation's key, chooses the streams that are asked again, each alone in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

# In the sandbox it stands beside the others, without a package.
if TYPE_CHECKING or __package__:
    from fumehood.services.query_driver import confinement, counting
    from fumehood.services.query_driver.answerer import BEGIN, GONE
else:
    import confinement
    import counting
    from answerer import BEGIN, GONE

ANSWERER = Path(__file__).with_name("answerer.py")
SHARE_AGAIN = 0.02
"""Of the streams, at least one of each seed, are asked again alone."""
REHEARSED = 4
"""Characters of chance that are asked before the first real one, so that what fails can be told in full."""
LONGEST_WAIT_S = 120.0
"""For one answer; the first includes loading the model."""
LAST_WORD_S = 5.0
MOST_TOLD = 4096
"""Bytes that a model's size is told in."""


class RefusedError(Exception):
    """There is no result; the message says why, and nothing of the text."""


@dataclass(frozen=True, slots=True)
class Text:
    """The held-out text of one data set and seed, cut into streams."""

    alphabet: str
    streams: tuple[str, ...]
    draw: int

    def again(self) -> list[int]:
        """Return the streams that are asked again."""
        count = max(1, math.ceil(SHARE_AGAIN * len(self.streams)))
        chance = random.Random(self.draw)  # noqa: S311 - what it begins from was drawn from a secret key
        return sorted(chance.sample(range(len(self.streams)), count))


def main() -> int:
    """Write the answers, or say in one sentence why there are none."""
    asked = _arguments()
    try:
        confinement.hide()
        # It begins before there is a text to be seen.
        answerer = Answerer(asked)
        texts = _take(asked)
        answers = {}
        for number, ((dataset, seed), text) in enumerate(texts.items()):
            if not number:
                _rehearse(asked, answerer, dataset, seed, text)
            answers[f"logits_{dataset}_{seed}.npy"] = _ask(asked, answerer, dataset, seed, text)
        size = _counted(asked, answerer, next(iter(texts)), next(iter(texts.values())))
        _write(Path(asked.answers), answers, size)
    except (RefusedError, confinement.ConfinementError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's last word
        return 1
    return 0


def _write(folder: Path, answers: Mapping[str, NDArray[numpy.float32]], size: Mapping[str, object]) -> None:
    if folder.is_symlink() or folder.exists():
        raise RefusedError(f"{folder} was there before the answers were.")
    folder.mkdir()
    for name, values in answers.items():
        numpy.save(folder / name, values, allow_pickle=False)
    (folder / "counted.json").write_text(json.dumps(size) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--block", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--datasets", type=lambda text: text.split(","), required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--code", default="/in/code")
    parser.add_argument("--outputs", default="/in/outputs")
    parser.add_argument("--packages", default="", help="where those that answer find packages that this one does not")
    parser.add_argument("--held_out", default="held_out")
    parser.add_argument("--answers", default="answers")
    return parser.parse_args()


def _take(asked: argparse.Namespace) -> dict[tuple[str, int], Text]:
    """Return all texts, and leave no file of them."""
    told = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(asked.held_out).glob("*.json"))}
    for path in Path(asked.held_out).iterdir():
        path.unlink()
    Path(asked.held_out).rmdir()
    found = {}
    for dataset in asked.datasets:
        if dataset not in told:
            raise RefusedError(f"There is no held-out text of {dataset}.")
        shape = json.loads(told[dataset])
        for seed in asked.seeds:
            found[dataset, seed] = _text(dataset, seed, shape, asked.block)
    return found


def _text(dataset: str, seed: int, shape: dict[str, object], block: int) -> Text:
    alphabet, texts, draws = shape.get("alphabet"), shape.get("text"), shape.get("draw")
    if not (isinstance(alphabet, str) and isinstance(texts, dict) and isinstance(draws, dict)):
        raise RefusedError(f"The held-out text of {dataset} has no alphabet, text and draw.")
    text, draw = texts.get(str(seed)), draws.get(str(seed))
    if not text or not isinstance(text, str) or not isinstance(draw, int):
        raise RefusedError(f"The held-out text of {dataset} has none for seed {seed}.")
    if len(set(alphabet)) != len(alphabet) or BEGIN in alphabet or not set(text) <= set(alphabet):
        raise RefusedError(f"The held-out text of {dataset} is not written in its alphabet.")
    if len(text) % block:
        raise RefusedError(f"The held-out text of {dataset} has {len(text)} characters, no multiple of {block}.")
    return Text(alphabet, tuple(text[i : i + block] for i in range(0, len(text), block)), draw)


def _rehearse(asked: argparse.Namespace, answerer: Answerer, dataset: str, seed: int, text: Text) -> None:
    """Let the code answer about characters of chance: what it prints, and how it fails, may be read by anybody."""
    chance = random.Random(0)  # noqa: S311 - a text that means nothing
    count = min(asked.streams, len(text.streams))
    streams = ["".join(chance.choices(text.alphabet, k=REHEARSED)) for _ in range(count)]
    try:
        _answers(answerer, dataset, seed, text.alphabet, streams, output=None)
    except RefusedError as error:
        raise RefusedError(f"{error} It was asked about characters of chance.") from None


def _ask(asked: argparse.Namespace, answerer: Answerer, dataset: str, seed: int, text: Text) -> NDArray[numpy.float32]:
    """Return the answers for every character of a text: (characters, alphabet)."""
    parts = []
    for first in range(0, len(text.streams), asked.streams):
        batch = text.streams[first : first + asked.streams]
        parts.append(_answers(answerer, dataset, seed, text.alphabet, batch))  # (streams, block, alphabet)
    answers = numpy.concatenate(parts)
    largest = 0.0
    for number in text.again():
        stream = text.streams[number]
        (alone,) = _answers(answerer, dataset, seed, text.alphabet, [stream])
        place = [text.alphabet.index(character) for character in stream]
        nats = [_log_softmax(one)[numpy.arange(len(stream)), place] for one in (answers[number], alone)]
        largest = max(largest, float(numpy.abs(nats[0] - nats[1]).max()))
    if not largest <= asked.tolerance:
        raise RefusedError(
            f"{dataset} seed {seed}: a stream that was asked again alone is answered otherwise by {largest:.3g} nats, "
            f"and {asked.tolerance:g} are allowed: an answer may depend on its own stream's characters only."
        )
    print(f"{dataset} seed {seed}: {len(text.again())} streams asked again, {largest:.2g} nats apart")  # noqa: T201
    return answers.reshape(-1, len(text.alphabet))


def _log_softmax(values: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
    """Return normalised log-probabilities of answers (block, alphabet), in nats."""
    raised = values.astype(numpy.float64) - values.max(axis=1, keepdims=True)
    whole: NDArray[numpy.float64] = raised - numpy.log(numpy.exp(raised).sum(axis=1, keepdims=True))
    return whole


def _counted(asked: argparse.Namespace, answerer: Answerer, of: tuple[str, int], text: Text) -> dict[str, object]:
    """Return how large a model is, as a process says that is asked about characters of chance.

    That process has read nothing of any text, so what it says tells nothing of one. What fails costs no answer.
    """
    chance = random.Random(0)  # noqa: S311 - a text that means nothing
    count = min(counting.ANSWERS, asked.block)
    told = BEGIN + "".join(chance.choices(text.alphabet, k=count - 1))
    size: dict[str, object] = dict.fromkeys(("parameters", "flops")) | {"answers": 0, "of": "characters"}
    with _answering(answerer, *of, 1, len(text.alphabet), subprocess.DEVNULL, count) as (questions, answers):
        with suppress(BrokenPipeError):  # it has ended already, and said nothing or what it had to say
            questions.write(told.encode("utf-32-le"))
        try:
            found = json.loads(_exactly(answers.fileno(), MOST_TOLD))
            numbers = {name: found[name] for name in size if isinstance(found.get(name), (int, float))}
            error = found.get("error")
            return size | numbers | ({"error": error[:60]} if isinstance(error, str) else {})
        except (ValueError, AttributeError, RecursionError) as error:
            return size | {"error": type(error).__name__}


def _answers(
    answerer: Answerer,
    dataset: str,
    seed: int,
    alphabet: str,
    streams: list[str] | tuple[str, ...],
    output: int | None = subprocess.DEVNULL,
) -> NDArray[numpy.float32]:
    """Return one batch's answers, (streams, block, alphabet), from a process that is gone afterwards."""
    size = len(streams) * len(alphabet) * 4
    told = [BEGIN * len(streams), *("".join(column) for column in zip(*streams, strict=True))]
    held = []
    with _answering(answerer, dataset, seed, len(streams), len(alphabet), output) as (questions, answers):
        # The last character of a stream is answered for like the others, and never sent.
        for count, characters in enumerate(told[:-1]):
            try:
                questions.write(characters.encode("utf-32-le"))
            except BrokenPipeError:
                raise _stopped(dataset, seed, count, output) from None
            data = _exactly(answers.fileno(), size)
            if len(data) < size:
                raise _stopped(dataset, seed, count, output)
            values = numpy.frombuffer(data, dtype=numpy.float32).reshape(len(streams), len(alphabet))
            if not numpy.isfinite(values).all():
                raise RefusedError(f"serve.step gave a number that is not finite for {dataset} seed {seed}.")
            held.append(values)
    return numpy.stack(held, axis=1)


def _stopped(dataset: str, seed: int, count: int, output: int | None) -> RefusedError:
    why = f"serve.py stopped answering for {dataset} seed {seed}"
    if output is None:
        return RefusedError(f"{why} at character {count + 1}.")
    return RefusedError(f"{why}. What it printed is withheld, since it has read held-out text.")


@contextmanager
def _answering(
    answerer: Answerer, dataset: str, seed: int, streams: int, symbols: int, output: int | None, count: int = 0
) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Have a process started for one batch, yield the pipes to and from it, and end it with all that it started.

    With a count it answers with the model's size instead, and with that of so many answers.
    """
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # One of its own each time: what is done to an open file, whoever has it next could find.
    said = os.dup(1) if output is None else os.open(os.devnull, os.O_WRONLY)
    batch = {"dataset": dataset, "seed": seed, "streams": streams, "symbols": symbols, "count": count}
    with os.fdopen(ours_out, "wb", buffering=0) as questions, os.fdopen(ours_in, "rb") as answers:
        try:
            answerer.begin(batch, (theirs_in, theirs_out, said))
        finally:
            for descriptor in (theirs_in, theirs_out, said):
                os.close(descriptor)
        try:
            yield questions, answers
        finally:
            if output is None:  # what it says at its end is for people to read
                questions.close()
                answerer.is_gone(LAST_WORD_S)
            answerer.end()


class Answerer:
    """The process that starts those that answer, each for one batch."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._wishes, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [
                *(sys.executable, "-B", str(ANSWERER), f"--code={asked.code}", f"--outputs={asked.outputs}"),
                *(f"--wishes={theirs.fileno()}", f"--packages={asked.packages}"),
            ]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        self._has_none = True
        if not self._hears(LONGEST_WAIT_S):
            raise RefusedError("The process that starts those that answer did not begin.")

    def begin(self, batch: Mapping[str, object], pipes: tuple[int, int, int]) -> None:
        """Have a process started that reads from the first pipe, answers into the second and prints into the third."""
        self._has_none = False
        with suppress(BrokenPipeError):  # nobody will answer
            socket.send_fds(self._wishes, [json.dumps(batch).encode()], list(pipes))

    def is_gone(self, patience_s: float) -> bool:
        """Say whether the process has ended, or does within a time."""
        self._has_none = self._has_none or self._hears(patience_s)
        return self._has_none

    def end(self) -> None:
        """End the process and all that it started."""
        confinement.end_descendants(spared=self._process.pid)
        if not self.is_gone(LAST_WORD_S):
            raise RefusedError("The process that starts those that answer has ended.")

    def _hears(self, patience_s: float) -> bool:
        ready, _, _ = select.select([self._wishes], [], [], patience_s)
        return bool(ready and self._wishes.recv(len(GONE)) == GONE)


def _exactly(descriptor: int, size: int) -> bytes:
    """Return so many bytes, or fewer where the other side ended or took too long."""
    parts, deadline = bytearray(), time.monotonic() + LONGEST_WAIT_S
    while len(parts) < size:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(descriptor, size - len(parts)) if ready else b""
        if not part:
            break
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    sys.exit(main())
