"""What lets a server answer more on the same machine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
YOUNG_OBJECTS = 20_000
"""So many new ones are collected at once; a request makes some thousand, and leaves few in cycles."""


class Threads:
    """So many threads, made as they are needed, at a fraction of what it costs to hand work to Starlette's.

    What they are given keeps the ids of its request, and goes on to its end when nobody waits for it any more.
    """

    def __init__(self, most: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(most, name)

    async def do(self, work: Callable[[], T]) -> T:
        """Return what the work comes to, and let others go on meanwhile; what it raises is raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work)


def leave_alone_what_stays() -> None:
    """Keep the garbage collector from walking modules and routes again and again while requests are answered."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
