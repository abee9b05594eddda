"""Ends a provider's stream while another thread waits for its next sign."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar


class HangUp:
    """A way to end one stream; made before it begins, and told of its connection where that can be cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self.is_done = False

    def __call__(self) -> None:
        """Cut the connection: whoever reads from it finds its end."""
        with self._lock:
            self.is_done = True
            self._cut()

    def watch(self, connection: socket.socket) -> None:
        """Take the connection of the stream; cut it at once where it is too late for it."""
        with self._lock:
            self._connection = connection
            if self.is_done:
                self._cut()

    def forget(self) -> None:
        """Leave the connection alone from now on; another call may have it next."""
        with self._lock:
            self._connection = None

    def _cut(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                # The base class's: a TLS socket's own would take away what the reading thread uses.
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


_BEGUN: ContextVar[HangUp | None] = ContextVar("begun", default=None)


@contextlib.contextmanager
def beginning(hang_up: HangUp) -> Iterator[None]:
    """Have a stream that begins in this block watched."""
    token = _BEGUN.set(hang_up)
    try:
        yield
    finally:
        _BEGUN.reset(token)


def of_this_stream() -> HangUp:
    """Return what ends the stream that begins now; one that nobody will ask for, where nobody began."""
    return _BEGUN.get() or HangUp()
