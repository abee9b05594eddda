"""Labs with some packages more: of wheels alone, beside a lab that stays as it is, whole or not at all, and once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import docker.errors
import pytest
from ulid import ULID

from fumehood.domain import extra_packages as extra
from fumehood.domain.execution import Kind, Limits, Outcome, Spec, Verdict
from fumehood.domain.extra_packages import SITE
from fumehood.errors import BadInputError, FumehoodError, MachineUnfitError
from sandbox import docker_engine, lab
from sandbox.derived import build, content
from sandbox.derived.build import Asked
from sandbox.derived.pip import refusal
from sandbox.docker import DockerSandbox
from sandbox.execute import execute
from sandbox.image import build as images
from sandbox.image import derive
from tests.fakes.wheels import write_source, write_wheel

DAY_S = 24 * 3600.0
RUN_DIR = Path("/run/fumehood")
LIMITS = Limits(wall_s=60, memory_mib=256, storage_mib=16, processes=32)


class Place:
    """A lab that has one package, and a folder for those derived from it."""

    def __init__(self, folder: Path) -> None:
        self.base, self.labs, self.index = folder / "base", folder / "derived", folder / "index"
        self.wheels = folder / "given"
        self.said: list[str] = []
        site = self.base / "site-packages"
        write_wheel(folder, "bigone", "2.0")
        (site / "bigone").mkdir(parents=True)
        (site / "bigone/__init__.py").write_text("VERSION = '2.0'\n")
        about = site / "bigone-2.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bigone\nVersion: 2.0\n")
        (about / "INSTALLER").write_text("pip\n")
        told = {"python": str(Path(sys.executable).resolve()), "version": "3", "hash": "ab" * 32, "torch": "cpu"}
        (self.base / "lab.json").write_text(json.dumps({**told, "packages": ["bigone==2.0"]}))
        self.index.mkdir()

    def asked(self, *listed: str, wheels: tuple[Path, ...] = ()) -> Asked:
        shas = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
        packages = extra.merged(extra.pins(listed), shas)
        image = f"lab-{hashlib.sha256(packages.to_json()).hexdigest()}"
        return Asked(image=image, packages=packages, wheels={path.name: path for path in wheels})

    def ensure(self, *listed: str, wheels: tuple[Path, ...] = ()) -> Path:
        return build.ensure(self.labs, self.base, self.asked(*listed, wheels=wheels), self.said.append)

    def left(self) -> list[str]:
        """Return what lies among the derived labs and is none: but for the lock and what was resolved, nothing."""
        found = self.labs.iterdir() if self.labs.is_dir() else ()
        return sorted(
            path.name for path in found if path.name != ".lock" and path.suffix != ".lock" and not build.is_whole(path)
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """What pip is told by whoever runs the tests counts for nothing: packages come from one folder."""
    found = Place(tmp_path)
    for name in [name for name in os.environ if name.startswith("PIP_")]:  # noqa: TID251 - cleaned for a test
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found.index))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    return found


def imported(folder: Path, base: Path, code: str) -> str:
    """Return what a program prints that has the lab's packages and then the derived lab's, as an execution has."""
    path = f"{base / 'site-packages'}:{folder / 'site-packages'}"
    command = [sys.executable, "-S", "-s", "-c", code]
    return subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True).stdout


class TestBuilt:
    def test_it_has_what_was_asked_for_and_what_that_needs_and_the_lab_stays(self, place: Place) -> None:
        write_wheel(place.index, "tiny", needs=("needed>=1", "bigone>=1.5"))
        write_wheel(place.index, "needed", "1.1")
        write_wheel(place.index, "bigone", "3.0")
        before = sorted(path.name for path in place.base.rglob("*"))
        found = place.ensure("tiny==1.0")
        told = json.loads((found / "lab.json").read_text())
        assert told["packages"] == ["needed==1.1", "tiny==1.0"]
        assert told["imports"] == ["needed", "tiny"]
        assert set(told["wheels"]) == {"needed-1.1-py3-none-any.whl", "tiny-1.0-py3-none-any.whl"}
        assert sorted(path.name for path in place.base.rglob("*")) == before
        code = "import tiny, needed, bigone; print(tiny.VERSION, needed.VERSION, bigone.VERSION)"
        assert imported(found, place.base, code) == "1.0 1.1 2.0\n"
        assert not (found / "site-packages/bigone").exists()
        assert {oct(path.stat().st_mode & 0o777) for path in found.rglob("*.py")} == {"0o644"}
        assert place.left() == []
        # A second time nothing is done, and nothing that is away is missed.
        for path in place.index.iterdir():
            path.unlink()
        place.said.clear()
        assert place.ensure("tiny==1.0") == found
        assert place.said == []

    def test_a_wheel_as_a_file_needs_no_index(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        wheel = write_wheel(place.wheels, "tiny", needs=("bigone>=2",))
        found = place.ensure(wheels=(wheel,))
        assert imported(found, place.base, "import tiny; print(tiny.VERSION)") == "1.0\n"

    def test_what_it_is_shows_in_its_hash(self, place: Place) -> None:
        one = write_wheel(place.wheels / "one", "tiny")
        other = write_wheel(place.wheels / "other", "tiny", files={"tiny.py": "VERSION = 'other'\n"})
        told = [json.loads((place.ensure(wheels=(path,)) / "lab.json").read_text()) for path in (one, other)]
        assert told[0]["packages"] == told[1]["packages"] == ["tiny==1.0"]
        assert told[0]["hash"] != told[1]["hash"]
        base = lab.lab(place.base)
        roots = [lab.derived(place.labs, base, place.asked(wheels=(path,)).image) for path in (one, other)]
        assert [root.digest for root in roots if root] == [f"lab@sha256:{one['hash']}" for one in told]
        assert {root.environment["PYTHONPATH"] for root in roots if root} == {"/lab/site-packages:/lab/extra"}
        # Another lab has none that is derived from it, though the same is asked for.
        changed = json.loads((place.base / "lab.json").read_text()) | {"hash": "cd" * 32}
        (place.base / "lab.json").write_text(json.dumps(changed))
        assert lab.derived(place.labs, lab.lab(place.base), place.asked(wheels=(one,)).image) is None

    def test_built_again_it_is_the_same_though_there_is_something_newer(self, place: Place) -> None:
        write_wheel(place.index, "tiny", needs=("needed>=1",))
        write_wheel(place.index, "needed", "1.1")
        first = json.loads((place.ensure("tiny==1.0") / "lab.json").read_text())
        write_wheel(place.index, "needed", "1.2")
        for path in place.labs.glob("*/lab.json"):
            os.utime(path, (0, 0))
        build.prune(place.labs)
        assert list(place.labs.glob("*/lab.json")) == []
        assert json.loads((place.ensure("tiny==1.0") / "lab.json").read_text()) == first

    def test_what_the_lab_has_in_that_version_is_not_brought_again(self, place: Place) -> None:
        assert json.loads((place.ensure("bigone==2.0") / "lab.json").read_text())["packages"] == []


class TestRefused:
    """In one sentence, with nothing left that could pass for a lab."""

    def refused(self, place: Place, *listed: str, wheels: tuple[Path, ...] = ()) -> str:
        with pytest.raises(FumehoodError) as refused:
            place.ensure(*listed, wheels=wheels)
        assert place.left() == []
        assert list(place.labs.glob("*/lab.json")) == []
        assert "\n" not in str(refused.value)
        return str(refused.value)

    def test_another_version_of_what_the_lab_has(self, place: Place) -> None:
        write_wheel(place.index, "bigone", "1.0")
        said = self.refused(place, "bigone==1.0")
        assert said == "The lab has bigone 2.0, which is never replaced: bigone==1.0 cannot be had."
        given = write_wheel(place.wheels, "bigone", "2.0")
        assert "which is never replaced" in self.refused(place, wheels=(given,))

    def test_what_needs_another_version_of_what_the_lab_has(self, place: Place) -> None:
        write_wheel(place.index, "tiny", needs=("bigone<2",))
        write_wheel(place.index, "bigone", "1.0")
        assert self.refused(place, "tiny==1.0") == (
            "The packages do not go together, and what the lab has is never replaced: tiny 1.0 depends on bigone<2;"
            " the lab has bigone==2.0."
        )

    def test_what_is_not_to_be_had(self, place: Place) -> None:
        assert "No wheel of tiny==1.0 for Python" in self.refused(place, "tiny==1.0")
        write_wheel(place.index, "tiny", tag="cp27-cp27m-win32")
        assert "No wheel of tiny==1.0 for Python" in self.refused(place, "tiny==1.0")
        foreign = write_wheel(place.wheels, "tiny", tag="cp27-cp27m-win32")
        assert "is not for the lab's Python" in self.refused(place, wheels=(foreign,))

    def test_an_index_that_does_not_answer_is_told_from_one_that_has_nothing(self) -> None:
        said = "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError'\n"
        missing = "ERROR: No matching distribution found for tiny==1.0\n"
        assert isinstance(refusal(said + missing, "3.11"), MachineUnfitError)
        assert isinstance(refusal(missing, "3.11"), BadInputError)

    def test_a_source_distribution_which_is_never_built(self, place: Place, tmp_path: Path) -> None:
        mark = tmp_path / "was-run"
        write_source(place.index, "tiny", "1.0", mark)
        assert "would run its code" in self.refused(place, "tiny==1.0")
        # Not even where a wheel needs it by its address, for which no option of pip's counts.
        source = write_source(place.wheels, "other", "1.0", mark)
        wheel = write_wheel(place.wheels, "needs", needs=(f"other @ {source.as_uri()}",))
        assert "has to be built, which would run its code" in self.refused(place, wheels=(wheel,))
        assert not mark.exists()

    def test_a_hash_that_is_another(self, place: Place) -> None:
        path = write_wheel(place.index, "tiny")
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert "another hash" in self.refused(place, f"tiny==1.0 --hash=sha256:{'0' * 64}")
        place.ensure(f"tiny==1.0 --hash=sha256:{'0' * 64} --hash=sha256:{sha}")

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("tiny-nspkg.pth", "would run code whenever Python starts"),
            ("sitecustomize.py", "would run code whenever Python starts"),
            ("usercustomize/__init__.py", "would run code whenever Python starts"),
            ("tiny-1.0.data/data/sitecustomize.py", "would run code whenever Python starts"),
            ("json.py", "would hide Python's own"),
            ("bigone/more.py", "which the lab has"),
            ("tiny-1.0.data/purelib/random/__init__.py", "would hide Python's own"),
        ],
    )
    def test_what_would_change_other_programs(self, place: Place, name: str, why: str) -> None:
        wheel = write_wheel(place.wheels, "tiny", files={"tiny.py": "", name: "import os\n"})
        said = self.refused(place, wheels=(wheel,))
        assert said.startswith("The package tiny ")
        assert why in said

    def test_a_folder_that_cannot_be_written(self, place: Place) -> None:
        place.labs = place.base / "lab.json" / "derived"
        with pytest.raises(MachineUnfitError, match="FUMEHOOD_DERIVED_LABS_DIR"):
            place.ensure("bigone==2.0")


class TestAtOnce:
    def test_several_at_once_build_it_once(self, place: Place) -> None:
        write_wheel(place.index, "tiny")
        found: list[Path] = []
        threads = [threading.Thread(target=lambda: found.append(place.ensure("tiny==1.0"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1
        assert sum("getting tiny==1.0" in line for line in place.said) == 1
        assert place.left() == []

    def test_one_that_was_killed_is_begun_anew(self, place: Place) -> None:
        code = (
            "import sys; from pathlib import Path; from sandbox.derived import build; from fumehood.domain import"
            " extra_packages as extra; asked = extra.merged(extra.pins(['tiny==1.0']), {});"
            " build.ensure(Path(sys.argv[1]), Path(sys.argv[2]), build.Asked(image=sys.argv[3], packages=asked), print)"
        )
        with socket.create_server(("127.0.0.1", 0)) as silent:
            index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
            told = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index}
            command = [sys.executable, "-c", code, place.labs, place.base, place.asked("tiny==1.0").image]
            building = subprocess.Popen(
                command, env=told, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            silent.accept()[0].close()
            os.killpg(building.pid, signal.SIGKILL)
            building.wait()
        (left,) = place.left()
        assert left.startswith(".building-")
        write_wheel(place.index, "tiny")
        assert imported(place.ensure("tiny==1.0"), place.base, "import tiny; print(tiny.VERSION)") == "1.0\n"
        assert place.left() == []


class TestPruned:
    def aged(self, place: Place, name: str, days: float) -> Path:
        folder = place.labs / name
        (folder / "site-packages").mkdir(parents=True)
        told = folder / "lab.json"
        told.write_text("{}")
        then = told.stat().st_mtime - days * DAY_S
        os.utime(told, (then, then))
        return folder

    def test_what_nobody_asked_for_in_a_month_goes_unless_an_execution_sees_it(
        self, place: Place, tmp_path: Path
    ) -> None:
        fresh, old, shown = (self.aged(place, name, days) for name, days in (("a", 20), ("b", 40), ("c", 40)))
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"36 35 8:1 {shown}/site-packages /run/fumehood/x/fh-y/root1 ro - ext4 /dev/sda1 rw\n")
        build.prune(place.labs, mounts)
        assert (fresh.exists(), old.exists(), shown.exists()) == (True, False, True)
        assert place.left() == []

    def test_one_that_is_launched_while_it_goes_keeps_what_it_has(self, place: Place, tmp_path: Path) -> None:
        self.aged(place, ".removing-d", 40)
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"36 35 8:1 {place.labs}/.removing-d/site-packages /run/x ro - ext4 /dev/sda1 rw\n")
        build.prune(place.labs, mounts)
        assert (place.labs / ".removing-d/site-packages").is_dir()
        mounts.write_text("")
        build.prune(place.labs, mounts)
        assert not (place.labs / ".removing-d").exists()

    def test_whoever_asks_for_it_keeps_it(self, place: Place) -> None:
        found = place.ensure("bigone==2.0")
        os.utime(found / "lab.json", (0, 0))
        assert lab.derived(place.labs, lab.lab(place.base), place.asked("bigone==2.0").image)
        build.prune(place.labs)
        assert found.is_dir()


@pytest.mark.docker
def test_in_docker_it_is_a_layer_over_the_labs_image(place: Place, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    wheel = write_wheel(place.wheels, "tiny")
    place.ensure(wheels=(wheel,))
    # The smallest image in the place of the lab's: what lies over it is made the same way. By a name of its own, since
    # one that is built replaces the older one of its name, which others use.
    engine = docker_engine.connect()
    of_lab = replace(
        images.plain(),
        image=f"below{ULID()}".lower(),
        digest=lab.lab(place.base).digest,
        environment={"PYTHONPATH": SITE},
    )
    plain = images.ensure(engine, state_dir, RUN_DIR, images.plain())
    named = images._name(of_lab)
    engine.client.tag(plain.id, *named.split(":"))
    sandbox = DockerSandbox(engine, state_dir, RUN_DIR, {"lab": of_lab}, labs=place.labs)
    image = place.asked(wheels=(wheel,)).image
    made = []
    try:
        told = inside(sandbox, tmp_path / "out", image, "import tiny; print(tiny.VERSION, tiny.__file__)")
        assert (told.verdict, told.output_tail) == (Verdict.SUCCEEDED, "1.0 /lab/extra/tiny.py\n")
        made.append(sandbox.image_id(image))
        assert told.image == f"{derive.REPOSITORY}@{made[0]}"
        lost = inside(sandbox, tmp_path / "out", "lab", "import tiny")
        assert "No module named 'tiny'" in lost.output_tail
        below = sandbox.image_id("lab")
        layers = [engine.client.inspect_image(one)["RootFS"]["Layers"] for one in (below, made[0])]
        assert layers[1][:-1] == layers[0]
        # Another wheel of that name is another image, and the first one stays beside it.
        other = write_wheel(place.wheels / "other", "tiny", files={"tiny.py": "VERSION = 'other'\n"})
        place.ensure(wheels=(other,))
        told = inside(sandbox, tmp_path / "out", place.asked(wheels=(other,)).image, "import tiny; print(tiny.VERSION)")
        assert told.output_tail == "other\n"
        made.append(sandbox.image_id(place.asked(wheels=(other,)).image))
        assert sandbox.image_id(image) == made[0] != made[1]
        assert engine.client.containers(all=True, filters={"label": "fumehood-derive"}) == []
        # Over another lab both are of no use any more.
        derive.prune(engine, replace(images.ensure(engine, state_dir, RUN_DIR, of_lab), id="sha256:newer"))
        listed = {one["Id"] for one in engine.client.images(derive.REPOSITORY)}
        assert not listed & set(made)
    finally:
        sandbox.reap()
        for identity in (*made, named):
            with suppress(docker.errors.ImageNotFound):
                engine.client.remove_image(identity, force=True)
        assert images._find(engine, images.plain()) == plain
        with suppress(FileNotFoundError):
            (RUN_DIR / sandbox.installation).rmdir()


def inside(sandbox: DockerSandbox, out: Path, image: str, code: str) -> Outcome:
    command = ("python3", "-c", code)
    spec = Spec(name=f"fh-{ULID()}".lower(), kind=Kind.RUN, command=command, image=image, limits=LIMITS)
    return execute(sandbox, spec, out)


def test_modules_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    for name in (
        "one/__init__.py",
        "two.py",
        "three.cpython-311-x86_64-linux-gnu.so",
        "one-1.dist-info/RECORD",
        "bin/x",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert content.modules(tmp_path) == {"one", "two", "three"}
