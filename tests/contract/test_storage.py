"""What every storage driver keeps, on each adapter, measured on a disk that nobody else writes to."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fumehood.domain.execution import MIB, Running, Spec, Verdict
from fumehood.errors import OverBudgetError, SandboxUnavailableError
from sandbox import kernel
from sandbox.execute import execute
from sandbox.host import HostSandbox
from sandbox.limits import Ceilings
from sandbox.storage import loop
from sandbox.storage.choose import Wanted
from tests.contract.conftest import Bench, build, until
from tests.leaks import RUN_DIR, identity

DISK_MIB, POOL_MIB, QUOTA_MIB = 1024, 384, 128
GROUNDS = [
    pytest.param((adapter, driver), id=f"{adapter}-{driver}", marks=getattr(pytest.mark, adapter))
    for adapter in ("local", "docker")
    for driver in ("loop", "btrfs")
]
Ground = Callable[..., Bench]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of this test's own."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    # Nothing may have run on this machine yet.
    RUN_DIR.mkdir(mode=0o711, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    loop.make_file_system(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)])
    loop.attach_and_mount(RUN_DIR, image, place, "ext4", 0, "")
    yield place
    kernel.unmount(place)
    # Where temporary files lie in memory, a few of these would fill it.
    image.unlink()


@pytest.fixture
def ground(request: pytest.FixtureRequest, disk: Path, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose state lies on the small disk; in the end nothing is left on it."""
    adapter, driver = request.param
    state_dir = disk / "state"
    state_dir.mkdir(mode=0o700)
    made = Grounded(adapter, build(adapter, state_dir, storage=Wanted(driver, POOL_MIB)), tmp_path)
    # What is made once and stays: images, a pool.
    assert made.run("true").verdict == Verdict.SUCCEEDED
    yield made
    (disk / "filler").unlink(missing_ok=True)
    for name in made.names:
        made.sandbox.remove(name)
    made.sandbox.reap()
    with suppress(AssertionError):
        until(lambda: not made.left(state_dir))
    name = identity(state_dir)
    assert made.left(state_dir) == {}
    assert [path.name for path in RUN_DIR.glob(f"{name}*") if path.name != name] == []
    assert [path.name for path in (state_dir / "volumes").iterdir() if path.name != ".lock"] == []
    with suppress(FileNotFoundError):
        (RUN_DIR / name).rmdir()


class Grounded(Bench):
    """A bench on a disk of its own."""

    @property
    def state_dir(self) -> Path:
        return self.folder / "disk" / "state"


def used(disk: Path) -> int:
    os.sync()
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def fill(disk: Path) -> None:
    """Take a disk's last byte."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def keep_full(disk: Path, enough: threading.Event) -> None:
    """Take a disk's last byte, and what others give back, which would be room for the next one."""
    while not enough.is_set():
        fill(disk)
        enough.wait(0.01)


both = pytest.mark.parametrize("ground", GROUNDS, indirect=True)

OVERFILLS = {
    "one_big_file": "f = open('big', 'wb', 0)\nwhile f.write(b'x' * 2**20) == 2**20: pass\nraise OSError('short')",
    "many_small_files": "for n in range(10**7): open(str(n), 'wb', 0).write(b'small')",
    "a_checkpoint_each_step": """
import os
for step in range(1000):
    with open(f'step{step}', 'wb') as file:
        file.write(os.urandom(2**20) * 4)
        file.flush()
        os.fsync(file.fileno())
""",
    "unlinked_while_open": """
import os
held = []
for n in range(1000):
    held.append(open('x', 'wb', 0))
    os.unlink('x')
    assert held[-1].write(b'x' * 2**22) == 2**22
""",
}


@both
@pytest.mark.parametrize("way", OVERFILLS)
def test_more_than_the_quota_is_refused_and_the_disk_keeps_the_rest(ground: Bench, disk: Path, way: str) -> None:
    before = used(disk)
    files = {"work/program.py": OVERFILLS[way]}
    name = ground.launch("python3", "program.py", files=files, storage_mib=QUOTA_MIB, wall_s=200)
    ended = ground.wait(name, 200)
    grown = used(disk) - before
    assert ended.verdict == Verdict.OUT_OF_STORAGE, ground.sandbox.follow(name)
    assert grown <= QUOTA_MIB * MIB * 1.02
    if way in {"one_big_file", "a_checkpoint_each_step", "unlinked_while_open"}:
        assert ended.usage.peak_storage_mib > QUOTA_MIB * 0.95
    ground.sandbox.remove(name)
    assert used(disk) - before <= MIB


@both
def test_what_fits_is_taken(ground: Bench) -> None:
    code = f"""
import os
with open('a', 'wb') as file:
    for _ in range({int(QUOTA_MIB * 0.95)}): file.write(os.urandom(2**20))
    file.flush(); os.fsync(file.fileno())
"""
    assert ground.python(code, storage_mib=QUOTA_MIB).verdict == Verdict.SUCCEEDED


@both
def test_a_large_file_is_overwritten_in_place(ground: Bench) -> None:
    code = f"""
import os
for _ in range(3):
    with open('model', 'r+b' if os.path.exists('model') else 'wb') as file:
        for _ in range({int(QUOTA_MIB * 0.8)}): file.write(os.urandom(2**20))
        file.flush(); os.fsync(file.fileno())
"""
    outcome = ground.python(code, storage_mib=QUOTA_MIB)
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail


@both
def test_checkpoints_that_replace_each_other_go_on(ground: Bench) -> None:
    code = f"""
import os
for step in range(12):
    with open('new', 'wb') as file:
        for _ in range({int(QUOTA_MIB * 0.3)}): file.write(os.urandom(2**20))
        file.flush(); os.fsync(file.fileno())
    os.rename('new', 'checkpoint')
"""
    outcome = ground.python(code, storage_mib=QUOTA_MIB)
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail


@both
def test_a_sparse_file_takes_nothing(ground: Bench, disk: Path) -> None:
    before = used(disk)
    name = ground.launch("truncate", "-s", "1T", "big", storage_mib=QUOTA_MIB, collect=("*",))
    assert ground.wait(name).verdict == Verdict.OUT_OF_STORAGE
    assert used(disk) - before <= QUOTA_MIB * MIB * 1.02
    assert sum(item.bytes for item in ground.sandbox.collect(name, ground.folder / "out").artifacts) == 0


@both
def test_a_neighbour_keeps_its_whole_quota(ground: Bench) -> None:
    code = """
import os, time
while not os.path.exists('go'): time.sleep(0.02)
for n in range(60): open(str(n), 'wb', 0).write(os.urandom(2**20))
os.sync()
"""
    files = {"work/program.py": code}
    name = ground.launch("python3", "program.py", files=files, storage_mib=64, wall_s=60)
    for way in ("one_big_file", "many_small_files"):
        assert ground.python(OVERFILLS[way], storage_mib=64, wall_s=120).verdict == Verdict.OUT_OF_STORAGE
    assert isinstance(ground.sandbox, HostSandbox)
    (RUN_DIR / ground.sandbox.installation / name / "volume/work/go").touch()
    assert ground.wait(name).verdict == Verdict.SUCCEEDED


@both
def test_what_comes_out_was_read_only_and_led_nowhere(ground: Bench) -> None:
    code = "ln -s /etc/shadow leak; echo 1 > a; mkdir d; echo 2 > d/b"
    name = ground.launch("sh", "-c", code, collect=("**",))
    ground.wait(name)
    outcome = ground.sandbox.collect(name, ground.folder / "out")
    assert [item.path for item in outcome.artifacts] == ["a", "d/b"]
    assert [item.path for item in outcome.rejected] == ["leak"]
    assert isinstance(ground.sandbox, HostSandbox)
    volume = RUN_DIR / ground.sandbox.installation / name / "volume"
    with pytest.raises(OSError, match="Read-only"):
        (volume / "work" / "new").touch()
    with pytest.raises(OSError, match="symbolic links"):
        (volume / "work" / "leak").stat()


@both
def test_the_driver_that_held_stands_in_the_outcome(ground: Bench) -> None:
    assert isinstance(ground.sandbox, HostSandbox)
    driver = ground.sandbox._storage.driver()
    outcome = ground.run("true")
    assert outcome.storage == driver.name
    assert outcome.isolation["S5"] == f"{driver.mechanism}; RLIMIT_FSIZE"
    told = {one.promise: one for one in ground.sandbox.capabilities()}["S5"]
    assert told.held
    assert told.mechanism.startswith(driver.mechanism)
    assert ground.run("true", storage="none").storage == "none"


@both
def test_no_more_is_promised_than_there_is_and_what_does_not_fit_waits(ground: Bench) -> None:
    assert isinstance(ground.sandbox, HostSandbox)
    most = POOL_MIB if ground.sandbox._storage.driver().name == "btrfs" else DISK_MIB
    half = {"storage_mib": int(most * 0.42), "wall_s": 60}
    first, second = ground.launch("sleep", "60", **half), ground.launch("sleep", "60", **half)
    third = ground.spec("true", **half)
    for _ in range(2):
        with pytest.raises(SandboxUnavailableError) as caught:
            ground.sandbox.launch(third)
        assert caught.value.reason == "no_space"
    told: list[str] = []
    ending = threading.Timer(1.5, ground.sandbox.remove, (second,))
    ending.start()
    outcome = execute(ground.sandbox, third, ground.folder / "out", on_wait=told.append)
    ending.join()
    assert outcome.verdict == Verdict.SUCCEEDED
    assert len(told) == 1
    assert isinstance(ground.sandbox.inspect(first), Running)


@both
def test_who_asks_at_the_same_time_is_not_given_the_same_room(ground: Bench) -> None:
    assert isinstance(ground.sandbox, HostSandbox)
    most = POOL_MIB if ground.sandbox._storage.driver().name == "btrfs" else DISK_MIB
    specs = [ground.spec("sleep", "60", storage_mib=most // 5, wall_s=120) for _ in range(7)]
    refused: list[str] = []

    def launch(spec: Spec) -> None:
        try:
            ground.sandbox.launch(spec)
        except SandboxUnavailableError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=launch, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running = [spec for spec in specs if (ground.state_dir / "executions" / spec.name).exists()]
    assert (len(running), refused) == (4, ["no_space"] * 3)


@both
def test_what_could_never_fit_is_refused_at_once(ground: Bench) -> None:
    running = ground.launch("sleep", "30")
    with pytest.raises(SandboxUnavailableError, match="can never fit") as caught:
        ground.sandbox.launch(ground.spec("true", storage_mib=DISK_MIB * 4))
    assert caught.value.reason == "too_large"
    assert isinstance(ground.sandbox.inspect(running), Running)


@both
def test_a_full_disk_of_the_host_harms_nobody_that_runs(ground: Bench, disk: Path) -> None:
    code = """
import os, time
print('on', flush=True)
while not os.path.exists('go'): time.sleep(0.02)
open('a', 'wb', 0).write(os.urandom(2**20) * 20)
os.sync()
print('still here', flush=True)
"""
    files = {"work/program.py": code}
    name = ground.launch("python3", "program.py", files=files, storage_mib=32, wall_s=120, collect=("a",))
    late = ground.launch("sh", "-c", "echo on; sleep 60", wall_s=8)
    stopped = ground.launch("sh", "-c", "echo on; sleep 60", wall_s=120)
    for one in (name, late, stopped):
        ground.says(one, b"on\n")
    fill(disk)
    begun = time.monotonic()
    with pytest.raises(SandboxUnavailableError, match=r"full|does not fit") as caught:
        ground.sandbox.launch(ground.spec("true"))
    assert caught.value.reason in {"disk_full", "no_space"}
    assert caught.value.remedy
    ground.sandbox.stop(stopped, Verdict.CANCELLED)
    assert ground.wait(stopped).verdict == Verdict.CANCELLED
    assert isinstance(ground.sandbox, HostSandbox)
    (RUN_DIR / ground.sandbox.installation / name / "volume/work/go").touch()
    assert ground.wait(name).verdict == Verdict.SUCCEEDED
    assert ground.wait(late).verdict == Verdict.TIMED_OUT
    assert time.monotonic() - begun < 60
    outcome = ground.sandbox.collect(name, ground.folder / "out")
    assert [(item.path, item.bytes) for item in outcome.artifacts] == [("a", 20 * MIB)]
    assert outcome.truncated or "still here" in outcome.output_tail
    (disk / "filler").unlink()
    assert ground.run("true").verdict == Verdict.SUCCEEDED


@both
def test_a_disk_that_fills_while_it_launches_leaves_nothing(ground: Bench, disk: Path) -> None:
    running = ground.launch("sh", "-c", "echo on; sleep 60", wall_s=120)
    ground.says(running, b"on\n")
    reasons, verdicts = set(), set()
    for _ in range(4):
        is_refused = threading.Event()
        filling = threading.Thread(target=keep_full, args=(disk, is_refused))
        filling.start()
        while not is_refused.is_set():
            spec = ground.spec("true")
            try:
                verdicts.add(execute(ground.sandbox, spec, ground.folder / "out").verdict)
            except SandboxUnavailableError as error:
                reasons.add(error.reason)
                is_refused.set()
            assert not (ground.state_dir / "executions" / spec.name).exists()
        filling.join()
        (disk / "filler").unlink()
    assert reasons <= {"disk_full", "no_space"}
    assert verdicts <= {Verdict.SUCCEEDED, Verdict.LOST}
    assert isinstance(ground.sandbox.inspect(running), Running)


@pytest.mark.local
def test_what_does_not_fit_where_it_is_collected_is_said(disk: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = Bench("local", build("local", state_dir), tmp_path)
    fill(disk)
    try:
        with pytest.raises(SandboxUnavailableError) as caught:
            execute(made.sandbox, made.spec("sh", "-c", "head -c 9M /dev/zero > a", collect=("a",)), disk / "out")
        assert caught.value.reason == "disk_full"
        assert str(disk) in str(caught.value)
        assert made.left(state_dir) == {}
    finally:
        (disk / "filler").unlink()
        (RUN_DIR / identity(state_dir)).rmdir()


@pytest.mark.local
def test_a_driver_that_does_not_hold_is_refused_and_not_replaced(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    sandbox = build("local", state_dir, storage=Wanted("xfs"))
    made = Bench("local", sandbox, tmp_path)
    with pytest.raises(SandboxUnavailableError, match="not on xfs") as caught:
        sandbox.launch(made.spec("true"))
    assert (caught.value.reason, bool(caught.value.remedy)) == ("no_storage", True)
    (told,) = [one for one in sandbox.capabilities() if one.promise == "S5"]
    assert not told.held
    assert "not on xfs" in told.mechanism
    assert made.run("true", storage="loop").storage == "loop"
    (RUN_DIR / identity(state_dir)).rmdir()


@pytest.mark.local
def test_no_quota_is_no_way_round_a_ceiling(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = Bench("local", build("local", state_dir, ceilings=Ceilings(storage_mib=64)), tmp_path)
    with pytest.raises(OverBudgetError, match="storage_mib"):
        made.run("true", storage="none")
    with pytest.raises(OverBudgetError, match="storage_mib may be at most 64 here, and 65"):
        made.run("true", storage_mib=65)


@pytest.mark.local
def test_nor_is_an_installation_that_sets_none(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = Bench(
        "local", build("local", state_dir, storage=Wanted("none"), ceilings=Ceilings(storage_mib=64)), tmp_path
    )
    with pytest.raises(OverBudgetError, match="without a quota"):
        made.run("true")
    made.sandbox = build("local", state_dir, storage=Wanted("none"))
    outcome = made.run("true")
    assert (outcome.storage, outcome.isolation["S5"]) == ("none", "not held: storage without a quota was asked for")
    (RUN_DIR / identity(state_dir)).rmdir()


@pytest.mark.local
@pytest.mark.parametrize("seed", range(8))
def test_a_launch_killed_anywhere_leaves_nothing_in_the_pool(tmp_path: Path, seed: int) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = Bench("local", build("local", state_dir, storage=Wanted("btrfs", POOL_MIB)), tmp_path)
    specs = [made.spec("true", wall_s=5) for _ in range(2000)]
    program = f"""
from pathlib import Path
from fumehood.domain.execution import *
from sandbox.execute import execute
from sandbox.local import LocalSandbox
from sandbox.storage.choose import Wanted
sandbox = LocalSandbox(Path({str(state_dir)!r}), Path("/run/fumehood"), storage=Wanted("btrfs", {POOL_MIB}))
sandbox.capabilities()
print("on", flush=True)
for name in {[spec.name for spec in specs]!r}:
    spec = Spec(name=name, kind=Kind.RUN, command=("true",), image="plain", limits=Limits(storage_mib=32, wall_s=5))
    execute(sandbox, spec, Path({str(tmp_path / "out")!r}))
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.6))
        process.kill()
    made.sandbox.reap()
    until(lambda: not made.sandbox.reap() and not made.left(state_dir))
    name = identity(state_dir)
    assert [path.name for path in RUN_DIR.glob(f"{name}*") if path.name != name] == []
    with suppress(FileNotFoundError):
        (RUN_DIR / name).rmdir()


@pytest.mark.local
def test_volumes_that_a_dead_launch_left_in_the_pool_are_reaped(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    sandbox = build("local", state_dir, storage=Wanted("btrfs", POOL_MIB))
    made = Bench("local", sandbox, tmp_path)
    name = made.launch("sleep", "30")
    assert isinstance(sandbox, HostSandbox)
    # As if its launcher, its record and its mount were gone, but not its subvolume.
    volume = sandbox._installation.folder / name / "volume"
    sandbox.stop(name, Verdict.CANCELLED)
    made.wait(name)
    subprocess.run(["umount", str(volume)], check=True)
    sandbox._record(name).erase()
    assert sandbox.reap() == (name,)
    assert made.left(state_dir) == {}
    assert not list(RUN_DIR.glob(f"{sandbox.installation}.*"))
    (RUN_DIR / sandbox.installation).rmdir()
