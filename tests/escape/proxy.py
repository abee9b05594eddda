"""A way out without rules, put in the gateway's place: it carries whatever it is asked to, to canaries of our own."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

_PATIENCE_S = 2


class Proxy:
    """Speaks on a Unix socket, connects to any address that a request names, and passes on all that is said."""

    def __init__(self, place: Path, user: int) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(place))
        os.chown(place, user, user)
        self._listening.listen()
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop carrying."""
        os.close(self._ending)
        self._thread.join()
        self._listening.close()
        os.close(self._end)

    def _serve(self) -> None:
        watched: list[int | socket.socket] = [self._end, self._listening]
        while self._end not in select.select(watched, [], [])[0]:
            stream, _ = self._listening.accept()
            with stream, suppress(OSError, ValueError):
                stream.settimeout(_PATIENCE_S)
                self._carry(stream)

    def _carry(self, stream: socket.socket) -> None:
        asked = stream.recv(65536)
        method, target, _ = asked.split(None, 2)
        place = urlsplit(f"//{target.decode()}" if method == b"CONNECT" else target.decode())
        with socket.create_connection((place.hostname, place.port or 80), _PATIENCE_S) as up:
            if method == b"CONNECT":
                stream.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                asked = stream.recv(65536)
            up.sendall(asked)
            while said := up.recv(65536):
                stream.sendall(said)
