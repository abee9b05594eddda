"""Finished folders that somebody changed afterwards, beside folders to which nothing happened that matters."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.redteam.cases import Family
from bench.redteam.judging import Judged
from fumehood.artifacts.signing import Ed25519Signer, key_id_of, open_envelope
from fumehood.services import export, records, verification
from tests.fakes.laboratory import Laboratory

EXPERIMENT = "experiments/smaller_scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderCase:
    """Something done to a finished folder."""

    name: str
    family: Family
    is_planted: bool
    act: Callable[[Path], object]
    over: str = "finished folder"

    @property
    def title(self) -> str:
        """What it is listed by."""
        return f"{self.name}{'' if self.is_planted else ' (honest)'}"


class Folder:
    """A finished direction, made by the platform with scripted answers, and those who look at copies of it."""

    def __init__(self, place: Path) -> None:
        self._lab = Laboratory(place / "laboratory")
        self._lab.submit(runs=2)
        self._lab.go_on()
        self._place, self._made = place, self._lab.export(place / "finished")
        self._lab.artifacts.close()

    def judge(self, case: FolderCase) -> Judged:
        """Return what verification says of a copy, with its manifest and without."""
        copy = self._place / "copies" / re.sub(r"\W+", "_", case.title)
        shutil.copytree(self._made, copy)
        case.act(copy)
        folder = verification.open_folder(copy)
        whole = verification.verify_folder(folder, self._opened)
        inner = verification.Report()
        verification.experiment(folder.below(f"{EXPERIMENT}/"), self._opened, inner, "")
        caught = ("verification",) if not whole.holds else ()
        deeper = "" if inner.holds else "records"
        reason = "; ".join([*inner.problems[:2], *whole.problems[:2]])
        return Judged(refused_by=caught, stopped_by=deeper, reason=reason)

    def _opened(self, envelope: bytes, kind: str) -> bytes:
        key = self._lab.signer.public_key_bytes()
        return open_envelope(envelope, {key_id_of(key): key}, kind)


def _edit(path: str, old: str, new: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        place = folder / EXPERIMENT / path
        text = place.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{old!r} does not stand in {path}")
        place.write_text(text.replace(old, new), encoding="utf-8")

    return act


def _swap(folder: Path) -> None:
    inside = folder / EXPERIMENT
    (inside / "run_0").rename(inside / "run_x")
    (inside / "run_1").rename(inside / "run_0")
    (inside / "run_x").rename(inside / "run_1")


def _swap_results(folder: Path) -> None:
    inside = folder / EXPERIMENT
    first, second = (inside / name / "final_info.json" for name in ("run_0", "run_1"))
    texts = first.read_bytes(), second.read_bytes()
    first.write_bytes(texts[1])
    second.write_bytes(texts[0])


def _copy_run(folder: Path) -> None:
    shutil.copytree(folder / EXPERIMENT / "run_1", folder / EXPERIMENT / "run_3")


def _drop_run(folder: Path) -> None:
    shutil.rmtree(folder / EXPERIMENT / "run_2")


def _forge(folder: Path) -> None:
    """Sign a better run with a key of one's own, and everything else with it."""
    inside, signer = folder / EXPERIMENT, Ed25519Signer(folder.parent / f"{folder.name}_keys")
    envelope = json.loads((inside / "run_1/record.json").read_bytes())
    told = json.loads(_payload(envelope))
    told["predicate"]["run"]["index"] = 3
    for subject in told["subject"]:
        subject["name"] = subject["name"].replace("run_1/", "run_3/")
    shutil.copytree(inside / "run_1", inside / "run_3")
    (inside / "run_3/record.json").write_bytes(signer.sign(json.dumps(told).encode(), records.PAYLOAD_TYPE))


def _payload(envelope: dict[str, str]) -> bytes:
    return base64.b64decode(envelope["payload"])


def _claim(folder: Path) -> None:
    """Print a number that no record has, and a claim that says one has."""
    place = folder / EXPERIMENT / "claims.json"
    claims = json.loads(place.read_bytes())
    claims.append({**claims[0], "id": "claim_99", "source": "run_7/record.json"})
    place.write_text(json.dumps(claims), encoding="utf-8")


def _forget_manifest(folder: Path) -> None:
    _edit("run_1/log.txt", "done", "done, and better")(folder)
    (folder / EXPERIMENT / export.MANIFEST).unlink()
    (folder / export.MANIFEST).unlink()


def _link(folder: Path) -> None:
    place = folder / EXPERIMENT / "run_1/final_info.json"
    place.unlink()
    place.symlink_to("../run_2/final_info.json")


def _touch(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))


def _protect(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def _move(folder: Path) -> None:
    folder.rename(folder.with_name(folder.name + "_elsewhere"))
    folder.with_name(folder.name + "_elsewhere").rename(folder)


def _rewrite(folder: Path) -> None:
    for path in folder.rglob("*.txt"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def _add_empty_folder(folder: Path) -> None:
    (folder / "reading_notes").mkdir()


def _nothing(folder: Path) -> None:
    assert folder.is_dir()


def _copy_and_back(folder: Path) -> None:
    away = folder.with_name(folder.name + "_copied")
    shutil.copytree(folder, away)
    shutil.rmtree(folder)
    shutil.copytree(away, folder)


def _both(
    name: str, family: Family, act: Callable[[Path], object], honest: Callable[[Path], object]
) -> tuple[FolderCase, FolderCase]:
    return (
        FolderCase(name=name, family=family, is_planted=True, act=act),
        FolderCase(name=name, family=family, is_planted=False, act=honest),
    )


CASES = (
    *_both("a line of the log", Family.EDITED_FILES, _edit("run_1/log.txt", "done", "done, better"), _touch),
    *_both("a number of the results", Family.EDITED_FILES, _edit("run_1/final_info.json", "1.75", "0.75"), _rewrite),
    *_both("the log, and no manifest", Family.EDITED_FILES, _forget_manifest, _nothing),
    *_both("results by a link to another run's", Family.EDITED_FILES, _link, _copy_and_back),
    *_both("the two arms' folders", Family.SWAPPED_ARMS, _swap, _move),
    *_both("the two arms' results", Family.SWAPPED_ARMS, _swap_results, _protect),
    *_both("a run copied as one more", Family.CLAIMED_RUN, _copy_run, _add_empty_folder),
    *_both("a run signed by oneself", Family.CLAIMED_RUN, _forge, _nothing),
    *_both("a claim on a run that is not there", Family.CLAIMED_RUN, _claim, _touch),
    *_both("a bad run left out", Family.CLAIMED_RUN, _drop_run, _copy_and_back),
)
