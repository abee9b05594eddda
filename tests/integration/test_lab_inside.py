"""What research code does with torch and its kin passes through the filter of system calls, on each adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ulid import ULID

from fumehood.domain.execution import Input, Kind, Limits, Spec, Verdict
from fumehood.settings import Settings
from sandbox import docker_engine, lab
from sandbox.docker import DockerSandbox
from sandbox.execute import execute
from sandbox.host import HostSandbox
from sandbox.local import LocalSandbox
from worker import worlds

RUN_DIR = Path("/run/fumehood")
PROGRAM = """
import multiprocessing, os, subprocess, warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from multiprocessing.pool import ThreadPool
warnings.simplefilter("error")
import numpy, torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self): return 64
    def __getitem__(self, at): return torch.full((8,), float(at)), os.getpid()

def square(x): return int((torch.ones(x, x) @ torch.ones(x, x))[0, 0]) * x

def load(**asked):
    told = list(DataLoader(Numbers(), batch_size=8, num_workers=2, **asked))
    return len({int(pid) for _, pids in told for pid in pids}), int(sum(float(x.sum()) for x, _ in told))

def status(name):
    with open("/proc/self/status") as file: return next(line.split()[1] for line in file if line.startswith(name))

if __name__ == "__main__":
    print("guarded", status("Seccomp:"), status("NoNewPrivs:"))
    torch.set_num_threads(2)
    a = torch.randn(512, 512, requires_grad=True)
    (a @ a.T).sum().backward()
    print("matmul", bool(torch.isfinite(a.grad).all()))
    print("loader", *load())
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool: print(method, pool.map(square, [2, 3]))
    with ThreadPool(4) as pool: print("threads", pool.map(square, [2, 3]))
    with ProcessPoolExecutor(2) as pool: print("executor", list(pool.map(square, [2, 3])))
    shared = torch.zeros(4).share_memory_()
    writing = multiprocessing.get_context("fork").Process(target=shared.fill_, args=(1.0,))
    writing.start(); writing.join()
    print("shared", float(shared.sum()))
    held = shared_memory.SharedMemory(create=True, size=1024)
    held.close(); held.unlink()
    torch.multiprocessing.set_sharing_strategy("file_system")
    print("by file", *load())
    done = subprocess.run(["python", "-c", "print(1)"], capture_output=True, text=True, check=True)
    print("child", done.stdout.strip())
    torch.save(a, "a.pt")
    print("saved", bool((torch.load("a.pt") == a).all()))
    import einops, pandas, scipy.linalg, sklearn.ensemble
    forest = sklearn.ensemble.RandomForestRegressor(n_estimators=4, n_jobs=2).fit(numpy.eye(8), numpy.arange(8))
    print("forest", forest.predict(numpy.eye(8)).shape)
"""
SAID = """guarded 2 1
matmul True
loader 2 16128
fork [4, 9]
spawn [4, 9]
forkserver [4, 9]
threads [4, 9]
executor [4, 9]
shared 4.0
by file 2 16128
child 1
saved True
forest (8,)
"""


@pytest.fixture(
    params=[pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)]
)
def sandbox(request: pytest.FixtureRequest, lab_dir: Path, tmp_path: Path) -> Iterator[HostSandbox]:
    """A sandbox of each kind that has the lab."""
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    roots = lab.find(state_dir, lab_dir)
    made: HostSandbox = LocalSandbox(state_dir, RUN_DIR, roots)
    if request.param == "docker":
        made = DockerSandbox(docker_engine.connect(), state_dir, RUN_DIR, roots)
    yield made
    made.reap()
    with suppress(FileNotFoundError):
        (RUN_DIR / made.installation).rmdir()


def test_what_workers_without_a_lab_take_for_importable_is_in_it(lab_dir: Path) -> None:
    assert worlds.lab_packages(Settings(lab_dir=lab_dir)) >= worlds.IMAGE_PACKAGES


@pytest.mark.slow
def test_threads_processes_and_loaders_work(sandbox: HostSandbox, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    limits = Limits(wall_s=180, memory_mib=3072, storage_mib=128, processes=128)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    given = Input(path="work/program.py", sha256=digest, source=str(program))
    name = f"fh-{ULID()}".lower()
    command = ("python", "program.py")
    spec = Spec(name=name, kind=Kind.RUN, command=command, image="lab", limits=limits, inputs=(given,))
    outcome = execute(sandbox, spec, tmp_path / "out")
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail
    assert outcome.output_tail == SAID
