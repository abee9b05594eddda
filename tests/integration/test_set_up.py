"""What the set-up scripts make of a machine: pip's settings are handed on, and a lab is whole or not there at all."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PIP_CONF = """
[global]
index-url = https://packages.example/simple
find-links = /srv/wheels
    /srv/more-wheels
extra-index-url = https://one.example/simple https://two.example/simple
[install]
trusted-host = one.example
"""


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts' modules, which find each other by their plain names."""
    names = ("common", "system_packages", "python_packages", "lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            del sys.modules[name]


@pytest.fixture
def pip_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that pip is pointed to, on a machine with no other."""
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (place := tmp_path / "pip.conf").write_text(PIP_CONF, encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(place))
    return place


@pytest.mark.usefixtures("pip_settings")
def test_uv_looks_where_pip_would(scripts: dict[str, ModuleType]) -> None:
    options = scripts["python_packages"].package_sources().options()
    assert options[:2] == ["--default-index", "https://packages.example/simple"]
    assert [value for name, value in pairwise(options) if name == "--find-links"] == [
        "/srv/wheels",
        "/srv/more-wheels",
    ]
    assert options.count("--index") == 2
    assert options[-2:] == ["--index-strategy", "unsafe-best-match"]


@pytest.mark.usefixtures("pip_settings")
def test_a_variable_wins_over_pips_files(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/media/wheels")
    assert scripts["python_packages"].package_sources().find_links == ("/media/wheels",)


@pytest.mark.usefixtures("pip_settings")
def test_pip_may_be_told_to_read_no_file(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert scripts["python_packages"].package_sources().options() == []


def test_a_lab_is_pointed_to_at_once(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.json").write_text(json.dumps({"python": sys.executable}), encoding="utf-8")
        scripts["lab"].point_to(tmp_path, name)
        assert (tmp_path / "current").readlink() == Path(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "one", "two"]


def test_a_lab_without_its_description_or_its_interpreter_is_none(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    assert not scripts["lab"].is_whole(tmp_path)
    (tmp_path / "lab.json").write_text(json.dumps({"python": str(tmp_path / "gone")}), encoding="utf-8")
    assert not scripts["lab"].is_whole(tmp_path)


def test_only_what_is_missing_is_installed(scripts: dict[str, ModuleType]) -> None:
    packages = {"no-such-package": "sh", "nor-this-one": "no-such-program"}
    assert scripts["system_packages"].missing(packages) == ["nor-this-one"]


@pytest.mark.slow
def test_the_lab_imports_what_it_promises_and_nothing_of_ours(lab_python: Path, lab_dir: Path, tmp_path: Path) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    described = {entry.partition("==")[0] for entry in json.loads((lab_dir / "lab.json").read_text())["packages"]}
    assert {entry.partition("==")[0] for entry in groups["lab"]} <= described
    asked = "import torch, sklearn, pandas, matplotlib.pyplot, einops, ema_pytorch, tqdm; import fumehood"
    ended = subprocess.run([lab_python, "-c", asked], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'fumehood'"


@pytest.mark.slow
def test_every_user_may_read_the_lab(lab_dir: Path) -> None:
    closed = [path for path in [lab_dir, *lab_dir.rglob("*")] if path.stat().st_mode & 0o004 == 0]
    assert closed == []


@pytest.mark.redis
def test_the_tests_have_a_redis_of_their_own(redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
