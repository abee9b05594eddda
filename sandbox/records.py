"""What is known of one execution, as files: `STATE_DIR/executions/<name>/{spec,plan,intent,started,exit}.json`."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.domain.execution import MIB, NAME, Ended, Input, Kind, Limits, Spec, Usage, Verdict
from fumehood.errors import BadInputError, ConflictError, NotFoundError
from sandbox.installation import Installation

_KEPT_INTENT = ".intent.kept"
_KEPT = {
    ".shim.json.shim": 4096,
    ".started.json.shim": 4096,
    ".exit.json.shim": 128 * 1024,
    ".intent.shim": 4096,
    _KEPT_INTENT: 4096,
}
"""What will be written of an execution that runs, and how large that can become."""

_ERASE_PATIENCE_S = 1.0
TAIL_BYTES = 16 * 1024
"""How much of what a program printed stands in its outcome."""


def encode(spec: Spec) -> dict[str, Any]:
    """Return a spec as plain data."""
    return dataclasses.asdict(spec)


def decode(told: dict[str, Any]) -> Spec:
    """Return the spec that `encode` wrote."""
    return Spec(
        **{
            **told,
            "kind": Kind(told["kind"]),
            "command": tuple(told["command"]),
            "inputs": tuple(Input(**item) for item in told["inputs"]),
            "collect": tuple(told["collect"]),
            "limits": Limits(**told["limits"]),
            "gpus": tuple(told["gpus"]),
        }
    )


def digest(spec: Spec) -> str:
    """Return what makes two specs the same; where an input's bytes lie is no part of it, their hash is."""
    told = encode(spec)
    told["inputs"] = [{key: item[key] for key in ("path", "sha256", "executable")} for item in told["inputs"]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """The state folder of one execution."""

    installation: Installation
    name: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.installation.executions / self.name

    @property
    def exists(self) -> bool:
        """Whether the execution is known."""
        return (self.folder / "spec.json").exists()

    @property
    def was_started(self) -> bool:
        """Whether a shim was ever told to run it."""
        return (self.folder / "plan.json").exists()

    def read(self, name: str) -> dict[str, Any] | None:
        """Return one of its files, or None."""
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def write(self, name: str, value: dict[str, Any], *, sync: bool = False) -> None:
        """Write one of its files."""
        self.installation.write_json(self.folder / name, value, sync=sync)

    def keep_room(self) -> None:
        """Set blocks aside for what a supervisor will write, so that a full disk does not keep it silent."""
        for name, size in _KEPT.items():
            descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)

    def give_room(self) -> None:
        """Give back what was set aside, once no supervisor will write any more."""
        for name in _KEPT:
            (self.folder / name).unlink(missing_ok=True)

    def spec(self) -> Spec:
        """Return what was asked, or raise NotFoundError."""
        told = self.read("spec.json")
        if told is None:
            raise NotFoundError(f"There is no execution {self.name}.")
        return decode(told["spec"])

    def intend(self, reason: Verdict) -> None:
        """Store why it is ended; the first reason stays."""
        temporary = self.folder / f".intent.{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            (self.folder / _KEPT_INTENT).rename(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - in the blocks that were set aside
            json.dump({"reason": str(reason), "at": time.time()}, file)
            file.truncate()
        self.installation.give(temporary)
        with suppress(FileExistsError):
            (self.folder / "intent.json").hardlink_to(temporary)
        temporary.unlink()

    def wake(self) -> None:
        """Have its supervisor look at the intent now; without one nothing happens, and the next will see it."""
        try:
            descriptor = os.open(self.folder / "wake", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        # It may be full, and its reader may end at this moment.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(descriptor, b"!")
        os.close(descriptor)

    def output(self, offset: int) -> bytes:
        """Return what the program printed from an offset on, which counts from the end when it is below zero."""
        try:
            with (self.folder / "output.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(offset if offset >= 0 else max(0, size + offset))
                return file.read()
        except FileNotFoundError:
            return b""

    def adopt(self, spec: Spec) -> bool:
        """Write the spec down, or see that the same one is there already; whether it was."""
        known = self.read("spec.json")
        if known is None:
            holder = {"pid": os.getpid(), "since": _started(os.getpid())}
            told = {"spec": encode(spec), "digest": digest(spec), "launched_at": time.time(), "holder": holder}
            try:
                self.write("spec.json", told)
            except OSError:
                # Nothing was begun, so nothing is to be found.
                self.erase()
                raise
            return False
        if known["digest"] != digest(spec):
            raise ConflictError(f"The name {self.name} is taken by an execution with another spec.")
        return True

    @property
    def has_row(self) -> bool:
        """Whether it was launched for a row of the database, which knows whether it is still needed."""
        return "execution" in (self.read("spec.json") or {}).get("spec", {}).get("labels", {})

    def is_held(self) -> bool:
        """Tell whether the process that launched it still lives."""
        holder = (self.read("spec.json") or {}).get("holder", {})
        return bool(holder) and _started(holder["pid"]) == holder["since"]

    def is_forsaken(self) -> bool:
        """Tell whether nobody will ever ask for it: no row stands for it, and the process that launched it is dead."""
        return bool((self.read("spec.json") or {}).get("holder")) and not self.has_row and not self.is_held()

    def is_supervised(self, by: str = "shim") -> bool:
        """Tell whether its shim, or another process of its own, lives: the kernel gives up a dead one's lock."""
        try:
            descriptor = os.open(self.folder / f"{by}.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def locked(self, *, make: bool = False, wait: bool = True) -> Iterator[bool]:
        """Hold the folder's lock, making the folder if asked; yields whether there is a folder that is held."""
        while True:
            if make:
                self.installation.make_folder(self.folder)
            try:
                descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if make:
                    continue
                yield False
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if not self._is_still(descriptor):
                    # Removed while we waited; the next round sees what is there now.
                    continue
                yield True
            except BlockingIOError:
                yield False
            finally:
                os.close(descriptor)
            return

    def erase(self) -> None:
        """Remove the folder; its lock must be held."""
        deadline = time.monotonic() + _ERASE_PATIENCE_S
        while self.folder.exists():
            # A process that is just dying may write one more file into it.
            shutil.rmtree(self.folder, ignore_errors=True)
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def _is_still(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.folder.stat())
        except FileNotFoundError:
            return False


def find(installation: Installation, name: str) -> Record:
    """Return the record of a name, which need not exist yet."""
    if not NAME.match(name):
        raise BadInputError(f"An execution's name is fh- and 26 characters of a ULID, not {name!r}.")
    return Record(installation, name)


def names(installation: Installation) -> list[str]:
    """Return the names of all executions with a state folder."""
    folder = installation.executions
    return sorted(path.name for path in folder.iterdir() if NAME.match(path.name)) if folder.is_dir() else []


def ended(told: dict[str, Any]) -> Ended:
    """Return what an `exit.json` says."""
    usage = Usage(
        wall_s=round(told["wall_s"], 3),
        cpu_s=round(told["cpu_s"], 3),
        peak_memory_mib=round(told["peak_memory"] / MIB, 2),
        peak_storage_mib=round(told["peak_storage"] / MIB, 2),
    )
    return Ended(
        verdict=Verdict(told["verdict"]),
        exit_code=told["exit_code"],
        started_at=told["started_at"],
        ended_at=told["ended_at"],
        usage=usage,
        detail=told["detail"],
    )


def _started(pid: int) -> str:
    """Return when a process began, with the boot it belongs to; empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ESRCH}:
            return ""
        raise
    # A zombie holds nothing any more.
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"
