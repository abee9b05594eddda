"""Cursors: where a page ended, signed, so that none can be made up or taken from one list to another."""

from __future__ import annotations

import base64
import hmac

from fumehood.errors import BadInputError

_MAC = 16


class Cursors:
    """Makes and reads the cursors of one installation."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, scope: str, after: str) -> str:
        """Return the cursor of the page that follows `after` in the list `scope`."""
        return base64.urlsafe_b64encode(self._mac(scope, after) + after.encode()).decode().rstrip("=")

    def read(self, scope: str, cursor: str) -> str:
        """Return what the page follows; `BadInputError` when the cursor was not made here for this list."""
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            after = raw[_MAC:].decode()
        except ValueError:
            raise _refusal() from None
        # Compared as it was made: several texts decode to the same bytes.
        if not hmac.compare_digest(self.make(scope, after).encode(), cursor.encode()):
            raise _refusal()
        return after

    def _mac(self, scope: str, after: str) -> bytes:
        return hmac.digest(self._key, f"{scope}\n{after}".encode(), "sha256")[:_MAC]


def _refusal() -> BadInputError:
    return BadInputError("The cursor is not one that this list gave out; start again without it.")
