"""Brings a database's tables up to date, or back, in one transaction."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import DBAPIError

from fumehood.errors import MachineUnfitError
from fumehood.store.engine import connect
from fumehood.store.failures import said_by


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the tables up to `revision`; of several processes at once one works and the others wait."""
    _run(url, revision, up=True)


def downgrade(url: str, revision: str = "base") -> None:
    """Take the tables back to `revision`, with what only newer ones could hold."""
    _run(url, revision, up=False)


def _run(url: str, revision: str, *, up: bool) -> None:
    # A third of a worker's start-up time, and no other command needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    # SQLite changes a table by making it anew; foreign keys would empty the tables that point to it.
    engine = connect(url, migrating=True)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    try:
        # A transaction that may write is the only one, so the version is read and raised by one process at a time.
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            (command.upgrade if up else command.downgrade)(config, revision)
            if engine.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise MachineUnfitError("The database holds rows whose direction is missing; nothing was changed.")
    except CommandError as error:
        raise MachineUnfitError(
            f"The database's tables cannot be brought to this version ({error}).",
            remedy="Use the version of the platform that last wrote it, or a newer one.",
        ) from error
    except DBAPIError as error:
        raise MachineUnfitError(
            f"The database cannot be used ({said_by(error)}).",
            remedy="Start it, or look at FUMEHOOD_DATABASE_URL.",
        ) from error
    finally:
        engine.dispose()
