"""No committed file names one person's machine, or the place that packages happened to come from."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HOMES = re.compile(r"(?<![\w.<>}-])/(?:root|home/(?!user\b)[a-z][\w-]*)/[\w.]")
APT = Path("/etc/apt")
NOWHERE = {"", "localhost", "127.0.0.1"}


@pytest.fixture(scope="module")
def texts(root: Path, repository_files: list[Path]) -> dict[str, str]:
    """Every text file's content by its path."""
    found = {}
    for path in repository_files:
        data = path.read_bytes()
        if b"\0" not in data:
            found[str(path.relative_to(root))] = data.decode(errors="replace")
    return found


@pytest.fixture(scope="module")
def places(root: Path) -> set[str]:
    """The hosts and folders that this machine gets packages from; asked of its tools, so that none is written here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "scripts")
        sources = importlib.import_module("python_packages").package_sources()
    named = [sources.index, *sources.extra_indexes, *sources.find_links, *_apt(), *_npm()]
    pip = root / ".setup/uv/bin/python"
    if pip.exists():
        default = "from pip._internal.models.index import PyPI; print(PyPI.url, 'https://' + PyPI.file_storage_domain)"
        named += subprocess.run([pip, "-c", default], capture_output=True, text=True).stdout.split()
    hosts = {urlsplit(place).hostname or "" for place in named}
    folders = {urlsplit(place).path for place in named if urlsplit(place).scheme in {"", "file"}}
    return (hosts | {folder for folder in folders if folder.count("/") > 1}) - NOWHERE


def _apt() -> list[str]:
    lists = [APT / "sources.list", *APT.glob("sources.list.d/*")]
    told = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in lists if path.is_file())
    return re.findall(r"https?://[^\s\]]+", "\n".join(line for line in told.splitlines() if not line.startswith("#")))


def _npm() -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        return [value for name, value in os.environ.items() if name.lower() == "npm_config_registry"]
    return subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True).stdout.split()


def test_no_file_names_a_home_folder(texts: dict[str, str]) -> None:
    found = {path: sorted(set(HOMES.findall(text))) for path, text in texts.items() if HOMES.search(text)}
    assert found == {}


def test_no_file_names_where_packages_came_from(texts: dict[str, str], places: set[str]) -> None:
    found = {path: sorted(place for place in places if place in text) for path, text in texts.items()}
    assert {path: named for path, named in found.items() if named} == {}


def test_no_file_names_this_checkout(root: Path, texts: dict[str, str]) -> None:
    assert [path for path, text in texts.items() if str(root) in text] == []
