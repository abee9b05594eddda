"""Images are made of this machine's own packages, whole or not at all, once, and hold nothing that gives rights."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from ulid import ULID

from fumehood.domain.execution import Input, Kind, Limits, Outcome, Spec, Verdict
from fumehood.errors import SandboxUnavailableError
from fumehood.services.writeup import COMPILE
from sandbox import docker_engine, lab
from sandbox.docker import DockerSandbox
from sandbox.docker_engine import Engine
from sandbox.execute import execute
from sandbox.image import build, debian
from sandbox.lab import Root

RUN_DIR = Path("/run/fumehood")
STANZAS = """
# ours
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://security.invalid/debian
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.invalid/debian
Suites: bookworm
Components: main
"""
LINES = """
# deb http://commented.invalid/debian bookworm main
deb-src http://sources.invalid/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/other.gpg] https://other.invalid/apt bookworm stable
deb http://second.invalid/debian bookworm main non-free # a word
"""


def make_tree(folder: Path) -> Path:
    tree = folder / "tree"
    for name in ("usr/bin", "usr/share/doc/x", "usr/lib", "etc/texmf", "var/lib/texmf", "root"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/bin/python3.11").write_text("#!", encoding="utf-8")
    (tree / "usr/bin/python3.11").chmod(0o755)
    (tree / "usr/bin/su").write_text("", encoding="utf-8")
    (tree / "usr/bin/su").chmod(0o4755)
    (tree / "usr/lib/private").write_text("", encoding="utf-8")
    (tree / "usr/lib/private").chmod(0o600)
    (tree / "usr/share/doc/x/copyright").write_text("", encoding="utf-8")
    (tree / "root/secret").write_text("", encoding="utf-8")
    (tree / "bin").symlink_to("usr/bin")
    return tree


def test_where_packages_come_from_is_read_from_apt(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(LINES, encoding="utf-8")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(STANZAS, encoding="utf-8")
    found = debian.sources("bookworm", tmp_path)
    assert [(one.uri.split("/")[2], one.suite) for one in found] == [
        ("second.invalid", "bookworm"),
        ("mirror.invalid", "bookworm"),
        ("mirror.invalid", "bookworm-updates"),
        ("security.invalid", "bookworm-security"),
    ]
    assert found[0].components == ("main", "non-free")
    assert found[1].keyring == "/usr/share/keyrings/debian.gpg"


def test_a_machine_without_a_mirror_or_of_another_family_is_told(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailableError, match=r"sources\.list"):
        debian.sources("bookworm", tmp_path)
    (tmp_path / "os-release").write_text('ID="fedora"\nVERSION_CODENAME=x\n', encoding="utf-8")
    for place in (tmp_path / "os-release", tmp_path / "none"):
        with pytest.raises(SandboxUnavailableError):
            debian.codename(place)
    (tmp_path / "os-release").write_text('ID=mint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=x\n', encoding="utf-8")
    assert debian.codename(tmp_path / "os-release") == "x"


def test_without_debootstrap_the_command_to_get_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        debian.require(str(tmp_path))
    assert caught.value.reason == "no_debootstrap"
    assert "apt-get install --no-install-recommends debootstrap" in caught.value.remedy


def test_another_content_is_another_image() -> None:
    root = Root(image="lab", digest="lab@sha256:1", links={"/lab/bin/python": "/usr/bin/python3.11"})
    keys = {build.key(root, "bookworm"), build.key(root, "trixie"), build.key(replace(root, digest="2"), "bookworm")}
    keys |= {build.key(replace(root, image="latex"), "bookworm"), build.key(replace(root, links={}), "bookworm")}
    keys.add(build.key(replace(root, environment={"A": "b"}), "bookworm"))
    assert len(keys) == 6
    assert build.key(replace(root, links=dict(root.links)), "bookworm") in keys


def test_an_archive_holds_what_is_seen_and_gives_no_rights(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "torch.py").write_text("x = 1", encoding="utf-8")
    links = {"/lab/bin/python": "/usr/bin/python3.11", "/tmp/mpl/list": "/lab/mpl/list"}
    root = Root(image="lab", folders={"/lab/deep/site-packages": tmp_path / "site"}, links=links)
    packed = io.BytesIO()
    build.pack(packed, make_tree(tmp_path), root)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        found = {member.name: member for member in archive.getmembers()}
    assert {"usr/bin/python3.11", "bin", "work", "in", "lab/deep/site-packages/torch.py", "lab/bin/python"} <= set(
        found
    )
    outside = ("root", "usr/share/doc", "etc/texmf", "tmp/mpl")
    assert not [name for name in found if name.startswith(outside)]
    assert found["tmp"].mode == 0o1777
    assert {member.uid for member in found.values()} == {member.gid for member in found.values()} == {0}
    assert not [name for name, member in found.items() if member.mode & 0o6000]
    assert found["usr/lib/private"].mode & 0o004
    names = [*found]
    assert all(str(Path(name).parent) in {".", *names[: names.index(name)]} for name in names)


def test_a_lab_for_another_python_is_refused(tmp_path: Path) -> None:
    root = Root(image="lab", links={"/lab/bin/python": "/usr/bin/python3.99"})
    with pytest.raises(SandboxUnavailableError, match=r"python3\.99.*python3\.11"):
        build._check_interpreter(make_tree(tmp_path), root)


@pytest.fixture
def engine() -> Engine:
    return docker_engine.connect()


@pytest.mark.docker
def test_a_second_build_does_nothing(engine: Engine, tmp_path: Path) -> None:
    first = build.ensure(engine, tmp_path, RUN_DIR, build.plain())
    begun = time.monotonic()
    assert build.ensure(engine, tmp_path, RUN_DIR, build.plain()) == first
    assert time.monotonic() - begun < 2
    assert engine.client.inspect_image(first.id)["Size"] < 160_000_000
    assert not (tmp_path / "images").exists()


@pytest.mark.docker
def test_an_import_that_breaks_off_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    root = Root(image="broken", folders={"/lab/gone": tmp_path / "gone"})
    with pytest.raises(SandboxUnavailableError, match="gone"):
        build._import(engine, make_tree(tmp_path), root)
    assert engine.client.images(filters={"label": "fumehood.image=broken"}) == []


@pytest.fixture
def sandbox(engine: Engine, lab_dir: Path, tmp_path: Path) -> Iterator[DockerSandbox]:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = DockerSandbox(engine, state_dir, RUN_DIR, lab.find(state_dir, lab_dir))
    yield made
    made.reap()
    with suppress(FileNotFoundError):
        (RUN_DIR / made.installation).rmdir()


def run(sandbox: DockerSandbox, folder: Path, image: str, *command: str, **asked: object) -> Outcome:
    limits = Limits(wall_s=120, memory_mib=2048, storage_mib=128, processes=128)
    spec = Spec(name=f"fh-{ULID()}".lower(), kind=Kind.RUN, command=command, image=image, limits=limits)
    return execute(sandbox, replace(spec, **asked), folder)  # type: ignore[arg-type]


@pytest.mark.docker
@pytest.mark.slow
def test_the_lab_computes_and_draws(sandbox: DockerSandbox, tmp_path: Path) -> None:
    code = """
import os, sys, torch, numpy, pandas, matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plot
assert float(torch.ones(3) @ torch.ones(3)) == 3.0
plot.plot([1, 2]); plot.savefig("a.png")
compiled = [module.__cached__ for name, module in list(sys.modules.items())
            if name.startswith(("torch.nn.", "numpy.", "json.")) and isinstance(getattr(module, "__cached__", 0), str)]
print(os.access(torch.__file__, os.W_OK), len(compiled) > 50, all(map(os.path.exists, compiled)))
"""
    outcome = run(sandbox, tmp_path / "out", "lab", "python", "-c", code, collect=("a.png",))
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail
    assert outcome.output_tail.split()[-3:] == ["False", "True", "True"]
    assert [item.path for item in outcome.artifacts] == ["a.png"]
    assert outcome.image.startswith("fumehood-lab@sha256:")


@pytest.mark.docker
def test_latex_typesets_with_a_bibliography(sandbox: DockerSandbox, tmp_path: Path) -> None:
    source = r"""\documentclass{article}\usepackage{amsmath,booktabs,graphicx,hyperref,lmodern,natbib}
\begin{document}Text $x^2$ \citep{a}.\bibliographystyle{plainnat}\bibliography{main}\end{document}"""
    entry = "@article{a, title={T}, author={B, C}, journal={J}, year={2020}}"
    inputs = []
    for name, text in (("main.tex", source), ("main.bib", entry)):
        place = tmp_path / name
        place.write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        inputs.append(Input(path=f"work/{name}", sha256=digest, source=os.fspath(place)))
    asked = {"inputs": tuple(inputs), "collect": ("main.pdf", "main.log")}
    outcome = run(sandbox, tmp_path / "out", "latex", "sh", "-c", COMPILE, **asked)
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail
    assert [item.path for item in outcome.artifacts] == ["main.log", "main.pdf"]
    assert "undefined" not in (tmp_path / "out" / "main.log").read_text(encoding="utf-8", errors="replace")
