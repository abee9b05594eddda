"""How the model that a run left is asked: the frozen program, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fumehood.domain.template import Profile, Query, Template
from fumehood.ports import Artifacts
from fumehood.services.query_driver import CHARACTERS, DRIVER
from fumehood.services.wanting import below

PLACES = ("--code=/in/code", "--outputs=/in/outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A program and its own files, beside the code and the outputs of the run."""

    command: tuple[str, ...]
    inputs: dict[str, str]


def asking(
    artifacts: Artifacts,
    template: Template,
    profile: Profile,
    seeds: tuple[int, ...],
    data: Mapping[str, Mapping[str, str]],
) -> Asking:
    """Return how a template's model is asked; only where characters are scored does the program hold the answers."""
    query = template.query or Query()
    of = (f"--datasets={','.join(template.datasets)}", f"--seeds={','.join(map(str, seeds))}", *PLACES)
    if query.kind != "characters":
        command = ("python", "/in/driver.py", f"--kind={query.kind}", f"--count={profile.query_count}", *of)
        return Asking(
            command=(*command, "--inputs=/in/inputs", *profile.query_arguments),
            inputs={"in/driver.py": artifacts.put(DRIVER.read_bytes())} | below("in/inputs", data.get("inputs", {})),
        )
    how = (f"--block={query.block}", f"--streams={query.streams}", f"--tolerance={query.tolerance}")
    programs = {f"in/driver/{path.name}": artifacts.put(path.read_bytes()) for path in CHARACTERS}
    return Asking(
        command=("python", f"/in/driver/{CHARACTERS[0].name}", *how, *of, *profile.query_arguments),
        # In the writable folder, since the program removes it before any code of the experiment is started.
        inputs=programs | below("work/held_out", data.get("answers", {})),
    )
