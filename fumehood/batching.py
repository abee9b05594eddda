"""What many ask at once is done in one go: the hop to a thread, the round trip and the commit are shared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")
MOST = 64
"""At once; whatever else comes waits for it."""


class InBatches(Generic[Asked, Made]):
    """Turns calls of one into calls of all that wait, which one thread carries out, one after the other.

    `do` gets what is asked, in the order it came, and returns what came of each: an exception is raised to the one who
    asked. What `do` raises, all of them get. What is asked is carried out also when nobody waits for it any more.
    """

    def __init__(
        self, do: Callable[[Sequence[Asked]], Sequence[Made | Exception]], name: str, most: int = MOST
    ) -> None:
        self._do = do
        self._most = most
        self._thread = ThreadPoolExecutor(1, name)
        self._waiting: list[tuple[Asked, Future[Made]]] = []
        self._is_busy = False
        self._lock = threading.Lock()

    async def __call__(self, asked: Asked) -> Made:
        """Return what came of it, and let others go on meanwhile."""
        answer: Future[Made] = Future()
        with self._lock:
            self._waiting.append((asked, answer))
            begins, self._is_busy = not self._is_busy, True
        if begins:
            self._thread.submit(self._work)
        return await asyncio.wrap_future(answer)

    def _work(self) -> None:
        while taken := self._take():
            try:
                made = self._do([asked for asked, _ in taken])
            except Exception as error:  # noqa: BLE001 - nobody may wait for ever
                made = [error] * len(taken)
            for (_, answer), one in zip(taken, made, strict=True):
                _tell(answer, one)

    def _take(self) -> list[tuple[Asked, Future[Made]]]:
        with self._lock:
            taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            self._is_busy = bool(taken)
        return taken


def _tell(answer: Future[Made], made: Made | Exception) -> None:
    with suppress(InvalidStateError):  # whoever asked has gone away
        if isinstance(made, Exception):
            answer.set_exception(made)
        else:
            answer.set_result(made)
