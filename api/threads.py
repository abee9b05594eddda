"""Work that waits, done in threads: for what happens at each request, at a fraction of what Starlette's own cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """So many threads, made as they are needed; what they are given keeps the ids of its request."""

    def __init__(self, most: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(most, name)

    async def do(self, work: Callable[[], T]) -> T:
        """Return what the work comes to, and let others go on meanwhile; what it raises is raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work)
