"""Provider keys: kept in one file that only the gateway reads, and never shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path

from fumehood.errors import BadInputError, MachineUnfitError, NotFoundError

VARIABLES = {
    "anthropic": "ANTHROPIC_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "deepseek": "DEEPSEEK_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "vertex": "GOOGLE_CREDENTIALS",
}
"""The variables that a key may stand in, by its name; what is found there wins over what is kept."""
_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,39}$")


def checked(name: str, value: str) -> str:
    """Return a key without the space around it; `BadInputError` for what no key looks like.

    One that is a JSON object, as a service account's is, comes back on one line.
    """
    value = _on_one_line(value.strip())
    has_spaces = " " in value and not value.startswith("{")
    if not value or not value.isascii() or not value.isprintable() or has_spaces:
        raise BadInputError(f"What was given for {name} is not a key: it is empty or has spaces or odd characters.")
    return value


def _on_one_line(value: str) -> str:
    if not value.startswith("{"):
        return value
    try:
        return json.dumps(json.loads(value), separators=(",", ":"))
    except ValueError:
        return ""


def handed(file: int) -> dict[str, str]:
    """Return the keys in an open file, by name; it may be read any number of times, by any process that has it."""
    size = os.fstat(file).st_size
    return {str(name): str(value) for name, value in json.loads(os.pread(file, size, 0)).items()}


class Keys:
    """The keys below a state folder. Only names are ever listed."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "keys" / "providers.json"

    def set(self, name: str, value: str) -> None:
        """Keep a provider's key under a name, in the place of any earlier one."""
        if not _NAME.match(name):
            raise BadInputError("A key's name is lower-case letters, digits, `-` and `_`, such as `anthropic`.")
        self._write({**self._read(), name: checked(name, value)})

    def list(self) -> tuple[str, ...]:
        """Return the names there is a key for."""
        return tuple(sorted(self._read()))

    def remove(self, name: str) -> None:
        """Forget a key; `NotFoundError` when there is none."""
        kept = self._read()
        if name not in kept:
            raise NotFoundError(f"There is no key named {name!r}.")
        del kept[name]
        self._write(kept)

    def get(self, name: str) -> str | None:
        """Return a key's value, for the upstream that needs it; None when there is none."""
        return self._read().get(name)

    def values(self) -> tuple[str, ...]:
        """Return all keys; none where they cannot be read, as then no provider is told any either."""
        with contextlib.suppress(MachineUnfitError):
            return tuple(self._read().values())
        return ()

    def _read(self) -> dict[str, str]:
        try:
            if self._path.stat().st_mode & 0o077:
                raise MachineUnfitError(f"{self._path} can be read by others.", remedy=f"Run `chmod 600 {self._path}`.")
            return {str(name): str(value) for name, value in json.loads(self._path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError):
            remedy = "Remove it and set the keys again."
            # Without `from`: the parser's message would quote the file.
            raise MachineUnfitError(f"{self._path} is damaged.", remedy=remedy) from None

    def _write(self, values: dict[str, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        handle, name = tempfile.mkstemp(dir=self._path.parent)  # 0600 from the start
        with os.fdopen(handle, "w") as file:
            json.dump(values, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self._path)
