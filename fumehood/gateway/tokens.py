"""Scoped tokens, and the secret that signs them."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from fumehood.domain.token import TokenError, mint, read
from fumehood.errors import MachineUnfitError
from fumehood.settings import Settings

__all__ = ["TokenError", "mint", "read", "secret", "secret_of"]

_LENGTH = 32


def secret_of(settings: Settings) -> bytes:
    """Return the gateway secret that was given, for gateways and workers on different machines, else this folder's."""
    given = bytes.fromhex(settings.gateway_secret.get_secret_value())
    return given or secret(settings.state_dir)


def secret(state_dir: Path) -> bytes:
    """Return the installation's gateway secret; made once, also when several processes ask at the same time."""
    path = state_dir / "gateway.secret"
    if not path.exists():
        _make(path)
    value = path.read_bytes()
    if len(value) != _LENGTH:
        raise MachineUnfitError(f"{path} is damaged.", remedy="Remove it while nothing runs; a new one is made.")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise MachineUnfitError(f"{path} can be read by others.", remedy=f"Run `chmod 600 {path}`.")
    return value


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".gateway.secret.")
    with os.fdopen(handle, "wb") as file:
        if os.geteuid() == 0:  # state belongs to the folder's owner, so that root's processes lock nobody out
            folder = path.parent.stat()
            os.fchown(handle, folder.st_uid, folder.st_gid)
        file.write(secrets.token_bytes(_LENGTH))
        file.flush()
        os.fsync(file.fileno())
    # A link appears whole or not at all, and the second of two makers finds the first one's.
    try:
        Path(path).hardlink_to(name)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()
