# It stands alone inside a sandbox, where there are no settings of ours.
# ruff: noqa: TID251
"""Inside one of a pair of executions: asks, or answers, one message at a time. Standard library only.

import sys; sys.path.insert(0, "/egress"); import dialogue
talk = dialogue.join()
talk.ask(b"...")                        # the one that asks
for question in talk: talk.say(b"...")  # the one that answers
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

END = 1 << 31
"""Set in a length: what follows is the word for why the dialogue ended, and nothing comes after it."""


class EndedError(Exception):
    """The dialogue is over; `args[0]` is the word for why."""


class Talk:
    """One side of a dialogue."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def ask(self, message: bytes) -> bytes:
        """Send a question and return its answer."""
        self.say(message)
        return self.hear()

    def say(self, message: bytes) -> None:
        """Send one message."""
        try:
            self._stream.sendall(len(message).to_bytes(4, "big") + message)
        except OSError:
            # Why it ended was said before, and is there to be read.
            self.hear()
            raise EndedError("gone") from None

    def hear(self) -> bytes:
        """Return the next message."""
        length = int.from_bytes(self._take(4), "big")
        if length & END:
            raise EndedError(self._take(length ^ END).decode("ascii", "replace"))
        return self._take(length)

    def __iter__(self) -> Iterator[bytes]:
        """Yield questions until the dialogue ends."""
        while True:
            try:
                question = self.hear()
            except EndedError:
                return
            yield question

    def _take(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._stream.recv(count - len(parts))
            except OSError:
                part = b""
            if not part:
                raise EndedError("gone")
            parts += part
        return bytes(parts)


def join(patience_s: float = 60.0) -> Talk:
    """Return this side of the dialogue, as soon as the relay is there."""
    deadline = time.monotonic() + patience_s
    while True:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(os.environ["FUMEHOOD_RELAY_SOCKET"])
            return Talk(stream)
        except OSError:
            stream.close()
            if time.monotonic() > deadline:
                raise EndedError("gone") from None
            time.sleep(0.01)
