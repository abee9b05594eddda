"""A whole platform in memory: both workers' worlds, a tiny template, and short words for what tests do with them."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.artifacts.signing import Ed25519Signer, derive_key
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.execution import Device, Kind, Spec, Verdict
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.idea import Idea
from fumehood.domain.policy import Policy
from fumehood.domain.step import Event, Side, Step, StepState
from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.llm.prompts import PackagedPrompts
from fumehood.ports import Call, Sandbox, Store
from fumehood.services import executions, export, steps, submissions
from fumehood.services.change import Change
from fumehood.services.screening import NO_POLICY
from fumehood.services.world import RunWorld, WriteWorld
from fumehood.store.memory import FixedClock, MemoryStore
from tests.fakes import papers
from tests.fakes.model import ScriptedCoder, ScriptedModel
from tests.fakes.sandbox import Did, InstantSandbox

EXPERIMENT = """
    import argparse
    import json
    import os
    import pathlib

    SCALE = 1.0

    parser = argparse.ArgumentParser()
    parser.add_argument("--out_dir", default="run_0")
    out = pathlib.Path(parser.parse_args().out_dir)
    out.mkdir(exist_ok=True)
    seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2").split(",")]
    values = [SCALE + seed % 8 / 4 for seed in seeds]
    info = {"circle": {"means": {"loss": sum(values) / len(values)}, "final_info_dict": {"loss": values}}}
    (out / "samples.json").write_text(json.dumps(values))
    (out / "final_info.json").write_text(json.dumps(info))
"""
EVALUATE = """
    import argparse
    import json
    import pathlib

    parser = argparse.ArgumentParser()
    for name in ("outputs", "held_out", "train", "out_dir", "seeds"):
        parser.add_argument(f"--{name}")
    asked = parser.parse_args()
    values = json.loads((pathlib.Path(asked.outputs) / "samples.json").read_text())
    info = {"circle": {"means": {"error": sum(values) / len(values)}, "final_info_dict": {"error": values}}}
    (pathlib.Path(asked.out_dir) / "metrics.json").write_text(json.dumps(info))
"""
PREPARE = """
    import argparse
    import pathlib

    parser = argparse.ArgumentParser()
    for name in ("arm", "part", "key", "seeds", "out_dir"):
        parser.add_argument(f"--{name}")
    asked = parser.parse_args()
    pathlib.Path(asked.out_dir, "data.txt").write_bytes(asked.part.encode() + pathlib.Path(asked.key).read_bytes()[:1])
"""
PLOT = """
    import base64
    import pathlib

    PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    pathlib.Path("scores.png").write_bytes(base64.b64decode(PICTURE))
"""
TOML = """
    title = "Tiny"
    summary = "A template for tests."
    datasets = ["circle"]
    outputs = ["*.json"]

    [metrics.error]
    title = "Error"
    direction = "lower"
    source = "evaluator"
    primary = true

    [profiles.tiny]
    seeds = [1, 2]
    [profiles.cpu]
    seeds = [1, 2, 3]
"""
SKELETON = "\\documentclass{article}\n\\begin{document}\nHERE\n\\end{document}\n"
PLAIN: Mapping[str, str] = {
    "experiment.py": textwrap.dedent(EXPERIMENT),
    "plot.py": textwrap.dedent(PLOT),
    "prompt.json": json.dumps({"system": "You are careful.", "task_description": "Make the scale small."}),
    "seed_ideas.json": json.dumps([{"Name": "seed", "Title": "A seed", "Experiment": "Nothing at all."}]),
    "latex/template.tex": SKELETON,
}
"""A template as the original system has them."""
TINY: Mapping[str, str] = {
    **PLAIN,
    "evaluate.py": textwrap.dedent(EVALUATE),
    "prepare.py": textwrap.dedent(PREPARE),
    "template.toml": textwrap.dedent(TOML),
}
"""A template whose numbers the platform makes."""
CONFIRMING: Mapping[str, str] = {
    **TINY,
    "template.toml": TINY["template.toml"] + "[profiles.confirming]\nseeds = [1, 2, 3]\nconfirm = true\n",
}
"""The same, with a profile that confirms."""
SCORE = {"value": 5, "reason": "ordinary"}
IDEAS: tuple[dict[str, Any], ...] = (
    {
        "name": "smaller_scale",
        "title": "A Smaller Scale for Circles",
        "experiment": "Divide the scale stepwise and compare errors against the untouched program.",
        "hypothesis": "A smaller scale lowers the error.",
        "metric": "error",
        "expected": "lower",
        "changes": ["scale"],
    },
    {
        "name": "momentum",
        "title": "Momentum Helps Tiny Optimisers",
        "experiment": "Introduce heavy-ball momentum with several coefficients; watch convergence.",
    },
    {
        "name": "quantised_weights",
        "title": "Quantised Weights Without Retraining",
        "experiment": "Round parameters onto eight levels after fitting finishes; record degradation.",
    },
)


def write_template(folder: Path, files: Mapping[str, str] = TINY) -> Path:
    """Write a template's files and return its folder."""
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return folder


def act(spec: Spec) -> Did:
    """Do what the tiny template's programs do; an experiment whose code says `raise` fails."""
    given = {item.path: Path(item.source) for item in spec.inputs}
    if spec.kind is Kind.PREPARE:
        return Did(files={"data.txt": spec.command[3].encode()})
    if spec.kind is Kind.RUN:
        return _run(spec, given["work/experiment.py"].read_text())
    if spec.kind is Kind.EVALUATE:
        values = json.loads(given["in/outputs/samples.json"].read_bytes())
        return Did(files={"metrics.json": results("error", values)})
    if spec.kind is Kind.PLOT:
        return Did(files={"scores.png": PNG})
    return Did(files={"main.pdf": b"%PDF-1.5 a paper", "main.log": b"Output written on main.pdf (6 pages, 9 bytes)."})


def _run(spec: Spec, code: str) -> Did:
    if "raise" in code:
        return Did(verdict=Verdict.FAILED, output="x" * 3000 + "\nRuntimeError: boom")
    folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
    found = re.search(r"SCALE = (-?[\d.]+)", code)
    scale = float(found[1]) if found else 1.0
    values = [scale + int(seed) % 8 / 4 for seed in spec.environment.get("FUMEHOOD_SEEDS", "1").split(",")]
    files = {"final_info.json": results("loss", values), "samples.json": json.dumps(values).encode()}
    return Did(files={f"{folder}/{path}": data for path, data in files.items()}, output="done")


def results(metric: str, values: list[float]) -> bytes:
    """Return results in the template contract's shape."""
    means = {metric: sum(values) / len(values)}
    return json.dumps({"circle": {"means": means, "final_info_dict": {metric: values}}}).encode()


PNG = papers.png(40, 30)


def script(**changes: Any) -> dict[str, Any]:
    """Return what the scripted model answers, role by role."""

    def idea(call: Call) -> dict[str, Any]:
        if call.claims.index >= len(IDEAS):
            return {"exhausted": True}
        return {**IDEAS[call.claims.index], "interestingness": SCORE, "feasibility": SCORE, "novelty_score": SCORE}

    def section(call: Call) -> str:
        if call.claims.subject == "title":
            return "An Inconclusive Look at Scales"
        about = call.claims.subject.replace("_", " ")
        number = " The error became [[num: run_1.error.mean]]." if about == "results" else ""
        return f"The {about} of this inconclusive study is short and plain.{number}"

    roles: dict[str, Any] = {
        "idea": idea,
        "reflection": {"done": True},
        "novelty_query": {"query": None},
        "fidelity": {"points": []},
        "notes": "The run was measured.",
        "section": section,
        "title": section,
        "refine": section,
        "citation": {"queries": []},
        "review": lambda _: dict.fromkeys(FORM) | {"summary": "checked", **dict.fromkeys(LISTS, ())},
    }
    return roles | changes


FORM = (
    *("originality", "quality", "clarity", "significance", "ethical_concerns", "soundness", "presentation"),
    *("contribution", "overall", "confidence", "decision"),
)
LISTS = ("strengths", "weaknesses", "questions", "limitations")


@functools.cache
def literature() -> LocalIndex:
    """Return the local index, built once: it never changes."""
    return LocalIndex()


class Laboratory:
    """Both worlds on one store, with everything that can be scripted within reach."""

    def __init__(
        self,
        folder: Path,
        *,
        store: Store | None = None,
        files: Mapping[str, str] = TINY,
        model: Mapping[str, Any] | None = None,
        coder: ScriptedCoder | None = None,
        sandbox: Sandbox | None = None,
        policy: Policy = NO_POLICY,
    ) -> None:
        self.policy = policy
        self.folder = folder
        self.template = write_template(folder / "shipped" / "tiny", files)
        self.store: Store = store or MemoryStore()
        self.artifacts = MemoryArtifacts()
        self.clock = FixedClock()
        self.model = ScriptedModel(script() if model is None else model)
        self.coder = coder or ScriptedCoder()
        self.sandbox: Any = sandbox or InstantSandbox(act)
        self.signer = Ed25519Signer(folder / "state")
        self.write = WriteWorld(
            store=self.store,
            artifacts=self.artifacts,
            clock=self.clock,
            model=self.model,
            coder=self.coder,
            literature=literature(),
            prompts=PackagedPrompts(),
            typesetter=Latex(),
            policy=policy,
        )
        self.device = Device(processor="a processor")
        self.run = RunWorld(
            device=lambda _: self.device,
            store=self.store,
            artifacts=self.artifacts,
            clock=self.clock,
            sandbox=self.sandbox,
            signer=self.signer,
            derive_key=lambda context: derive_key(b"s" * 32, context),
        )

    def asked(self, **changes: Any) -> submissions.Submission:
        given: dict[str, Any] = {"template": "tiny", "profile": "tiny", "ideas": 1, "runs": 2, **changes}
        return submissions.Submission(**given)

    def submit(self, **changes: Any) -> Direction:
        shipped = self.folder / "shipped"
        asked = self.asked(**changes)
        return submissions.submit(self.store, self.artifacts, self.clock, asked, shipped, policy=self.policy)

    def once(self) -> bool:
        """Let each worker and the watcher do one thing; False when none had anything to do."""
        did = steps.advance(self.write)
        did = steps.advance(self.run) or did
        before = self.store.version()
        for _ in range(2):  # what the first look stops, the second finds ended
            executions.watch_once(self.store, self.sandbox, self.clock)
        return did or self.store.version() != before

    def go_on(self, *, until: Callable[[], bool] | None = None) -> None:
        """Work until nothing is due now, or until something holds."""
        for _ in range(5000):
            if (until is not None and until()) or not self.once():
                return
        raise AssertionError("it does not end")

    def go_on_to(self, name: str) -> Step:
        """Work until a step of this name is due, and return it as its worker would claim it."""
        self.go_on(until=lambda: any(step.state is StepState.DUE for step in self.steps(name)))
        return next(step for step in self.steps(name) if step.state is StepState.DUE)

    def save(self, *values: Direction | Idea | Experiment | Run | Execution) -> None:
        kinds: dict[type, str] = {
            Direction: "directions",
            Idea: "ideas",
            Experiment: "experiments",
            Run: "runs",
            Execution: "executions",
        }
        with self.store.begin() as tx:
            for value in values:
                getattr(tx, kinds[type(value)]).save(value)

    def apply(self, change: Change) -> None:
        with self.store.begin() as tx:
            steps.save(tx, self.clock, change)
            tx.steps.wake(now=self.clock.now())

    def steps(self, name: str = "", **equal: object) -> tuple[Step, ...]:
        with self.store.begin(write=False) as tx:
            return tx.steps.find(**({"name": name} if name else {}), **equal)

    def direction(self) -> Direction:
        with self.store.begin(write=False) as tx:
            found = [tx.directions.get(step.direction_id) for step in tx.steps.find(name="begin")]
        return found[-1]

    def ideas(self) -> tuple[Idea, ...]:
        with self.store.begin(write=False) as tx:
            return tx.ideas.find()

    def experiments(self) -> tuple[Experiment, ...]:
        with self.store.begin(write=False) as tx:
            return tx.experiments.find()

    def runs(self) -> tuple[Run, ...]:
        with self.store.begin(write=False) as tx:
            return tuple(sorted(tx.runs.find(), key=lambda run: run.index))

    def executions(self, **equal: object) -> tuple[Execution, ...]:
        with self.store.begin(write=False) as tx:
            return tx.executions.find(**equal)

    def events(self) -> list[Event]:
        with self.store.begin(write=False) as tx:
            return [event for one in tx.directions.find() for event in tx.events.since(one.id)]

    def told(self) -> str:
        """Return everything that people could read."""
        return "\n".join(f"{event.kind}: {event.text}" for event in self.events())

    def export(self, out: Path) -> Path:
        files = export.direction_files(self.store, self.artifacts, self.clock, self.direction().id, self.signer)
        export.write(files, self.artifacts, self.signer, out)
        return out

    def get(self, sha: str) -> Any:
        return json.loads(self.artifacts.get(sha))


def step_of(direction: Direction, name: str, experiment: Experiment | None = None, **payload: Any) -> Step:
    """Return a claimed step."""
    key = hashlib.sha256(repr((name, payload)).encode()).hexdigest()
    return Step(
        id=f"step_{key[:26]}",
        key=key,
        name=name,
        side=Side.WRITE,
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        state=StepState.CLAIMED,
        payload=payload,
    )


def moved(direction: Direction, *states: DirectionState) -> Direction:
    """Return a direction moved through these states."""
    return functools.reduce(lambda one, state: one.to(state), states, direction)
