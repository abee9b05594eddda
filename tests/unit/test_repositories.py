"""Git repositories as a program's folder: what is taken, what is not, and that nothing of them runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fumehood.cli import repositories
from fumehood.errors import BadInputError
from fumehood.services import templates


def git(folder: Path, *words: str) -> str:
    named = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A bare repository with all that a repository may bring: links, filters, another repository, large files."""
    work, other = tmp_path / "work", tmp_path / "other"
    for folder in (work, other):
        folder.mkdir()
        git(folder, "init", "-q")
    (other / "theirs.py").write_text("x = 1\n")
    git(other, "add", ".")
    git(other, "commit", "-qm", "theirs")
    (work / "train.py").write_text("print('loss: 1')\n")
    (work / "deep").mkdir()
    (work / "deep" / "net.py").write_text("x = 2\n")
    (work / "link.py").symlink_to("/etc/passwd")
    (work / ".secret").write_text("hidden\n")
    (work / ".gitattributes").write_text("*.py filter=evil\n")
    (work / "weights.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (work / "a name.py").write_text("x = 3\n")
    git(work, "submodule", "add", "-q", str(other), "vendored")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    (work / "train.py").write_text("print('loss: 2')\n")
    git(work, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--bare", str(work), "it.git")
    return tmp_path / "it.git"


def spring(bare: Path, mark: Path) -> None:
    """Have the repository itself run a program, wherever one of its settings or hooks is asked."""
    program = bare.parent / "evil"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    for name in ("post-checkout", "pre-receive", "update", "post-index-change", "reference-transaction"):
        (bare / "hooks").mkdir(exist_ok=True)
        (bare / "hooks" / name).write_text(program.read_text())
        (bare / "hooks" / name).chmod(0o755)
    for setting in ("filter.evil.smudge", "filter.evil.clean", "core.fsmonitor", "core.sshCommand", "core.pager"):
        git(bare, "config", setting, str(program))


@pytest.mark.parametrize("is_fetched", [False, True])
def test_the_newest_files_are_taken_and_nothing_of_them_runs(bare: Path, tmp_path: Path, is_fetched: bool) -> None:
    spring(bare, tmp_path / "it-ran")
    taken = repositories.read(f"file://{bare}", protocols="file") if is_fetched else repositories.read(str(bare))
    assert taken.files == {"train.py": b"print('loss: 2')\n", "deep/net.py": b"x = 2\n"}
    told = " ".join(taken.left_out)
    for name, why in (("link.py", "a link"), ("vendored", "a repository of its own"), ("weights.bin", "large-file")):
        assert f"'{name}'" in told
        assert why in told
    assert "'a name.py' has a name" in told
    assert not (tmp_path / "it-ran").exists()
    assert repositories.is_one(str(bare))
    assert not repositories.is_one(str(tmp_path / "work"))
    assert not repositories.is_one("What decides y" * 1000)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("https://127.0.0.1:9/nothing.git", r"could not be fetched \(.+\)\. Where this machine has no network"),
        ("https://me:secret@127.0.0.1:9/it.git", "holds a name or a password"),
        ("http://127.0.0.1:9/it.git", "given by an https:// address"),
        ("ssh://127.0.0.1/it.git", "given by an https:// address"),
        ("git@127.0.0.1:it.git", "given by an https:// address"),
        ("ext::sh -c 'touch ran' %S://", "given by an https:// address"),
        ("file:///etc", "given by an https:// address"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_a_sentence(source: str, why: str) -> None:
    assert repositories.is_one(source)
    with pytest.raises(BadInputError, match=why) as refused:
        repositories.read(source)
    assert "secret" not in str(refused.value)


def test_a_folder_that_git_removes_meanwhile_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "kept").write_bytes(b"12345")
    assert repositories._size(tmp_path) == 5
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # it was there when that was asked
    assert repositories._size(tmp_path / "gone") == 0


def test_what_is_too_large_is_refused(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(templates, "MAX_FILES", 2)
        with pytest.raises(BadInputError, match="has more than 2 files or 64 MiB"):
            repositories.read(str(bare))
    with monkeypatch.context() as patch:
        patch.setattr(templates, "MAX_FILE_BYTES", 10)
        with pytest.raises(BadInputError, match="has more than 500 files or 0 MiB"):
            repositories.read(str(bare))
    with monkeypatch.context() as patch:
        patch.setattr(repositories, "MOST_FETCHED_BYTES", -1)
        with pytest.raises(BadInputError, match="in its newest commit"):
            repositories.read(f"file://{bare}", protocols="file")
    with monkeypatch.context() as patch:
        patch.setattr(repositories, "FETCH_S", -1.0)
        with pytest.raises(BadInputError, match="was not fetched within"):
            repositories.read(f"file://{bare}", protocols="file")


def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    with pytest.raises(BadInputError, match="cannot be read"):
        repositories.read(str(tmp_path / "empty.git"))
