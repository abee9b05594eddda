"""Templates that were read a moment ago: read once, and again as soon as anything of them is another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.errors import ArtifactsUnavailableError, BadInputError
from fumehood.services.known_templates import KnownTemplates
from tests.fakes.laboratory import write_template


class CountingArtifacts(MemoryArtifacts):
    """Artifacts that count what is kept in them, and are away when told so."""

    kept = 0
    is_away = False

    def put_file(self, path: Path) -> str:
        if self.is_away:
            raise ArtifactsUnavailableError("The artifact store does not answer.")
        self.kept += 1
        return super().put_file(path)


class Watch:
    """A clock that moves only when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def artifacts() -> CountingArtifacts:
    return CountingArtifacts()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_template(tmp_path / "tiny")


def test_a_folder_is_kept_once_however_often_it_is_asked_for(folder: Path, artifacts: CountingArtifacts) -> None:
    known = KnownTemplates()
    first = known.read(folder, artifacts)
    kept = artifacts.kept
    artifacts.is_away = True
    assert known.read(folder, artifacts) == first
    assert artifacts.kept == kept == len(first.files)
    assert first.task == "Make the scale small."
    assert set(first.template.profiles) == {"tiny", "cpu"}


def test_it_says_what_it_read_lately_without_looking(folder: Path, artifacts: CountingArtifacts) -> None:
    watch = Watch()
    known = KnownTemplates(holds_s=60, now=watch)
    assert not known.knows(folder)
    known.read(folder, artifacts)
    assert known.knows(folder)
    watch.now = 60.0
    assert not known.knows(folder)


def test_a_changed_file_a_new_one_and_one_that_went_are_seen(folder: Path, artifacts: CountingArtifacts) -> None:
    known = KnownTemplates()
    seen = [dict(known.read(folder, artifacts).files)]
    place = folder / "experiment.py"
    before = place.stat()
    # Of the same size, with the time set back: only the inode or the time of change is another.
    other = folder / "new"
    other.write_text(place.read_text(encoding="utf-8").replace("1.0", "2.0"), encoding="utf-8")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(place)
    seen.append(dict(known.read(folder, artifacts).files))
    (folder / "more.py").write_text("MORE = 1\n", encoding="utf-8")
    seen.append(dict(known.read(folder, artifacts).files))
    (folder / "more.py").unlink()
    seen.append(dict(known.read(folder, artifacts).files))
    assert seen[0]["experiment.py"] != seen[1]["experiment.py"]
    assert set(seen[2]) - set(seen[1]) == {"more.py"}
    assert seen[3] == seen[1]


def test_it_is_kept_anew_after_a_while(folder: Path, artifacts: CountingArtifacts) -> None:
    watch = Watch()
    known = KnownTemplates(holds_s=60, now=watch)
    known.read(folder, artifacts)
    kept, watch.now = artifacts.kept, 60.0
    known.read(folder, artifacts)
    assert artifacts.kept == 2 * kept


def test_what_breaks_the_contract_is_refused_each_time_until_it_is_mended(
    folder: Path, artifacts: CountingArtifacts
) -> None:
    known = KnownTemplates()
    whole = (folder / "prompt.json").read_text(encoding="utf-8")
    (folder / "prompt.json").write_text("{}", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(BadInputError, match="does not keep the contract"):
            known.read(folder, artifacts)
    (folder / "prompt.json").write_text(whole, encoding="utf-8")
    assert known.read(folder, artifacts).task
