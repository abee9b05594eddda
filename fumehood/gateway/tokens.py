"""Scoped tokens, and the secret that signs them."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from fumehood.domain.token import READ, TokenError, execution_secret, mint, mint_for_execution, read
from fumehood.errors import MachineUnfitError
from fumehood.settings import Settings

__all__ = [
    "READ",
    "TokenError",
    "execution_secret",
    "executions_secret_of",
    "leave_for_executions",
    "mint",
    "mint_for_execution",
    "read",
    "secret",
    "secret_of",
]

_LENGTH = 32
_FOR_EXECUTIONS = "executions.secret"


def secret_of(settings: Settings) -> bytes:
    """Return the gateway secret that was given, for gateways and workers on different machines, else this folder's."""
    given = bytes.fromhex(settings.gateway_secret.get_secret_value())
    return given or secret(settings.state_dir)


def executions_secret_of(settings: Settings) -> bytes:
    """Return what the run side mints executions' tokens with: what was given, else what a gateway left here, or b"".

    The gateway's own secret, from which it is derived, is not read.
    """
    if given := bytes.fromhex(settings.executions_secret.get_secret_value()):
        return given
    path = settings.state_dir / _FOR_EXECUTIONS
    return _read(path) if path.exists() else b""


def leave_for_executions(settings: Settings) -> None:
    """Leave the run side of this state folder its secret; one that is given the gateway's is given this one too."""
    if not settings.gateway_secret.get_secret_value():
        _write(settings.state_dir / _FOR_EXECUTIONS, execution_secret(secret(settings.state_dir)))


def secret(state_dir: Path) -> bytes:
    """Return the installation's gateway secret; made once, also when several processes ask at the same time."""
    path = state_dir / "gateway.secret"
    if not path.exists():
        _make(path)
    return _read(path)


def _read(path: Path) -> bytes:
    value = path.read_bytes()
    if len(value) != _LENGTH:
        raise MachineUnfitError(f"{path} is damaged.", remedy="Remove it while nothing runs; a new one is made.")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise MachineUnfitError(f"{path} can be read by others.", remedy=f"Run `chmod 600 {path}`.")
    return value


def _make(path: Path) -> None:
    name = _fresh(path, secrets.token_bytes(_LENGTH))
    # A link appears whole or not at all, and the second of two makers finds the first one's.
    try:
        path.hardlink_to(name)
    except FileExistsError:
        pass
    finally:
        name.unlink()


def _write(path: Path, value: bytes) -> None:
    _fresh(path, value).replace(path)


def _fresh(path: Path, value: bytes) -> Path:
    """Return a new file beside a path that only the folder's owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        if os.geteuid() == 0:  # state belongs to the folder's owner, so that root's processes lock nobody out
            folder = path.parent.stat()
            os.fchown(handle, folder.st_uid, folder.st_gid)
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
