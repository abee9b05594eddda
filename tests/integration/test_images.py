"""Images are made of this machine's own packages, whole or not at all, once, and hold nothing that gives rights."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import docker.errors
import pytest
from scipy._lib import _fpumode
from ulid import ULID

from fumehood.domain.execution import Input, Kind, Limits, Outcome, Spec, Verdict
from fumehood.errors import SandboxUnavailableError
from fumehood.services.writeup import COMPILE
from sandbox import docker_engine, lab
from sandbox.docker import DockerSandbox
from sandbox.docker_engine import Engine
from sandbox.execute import execute
from sandbox.image import archive, bases, build, choice, debian, elf
from sandbox.lab import Root

RUN_DIR = Path("/run/fumehood")
LIBRARY = Path(_fpumode.__file__)
"""A small library of a wheel, as its compiler made it."""
OF_DEBUGGERS = b"deregister_tm_clones"
"""A name that every such library holds for debuggers alone."""
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
    (tree / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n", encoding="utf-8")
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
    keys |= {build.key(replace(root, variant="cuda"), "bookworm"), build.key(root, "bookworm", "debian@sha256:1")}
    assert len(keys) == 8
    assert build.key(replace(root, links=dict(root.links)), "bookworm") in keys


def test_an_archive_holds_what_is_seen_and_gives_no_rights(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "torch.py").write_text("x = 1", encoding="utf-8")
    links = {"/lab/bin/python": "/usr/bin/python3.11", "/tmp/mpl/list": "/lab/mpl/list"}
    root = Root(image="lab", folders={"/lab/deep/site-packages": tmp_path / "site"}, links=links)
    packed = io.BytesIO()
    archive.pack(packed, make_tree(tmp_path), root)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as read:
        found = {member.name: member for member in read.getmembers()}
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


def make_packages(tree: Path) -> None:
    told = {
        "python3": ("Depends: python3-minimal (>= 3), libssl3 | libssl1, mime-support", ["usr/bin/python3", "usr/bin"]),
        "python3-minimal": ("Depends: dpkg, libc6", ["usr/bin/py3compile"]),
        "libc6": ("Multi-Arch: same", ["lib/libc.so.6"]),
        "libssl3": ("", ["usr/lib/libssl.so.3"]),
        "media-types": ("Provides: mime-support (= 3.64)", ["etc/mime.types"]),
        "mawk": ("", ["usr/bin/mawk"]),
        "dpkg": ("Depends: tar", ["usr/bin/dpkg"]),
        "tar": ("", ["bin/tar"]),
        "util-linux": ("", ["usr/bin/mount", "usr/bin/setsid"]),
        "gone": ("Depends: apt", ["usr/bin/x"]),
    }
    info = tree / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    stanzas = []
    for name, (line, files) in told.items():
        status = "deinstall ok config-files" if name == "gone" else "install ok installed"
        stanzas.append(f"Package: {name}\nStatus: {status}\nArchitecture: amd64\n{line}".strip() + "\n")
        place = info / (f"{name}:amd64.list" if "same" in line else f"{name}.list")
        place.write_text("".join(f"/{file}\n" for file in ["usr", *files]), encoding="utf-8")
        for file in files:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            if not (tree / file).exists():
                (tree / file).write_text("", encoding="utf-8")
    (tree / "var/lib/dpkg/status").write_text("\n".join(stanzas), encoding="utf-8")


def test_an_image_holds_the_packages_that_executions_need(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    make_packages(tree)
    packages = choice.installed(tree)
    assert choice.needed(packages, ["python3"]) == {"python3", "python3-minimal", "libc6", "libssl3", "media-types"}
    assert choice.needed(packages, ["dpkg", "gone", "unknown"]) == set()
    assert choice.left_out(tree, ["python3"]) == {"usr/bin/dpkg", "usr/bin/tar", "usr/bin/mount"}


def test_a_link_through_the_table_of_alternatives_becomes_a_direct_one(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tree / "etc/alternatives").mkdir()
    for name, target in (("awk", "/usr/bin/python3.11"), ("pager", "/usr/bin/more"), ("editor", "/usr/bin/su")):
        (tree / "etc/alternatives" / name).symlink_to(target)
        (tree / "usr/bin" / name).symlink_to(f"/etc/alternatives/{name}")
    packed = io.BytesIO()
    archive.pack(packed, tree, build.plain())
    packed.seek(0)
    with tarfile.open(fileobj=packed) as read:
        links = {member.name: member.linkname for member in read.getmembers() if member.issym()}
    assert links["usr/bin/awk"] == "/usr/bin/python3.11"
    assert "usr/bin/pager" not in links
    assert choice.direct(tree, "/etc/alternatives/editor", frozenset(["usr/bin/su"])) == ""


def test_of_packages_the_tests_stay_out_and_the_names_for_debuggers_too(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("torch/bin/test_jit", "torch/bin/torch_shm_manager", "einops/tests/test_ops.py", "torch/_VF.pyi"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("", encoding="utf-8")
    (site / "torch" / "tests.py").write_text("", encoding="utf-8")
    (site / LIBRARY.name).write_bytes(LIBRARY.read_bytes())
    packed = io.BytesIO()
    archive.pack(packed, make_tree(tmp_path), Root(image="lab", folders={"/lab/site-packages": site}))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as read:
        names = {name.removeprefix("lab/site-packages/") for name in read.getnames() if name.startswith("lab/site")}
        library = read.extractfile(f"lab/site-packages/{LIBRARY.name}")
        assert library is not None
        stripped = tmp_path / LIBRARY.name
        stripped.write_bytes(library.read())
    assert names >= {"torch/bin/torch_shm_manager", "torch/tests.py", LIBRARY.name}
    assert not names & {"torch/bin/test_jit", "einops/tests/test_ops.py", "torch/_VF.pyi"}
    assert OF_DEBUGGERS in LIBRARY.read_bytes()
    assert OF_DEBUGGERS not in stripped.read_bytes()
    loader = ExtensionFileLoader("_fpumode", os.fspath(stripped))
    spec = importlib.util.spec_from_loader("_fpumode", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert module.get_fpu_mode() == _fpumode.get_fpu_mode()
    with stripped.open("rb") as file:
        assert elf.strip(file) is None


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01" + bytes(58)])
def test_what_is_no_library_stays_as_it_is(data: bytes) -> None:
    assert elf.strip(io.BytesIO(data)) is None


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
    assert time.monotonic() - begun < 10
    assert engine.client.inspect_image(first.id)["Size"] < 80_000_000
    assert not (tmp_path / "images").exists()


FORBIDDEN = {
    *("apt", "apt-get", "dpkg", "debconf", "mount", "umount", "su", "login", "passwd", "chsh", "chfn", "newgrp", "sg"),
    *("gpasswd", "chroot", "nsenter", "unshare", "setpriv", "wget", "curl", "perl", "chage", "dmesg", "pivot_root"),
    *("losetup", "mkfs", "mkswap", "ip", "ping", "nc", "ssh", "gcc", "cc", "ld", "gdb", "strace", "sudo", "ldconfig"),
}
NEEDED = {"sh", "python3", "cat", "ls", "cp", "env", "grep", "sed", "awk", "find", "xargs", "setsid", "timeout", "true"}


@pytest.mark.docker
@pytest.mark.parametrize("image", ["plain", "latex"])
def test_no_program_is_there_that_an_execution_does_not_need(
    sandbox: DockerSandbox, tmp_path: Path, image: str
) -> None:
    code = """
import os
folders = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
for folder in folders:
    for name in os.listdir(folder):
        print(name if os.path.exists(os.path.join(folder, name)) else "dangling:" + name)
"""
    outcome = run(sandbox, tmp_path / "out", image, "python3", "-c", code)
    assert outcome.verdict == Verdict.SUCCEEDED, outcome.output_tail
    found = set(outcome.output_tail.split())
    assert found & FORBIDDEN == set()
    assert NEEDED - found == set()
    assert not {name for name in found if name.startswith(("dangling:", "perl", "dpkg", "apt-", "mkfs", "fsck"))}


@pytest.mark.docker
def test_older_images_that_no_container_uses_are_removed_and_foreign_ones_stay(engine: Engine, tmp_path: Path) -> None:
    word = f"prune{ULID()}".lower()
    roots = [Root(image=word, digest=str(number)) for number in range(4)]
    client, tree = engine.client, make_tree(tmp_path)
    made = []
    try:
        for root in roots:
            (tree / "usr/lib/private").write_text(root.digest, encoding="utf-8")
            build._import(engine, tree, root, build.DEBOOTSTRAP)
            made.append(client.inspect_image(build._name(root))["Id"])
        # The first is somebody's own too, and the second is in use.
        client.tag(made[0], f"{word}-mine", "1")
        held = client.create_container(made[1], ["true"])["Id"]
        build.prune(engine, roots[3])
        client.remove_container(held)
        listed = {one["Id"] for one in client.images(filters={"label": f"fumehood.image={word}"})}
        assert listed == {made[0], made[1], made[3]}
        labels = client.inspect_image(made[3])["Config"]["Labels"]
        assert labels["fumehood.base"] == "debootstrap"
        assert labels["fumehood.key"] == build.key(roots[3], "bookworm", "debootstrap")
    finally:
        for identity in made:
            with suppress(docker.errors.ImageNotFound):
                client.remove_image(identity, force=True)


@pytest.mark.docker
def test_a_base_that_is_nowhere_is_said_with_the_other_way(engine: Engine) -> None:
    with pytest.raises(SandboxUnavailableError, match=r"registry\.invalid/none:1.*without --base.*debootstrap"):
        bases.find(engine, "registry.invalid/none:1")


@pytest.mark.docker
@pytest.mark.slow
def test_an_image_is_made_from_a_base_image(engine: Engine, sandbox: DockerSandbox, tmp_path: Path) -> None:
    """The base is what a registry would give: a distribution's smallest tree, under a made-up name."""
    client, tree = engine.client, tmp_path / "base"
    name, word = f"base{ULID()}:slim".lower(), f"based{ULID()}".lower()
    debian.make(tree, ("apt",))
    packing = subprocess.Popen(["tar", "-c", "-C", tree, "."], stdout=subprocess.PIPE)
    with packing:
        client.import_image_from_stream(packing.stdout, repository=name.split(":")[0], tag="slim")
    shutil.rmtree(tree)
    root = replace(build.plain(), image=word)
    try:
        given = bases.find(engine, name)
        assert given.startswith(f"{name}@sha256:")
        build._build(engine, tmp_path, [root], given)
        found = build._find(engine, root)
        assert found is not None
        assert found.base == given
        told = client.inspect_image(found.id)["Config"]["Labels"]
        assert (told["fumehood.base"], told["fumehood.key"]) == (given, build.key(root, told["fumehood.suite"], given))
        assert client.containers(all=True, filters={"label": "fumehood-base"}) == []
        sandbox._roots = {**sandbox._roots, word: root}
        outcome = run(
            sandbox, tmp_path / "out", word, "python3", "-c", "import os; print(os.path.exists('/usr/bin/apt'))"
        )
        assert (outcome.verdict, outcome.output_tail) == (Verdict.SUCCEEDED, "False\n")
    finally:
        for one in client.images(filters={"label": f"fumehood.image={word}"}):
            client.remove_image(one["Id"], force=True)
        client.remove_image(name, force=True)


@pytest.mark.docker
def test_an_import_that_breaks_off_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    root = Root(image="broken", folders={"/lab/gone": tmp_path / "gone"})
    with pytest.raises(SandboxUnavailableError, match="gone"):
        build._import(engine, make_tree(tmp_path), root, build.DEBOOTSTRAP)
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
compiled = [(module.__cached__, os.stat(module.__file__)) for name, module in list(sys.modules.items())
            if name.startswith(("torch.", "numpy.", "json.")) and isinstance(getattr(module, "__cached__", 0), str)]
heads = [(open(cached, "rb").read(16), source) for cached, source in compiled]
fresh = [int.from_bytes(head[8:12], "little") == int(source.st_mtime) & 0xFFFFFFFF
         and int.from_bytes(head[12:], "little") == source.st_size for head, source in heads]
print(os.access(torch.__file__, os.W_OK), len(fresh) > 200, all(fresh))
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
