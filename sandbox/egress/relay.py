# It starts with every pair of executions, and what it imports is most of its start.
# ruff: noqa: PTH100, PTH120
"""The relay of one pair: `python -I -S relay.py STATE_FOLDER LOCK READY`, its plan on standard input; stdlib only.

One side asks, the other answers, in strict turns: no question is passed on before the one before it was answered. A
message is a length of four bytes and its bytes. Why a dialogue ended is told to both sides and written to `relay.json`.
"""

from __future__ import annotations

import json
import marshal
import os
import select
import socket
import sys
import time

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandbox.egress.process import POLL_S, Watched, create, drop, listen, tell_pid
from sandbox.supervisor import leave

# The names below are for type checkers.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

END = 1 << 31
ASKS, ANSWERS = 0, 1
CHUNK = 65536
MEET_S = 60.0
"""Within which both sides must come."""
_LAST_WORD_S = 1.0


class EndError(Exception):
    """The dialogue is over; the text is the word for why."""


def main() -> None:
    """Leave the caller, open what is needed, give up every right, and relay to the end."""
    folder, _, ready, _ = leave()
    with os.fdopen(0, "rb") as file:
        told = file.read()
    if not told:
        return
    try:
        plan: dict[str, Any] = marshal.loads(told)  # noqa: S302 - from our own parent, through a pipe
        tell_pid(f"{folder}/relay.pid")
        report = create(f"{folder}/relay.json")
        watched = [Watched(each) for each in plan["folders"]]
        listeners = [listen(place, uid, 1) for place, uid in zip(plan["sockets"], plan["uids"], strict=True)]
        drop(plan["own_uid"])
        os.write(ready, b".")
    except Exception as error:  # noqa: BLE001 - whoever launches must hear why, whatever it was
        os.write(ready, f"!{type(error).__name__}: {error}".encode()[:2000])
        return
    finally:
        os.close(ready)
    relay = Relay(plan["caps"], watched, time.monotonic() + plan["wall_s"])
    word = relay.run(listeners)
    os.write(report, json.dumps({"end": word, "messages": relay.count, "bytes": relay.carried}).encode())


class Relay:
    """One dialogue, from both coming to its end."""

    def __init__(self, caps: dict[str, Any], watched: list[Watched], latest: float) -> None:
        self.caps, self.watched, self.latest = caps, watched, latest
        self.streams: list[socket.socket] = []
        self.count = self.carried = 0

    def run(self, listeners: list[socket.socket]) -> str:
        """Carry messages until it ends; the word for why."""
        try:
            self._meet(listeners)
            while True:
                self._turn()
        except EndError as error:
            word = str(error)
        except OSError:
            word = "gone"
        for stream in self.streams:
            self._last_word(stream, word)
        return word

    def _meet(self, listeners: list[socket.socket]) -> None:
        """Take one connection from each side, and no other ever."""
        deadline = time.monotonic() + MEET_S
        for listener in listeners:
            self._wait(listener.fileno(), select.POLLIN, deadline)
            stream, _ = listener.accept()
            stream.setblocking(False)
            self.streams.append(stream)
            listener.close()

    def _turn(self) -> None:
        begun = time.monotonic()
        question = self._hear(ASKS, self.latest)
        if self.count >= self.caps["messages"]:
            raise EndError("too_many")
        self._check_silent()
        self.count += 1
        deadline = time.monotonic() + self.caps["answer_s"]
        self._say(ANSWERS, question, deadline)
        self._say(ASKS, self._hear(ANSWERS, deadline), time.monotonic() + self.caps["answer_s"])
        spare = begun + 1 / self.caps["per_second"] - time.monotonic()
        if spare > 0:
            time.sleep(spare)

    def _check_silent(self) -> None:
        """End it when the answer to a question is there before the question."""
        try:
            early = self.streams[ANSWERS].recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        raise EndError("out_of_turn" if early else "gone")

    def _hear(self, side: int, deadline: float) -> bytes:
        length = int.from_bytes(self._take(side, 4, deadline), "big")
        if length > self.caps["message_bytes"]:
            raise EndError("too_large")
        self.carried += length
        if self.carried > self.caps["total_bytes"]:
            raise EndError("too_many")
        return self._take(side, length, deadline)

    def _take(self, side: int, count: int, deadline: float) -> bytes:
        stream, parts = self.streams[side], bytearray()
        while len(parts) < count:
            self._wait(stream.fileno(), select.POLLIN, deadline, side)
            try:
                part = stream.recv(min(CHUNK, count - len(parts)))
            except BlockingIOError:
                continue
            if not part:
                raise EndError("gone")
            parts += part
        return bytes(parts)

    def _say(self, side: int, message: bytes, deadline: float) -> None:
        stream, left = self.streams[side], memoryview(len(message).to_bytes(4, "big") + message)
        while left:
            self._wait(stream.fileno(), select.POLLOUT, deadline, side)
            try:
                left = left[stream.send(left) :]
            except BlockingIOError:
                continue

    def _wait(self, descriptor: int, event: int, deadline: float, side: int | None = None) -> None:
        """Wait for one stream; end the dialogue when time is up, or either execution is over."""
        waiting = select.poll()
        waiting.register(descriptor, event)
        # While one side is waited for, the other one may hang up; it must not be noticed only at the next message.
        if side is not None and len(self.streams) > 1:
            waiting.register(self.streams[1 - side].fileno(), 0)
        while True:
            now = time.monotonic()
            if now > min(deadline, self.latest):
                raise EndError("timeout")
            events = dict(waiting.poll(int(POLL_S * 1000)))
            if descriptor in events:
                return
            if events or any(one.is_over(now) for one in self.watched):
                raise EndError("gone")

    def _last_word(self, stream: socket.socket, word: str) -> None:
        try:
            stream.settimeout(_LAST_WORD_S)
            stream.sendall((END | len(word)).to_bytes(4, "big") + word.encode())
            stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It did not want to hear it.
            pass
        stream.close()


if __name__ == "__main__":
    main()
