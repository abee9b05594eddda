"""What a probe of storage drivers lets pass, what it remembers, and the driver that this kernel cannot prove."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.execution import MIB, Input, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import installation, kernel
from sandbox.storage import disk, loop, probe, xfs
from sandbox.storage.choose import AUTO, DRIVERS, Storage, Wanted
from sandbox.storage.driver import Home, Volume
from sandbox.supervisor import room

pytestmark = pytest.mark.local
UID = 65534


class Leaky:
    """A driver whose volumes are folders, with as much behind them as a test says."""

    name, mechanism, enforces = "leaky", "", True

    def __init__(self, *, behind_mib: int = 64, lost: int = 0, error: Exception | None = None) -> None:
        self.behind_mib, self.lost, self.error = behind_mib, lost, error
        self.cleared = self.removed = 0

    def missing(self) -> str:
        return ""

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:  # noqa: ARG002
        if self.error:
            raise self.error
        options = f"size={self.behind_mib}m,mode=0711"
        kernel.mount(Path("tmpfs"), volume.target, "tmpfs", 0, options)
        (volume.target / "work").mkdir()
        os.chown(volume.target / "work", volume.uid, volume.uid)

    def gauge(self, volume: Volume) -> dict[str, Any]:
        return loop.statvfs_gauge(volume.target)

    def on_disk(self, name: str) -> int:  # noqa: ARG002
        return self.lost

    def remove(self, name: str) -> None:  # noqa: ARG002
        self.removed += 1

    def names(self) -> set[str]:
        return set()

    def clear(self) -> None:
        self.cleared += 1


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run folder of this test's own, which other users can pass as they can the real one."""
    place = Path(tempfile.mkdtemp(prefix="fumehood-test-", dir="/run"))
    place.chmod(0o711)
    yield place
    assert kernel.mounts(place) == []
    shutil.rmtree(place)


@pytest.fixture
def target(run_dir: Path) -> Path:
    (run_dir / "volume").mkdir()
    return run_dir / "volume"


def tried(driver: Leaky, target: Path) -> probe.Proof:
    found = probe.overfill(driver, target, UID)
    assert (driver.removed, driver.cleared) == (1, 1)
    assert kernel.mounts(target) == []
    return found


def test_a_limit_that_holds_is_proved_by_what_the_kernel_said(target: Path) -> None:
    found = tried(Leaky(behind_mib=probe.SIZE_MIB), target)
    assert found.holds
    assert "No space left on device" in found.why


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (Leaky(behind_mib=64), "written past a limit of 8 MiB"),
        (Leaky(behind_mib=2), "stopped after 2048 KiB"),
        (Leaky(behind_mib=probe.SIZE_MIB, lost=50 * MIB), ""),
        (Leaky(error=OSError(5, "Input/output error")), "could not be tried"),
        (Leaky(error=SandboxUnavailableError("No loops.", reason="no_loop")), "No loops"),
    ],
)
def test_what_does_not_hold_is_not_believed(target: Path, driver: Leaky, why: str) -> None:
    found = tried(driver, target)
    # What was taken before anything was written is a pool's, and no growth.
    assert found.holds == (driver.lost > 0)
    assert why in found.why


def test_a_disk_that_lost_more_than_the_limit_is_no_proof(target: Path) -> None:
    class Growing(Leaky):
        def on_disk(self, name: str) -> int:  # noqa: ARG002
            self.lost += 20 * MIB
            return self.lost

    found = tried(Growing(behind_mib=probe.SIZE_MIB), target)
    assert not found.holds
    assert "host's disk lost 40 MiB" in found.why


@pytest.mark.parametrize("reason", ["disk_full", "no_space", "too_large"])
def test_a_full_disk_says_nothing_about_a_driver(target: Path, reason: str) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        probe.overfill(Leaky(error=SandboxUnavailableError("Full.", reason=reason)), target, UID)
    assert caught.value.reason == reason


@pytest.fixture
def storage(tmp_path: Path, run_dir: Path) -> Storage:
    return Storage(installation.find(tmp_path / "state", run_dir), Wanted())


def test_every_driver_is_tried_and_leaves_nothing(storage: Storage, tmp_path: Path, run_dir: Path) -> None:
    found = {name: storage.prove(name, afresh=True) for name in DRIVERS}
    assert {name: proof.holds for name, proof in found.items()} == {
        "xfs": False, "loop": True, "btrfs": True, "none": True,
    }  # fmt: skip
    assert list((tmp_path / "state/volumes").iterdir()) == []
    assert kernel.mounts(run_dir) == []
    assert kernel.loops(tmp_path) == {}
    assert not list((run_dir / "uids").iterdir())


def test_a_proof_is_remembered_until_the_machine_is_another(storage: Storage, tmp_path: Path, run_dir: Path) -> None:
    assert storage.prove("loop").holds
    (place,) = (run_dir / "storage").iterdir()
    told = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps(told | {"why": "remembered"}), encoding="utf-8")
    again = Storage(installation.find(tmp_path / "state", run_dir), Wanted())
    assert again.prove("loop").why == "remembered"
    assert again.prove("loop", afresh=True).why != "remembered"
    place.write_text(json.dumps(told | {"why": "remembered", "machine": ["another boot"]}), encoding="utf-8")
    assert Storage(installation.find(tmp_path / "state", run_dir), Wanted()).prove("loop").why != "remembered"


def test_auto_takes_the_first_that_holds(storage: Storage) -> None:
    assert AUTO == ("xfs", "loop")
    assert storage.driver().name == "loop"
    assert storage.driver("btrfs").name == "btrfs"
    assert storage.driver("none").enforces is False


def test_what_an_interrupted_probe_left_goes_with_the_next(storage: Storage, tmp_path: Path, run_dir: Path) -> None:
    place = run_dir / storage._installation.id / "probe/volume"
    place.mkdir(parents=True)
    left = tmp_path / "state/volumes/probe"
    left.mkdir(parents=True)
    (left / "overfill.img").write_bytes(b"")
    kernel.mount(Path("tmpfs"), place, "tmpfs", 0)
    storage.clear()
    assert not left.exists()
    assert not place.exists()


def home(folder: Path) -> Home:
    return Home(folder=folder, pool=folder / "pool", locks=folder)


@pytest.fixture
def on_xfs(tmp_path: Path) -> Iterator[Path]:
    """A small XFS, mounted as this kernel lets it be."""
    image, place = tmp_path / "image", tmp_path / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    loop.make_file_system(["mkfs.xfs", "-q", str(image)])
    loop.attach_and_mount(tmp_path, image, place, "xfs", 0, "")
    yield place
    kernel.unmount(place)


def test_xfs_without_project_quota_is_refused_with_the_reason(on_xfs: Path, run_dir: Path) -> None:
    storage = Storage(installation.find(on_xfs / "state", run_dir), Wanted("xfs"))
    with pytest.raises(SandboxUnavailableError, match="not mounted with prjquota") as caught:
        storage.driver()
    assert caught.value.reason == "no_storage"
    assert Storage(installation.find(on_xfs / "state", run_dir), Wanted()).driver().name == "loop"


def test_files_made_below_a_project_belong_to_it(on_xfs: Path) -> None:
    folder = on_xfs / "project"
    folder.mkdir()
    xfs.set_project(folder, 70001)
    (folder / "sub").mkdir()
    (folder / "sub/file").write_text("x", encoding="utf-8")
    assert [xfs.project_of(path) for path in (folder, folder / "sub", folder / "sub/file")] == [70001] * 3
    assert xfs.project_of(on_xfs) == 0


def test_a_kernel_without_quota_gives_an_error_and_no_volume(on_xfs: Path) -> None:
    driver = xfs.Xfs(home(on_xfs / "volumes"))
    (on_xfs / "volumes").mkdir()
    (on_xfs / "target").mkdir()
    volume = Volume(name="one", target=on_xfs / "target", uid=70002)
    told = subprocess.run(["mount", "-o", "remount,prjquota", str(on_xfs)], capture_output=True, text=True)
    assert told.returncode, "this kernel has quotas: prove the driver here instead"
    with pytest.raises(SandboxUnavailableError, match="No project quota can be set") as caught:
        driver.make(volume, Limits(storage_mib=16), ())
    assert caught.value.reason == "no_storage"
    driver.remove("one")
    assert list((on_xfs / "volumes").iterdir()) == [on_xfs / "volumes" / disk.LOCK]


def test_projects_are_never_promised_more_than_the_disk(on_xfs: Path) -> None:
    (on_xfs / "volumes").mkdir()
    driver = xfs.Xfs(home(on_xfs / "volumes"))
    free = disk.room(on_xfs)
    (on_xfs / "volumes/other.xfs").write_text(json.dumps({"bytes": free - 8 * MIB, "project": 1}), encoding="ascii")
    with pytest.raises(SandboxUnavailableError) as caught:
        driver.make(Volume(name="one", target=on_xfs, uid=2), Limits(storage_mib=16), ())
    assert caught.value.reason == "no_space"


@pytest.mark.parametrize(
    ("size", "free", "most", "others", "reason"),
    [(100, 50, 99, 1, "too_large"), (100, 50, 200, 1, "no_space"), (100, 50, 200, 0, "disk_full")],
)
def test_a_refusal_says_whether_waiting_helps(size: int, free: int, most: int, others: int, reason: str) -> None:
    error = disk.no_room(size * MIB, free * MIB, most * MIB, others, Path("/disk"))
    assert error.reason == reason
    assert "100 MiB" in str(error)
    assert error.remedy


@pytest.mark.parametrize(("code", "is_full"), [(28, True), (122, True), (5, False)])
def test_both_words_of_a_full_disk_are_one_sentence(code: int, is_full: bool) -> None:
    expected = SandboxUnavailableError if is_full else OSError
    with pytest.raises(expected), disk.told_when_full(Path("/disk")):
        raise OSError(code, os.strerror(code))


def test_a_supervisor_adds_counters_up(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("referenced", "rsv_data", "gone")]
    files[0].write_text(f"{40 * MIB}\n", encoding="ascii")
    files[1].write_text(f"{20 * MIB}\n", encoding="ascii")
    gauge = {"kind": "counters", "files": [str(file) for file in files], "bytes": 64 * MIB, "free": 64 * MIB}
    assert room(gauge) == (4 * MIB, False)
    files[1].write_text(f"{23 * MIB}\n", encoding="ascii")
    assert room(gauge) == (MIB, True)
