"""This installation: its random id, its folders, and the user who owns its state."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fumehood.errors import MachineUnfitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One state folder on one host. Everything it makes carries its id, and it touches nothing else."""

    id: str
    state_dir: Path
    run_dir: Path
    uid: int
    """Owner of the state folder: what the other processes of the platform run as."""
    gid: int

    @property
    def folder(self) -> Path:
        """Where its mounts lie; every parent can be passed, none can be listed."""
        return self.run_dir / self.id

    @property
    def executions(self) -> Path:
        """Where the state of its executions lies."""
        return self.state_dir / "executions"

    @property
    def volumes(self) -> Path:
        """Where the images of its volumes lie."""
        return self.state_dir / "volumes"

    def give(self, path: Path) -> None:
        """Hand a file or folder to the owner of the state folder."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def make_folder(self, path: Path, mode: int = 0o755) -> Path:
        """Make a folder below the state folder, with its parents, for the owner of the state."""
        if path.is_dir():
            return path
        if path.parent != self.state_dir:
            self.make_folder(path.parent)
        path.mkdir(mode=mode, exist_ok=True)
        self.give(path)
        return path

    def make_run_folder(self, path: Path) -> Path:
        """Make a folder below the run folder, each parent passable and none listable."""
        for part in (self.run_dir, *reversed(path.relative_to(self.run_dir).parents), path.relative_to(self.run_dir)):
            folder = self.run_dir / part
            try:
                folder.mkdir(parents=True)
                folder.chmod(0o711)
            except FileExistsError:
                pass
            except OSError as error:
                raise MachineUnfitError(
                    f"The folder {folder} cannot be made ({error.strerror}).",
                    remedy="Start it as root, or set FUMEHOOD_RUN_DIR to a folder that root may write.",
                ) from error
        return path

    def write_json(self, path: Path, value: Mapping[str, object], *, sync: bool = False) -> None:
        """Write a file of state whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(value, file, sort_keys=True)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            self.give(temporary)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def find(state_dir: Path, run_dir: Path) -> Installation:
    """Return the installation of a state folder; its id is made on first use."""
    state_dir = state_dir.absolute()
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        owner = state_dir.stat()
        place = state_dir / "installation"
        if not place.exists():
            _make_id(place, owner.st_uid, owner.st_gid)
        identity = place.read_text(encoding="ascii").strip()
    except OSError as error:
        raise MachineUnfitError(
            f"The state folder {state_dir} cannot be used ({error.strerror}).",
            remedy="Set FUMEHOOD_STATE_DIR to a folder that may be written.",
        ) from error
    return Installation(id=identity, state_dir=state_dir, run_dir=run_dir, uid=owner.st_uid, gid=owner.st_gid)


def _make_id(place: Path, uid: int, gid: int) -> None:
    temporary = place.with_name(f".installation.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(8) + "\n")
        if os.geteuid() == 0:
            os.fchown(file.fileno(), uid, gid)
    try:
        # A link, not a rename: when two processes start at once, the first one's id stays.
        place.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
