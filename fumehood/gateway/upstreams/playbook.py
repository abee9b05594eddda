"""A template's playbook (`offline.toml`): what the offline model proposes, in the order it proposes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain.ids import idea_name
from fumehood.errors import NotFoundError
from fumehood.gateway.upstream import UpstreamError
from fumehood.ports import Artifacts

Table = Mapping[str, Any]

_NAMES_RUN = re.compile(r"""\s*["'](run_\d+)["']\s*:""")
"""A line of a dictionary that says what a run is called."""
NO_FURTHER_EDIT = "No further edit."
ALL_COMPLETED = "ALL_COMPLETED"
REPLICATION = "replicate_"
"""What the name of an idea begins with that repeats another; the rest is that one's name."""


def refuse(message: str) -> UpstreamError:
    """Return the error by which the offline model says that it cannot answer."""
    return UpstreamError(message, status=400, kind="invalid_request_error")


class Playbook:
    """One template's playbook."""

    def __init__(self, table: Table) -> None:
        self.table = table
        ideas = table.get("ideas", [])
        if not isinstance(ideas, list) or not all(isinstance(idea, dict) and idea.get("name") for idea in ideas):
            raise refuse("The playbook is malformed: `ideas` must be tables, each with a `name`.")
        self.ideas: tuple[Table, ...] = tuple(ideas)

    @classmethod
    def load(cls, artifacts: Artifacts, sha256: str) -> Playbook:
        """Read the playbook that a token names."""
        if not sha256:
            raise refuse("The offline model has no playbook for this template.")
        try:
            return cls(tomllib.loads(artifacts.get(sha256).decode()))
        except NotFoundError:
            raise refuse("The offline model has no playbook for this template: its bytes are not kept here.") from None
        except ValueError as error:
            raise refuse(f"The playbook is not TOML: {error}.") from error

    def idea(self, name: str) -> Table:
        """Return the idea of this name."""
        name = name.removeprefix(REPLICATION)
        for idea in self.ideas:
            if name in {idea["name"], idea_name(str(idea["name"]))}:
                return idea
        raise refuse(f"The offline model's playbook has no idea named {name!r}.")

    def proposal(self, index: int) -> dict[str, Any]:
        """Return the idea at an index as an answer; beyond the last, that there are no more."""
        if not 0 <= index < len(self.ideas):
            return {"exhausted": True}
        return proposal_of(self.ideas[index])

    def edit(self, idea: str, run: int, attempt: int, *, mending: bool = False) -> str:
        """Return the reply for an attempt at a run, or the one that closes its edit's open points; both from 1."""
        runs = self.idea(idea).get("runs", [])
        if idea.startswith(REPLICATION):
            return NO_FURTHER_EDIT if mending else _all_at_once(runs)
        if run > len(runs):
            return ALL_COMPLETED
        planned, written = self._attempt(idea, run, attempt)
        reply = written.get("mended" if mending else "reply", "")
        if not written or (mending and not reply):
            return NO_FURTHER_EDIT
        heading = f"RUN: {planned.get('title', '')} | {planned.get('description', '')}".replace("\n", " ")
        return f"{heading}\n\n{reply}"

    def reading(
        self, idea: str, run: int, attempt: int, files: Sequence[str], *, mended: bool = False
    ) -> dict[str, Any]:
        """Return what the playbook says of its own edit beside its plan: what it left open, or that it carries it out.

        What it changes is `axes`, and else the architecture. Files that did not change are nobody's to speak of.
        """
        planned, written = self._attempt(idea, run, attempt)
        left = written.get("left_open" if mended else "open", [])
        points = [
            {name: str(one.get(name, "")) for name in ("kind", "file", "sentence")}
            for one in left
            if isinstance(one, dict) and one.get("file") in files
        ]
        told = " ".join(str(planned.get("description") or "Nothing is planned for this run.").split())
        done = {"kind": "implemented", "file": files[0], "sentence": f"As the playbook has it: {told}"[:400]}
        rest = {"departs": written.get("departs", []), "reason": str(written.get("reason", ""))}
        return {
            "points": [*([] if points else [done]), *points],
            "changes": written.get("axes", ["architecture"]),
            **rest,
        }

    def _attempt(self, idea: str, run: int, attempt: int) -> tuple[Table, Table]:
        """Return a run and its attempt; both are empty where the playbook has none."""
        runs = self.idea(idea).get("runs", [])
        planned = runs[max(run, 1) - 1] if run <= len(runs) else {}
        attempts, number = planned.get("attempts", []), max(attempt, 1)
        return planned, attempts[number - 1] if number <= len(attempts) else {}

    def plot(self, idea: str, attempt: int, runs: Sequence[str] = ()) -> str:
        """Return the reply that draws an idea's figures; a second attempt has nothing to add.

        Of the runs that it names, those that there are not are left out; `runs` are the folders of those that there
        are, and empty where nobody says so.
        """
        reply = str(self.idea(idea).get("plot", {}).get("reply", ""))
        if not reply or attempt > 1:
            return NO_FURTHER_EDIT
        lines = [(line, _NAMES_RUN.match(line)) for line in reply.splitlines(keepends=True)]
        return "".join(line for line, named in lines if not (runs and named and named[1] not in runs))


def _all_at_once(runs: Sequence[Table]) -> str:
    """Return the last edit of each run, one after the other: what a whole method comes to for who starts afresh."""
    ended = [run["attempts"][-1] for run in runs if run.get("attempts")]
    edits = [str(one.get("mended") or one.get("reply", "")) for one in ended]
    return "\n\n".join(["RUN: As described | The whole of what the method section describes.", *edits])


def proposal_of(idea: Table) -> dict[str, Any]:
    """Return a playbook's idea in the shape of a proposal."""
    changes = idea.get("changes", [])
    return {
        "name": str(idea["name"]),
        "title": str(idea.get("title", "")),
        "experiment": str(idea.get("experiment", "")),
        "interestingness": _score(idea, "interestingness"),
        "feasibility": _score(idea, "feasibility"),
        "novelty_score": _score(idea, "novelty"),
        "kind": str(idea.get("kind", "improvement")),
        "hypothesis": str(idea.get("hypothesis", "")),
        "metric": str(idea.get("metric", "")),
        "expected": str(idea.get("direction", "")),
        "changes": [changes] if isinstance(changes, str) else [str(change) for change in changes],
        "requests": [str(name) for name in idea.get("requests", [])],
    }


def _score(idea: Table, name: str) -> dict[str, Any]:
    return {"value": int(idea.get(name, 5)), "reason": str(idea.get(f"{name}_reason", ""))}
