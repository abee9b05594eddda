"""The `fumehood` command."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

import fumehood
from fumehood.cli import handover, options, output
from fumehood.cli.options import INTERRUPTED, AsJson, SandboxOption
from fumehood.errors import FumehoodError
from fumehood.settings import Settings

if TYPE_CHECKING:
    from fumehood.cli.run import Finished

REFUSALS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}
)
"""What the system says to a path that a person gave; any other error of it is a fault of ours."""
TemplateOption = Annotated[str, typer.Option(help="A shipped template's name, or a folder.")]


def _show_version(asked: bool) -> None:
    if asked:
        output.print_lines([f"fumehood {fumehood.__version__}"])
        raise typer.Exit


def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run an automated ML scientist where it cannot hurt anything."""


def run(
    context: typer.Context,
    template_name: Annotated[
        str, typer.Option("--template", help="A shipped template's name, or a folder; --resume needs none.")
    ] = "",
    out: Annotated[
        Path, typer.Option(help="Where the finished folder goes.", parser=options.folder, metavar="PATH")
    ] = Path("out/run"),
    text: options.Text = None,
    ideas: options.Ideas = 50,
    runs: options.Runs = 5,
    model: options.Model = "offline",
    review_model: options.ReviewModel = None,
    profile: options.Profile = "cpu",
    sandbox: SandboxOption = "auto",
    novelty: options.NoveltyCheck = "on",
    budget_usd: options.Budget = None,
    budget_experiment_usd: options.ExperimentBudget = None,
    budget_call_usd: options.CallBudget = None,
    budget_gpu_s: options.GpuBudget = None,
    budget_wall_s: options.WallBudget = None,
    strategy: options.Strategy = "list",
    seed: options.Seed = 0,
    packages: options.Packages = None,
    wheel: options.Wheels = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the folder at --out, or show it when it is finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take one research direction from ideas to reviewed papers."""
    from fumehood.cli.run import run as carry_out
    from fumehood.services import submissions

    asked = submissions.Submission(
        template=template_name,
        text=text,
        model=model,
        review_model=review_model,
        profile=profile,
        ideas=ideas,
        runs=runs,
        novelty=novelty == "on",
        seed=seed,
        sandbox=sandbox,
        budget_usd=budget_usd,
        budget_usd_per_experiment=budget_experiment_usd,
        budget_usd_per_call=budget_call_usd,
        budget_gpu_s=budget_gpu_s,
        budget_wall_s=budget_wall_s,
        strategy=strategy,
        packages=tuple(packages or ()),
        wheels=tuple(wheel or ()),
    )
    progress = output.Progress(as_json=as_json)
    given = {_FIELDS.get(name, name) for name in context.params if _is_given(context, name)}
    done = carry_out(Settings(), asked, out, resume=resume, progress=progress, given=given)
    _tell(done, as_json=as_json)


_FIELDS = {
    "template_name": "template",
    "budget_experiment_usd": "budget_usd_per_experiment",
    "budget_call_usd": "budget_usd_per_call",
}
"""What a submission calls an option, where that is not the option's own name."""


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")] = 8000,
    sandbox: SandboxOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Serve the API on this machine, and carry out what is submitted there, with no other services."""
    from fumehood.cli.serve import serve as keep_serving

    keep_serving(Settings(), host, port, sandbox, output.Progress(as_json=as_json), as_json=as_json)


def smoke(
    template_name: Annotated[
        str, typer.Option("--template", help="A shipped template's name, or `all`.")
    ] = "2d_diffusion",
    sandbox: SandboxOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline with the offline model and the tiny profile, then check what came out."""
    from fumehood.cli.smoke import smoke as try_everything

    progress = output.Progress(as_json=as_json)
    told = try_everything(Settings(), template_name, sandbox, progress)
    if as_json:
        output.print_json(told)
    else:
        for check in told["checks"]:
            output.print_lines([f"{'ok  ' if check['held'] else 'FAIL'} {check['name']}: {check['detail']}"])
    raise typer.Exit(0 if told["ok"] else 1)


def verify(
    folder: Annotated[Path, typer.Argument(help="A direction's or an experiment's finished folder.")],
    key: Annotated[str | None, typer.Option(help="Also trust this key: a file, or a fingerprint.")] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Also measure its runs again, and compare.")] = False,
    run: Annotated[
        str,
        typer.Option(help="With --rerun: only this run, by its number (0 is the baseline) or its folder: confirm_1."),
    ] = "",
    template_name: Annotated[
        str, typer.Option("--template", help="With --rerun: a folder with the template as it was.")
    ] = "",
    sandbox: SandboxOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Check every signature, hash and number of a finished folder, and whether a run was left out."""
    from fumehood.artifacts.signing import load_key, open_envelope, trusted_keys
    from fumehood.errors import BadInputError
    from fumehood.services import export, verification

    if not folder.is_dir():
        raise BadInputError(f"There is no folder {folder}.")
    if run and not rerun:
        raise BadInputError("--run says which run is measured again, so give --rerun too.")
    known = trusted_keys(Settings().state_dir)
    enclosed = folder / export.PUBLIC_KEY
    candidates = [*known.values(), *(load_key(str(enclosed)).values() if enclosed.is_file() else ())]
    trusted = known | (load_key(key, candidates) if key else {})
    report = verification.verify_folder(
        verification.open_folder(folder), lambda envelope, kind: open_envelope(envelope, trusted, kind)
    )
    told: dict[str, Any] = {"holds": report.holds, "checks": report.checks, "problems": report.problems}
    if not as_json:
        output.print_lines(verification.describe(report))
    # What was changed is not worth running.
    if rerun and report.holds:
        progress = output.Progress(as_json=as_json)
        asked = {"run": run, "template": template_name, "sandbox": sandbox}
        told |= _measure_again(folder, progress, as_json=as_json, **asked)
    if as_json:
        output.print_json(told)
    raise typer.Exit(0 if told["holds"] else 1)


def _measure_again(folder: Path, progress: output.Progress, *, as_json: bool, **asked: Any) -> dict[str, Any]:
    """Run a folder's records again, print what came of it, and return it for a program."""
    from fumehood.cli import rerun

    found = rerun.rerun(Settings(), folder, progress=progress, **asked)
    if not as_json:
        output.print_table(rerun.table_of(found))
        output.print_lines(rerun.lines_of(found))
    return {"holds": all(one.holds for one in found), "rerun": rerun.as_json(found)}


def replay(
    folder: Annotated[Path, typer.Argument(help="A direction's finished folder, or an experiment's within one.")],
    template_name: Annotated[
        str, typer.Option("--template", help="A folder with the template as it was; else the shipped one is taken.")
    ] = "",
    sandbox: SandboxOption = "local",
    out: Annotated[Path | None, typer.Option(help="Keep the repeated direction's folder here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Repeat a recorded direction: its programs run again, its models' answers come from the record."""
    from fumehood.cli.replay import lines_of
    from fumehood.cli.replay import replay as repeat

    progress = output.Progress(as_json=as_json)
    done = repeat(Settings(), folder, template=template_name, sandbox=sandbox, out=out, progress=progress)
    if as_json:
        told = {"same": done.found.same, "different": done.found.different, "measured": done.found.measured}
        output.print_json({"holds": done.found.holds, **told})
    else:
        output.print_lines(lines_of(done))
    raise typer.Exit(0 if done.found.holds else 1)


def doctor(sandbox: SandboxOption = "auto", as_json: AsJson = False) -> None:
    """Say what this machine can do, promise by promise."""
    from fumehood.cli import machine

    told = machine.examine(Settings(), sandbox)
    if as_json:
        output.print_json(told)
    else:
        output.print_lines(machine.describe(told))
    raise typer.Exit(0 if told["ready"] else 3)


OWN = {one.__name__: one for one in (run, serve, smoke, verify, replay, doctor)}
GROUPS = ("sandbox", "keys", "template", "bench", "admin")
"""Modules of this package whose commands follow their own name."""
OTHERS = ("client", "report")
"""Modules of this package whose commands stand beside our own."""


def app(first: str = "") -> typer.Typer:
    """Return the command; only what a line may mean that begins with this word, since most of the time goes to imports.

    Everything, where the word says neither a command of this module nor a group.
    """
    made = typer.Typer(name="fumehood", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    made.callback()(about)
    for command in OWN.values():
        made.command()(command)
    is_ours = first in OWN or first == "--version"
    for name in [] if is_ours else [first] if first in GROUPS else GROUPS:
        made.add_typer(importlib.import_module(f"fumehood.cli.{name}").app, name=name)
    for name in () if is_ours or first in GROUPS else OTHERS:
        made.add_typer(importlib.import_module(f"fumehood.cli.{name}").app)
    return made


def _tell(done: Finished, *, as_json: bool) -> None:
    from fumehood.services import verification

    papers = [str(done.out / str(line["paper"])) for line in _experiments(done) if line["paper"]]
    if as_json:
        output.print_json(
            {
                "out": str(done.out),
                "papers": papers,
                "summary": done.summary,
                "verified": done.report.holds,
                "checks": done.report.checks,
                "problems": done.report.problems,
            }
        )
    else:
        if done.summary:
            output.print_table(output.results_table(done.summary))
            output.print_lines([output.totals(done.summary, _asked_ideas(done)), *output.reasons(done.summary)])
        output.print_lines(output.reviews(_experiments(done)))
        output.print_lines(verification.describe(done.report))
        output.print_lines(f"paper: {path}" for path in papers)
    raise typer.Exit(0 if done.report.holds else 1)


def _asked_ideas(done: Finished) -> int | None:
    """Return how many ideas the folder's direction asked for; None where it does not say."""
    try:
        asked = json.loads((done.out / "direction.json").read_bytes())["ideas"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return asked if isinstance(asked, int) else None


def _experiments(done: Finished) -> Sequence[dict[str, Any]]:
    found = done.summary.get("experiments", [])
    return found if isinstance(found, list) else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; every expected error is one sentence on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command: Callable[..., object] = app(next(iter(given), ""))
        if arguments is None:
            # A polite end, as from a service manager, is Ctrl-C by another name: what runs is stopped and put back.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as below `nohup`
                signal.signal(signal.SIGHUP, _hung_up)
            handover.leave_environment()
        status = command(args=given, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _said("interrupted", INTERRUPTED, given)
    except TyperException as error:
        return _said(_message(error), 2, given)
    except FumehoodError as error:
        return _said(str(error), error.exit_status, given)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        return _said(options.setting_fault(error), 2, given)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _said("The disk is full: make room and give --resume to go on.", 3, given)
        if error.errno not in REFUSALS:
            raise
        return _said(f"The system refuses {error.filename or 'a file'}: {error.strerror}.", 3, given)
    if status == INTERRUPTED and given[:1] != ["sandbox"]:
        # Typer makes a status of an interruption without a word; `sandbox` has said its own.
        return _said("interrupted", INTERRUPTED, given)
    return status if isinstance(status, int) else 0


def _hung_up(_number: int, _frame: FrameType | None) -> NoReturn:
    # A shell and the kernel each tell of a closed terminal, and what stops the containers must outlive the second.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _message(error: TyperException) -> str:
    told = getattr(error, "format_message", None)
    return str(told()) if told else str(error)


def _said(sentence: str, status: int, given: Sequence[str]) -> int:
    ours = given[: given.index("--")] if "--" in given else given
    with contextlib.suppress(OSError) if status == INTERRUPTED else contextlib.nullcontext():
        # Whoever hung up reads no more.
        if "--json" in ours:
            output.print_json({"error": sentence, "exit_status": status})
        if sentence:
            output.print_lines([f"fumehood: {sentence}"], error=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
