"""What a drafted frozen pair is put to: good ones hold, and each fault is found by the check that is for it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Artifact, ExecutionState, Kind, Outcome, Usage, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, TenantId, container_name
from fumehood.domain.template import Template
from fumehood.errors import BadInputError
from fumehood.services import draft_answers, draft_arrays, draft_checks
from fumehood.services.draft_answers import DraftAnswer, Given
from fumehood.services.draft_checks import Check
from fumehood.services.draft_data import Data
from fumehood.services.wanting import wanted
from fumehood.store.memory import FixedClock
from tests.fakes import drafter

SEEDS = (1, 2)


def key_of(context: str) -> bytes:
    return hashlib.sha256(context.encode()).digest()


@dataclass(frozen=True)
class Bench:
    """A draft's programs, carried out beside each other without a sandbox: they are ours."""

    place: Path
    python: Path
    artifacts: MemoryArtifacts
    template: Template
    direction: Direction

    def run(self, one: Execution) -> Execution:
        """Return an execution with what came of it."""
        room = self.place / one.id
        (room / "work").mkdir(parents=True)
        (room / "in").mkdir()
        (room / "in" / "key").write_bytes(key_of(one.key_context))
        for path, sha in one.inputs.items():
            (room / path).parent.mkdir(parents=True, exist_ok=True)
            (room / path).write_bytes(self.artifacts.get(sha))
        words = [word.replace("/in/", f"{room}/in/").replace("=/work", f"={room}/work") for word in one.command]
        done = subprocess.run([self.python, "-B", *words[1:]], cwd=room / "work", capture_output=True, text=True)
        left = {path.name: self.artifacts.put(path.read_bytes()) for path in (room / "work").iterdir()}
        outcome = Outcome(
            name=container_name(one.id),
            verdict=Verdict.SUCCEEDED if done.returncode == 0 else Verdict.FAILED,
            exit_code=done.returncode,
            usage=Usage(),
            output_tail=done.stdout + done.stderr,
            truncated=False,
            artifacts=tuple(Artifact(path=path, bytes=1, sha256=sha) for path, sha in left.items()),
            rejected=(),
            image="",
        )
        return replace(one, state=ExecutionState.COLLECTED, outcome=outcome)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def checked(tmp_path: Path, python: Path, **changed: str) -> dict[str, Check]:
    """Measure a draft with these programs, and return what was tried of it."""
    artifacts, clock = MemoryArtifacts(), FixedClock()
    try:
        return _checked(tmp_path, python, artifacts, clock, **changed)
    finally:
        artifacts.close()


def _checked(
    tmp_path: Path, python: Path, artifacts: MemoryArtifacts, clock: FixedClock, **changed: str
) -> dict[str, Check]:
    drawn = np.random.default_rng(1)
    x = drawn.uniform(-1, 1, (200, 2))
    points = io.BytesIO()
    np.savez(points, x=x, y=x @ [3.0, -2.0] + drawn.normal(0, 0.3, 200))
    given = Given(words="", files={}, data=Data(files={"points.npz": points.getvalue()}), wishes={})
    _, files = draft_answers.files_of(DraftAnswer.model_validate(drafter.written(**changed)), given, b"")
    shas = {path: artifacts.put(content) for path, content in files.items()}
    direction = Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=TenantId("ten_1"),
        template="plane",
        text="",
        model="m",
        review_model="m",
        profile="tiny",
        ideas=0,
        runs=0,
        template_files=shas,
    )
    template = Template.model_validate(tomllib.loads(files["template.toml"].decode()))
    bench = Bench(tmp_path, python, artifacts, template, direction)
    profile = template.profiles["tiny"]
    seeds = f"--seeds={','.join(map(str, SEEDS))}"
    jobs = []
    for part in ("train", "inputs", "answers"):
        command = ("python", "/in/template/prepare.py", "--arm=screen", f"--part={part}", "--key=/in/key", seeds)
        frozen = {f"in/template/{path}": sha for path, sha in shas.items() if path not in template.editable}
        how = {"command": (*command, "--out_dir=/work"), "inputs": frozen, "key_context": "t:screen"}
        jobs.append(bench.run(wanted(clock, direction, profile, Kind.PREPARE, **how)))
    train, inputs, answers = ({path: one.sha256 for path, one in job.artifacts.items()} for job in jobs)
    outputs = {}
    with np.load(io.BytesIO(artifacts.get(train["plane.npz"]))) as learnt:
        for seed in SEEDS:
            (features,) = [name for name in learnt.files if name.endswith(f"s_{seed}") or name == f"x_{seed}"]
            fitted = np.linalg.lstsq(learnt[features][:, :2], learnt[f"y_{seed}"], rcond=None)[0]
            (held,) = [sha for path, sha in inputs.items() if path.endswith(f"{seed}.npy")]
            asked = np.load(io.BytesIO(artifacts.get(held)))[:, :2]
            outputs[f"in/outputs/predictions_plane_{seed}.npy"] = artifacts.put(npy((asked @ fitted).astype("f4")))
    command = ("python", "/in/template/evaluate.py", "--outputs=/in/outputs", "--held_out=/in/held_out")
    judging = {
        "command": (*command, "--train=/in/train", "--out_dir=/work", seeds),
        "inputs": {"in/template/evaluate.py": shas["evaluate.py"], **outputs}
        | {f"in/held_out/{path}": sha for path, sha in answers.items()},
    }
    judged = bench.run(wanted(clock, direction, profile, Kind.EVALUATE, **judging))
    assert judged.succeeded, judged.outcome
    numbers = artifacts.get(judged.artifacts["metrics.json"].sha256)
    base = draft_arrays.of_baseline(template, profile, SEEDS, (*jobs, judged), numbers)
    arrays = draft_arrays.arrays_of(base, artifacts)
    wants = draft_checks.wanted_for(clock, direction, base, arrays, artifacts)
    done = {name: bench.run(one) for name, one in wants.items()}
    # No key of the draft is anybody else's.
    assert all(one.key_context.startswith("t:screen") for one in done.values() if one.kind is Kind.PREPARE)
    found = draft_checks.look(base, arrays, done, artifacts, key_of("t:screen"))
    json.dumps([one.sentence for one in found])
    return {one.name: one for one in found}


P, E = drafter.PREPARE, drafter.EVALUATE
SPLIT = '    drawn = hmac.new(key, f"{arm}/{seed}".encode(), hashlib.sha256).digest()\n'
FAULTS: dict[str, tuple[dict[str, str], set[str]]] = {
    "none": ({}, set()),
    "time in the bytes": (
        {"prepare__py": P.replace("x[train], f", "x[train] + numpy.random.default_rng().normal(0, 1e-9), f")},
        {"same_bytes"},
    ),
    "held-out rows learnt": ({"prepare__py": P.replace("x[train]", "x").replace("y[train]", "y")}, {"held_out_apart"}),
    "answers in the inputs": (
        {"prepare__py": P.replace("x[held_out])", "numpy.column_stack([x[held_out], y[held_out]]))")},
        {"no_answers_in_inputs"},
    ),
    "the key is let out": (
        {
            "prepare__py": P.replace(
                "    if arrays:\n",
                "    if asked.part == 'train':\n        arrays['k'] = numpy.frombuffer(key, 'u1')\n    if arrays:\n",
            )
        },
        {"no_key"},
    ),
    "one pool for both arms": (
        {"prepare__py": P.replace(' == (arm == "confirm")', " >= 0").replace('f"{arm}/{seed}"', "str(seed)")},
        {"arms_apart"},
    ),
    "no key asked": ({"prepare__py": P.replace("hmac.new(key,", 'hmac.new(b"fixed",')}, {"hangs_on_key"}),
    "seeds drawn together": (
        {
            "prepare__py": P.replace(SPLIT, SPLIT.replace("{seed}", "{seed}{len(asked_for)}"))
            .replace("    for seed in map", "    asked_for.extend(asked.seeds.split(','))\n    for seed in map")
            .replace("SHARE = 0.7\n", "SHARE = 0.7\nasked_for = []\n")
        },
        {"seeds_alone"},
    ),
    "NaN judged": (
        {
            "evaluate__py": E.replace(" or not numpy.isfinite(values).all()", "").replace(
                "numpy.abs(answers", "numpy.abs(numpy.nan_to_num(answers)"
            )
        },
        {"refuses"},
    ),
    "a traceback is no sentence": ({"evaluate__py": E.replace("sys.exit(f", "raise ValueError(f")}, {"refuses"}),
    "the wrong way round": (
        {"evaluate__py": E.replace("float(numpy.abs(", "float(-numpy.abs(")},
        {"truth_is_best", "constant_is_worse", "shuffled_is_worse"},
    ),
    "one number for all": (
        {"evaluate__py": E.replace("float(numpy.abs(answers - truth).mean())", "1.0")},
        {"constant_is_worse", "shuffled_is_worse"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check_and_by_no_other(tmp_path: Path, warm_python: Path, fault: str) -> None:
    changed, expected = FAULTS[fault]
    found = checked(tmp_path, warm_python, **changed)
    wrong = {name: one.sentence for name, one in found.items() if not one.held}
    assert set(wrong) == expected, wrong
    assert [name for name, one in found.items() if one.blocks] == ["same_bytes", "refuses"]
    for name in expected:
        assert "; " in found[name].sentence or name == "hangs_on_key"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (P.replace('f"x_{seed}"', 'f"features_{seed}"'), "wrote no x_1; it wrote"),
        (P.replace('f"plane_{seed}.npy"', 'f"plane-{seed}.npy"'), "wrote no plane_1.npy"),
        (P.replace("y[held_out]\n", "y[held_out].astype(str)\n"), "must be numbers"),
        (P.replace("= y[held_out]\n", "= y[held_out][:, None]\n"), "answers have the shape of the truth"),
        (P.replace("= y[held_out]\n", "= y[0]\n"), "y_1 is a single value"),
    ],
)
def test_data_of_another_form_than_a_drafts_are_refused(
    tmp_path: Path, warm_python: Path, changed: str, why: str
) -> None:
    evaluate = E.replace('held_out[f"y_{seed}"]', 'held_out[f"y_{seed}"].astype(float).ravel()')
    evaluate = evaluate.replace("values.shape != (count,) or ", "")
    with pytest.raises(BadInputError) as refused:
        checked(tmp_path, warm_python, prepare__py=changed, evaluate__py=evaluate)
    assert why in str(refused.value)


HEADER = b"\x93NUMPY\x01\x00"
SHAPE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    "data",
    [
        HEADER + b"\x10\x00" + b'(((((((("""'.ljust(16),
        HEADER + b"\x10\x00" + b"\x00" * 16,
        HEADER + len(SHAPE).to_bytes(2, "little") + SHAPE + bytes(3),
        npy(np.array(3.0)),
        b"PK\x03\x04",
        b"",
    ],
)
def test_no_bytes_of_an_array_break_the_command(data: bytes) -> None:
    artifacts = MemoryArtifacts()
    try:
        with pytest.raises(BadInputError):
            draft_arrays.array_of(artifacts, artifacts.put(data))
        with pytest.raises(BadInputError):
            draft_arrays.load(data)
        with pytest.raises(BadInputError):
            draft_arrays.unpacked("data.npz", data)
    finally:
        artifacts.close()


def test_an_archive_whose_bytes_were_changed_is_refused_and_words_are_no_rows_among_numbers() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(500.0))
    data = bytearray(buffer.getvalue())
    data[60:90] = bytes(30)
    for read in (draft_arrays.load, lambda one: draft_arrays.unpacked("data.npz", one)):
        with pytest.raises(BadInputError):
            read(bytes(data))
    assert draft_checks._shared(np.zeros((2, 2)), np.array([["a", "b"]])) == 0
