"""`fumehood template`: the templates, whether a folder keeps the contract, and its baseline."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fumehood.artifacts import fetching
from fumehood.artifacts.local import LocalArtifacts
from fumehood.cli import lacking, options, output
from fumehood.cli.options import SandboxOption
from fumehood.domain.template import FROZEN_FILES
from fumehood.errors import BadInputError
from fumehood.services import extra_packages, templates
from fumehood.services.public_data import FetchedData
from fumehood.settings import Settings
from worker import worlds

app = typer.Typer(help="Research templates.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@app.command("list")
def list_templates(as_json: AsJson = False) -> None:
    """Name the shipped templates."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="fumehood-template-") as scratch:
        artifacts = LocalArtifacts(Path(scratch))
        for name in templates.names(worlds.SHIPPED):
            template = templates.load(templates.snapshot(worlds.SHIPPED / name, artifacts), artifacts, name)
            rows.append(
                {
                    "name": name,
                    "title": template.title,
                    "summary": template.summary,
                    "profiles": sorted(template.profiles),
                }
            )
    if as_json:
        output.print_json(rows)
    else:
        output.print_lines(f"{row['name']}: {row['summary']} (profiles: {', '.join(row['profiles'])})" for row in rows)


@app.command()
def check(
    folder: Annotated[str, typer.Argument(help="A template's name or folder.")],
    packages: options.Packages = None,
    wheel: options.Wheels = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a folder keeps the template contract, and what it does without; exit 1 when it does not keep it."""
    found = templates.find(folder, worlds.SHIPPED)
    with tempfile.TemporaryDirectory(prefix="fumehood-template-") as scratch:
        artifacts = LocalArtifacts(Path(scratch))
        files = templates.snapshot(found, artifacts)
        problems = list(templates.check(files, artifacts, found.name))
        missing: list[str] = []
        costs: tuple[str, ...] = ()
        if not problems:
            template = templates.load(files, artifacts, found.name)
            files = extra_packages.settle(files, artifacts, template, packages or (), wheel or ())
            costs = lacking.costs(found, files, artifacts, template)
            missing, problems = _not_in_lab(files, artifacts, output.Progress(as_json=as_json))
    told = {
        "template": found.name,
        "keeps_contract": not problems,
        "problems": problems,
        "packages": missing,
        "costs": list(costs),
    }
    if as_json:
        output.print_json(told)
    else:
        output.print_lines(problems or [f"{found.name} keeps the template contract.", *costs])
    raise typer.Exit(1 if problems else 0)


def _not_in_lab(
    files: dict[str, str], artifacts: LocalArtifacts, progress: output.Progress
) -> tuple[list[str], list[str]]:
    """Return the imports that neither the standard library, the template's lab nor the folder has, and what that means.

    The lab is built where the template declares packages. The frozen pair is started without them.
    """
    settings = Settings()
    lab = worlds.lab_packages(settings)
    if not lab:
        return [], []
    worlds.build_lab(settings, files, artifacts, progress.say)
    own = {Path(path).parts[0].removesuffix(".py") for path in files}
    known = lab | own | set(sys.stdlib_module_names)
    imported = {
        path: templates.imports(artifacts.get(sha)) - known for path, sha in files.items() if path[-3:] == ".py"
    }
    more = worlds.extra_imports(settings, files)
    missing = sorted(frozenset().union(*imported.values()) - more)
    problems = [
        f"{path} is started without extra packages, and imports {', '.join(sorted(imported[path] & more))}."
        for path in FROZEN_FILES
        if imported.get(path, frozenset()) & more
    ]
    if missing:
        problems.append(
            f"The lab lacks {', '.join(missing)}, which the template imports: declare where that comes from in"
            f' template.toml (packages = ["NAME==VERSION"]), or give --packages NAME==VERSION or --wheel FILE.'
        )
    return missing, problems


@app.command()
def baseline(
    folder: Annotated[str, typer.Argument(help="A template's name or folder.")],
    profile: Annotated[str, typer.Option(help="The size, such as tiny, cpu or gpu.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Where run_0 is put; nowhere when left out.", parser=options.folder, metavar="PATH"),
    ] = None,
    packages: options.Packages = None,
    wheel: options.Wheels = None,
    sandbox: SandboxOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a template's run_0 and say how small a difference it can show."""
    from fumehood.cli.baseline import measure

    progress = output.Progress(as_json=as_json)
    told = measure(Settings(), folder, profile, sandbox, out, progress, packages or (), wheel or ())
    if as_json:
        output.print_json(told)
    else:
        output.print_lines(_measured(told))


def _measured(told: dict[str, Any]) -> list[str]:
    """Return a baseline's metrics and its noise in words."""
    lines = []
    for dataset, metrics in told["final_info"].items():
        for name, mean in metrics["means"].items():
            stderr = metrics["stderrs"].get(name)
            spread = "" if stderr is None else f" ± {stderr:.2g}"
            mark = "" if told["sources"][name] == "evaluator" else " (self-reported)"
            lines.append(f"{dataset} {name}: {mean:.6g}{spread}{mark}")
    return lines + _noise(told["noise"])


@app.command()
def new(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="A Python program, a folder or git repository with one (https://...), or a topic in words.",
            metavar="WHAT",
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(help="The new template's folder, which must not exist.", parser=options.folder, metavar="DIR"),
    ] = Path("my_template"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file, or a folder with one, whose one column is to be predicted; with --model also a folder of"
            " several, of npz, npy and text."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model that drafts; `offline`, as without it, takes flags and questions instead."),
    ] = None,
    budget_usd: options.Budget = None,
    target: Annotated[str | None, typer.Option(help="That column; the last when left out.")] = None,
    title: Annotated[str | None, typer.Option(help="What the template is called.")] = None,
    task: Annotated[str | None, typer.Option(help="What is to be studied, in a sentence or two.")] = None,
    entry: Annotated[str | None, typer.Option(help="Which file of a folder is the program.")] = None,
    metric: Annotated[str | None, typer.Option(help="The name of the number that a program reports.")] = None,
    better: Annotated[str | None, typer.Option(help="Which of it is better, `lower` or `higher`.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="A regular expression with one group that finds it in what is printed.")
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(help="An argument of the program; {seed} and {out_dir} are filled in. May be repeated."),
    ] = None,
    profile: Annotated[str, typer.Option(help="The size that the baseline is measured at.")] = "tiny",
    approve: Annotated[bool, typer.Option("--approve", help="Freeze the draft without being asked.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the draft at --out.")] = False,
    sandbox: SandboxOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Draft a template, run its baseline in the sandbox, and freeze it when you approve; exit 1 while it is a draft."""
    from fumehood.cli import checks, draft_notes, drafting, model_drafting

    if bool(source.strip()) == resume:
        raise BadInputError("Give --from for a new draft, or --resume for one that is there.")
    answers = drafting.Answers(
        source=source.strip(),
        data=data,
        title=title,
        task=task,
        entry=entry,
        target=target,
        metric=metric,
        better=better,
        pattern=pattern,
        arguments=tuple(argument or ()),
    )
    settings, progress = Settings(), output.Progress(as_json=as_json)
    how: Any = {"resume": resume, "approve": approve, "profile": profile, "sandbox": sandbox, "progress": progress}
    is_by_model = bool(model) and not checks.is_offline(settings, model or "")
    if resume:
        drafting.check_resumed(answers)
        if is_by_model and not draft_notes.read(out).model:
            raise BadInputError(f"Questions made the draft at {out}: leave --model out, or begin anew with --from.")
        is_by_model = bool(draft_notes.read(out).model)
    if is_by_model:
        how |= {"model": model, "budget_usd": budget_usd}
        told = model_drafting.new(settings, answers, out, **how, describe=_drafted)
    elif budget_usd is not None:
        raise BadInputError("--budget-usd is for a draft by a model: give --model.")
    else:
        told = drafting.new(settings, answers, out, **how, describe=_drafted)
    if as_json:
        output.print_json(told)
    else:
        end = (
            "is a template now" if told["approved"] else "stays a draft: --resume goes on, with --approve to freeze it"
        )
        output.print_lines([*_drafted(told), f"{out} {end}."])
    raise typer.Exit(0 if told["approved"] else 1)


def _drafted(told: dict[str, Any]) -> list[str]:
    """Return a draft's baseline, what it cannot do, and the files that an approval freezes."""
    by_model = [f"sort `{told['sort']}`, drafted by {told['model']}"] if "model" in told else []
    lines = by_model + _measured(told["baseline"]) + ([told["cannot"]] if told["cannot"] else [])
    lines += [f"assumed: {one}" for one in told.get("assumed", ())]
    for one in told.get("checks", ()):
        fault = "CANNOT BE APPROVED, since this does not hold" if one["blocks"] else "DOES NOT HOLD"
        lines.append(f"{'holds' if one['held'] else fault}: {one['sentence']}")
    return lines + [f"frozen: {path} (SHA-256 {sha[:16]}...)" for path, sha in told["frozen"].items()]


@app.command()
def fetch(
    name_or_folder: Annotated[str, typer.Argument(metavar="TEMPLATE", help="A template's name or folder.")],
    data: Annotated[list[str] | None, typer.Option(help="A data set; all when left out. May be repeated.")] = None,
    sha256: Annotated[
        str, typer.Option(help="The hash that you vouch for, of one data set for which the template gives none.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Get the public data of a template, check their size and hash, and keep them for its directions."""
    settings = Settings()
    found = templates.find(name_or_folder, worlds.SHIPPED)
    with tempfile.TemporaryDirectory(prefix="fumehood-template-") as scratch:
        artifacts = LocalArtifacts(Path(scratch))
        template = templates.load(templates.snapshot(found, artifacts), artifacts, found.name)
    names = data or list(template.data)
    if unknown := [name for name in names if name not in template.data]:
        known = ", ".join(template.data) or "none"
        raise BadInputError(f"The template {found.name} has no public data {unknown[0]!r}; it has {known}.")
    if sha256 and len(names) != 1:
        raise BadInputError("--sha256 is of one file: name its data set by --data.")
    into, progress = FetchedData(settings.data_dir), output.Progress(as_json=as_json)
    rows = []
    for name in names:
        source = template.data[name]
        progress.say(f"{name}: {source.bytes:,} bytes, {source.licence}")
        got = fetching.fetch(name, source, into, mirror=settings.data_mirror, sha256=sha256, say=progress.say)
        told = {"bytes": source.bytes, "licence": source.licence, "new": not got.was_here}
        rows.append({"name": name, "sha256": got.sha256, **told})
    if as_json:
        output.print_json(rows)
    else:
        output.print_lines(
            [f"{row['name']}: {'fetched' if row['new'] else 'is here'}, SHA-256 {row['sha256']}" for row in rows]
            or [f"{found.name} needs no public data."]
        )


def _noise(noise: dict[str, Any]) -> list[str]:
    if not noise:
        return ["noise: unknown, the template takes no seeds or says of no metric where better lies"]
    left = [f"{dataset} gives no scale: {why}" for dataset, why in noise["left_out"].items()]
    if "looks" not in noise:
        return left
    of = "the logarithm of " if noise["transform"] == "log" else ""
    spreads = ", ".join(f"{dataset} {spread:.3g}" for dataset, spread in noise["sd"].items())
    looks = [
        f"with {one['seeds']} seeds against {one['baseline_seeds']}: noise floor {one['noise_floor']:.2f},"
        f" smallest effect found in 80 % of cases {one['smallest_detectable']:.2f} standard deviations"
        for one in noise["looks"]
    ]
    return [f"standard deviation of {of}{noise['metric']} over seeds: {spreads}", *left, *looks]
