"""How the model that a run left is asked: the frozen program, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fumehood.domain.execution import MIB, Artifact
from fumehood.domain.experiment import Run
from fumehood.domain.extra_packages import EXTRA, SITE
from fumehood.domain.template import Profile, Query, Template
from fumehood.ports import Artifacts
from fumehood.services import curves
from fumehood.services.query_driver import CHARACTERS, COUNTING, DRIVER
from fumehood.services.wanting import below

PLACES = ("--code=/in/code", "--outputs=/in/outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A program, its own files, and what of the run's outputs it is given, beside the code of the run."""

    command: tuple[str, ...]
    inputs: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


def too_much(template: Template, profile: Profile, run: Run, files: Mapping[str, Artifact]) -> str:
    """Return in words what a run left for its model beyond what the profile allows; empty where it keeps to it.

    A checkpoint that has room for the training data beside the weights can answer with these.
    """
    if template.query is None or profile.checkpoint_mib is None:
        return ""
    given = curves.of_model({path: item.sha256 for path, item in files.items()}) if template.curve else files
    models = max(1, len(template.datasets)) * max(1, len(run.seeds))
    each = sum(files[path].bytes for path in given) / models / MIB
    if each <= profile.checkpoint_mib:
        return ""
    allowed = f"{profile.checkpoint_mib:g}"
    return f"what is left for a model has {each:.3g} MiB for each data set and seed, and may have {allowed}"


def asking(
    artifacts: Artifacts,
    template: Template,
    profile: Profile,
    run: Run,
    data: Mapping[str, Mapping[str, str]],
    *,
    has_extra: bool = False,
) -> Asking:
    """Return how a template's model is asked; only where characters are scored does the program hold the answers.

    There it finds no extra packages itself, only who answers does: some run code of theirs when the lab's are imported.
    """
    query = template.query or Query()
    of = (f"--datasets={','.join(template.datasets)}", f"--seeds={','.join(map(str, run.seeds))}", *PLACES)
    outputs = below("in/outputs", curves.of_model(run.outputs) if template.curve else run.outputs)
    if query.kind != "characters":
        command = ("python", "/in/driver.py", f"--kind={query.kind}", f"--count={profile.query_count}", *of)
        recalled = (f"--recall={template.curve.answers}",) if template.curve else ()
        kept = curves.asked(run.outputs) if template.curve else {}
        return Asking(
            command=(*command, "--inputs=/in/inputs", *recalled, *profile.query_arguments),
            inputs={f"in/{path.name}": artifacts.put(path.read_bytes()) for path in (DRIVER, COUNTING)}
            | outputs
            | below("in/inputs", data.get("inputs", {}))
            | below("in/checkpoints", kept),
        )
    how = (f"--block={query.block}", f"--streams={query.streams}", f"--tolerance={query.tolerance}")
    programs = {f"in/driver/{path.name}": artifacts.put(path.read_bytes()) for path in CHARACTERS}
    more = (f"--packages={EXTRA}",) if has_extra else ()
    return Asking(
        command=("python", f"/in/driver/{CHARACTERS[0].name}", *how, *of, *more, *profile.query_arguments),
        environment={"PYTHONPATH": SITE} if has_extra else {},
        # In the writable folder, since the program removes it before any code of the experiment is started.
        inputs=programs | outputs | below("work/held_out", data.get("answers", {})),
    )
