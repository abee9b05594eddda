"""Group commit: of what many threads want written at once, one writes all, and the others wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from fumehood.errors import FumehoodError

Asked = TypeVar("Asked")
Made = TypeVar("Made")
MOST = 64
"""In one transaction; whoever else writes waits for it."""


class GroupCommit(Generic[Asked, Made]):
    """Turns calls of one into calls of all that wait, so that the commit, its lock and its sync are shared.

    `write` gets what is asked, in the order it came, and returns what came of each: a `FumehoodError` is raised to the
    one who asked. What `write` raises, all of them get.
    """

    def __init__(self, write: Callable[[Sequence[Asked]], Sequence[Made | FumehoodError]], most: int = MOST) -> None:
        self._write = write
        self._most = most
        self._waiting: list[tuple[Asked, Future[Made]]] = []
        self._lock = threading.Lock()
        self._writes = threading.Lock()

    def __call__(self, asked: Asked) -> Made:
        """Return what came of it, once it is written."""
        answer: Future[Made] = Future()
        with self._lock:
            self._waiting.append((asked, answer))
        # Whoever holds this writes for those who came before it; what came meanwhile, the next one writes.
        with self._writes:
            while not answer.done():
                self._write_first()
        return answer.result()

    def _write_first(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            made = self._write([asked for asked, _ in taken])
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever
            for _, answer in taken:
                answer.set_exception(error)
            return
        for (_, answer), one in zip(taken, made, strict=True):
            if isinstance(one, FumehoodError):
                answer.set_exception(one)
            else:
                answer.set_result(one)
