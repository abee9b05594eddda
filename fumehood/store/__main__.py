"""Brings the database's tables up to date and ends: `python -m fumehood.store`."""

from __future__ import annotations

import sys

from fumehood.errors import FumehoodError
from fumehood.settings import Settings
from fumehood.store import migrate


def main() -> int:
    """Do it once; the exit status."""
    try:
        migrate.upgrade(Settings().resolved_database_url)
    except FumehoodError as error:
        sys.stderr.write(f"store: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
