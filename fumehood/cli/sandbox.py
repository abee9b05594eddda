"""`fumehood sandbox ...`: one command in one sandbox, and the removal of what a dead worker left."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperCommand
from ulid import ULID

from fumehood.cli import options
from fumehood.cli.options import INTERRUPTED
from fumehood.domain.execution import MAX_ARTIFACT_BYTES, MAX_ARTIFACTS, STORAGE, Input, Kind, Limits, Outcome, Spec
from fumehood.errors import BadInputError, FumehoodError, SandboxUnavailableError
from fumehood.ports import Sandbox
from fumehood.settings import Settings
from sandbox import installation
from sandbox.choose import choose
from sandbox.egress.capabilities import granted
from sandbox.execute import execute
from sandbox.storage.choose import DRIVERS, Storage, wanted

app = typer.Typer(help="One command in one sandbox.", no_args_is_help=True, add_completion=False)
AsJson = Annotated[bool, typer.Option("--json", help="Errors too are one JSON document on standard output.")]


class _ManyGlobs(TyperCommand):
    """Lets `--collect` take several globs at once: all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat `--collect` before each of its globs."""
        end = args.index("--") if "--" in args else len(args)
        told: list[str] = []
        collecting = False
        for word in args[:end]:
            if word == "--collect":
                collecting = True
            elif word.startswith("-"):
                collecting = False
                told.append(word)
            else:
                told += ["--collect", word] if collecting else [word]
        return super().parse_args(ctx, told + args[end:])


@app.command("exec", cls=_ManyGlobs)
def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD ...", help="What to run, in /work.", show_default=False)
    ],
    workspace: Annotated[Path, typer.Option(help="Copied to /work and never written to.")],
    out: Annotated[Path, typer.Option(help="Where the collected files go.", parser=options.folder, metavar="PATH")],
    adapter: Annotated[str, typer.Option(help="auto, docker or local.")] = "auto",
    image: Annotated[str, typer.Option(help="lab, latex or plain; lab where it is installed, else plain.")] = "",
    wall: Annotated[float, typer.Option(help="Seconds it may take.")] = Limits().wall_s,
    memory: Annotated[int, typer.Option(help="MiB of memory.")] = Limits().memory_mib,
    pids: Annotated[int, typer.Option(help="Processes and threads at once.")] = Limits().processes,
    storage: Annotated[
        str, typer.Option(help="MiB that may be written, or none: no quota, which stands in the outcome.")
    ] = str(Limits().storage_mib),
    storage_driver: Annotated[
        str, typer.Option(help="auto, loop, btrfs or xfs: what holds that quota; or none.")
    ] = "auto",
    cpus: Annotated[float, typer.Option(help="Processors' worth of time.")] = Limits().cpus,
    output_bytes: Annotated[int, typer.Option(help="Bytes it may print.")] = Limits().output_bytes,
    max_artifacts: Annotated[int, typer.Option(help="Files that may come out.")] = MAX_ARTIFACTS,
    max_artifact_bytes: Annotated[int, typer.Option(help="Their bytes together.")] = MAX_ARTIFACT_BYTES,
    network: Annotated[str, typer.Option(help="none, or allow:NAME,... of capabilities.")] = "none",
    collect: Annotated[list[str] | None, typer.Option(help="Globs of what may come out; ** crosses folders.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one command in one sandbox and print its outcome as JSON."""
    with _answering(as_json=as_json):
        granted(network)
        settings = Settings()
        mib, driver = asked_storage(storage, storage_driver)
        limits = Limits(
            wall_s=wall, memory_mib=memory, processes=pids, storage_mib=mib, cpus=cpus, output_bytes=output_bytes
        )
        spec = Spec(
            name=f"fh-{ULID()}".lower(),
            kind=Kind.RUN,
            command=tuple(command),
            image=image or _default_image(settings),
            inputs=tuple(inputs(workspace, out)),
            collect=tuple(collect or ()),
            limits=limits,
            network=network,
            storage=driver,
            max_artifacts=max_artifacts,
            max_artifact_bytes=max_artifact_bytes,
        )
        outcome = execute(choose(adapter, settings), spec, out, on_wait=_say_waiting)
    print_json(shown(outcome))


@app.command("reap")
def reap(
    adapter: Annotated[str, typer.Option(help="auto, docker or local.")] = "auto",
    everything: Annotated[bool, typer.Option("--all", help="Also what a living process holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove whatever a dead worker left, of this installation only, and say what that was and what stays, and why."""
    with _answering(as_json=as_json):
        settings = Settings()
        sandbox = choose(adapter, settings)
        kept = {} if everything else _in_use(sandbox, settings)
        found = sandbox.traces()
        removed = sandbox.reap(keep=tuple(kept))
        left = {name: kept.get(name, "it could not be removed now; try again") for name in sandbox.traces()}
    things = {name: list(found.get(name, ())) for name in removed}
    print_json({"removed": list(removed), "kept": list(left), "things": things, "reasons": left})


@app.command("storage")
def storage_(as_json: AsJson = False) -> None:
    """Try every storage driver by really filling a small volume past its limit, and say which of them hold here."""
    with _answering(as_json=as_json):
        settings = Settings()
        tried = Storage(installation.find(settings.state_dir, settings.run_dir), wanted(settings))
        proofs = {name: tried.prove(name, afresh=True) for name in DRIVERS if name != "none"}
        try:
            chosen = tried.driver().name
        except SandboxUnavailableError:
            chosen = ""
    drivers = {name: {"holds": proof.holds, "why": proof.why} for name, proof in proofs.items()}
    print_json({"chosen": chosen or None, "drivers": drivers})


def asked_storage(size: str, driver: str) -> tuple[int, str]:
    """Return how many MiB may be written and what must hold that."""
    names = ("auto", *STORAGE[1:])
    if driver not in names:
        raise BadInputError(f"--storage-driver is one of {', '.join(names)}, not {driver!r}.")
    if size == "none":
        if driver not in {"auto", "none"}:
            raise BadInputError(f"--storage none asks for no quota, and --storage-driver {driver} for one.")
        return Limits().storage_mib, "none"
    if not size.isascii() or not size.isdigit():
        raise BadInputError(f"--storage is a number of MiB or none, not {size!r}.")
    return int(size), "quota" if driver == "auto" else driver


def _say_waiting(why: str) -> None:
    sys.stderr.write(f"waiting for room: {why}\n")
    sys.stderr.flush()


def _in_use(sandbox: Sandbox, settings: Settings) -> dict[str, str]:
    """Return what somebody still needs, with who that is."""
    # They know the database, which takes longer to import than most commands take.
    from worker import watcher, worlds

    found = {}
    if watcher.is_watched(settings):
        store = worlds.store_of(settings)
        found = dict.fromkeys(watcher.on_machine(store), "a process of this installation watches it")
        store.close()
    return found | dict.fromkeys(sandbox.held(), "the process that launched it lives")


def inputs(workspace: Path, out: Path) -> Iterator[Input]:
    """Yield every file of a workspace; a link is followed as long as it stays inside."""
    top = workspace.resolve()
    if not top.is_dir():
        raise BadInputError(f"The workspace {workspace} is not a folder.")
    target = out.resolve()
    for folder, folders, files in os.walk(top):
        # What was collected before, when it lies inside, is not part of what is run.
        folders[:] = sorted(name for name in folders if Path(folder, name) != target)
        for name in [*folders, *sorted(files)]:
            place = Path(folder, name)
            shown_path = place.relative_to(top)
            if place.is_symlink() and not (place.resolve().is_relative_to(top) and place.is_file()):
                raise BadInputError(f"The workspace holds a link that leaves it or leads to no file: {shown_path}.")
            if name in files:
                yield _input(place, shown_path)


def _input(place: Path, shown_path: Path) -> Input:
    if not place.is_file():
        raise BadInputError(f"The workspace holds something that is not a file: {shown_path}.")
    try:
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(f"The workspace's {shown_path} cannot be read ({error.strerror}).") from error
    executable = bool(place.stat().st_mode & 0o100)
    return Input(
        path=f"work/{shown_path.as_posix()}", sha256=digest, source=str(place.resolve()), executable=executable
    )


def shown(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the command line prints it."""
    return {
        "name": outcome.name,
        "verdict": outcome.verdict,
        "exit_code": outcome.exit_code,
        "detail": outcome.detail,
        "wall_s": outcome.usage.wall_s,
        "cpu_s": outcome.usage.cpu_s,
        "peak_memory_mib": outcome.usage.peak_memory_mib,
        "peak_storage_mib": outcome.usage.peak_storage_mib,
        "output_tail": outcome.output_tail,
        "truncated": outcome.truncated,
        "artifacts": [{"path": item.path, "bytes": item.bytes, "sha256": item.sha256} for item in outcome.artifacts],
        "rejected": [{"path": item.path, "reason": item.reason} for item in outcome.rejected],
        "image": outcome.image,
        "isolation": dict(outcome.isolation),
        "storage": outcome.storage,
        "egress": [dataclasses.asdict(item) for item in outcome.egress],
    }


def print_json(value: object) -> None:
    """Print the one document that standard output carries."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _default_image(settings: Settings) -> str:
    from sandbox import lab

    folder = settings.lab_dir or lab.newest(settings.state_dir / "lab")
    return "lab" if folder is not None and (folder / "lab.json").is_file() else "plain"


@contextmanager
def _answering(*, as_json: bool) -> Iterator[None]:
    """Turn errors into one sentence and an exit status, and every signal to end into an interruption."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except FumehoodError as error:
        raise _refused(str(error), error.exit_status, as_json=as_json) from error
    except ValidationError as error:
        raise _refused(options.setting_fault(error), BadInputError.exit_status, as_json=as_json) from error
    except KeyboardInterrupt as error:
        sentence = "Interrupted; the execution was stopped and removed."
        raise _refused(sentence, INTERRUPTED, as_json=as_json) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refused(sentence: str, status: int, *, as_json: bool) -> typer.Exit:
    if as_json:
        print_json({"error": sentence, "exit_status": status})
    sys.stderr.write(f"{sentence}\n")
    return typer.Exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run `python -m fumehood.cli.sandbox`."""
    app()


if __name__ == "__main__":
    main()
