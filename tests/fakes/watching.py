"""A secret for each kind of provider, and somebody who looks whether other processes show one."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fumehood.gateway.keys import VARIABLES
from tests.fakes.provider import KEY

_MARK = f"canary-{secrets.token_hex(8)}-"
CANARIES = {name: f"{_MARK}{name}" for name in (*VARIABLES, "semantic-scholar", "openalex")} | {
    "anthropic": KEY,
    "bedrock": f"AKIA0123456789ABCDEF:{_MARK}bedrock-secret:{_MARK}bedrock-session",
    "vertex": json.dumps(
        {
            "type": "service_account",
            "client_email": f"{_MARK}vertex@example.com",
            "private_key": f"-----BEGIN PRIVATE KEY-----{_MARK}vertex-private",
            "token_uri": f"https://example.com/{_MARK}vertex-token",
        }
    ),
}
"""A key for each kind of provider, though only one of them is asked; each process of the tests has its own."""
SECRETS = (KEY, _MARK)
"""What is in every canary, and nowhere else."""


@dataclass
class Watch:
    """Looks into the environments and lines of all other processes for words, until it is told to stop."""

    words: tuple[str, ...]
    after_s: float = 0.0
    met: set[str] = field(default_factory=set)
    sandboxes: int = 0

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        self._done.wait(self.after_s)
        while not self._done.wait(0.1):
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    environment = (place / "environ").read_bytes()
                    command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                self.sandboxes += b"FUMEHOOD_SEEDS=" in environment
                if any(word.encode() in environment or word in command for word in self.words):
                    self.met.add(command)
