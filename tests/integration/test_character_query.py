"""Scoring a language model character by character: what it is told and when, and each way to the text that it tries."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ulid import ULID

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.execution import Input, Kind, Limits, Spec, Verdict
from fumehood.domain.experiment import Run
from fumehood.domain.extra_packages import image_of
from fumehood.domain.ids import DirectionId, RunId
from fumehood.domain.template import Profile, Query, Template
from fumehood.services import extra_packages, querying
from fumehood.services.query_driver import CHARACTERS
from sandbox import docker_engine, lab
from sandbox.derived import build
from sandbox.docker import DockerSandbox
from sandbox.execute import execute
from sandbox.host import HostSandbox
from sandbox.local import LocalSandbox
from tests.fakes.wheels import write_wheel

RUN_DIR = Path("/run/fumehood")
ALPHABET = "abcd"
BLOCK, STREAMS = 8, 3
TEXT = "".join(random.Random(5).choices(ALPHABET, k=7 * BLOCK))
HELD_OUT = {"alphabet": ALPHABET, "text": {"1": TEXT}, "draw": {"1": 11}}
LAST_SEEN = """
import numpy

def load(path, dataset, seed): return 2.0
def begin(model, streams): return {}

def step(model, state, characters):
    logits = numpy.zeros((len(characters), 4))
    for row, character in enumerate(characters):
        if character: logits[row, "abcd".index(character)] = model
    return logits
"""
"""Says that each character comes again: of the right shape and about its own stream only."""


@dataclass
class Asked:
    """How asking ended."""

    ended_well: bool
    said: str
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    size: dict[str, object] | None = None


class Direct:
    """The programs themselves, as this user, without a sandbox."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.more: list[str] = []

    def give(self, wheel: Path) -> None:
        """Let who answers find what a wheel holds."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.folder / "extra")
        self.more = [f"--packages={self.folder / 'extra'}"]

    def ask(self, serve: str, held_out: object = HELD_OUT, tolerance: float = 0.001) -> Asked:
        for name in ("code", "outputs", "held_out"):
            (self.folder / name).mkdir()
        (self.folder / "code" / "serve.py").write_text(serve, encoding="utf-8")
        (self.folder / "held_out" / "tales.json").write_text(json.dumps(held_out), encoding="utf-8")
        command = [str(self.python), str(CHARACTERS[0]), *arguments(tolerance), "--code=code", "--outputs=outputs"]
        command += self.more
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        found = {path.name: np.load(path) for path in (self.folder / "answers").glob("*.npy")}
        told = self.folder / "answers" / "counted.json"
        size = json.loads(told.read_bytes()) if told.is_file() else None
        return Asked(done.returncode == 0, done.stdout + done.stderr, found, size)


class Inside:
    """The same in a query's sandbox, with the inputs that the platform gives."""

    def __init__(self, sandbox: HostSandbox, folder: Path) -> None:
        self.sandbox, self.folder = sandbox, folder
        self.image, self.environment, self.more = "lab", dict[str, str](), list[str]()

    def give(self, wheel: Path) -> None:
        """Have it asked in a lab that has a wheel more, as the platform has it asked there."""
        artifacts, template = (
            MemoryArtifacts(),
            Template(title="t", query=Query(kind="characters"), datasets=("tales",)),
        )
        files = extra_packages.settle({}, artifacts, template, wheels=[wheel])
        packages = extra_packages.read(files, artifacts)
        self.image = image_of(files)
        lab_dir = self.sandbox._roots["lab"].folders["/lab/site-packages"].parent
        asked = build.Asked(image=self.image, packages=packages, wheels={wheel.name: wheel})
        build.ensure(self.folder / "state/lab/derived", lab_dir, asked, print)
        run = Run(id=RunId("run_1"), direction_id=DirectionId("dir_1"), experiment_id=None, index=0)
        asking = querying.asking(artifacts, template, Profile(), run, {}, has_extra=True)
        self.environment, self.more = asking.environment, [asking.command[-1]]

    def ask(self, serve: str, held_out: object = HELD_OUT, tolerance: float = 0.001) -> Asked:
        files = {f"in/driver/{path.name}": path.read_text(encoding="utf-8") for path in CHARACTERS}
        files |= {"in/code/serve.py": serve, "in/outputs/none.json": "{}"}
        files |= {"work/held_out/tales.json": json.dumps(held_out)}
        spec = Spec(
            name=f"fh-{ULID()}".lower(),
            kind=Kind.QUERY,
            command=("python", f"/in/driver/{CHARACTERS[0].name}", *arguments(tolerance), *self.more),
            image=self.image,
            environment=self.environment,
            inputs=tuple(self._input(path, text) for path, text in files.items()),
            collect=("answers/*",),
            limits=Limits(wall_s=120, memory_mib=1024, storage_mib=32, processes=32),
        )
        outcome = execute(self.sandbox, spec, self.folder / "out")
        left = [self.folder / "out" / one.path for one in outcome.artifacts]
        found = {path.name: np.load(path) for path in left if path.suffix == ".npy"}
        size = next((json.loads(path.read_bytes()) for path in left if path.name == "counted.json"), None)
        return Asked(outcome.verdict is Verdict.SUCCEEDED, outcome.output_tail, found, size)

    def _input(self, path: str, text: str) -> Input:
        digest = hashlib.sha256(text.encode()).hexdigest()
        (self.folder / digest).write_text(text, encoding="utf-8")
        return Input(path=path, sha256=digest, source=str(self.folder / digest))


def arguments(tolerance: float) -> list[str]:
    how = [f"--block={BLOCK}", f"--streams={STREAMS}", f"--tolerance={tolerance}"]
    return [*how, "--datasets=tales", "--seeds=1"]


@pytest.fixture(
    params=["direct", pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)]
)
def place(request: pytest.FixtureRequest, lab_dir: Path, lab_python: Path, tmp_path: Path) -> Iterator[Direct | Inside]:
    """Where the model is asked: as it is, and in a sandbox of each kind."""
    if request.param == "direct":
        yield Direct(lab_python, tmp_path)
        return
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    roots = lab.find(state_dir, lab_dir)
    made: HostSandbox = LocalSandbox(state_dir, RUN_DIR, roots)
    if request.param == "docker":
        made = DockerSandbox(docker_engine.connect(), state_dir, RUN_DIR, roots)
    yield Inside(made, tmp_path)
    made.reap()
    with suppress(FileNotFoundError):
        (RUN_DIR / made.installation).rmdir()


@pytest.fixture
def direct(lab_python: Path, tmp_path: Path) -> Direct:
    return Direct(lab_python, tmp_path)


def test_every_character_has_an_answer_that_knows_those_before_it_in_its_block(place: Direct | Inside) -> None:
    asked = place.ask(LAST_SEEN)
    assert asked.ended_well, asked.said
    assert asked.said == "tales seed 1: 1 streams asked again, 0 nats apart\n"
    expected = np.zeros((len(TEXT), 4), dtype=np.float32)
    for place_, before in enumerate(TEXT[:-1], start=1):
        if place_ % BLOCK:
            expected[place_, ALPHABET.index(before)] = 2.0
    assert list(asked.answers) == ["logits_tales_1.npy"]
    assert np.array_equal(asked.answers["logits_tales_1.npy"], expected)


HALF_SEEN = LAST_SEEN.replace("import numpy", "import numpy, tinyextra").replace("return 2.0", "return tinyextra.TWO")


def test_packages_beside_the_labs_are_found_by_who_answers(place: Direct | Inside, tmp_path: Path) -> None:
    place.give(write_wheel(tmp_path / "given", "tinyextra", files={"tinyextra.py": "TWO = 2.0\n"}))
    asked = place.ask(HALF_SEEN)
    assert asked.ended_well, asked.said
    assert asked.answers["logits_tales_1.npy"].max() == 2.0


def test_the_process_that_holds_the_text_does_not_find_them(direct: Direct, tmp_path: Path) -> None:
    # Whatever this one imports would come from there, were it on its path at all.
    files = {f"{name}.py": "raise SystemExit('it was imported by who asks')\n" for name in ("numpy", "sitecustomize")}
    direct.give(write_wheel(tmp_path / "given", "hiding", files=files))
    asked = direct.ask(LAST_SEEN)
    assert asked.ended_well, asked.said


ATTACKS = """
import ctypes, functools, json, os, pathlib, resource, subprocess
OPEN = os.listdir("/proc/self/fd")
resource.getrlimit(resource.RLIMIT_NOFILE)  # reading one changes nothing
from serve_plain import begin, load, step

def tried(way):
    try:
        return repr(way())[:200]
    except OSError as error:
        return f"errno {error.errno}"
    except Exception as error:
        return type(error).__name__

LIBC = ctypes.CDLL(None, use_errno=True)

def called(function, *given):
    if function(*given) < 0:
        raise OSError(ctypes.get_errno(), "no")
    return "done"

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def vectors(pid):
    ours = ctypes.create_string_buffer(8)
    local, remote = Vector(ctypes.addressof(ours), 8), Vector(0x400000, 8)
    return called(LIBC.process_vm_readv, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)

def files():
    found = []
    for top in ("/in", os.getcwd()):
        for folder, _, names in os.walk(top):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    found += [name] if b'"draw"' in file.read() and not name.endswith(".py") else []
    return found

def limited(pid):
    new = (ctypes.c_ulong * 2)(3, 4)
    return called(LIBC.prlimit, pid, 12, ctypes.byref(new), None)

STARTER = os.getppid()
ASKER = int(open(f"/proc/{STARTER}/stat").read().rpartition(")")[2].split()[1])
INTO = {
    "memory": lambda pid: open(f"/proc/{pid}/mem", "rb", 0).read(1),
    "to memory": lambda pid: open(f"/proc/{pid}/mem", "r+b", 0).read(1),
    "vectors": vectors,
    "maps": lambda pid: open(f"/proc/{pid}/maps").read() or 1 / 0,
    "environ": lambda pid: open(f"/proc/{pid}/environ").read(),
    "descriptors": lambda pid: [open(f"/proc/{pid}/fd/{n}", "rb").read(4) for n in range(9)],
    "attach": lambda pid: called(LIBC.ptrace, 16, pid, None, None),
    "seize": lambda pid: called(LIBC.ptrace, 0x4206, pid, None, None),
    "pidfd": lambda pid: called(LIBC.syscall, 438, os.pidfd_open(pid), 3, 0),
    "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 7),
    "processors": lambda pid: os.sched_setaffinity(pid, {0}),
    "limit": limited,
}
WAYS = {
    "files": files,
    "note": lambda: pathlib.Path("note.txt").write_text("x"),
    "note in tmp": lambda: pathlib.Path("/tmp/fumehood-note.txt").write_text("x"),
    "note in memory": lambda: pathlib.Path("/dev/shm/fumehood-note.txt").write_text("x"),
    "folder": lambda: os.mkdir("noted"),
    "link": lambda: os.symlink("x", "noted"),
    "times": lambda: os.utime(os.getcwd(), (5, 5)),
    "mode": lambda: os.chmod(os.getcwd(), 0o711),
    "shared memory": lambda: called(LIBC.shmget, 4711, 4096, 0o1600),
    "another program": lambda: subprocess.run(["mkdir", "noted"], check=True, capture_output=True),
}
WAYS |= {f"{name} of {pid}": functools.partial(way, pid) for name, way in INTO.items() for pid in (STARTER, ASKER)}
print(json.dumps({name: tried(way) for name, way in WAYS.items()} | {"open": OPEN}))
"""


def test_no_way_leads_to_the_text_and_none_leaves_a_trace(place: Direct | Inside) -> None:
    code = ATTACKS.replace("from serve_plain import begin, load, step", LAST_SEEN)
    asked = place.ask(code)
    assert asked.ended_well, asked.said
    told = json.loads(asked.said.splitlines()[0])
    assert told.pop("files") == "[]"
    # The standard ones, the two pipes, and the folder in which these are read.
    assert len(told.pop("open")) == 6
    # Not permitted, permission denied, a read-only file system; of the maps nothing is read, of the program its status.
    refused = {"errno 1", "errno 13", "errno 30"} | {"ZeroDivisionError", "CalledProcessError"}
    assert {name: said for name, said in told.items() if said not in refused} == {}


def test_a_process_that_gets_away_is_ended_before_the_answers_are_written(direct: Direct) -> None:
    code = LAST_SEEN.replace(
        "def begin(model, streams): return {}",
        """
def begin(model, streams):
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                try: open("answers/logits_tales_1.npy", "r+b").write(bytes(400))
                except OSError: pass
        os._exit(0)
    return {}
""",
    )
    asked = direct.ask(code)
    assert asked.ended_well, asked.said
    assert asked.answers["logits_tales_1.npy"].sum() == 2.0 * (len(TEXT) - len(TEXT) // BLOCK)


TORCH = """
import numpy, torch

def load(path, dataset, seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 4), torch.zeros(99)

def begin(model, streams): return torch.zeros(streams, 4)

def step(model, state, characters):
    for row, character in enumerate(characters):
        if character: state[row, "abcd".index(character)] += 1
    return model[0](state).detach().numpy()
"""


def test_how_large_a_model_is_is_counted_after_its_answers(place: Direct | Inside) -> None:
    asked = place.ask(TORCH)
    assert asked.ended_well, asked.said
    assert asked.size == {"parameters": 20, "flops": 2 * 4 * 4, "answers": BLOCK, "of": "characters"}


def test_torchs_compiler_is_imported_where_the_code_wants_it_only(place: Direct | Inside) -> None:
    layer = "torch.nn.Linear(4, 4)"
    made = f"layer = {layer}\n    assert 'torch._dynamo' not in sys.modules\n    torch.optim.AdamW(layer.parameters())"
    code = TORCH.replace(f"return {layer}", f"{made}\n    return layer").replace("import numpy", "import sys, numpy")
    asked = place.ask(code)
    assert asked.ended_well, asked.said
    assert asked.size is not None
    assert asked.size["flops"] == 2 * 4 * 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "os.write(mine['answers'].fileno(), b'not json'); os._exit(0)",
            {"error": "JSONDecodeError"},
        ),
        ("os.write(mine['answers'].fileno(), b'[1]'); os._exit(0)", {"error": "AttributeError"}),
        ("raise SystemExit(1)", {"error": "JSONDecodeError"}),
        ("return None", {}),
    ],
)
def test_a_size_that_cannot_be_told_costs_no_answer(direct: Direct, line: str, told: dict[str, str]) -> None:
    counts = f"    mine = sys._getframe(1).f_locals\n    if mine['count']:\n        {line}\n"
    asked = direct.ask(
        LAST_SEEN.replace("return 2.0", f"\n{counts}    return 2.0").replace("import numpy", "import numpy, os, sys")
    )
    assert asked.ended_well, asked.said
    assert asked.answers["logits_tales_1.npy"].sum() == 2.0 * (len(TEXT) - len(TEXT) // BLOCK)
    assert asked.size is not None
    assert (asked.size["parameters"], asked.size["flops"]) == (None, None)
    assert {name: value for name, value in asked.size.items() if name == "error"} == told


def test_streams_that_tell_each_other_what_they_read_give_no_result(place: Direct | Inside) -> None:
    code = LAST_SEEN.replace("logits[row,", "logits[(row + 1) % len(characters),")
    asked = place.ask(code)
    assert not asked.ended_well
    assert "asked again alone is answered otherwise" in asked.said
    assert asked.answers == {}


def test_what_is_kept_between_processes_is_forgotten(direct: Direct) -> None:
    code = LAST_SEEN.replace("import numpy", "import numpy\nCALLS = []").replace(
        "    logits = numpy.zeros((len(characters), 4))",
        "    CALLS.append(1)\n    logits = numpy.full((len(characters), 4), len(CALLS) / 100)",
    )
    asked = direct.ask(code)
    assert asked.ended_well, asked.said
    counted = asked.answers["logits_tales_1.npy"].min(axis=1).reshape(-1, BLOCK)
    assert np.allclose(counted, np.arange(1, BLOCK + 1) / 100)


@pytest.mark.parametrize("difference", [0.0004, 0.02])
def test_a_difference_counts_from_the_tolerance_on(direct: Direct, difference: float) -> None:
    code = LAST_SEEN.replace(
        "    return logits", f"    logits[:, 0] += {difference} * (len(characters) > 1)\n    return logits"
    )
    assert direct.ask(code).ended_well is (difference < 0.001)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return numpy.full((len(characters), 4), numpy.nan)", "a number that is not finite"),
        ("return numpy.full((len(characters), 4), -numpy.inf)", "a number that is not finite"),
        ("return numpy.zeros((len(characters), 5))", "must return (3, 4) numbers, not (3, 5)"),
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("import os; os._exit(0)", "stopped answering for tales seed 1 at character 1"),
    ],
)
def test_an_answer_that_is_none_gives_no_result_and_is_told(direct: Direct, body: str, said: str) -> None:
    asked = direct.ask(LAST_SEEN.replace("    logits = numpy.zeros((len(characters), 4))", f"    {body}"))
    assert not asked.ended_well
    assert said in asked.said
    assert asked.answers == {}


def test_what_is_printed_once_the_text_is_read_is_withheld(direct: Direct) -> None:
    code = LAST_SEEN.replace(
        "    logits = numpy.zeros((len(characters), 4))",
        """
    state.setdefault("seen", []).append(characters)
    print("SEEN", state["seen"], flush=True)
    if len(state["seen"]) > 5: raise ValueError(state["seen"])
    logits = numpy.zeros((len(characters), 4))
""",
    )
    asked = direct.ask(code)
    assert not asked.ended_well
    assert "What it printed is withheld" in asked.said
    # The rehearsal's four characters were of chance.
    assert asked.said.count("SEEN") == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": {"1": TEXT[:-1]}}, "no multiple of 8"),
        ({"text": {"2": TEXT}}, "has none for seed 1"),
        ({"text": {"1": TEXT[:-1] + "e"}}, "not written in its alphabet"),
        ({"draw": None}, "no alphabet, text and draw"),
    ],
)
def test_a_held_out_text_that_is_none_is_refused(direct: Direct, change: dict[str, object], said: str) -> None:
    asked = direct.ask(LAST_SEEN, {**HELD_OUT, **change})
    assert not asked.ended_well
    assert said in asked.said
    assert asked.said.count("\n") == 1


def test_answers_that_were_there_before_are_refused(direct: Direct) -> None:
    (direct.folder / "answers").mkdir()
    asked = direct.ask(LAST_SEEN)
    assert (asked.ended_well, asked.answers) == (False, {})
    assert asked.said.endswith("answers was there before the answers were.\n")
