"""A model that answers by role from a script, and a coder that edits by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fumehood.ports import Call, Edit, Shape

Answer = Callable[[Call], Any]


class ScriptedModel:
    """Answers each role from a function of the call or a fixed value; an exception for an answer is raised."""

    def __init__(self, script: Mapping[str, Any]) -> None:
        self.script: dict[str, Any] = dict(script)
        self.calls: list[Call] = []

    def text(self, call: Call) -> str:
        return str(self._answer(call))

    def answer(self, call: Call, shape: type[Shape]) -> Shape:
        return shape.model_validate(self._answer(call))

    def _answer(self, call: Call) -> Any:
        self.calls.append(call)
        found = self.script[call.claims.role]
        told = found(call) if callable(found) else found
        if isinstance(told, Exception):
            raise told
        return told

    def asked(self, role: str) -> list[Call]:
        return [call for call in self.calls if call.claims.role == role]


class ScriptedCoder:
    """Edits as told for a run and its attempt, or raises; untold, each edit gives `experiment.py` another scale.

    What goes back to it is told by a third part of the key, `mended`; untold, it changes nothing.
    """

    name = "scripted"

    def __init__(self, script: Mapping[Any, Any] | None = None) -> None:
        self.script: dict[Any, Any] = dict(script or {})
        self.calls: list[Call] = []
        self.given: list[dict[str, bytes]] = []

    def edit(
        self,
        call: Call,
        files: Mapping[str, bytes],
        editable: Sequence[str],
        read_only: Mapping[str, bytes],  # noqa: ARG002
    ) -> Edit:
        self.calls.append(call)
        self.given.append(dict(files))
        run, attempt = call.claims.run, call.claims.attempt
        mended = call.claims.subject
        told = self.script.get((run, attempt, mended), ({}, "")) if mended else self.script.get((run, attempt))
        if isinstance(told, Exception):
            raise told
        if call.claims.role == "plot":
            changes, reply = told or ({}, "as it is")
        else:
            scale = b"SCALE = %d.5" % run
            own = files["experiment.py"]
            code = re.sub(rb"^SCALE = .*$", scale, own, flags=re.MULTILINE) if b"SCALE = " in own else scale + b"\n"
            usual = {"experiment.py": code + b"# again\n" * (attempt - 1)}
            changes, reply = told or (usual, f"RUN: Scale {run} | the scale becomes {run}.5")
        after = {**{path: files[path] for path in editable}, **changes}
        changed = tuple(path for path in changes if files.get(path) != changes[path])
        return Edit(files=after, reply=reply, changed=changed, problems=() if changed else ("no block was found",))
