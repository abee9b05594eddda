"""What a person sees when something is wrong: one clear sentence, the right exit status, nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import DEMO, House

pytestmark = [pytest.mark.local]
SHIPPED = Path(__file__).resolve().parents[2] / "templates"


@pytest.fixture
def fresh(make_house: Any) -> House:
    """A house in which nothing was done yet."""
    found: House = make_house("fresh")
    return found


def refused(
    house: House, status: int, words: str, *arguments: str, before: tuple[str, ...] = (), out: Path | None = None
) -> None:
    told = house.call("run", *arguments, before=before)
    assert told.returncode == status, (told.stdout, told.stderr)
    last = told.stderr.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in told.stderr
    if out is not None:
        assert not out.exists()
    assert house.left() == []


def test_an_unknown_template_is_named(fresh: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(fresh, 2, "no template 'nothing_like_it'", "--template", "nothing_like_it", "--out", str(out), out=out)


def test_an_empty_text_is_refused(fresh: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(fresh, 2, "text is empty", *DEMO, "--text", "  ", "--out", str(out), out=out)


def test_no_ideas_are_refused(fresh: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(fresh, 2, "number of ideas must be from 1", *DEMO, "--ideas", "0", "--out", str(out), out=out)


def test_an_out_that_cannot_be_written_is_refused(fresh: House, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file, no folder")
    refused(fresh, 2, "cannot be written", *DEMO, "--out", str(blocker / "out"))


def test_a_syntax_error_in_the_experiment_is_named(fresh: House, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(SHIPPED / "2d_diffusion", folder)
    (folder / "experiment.py").write_text("def main(:\n    pass\n")
    out = tmp_path / "out"
    words = "experiment.py is not valid Python in line 1"
    refused(fresh, 2, words, "--template", str(folder), "--profile", "tiny", "--out", str(out), out=out)


def test_a_model_without_a_key_is_refused(fresh: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = "fumehood keys set anthropic"
    refused(fresh, 2, words, "--template", "2d_diffusion", "--model", "claude-sonnet-4-5", "--out", str(out), out=out)


def test_a_small_disk_is_refused_before_any_work(fresh: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = f'mount -t tmpfs -o size=64m none "{fresh.state}" && exec "$@"'
    refused(fresh, 3, "MiB free", *DEMO, "--out", str(out), before=("unshare", "-m", "sh", "-c", small, "sh"), out=out)


@pytest.mark.parametrize(
    ("masked", "words"),
    [
        ("/usr/bin/bwrap", "bubblewrap"),
        ("/usr/bin/pdflatex", "texlive"),
        ("/dev/loop-control", "loop"),
    ],
)
def test_what_the_machine_lacks_is_named_before_any_work(fresh: House, tmp_path: Path, masked: str, words: str) -> None:
    out = tmp_path / "out"
    mask = f'mount --bind /dev/null "$(readlink -f {masked})" && exec "$@"'
    refused(fresh, 3, words, *DEMO, "--out", str(out), before=("unshare", "-m", "sh", "-c", mask, "sh"), out=out)
