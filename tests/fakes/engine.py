"""A door before the machine's own container engine, which a test may hold shut: the engine itself goes on."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path

REAL = Path("/var/run/docker.sock")


class Mood(Enum):
    """How the engine behaves, seen through the door."""

    WELL = "well"
    STALLED = "stalled"
    """Whoever calls is connected, and hears nothing."""
    GONE = "gone"
    """Every connection breaks, and none is made."""


class Door:
    """Passes bytes between a socket of its own and the engine's."""

    def __init__(self, place: Path, real: Path = REAL) -> None:
        self.place, self._real = place, real
        self.mood = Mood.WELL
        self._is_over = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = self._listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        self._thread.join(10)
        self._break_all()
        self._listening.close()

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        self.place.unlink(missing_ok=True)
        listening.bind(str(self.place))
        listening.listen(64)
        return listening

    def _serve(self) -> None:
        while not self._is_over:
            if self.mood is Mood.GONE:
                self._break_all()
            if self.mood is Mood.WELL:
                self._pass_on()
            ready, _, _ = select.select([self._listening], [], [], 0.005)
            if ready:
                self._take()

    def _take(self) -> None:
        caller, _ = self._listening.accept()
        if self.mood is Mood.GONE:
            caller.close()
            return
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(str(self._real))
        self._pairs.append((caller, engine))

    def _pass_on(self) -> None:
        if not self._pairs:
            return
        ready, _, _ = select.select([one for pair in self._pairs for one in pair], [], [], 0.005)
        for pair in list(self._pairs):
            for here, there in (pair, pair[::-1]):
                if here in ready and pair in self._pairs and not self._carry(here, there):
                    self._drop(pair)

    def _carry(self, here: socket.socket, there: socket.socket) -> bool:
        with suppress(OSError):
            if data := here.recv(65536):
                there.sendall(data)
                return True
        return False

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pairs.remove(pair)
        for one in pair:
            one.close()

    def _break_all(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair)
