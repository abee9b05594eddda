"""Verifying a finished folder: whatever was changed is found and named, and only a trusted key counts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fumehood.artifacts.signing import Ed25519Signer, key_id_of, open_envelope
from fumehood.services import export, records, verification
from tests.fakes.laboratory import Laboratory

INSIDE = "experiments/smaller_scale"
EDITED = (
    "run_1/final_info.json",
    "run_1/record.json",
    "latex/main.tex",
    "claims.json",
    "run_0/record.json",
    "notes.txt",
)


class Finished:
    """A finished folder and its signer; the folder is put right again after each look."""

    def __init__(self, lab: Laboratory, out: Path) -> None:
        self.lab = lab
        self.out = out
        self.trusted = {key_id_of(lab.signer.public_key_bytes()): lab.signer.public_key_bytes()}

    def problems(self, folder: Path | None = None) -> list[str]:
        report = verification.verify_folder(
            verification.open_folder(folder or self.out), lambda data, kind: open_envelope(data, self.trusted, kind)
        )
        return report.problems

    def with_changed(self, path: str, data: bytes) -> list[str]:
        place = self.out / path
        before = place.read_bytes()
        try:
            place.write_bytes(data)
            return self.problems()
        finally:
            place.write_bytes(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    lab = Laboratory(folder)
    lab.submit()
    lab.go_on()
    yield Finished(lab, lab.export(folder / "out"))
    lab.artifacts.close()


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.out, tmp_path / "copy"))


def test_an_untouched_folder_holds_whole_and_in_part(finished: Finished) -> None:
    assert finished.problems() == []
    assert finished.problems(finished.out / INSIDE) == []


@pytest.mark.parametrize("path", EDITED)
@settings(max_examples=40)
@given(data=st.data())
def test_one_changed_character_anywhere_is_found_and_its_line_named(
    finished: Finished, path: str, data: st.DataObject
) -> None:
    before = (finished.out / INSIDE / path).read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    other = data.draw(st.integers(1, 255))
    after = before[:at] + bytes([before[at] ^ other]) + before[at + 1 :]
    line = before[:at].count(b"\n") + 1
    problems = finished.with_changed(f"{INSIDE}/{path}", after)
    expected = f"{INSIDE}/{path} line {line} is not what was signed"
    # A NUL makes it binary, which is named as a whole; a new line shifts those below it.
    named = {expected, f"{INSIDE}/{path} is not what was signed"} if b"\0" in after else {expected}
    assert named & set(problems), problems


@pytest.mark.parametrize("path", ["run_1/final_info.json", "latex/main.tex", "claims.json"])
def test_every_single_digit_counts(finished: Finished, path: str) -> None:
    before = (finished.out / INSIDE / path).read_bytes()
    digits = [at for at, byte in enumerate(before) if chr(byte).isdigit()]
    for at in digits[:: max(1, len(digits) // 25)]:
        changed = b"7" if before[at : at + 1] != b"7" else b"8"
        problems = finished.with_changed(f"{INSIDE}/{path}", before[:at] + changed + before[at + 1 :])
        line = before[:at].count(b"\n") + 1
        assert f"{INSIDE}/{path} line {line} is not what was signed" in problems


def test_a_changed_result_is_named_by_data_set_and_metric(finished: Finished) -> None:
    path = f"{INSIDE}/run_1/final_info.json"
    told = json.loads((finished.out / path).read_bytes())
    told["circle"]["final_info_dict"]["error"][0] = 0.5
    problems = finished.with_changed(path, json.dumps(told).encode())
    assert f"{path} at circle/final_info_dict/error differs from the signed record" in problems


def test_a_changed_claim_is_named_by_its_number(finished: Finished) -> None:
    path = f"{INSIDE}/claims.json"
    claims = json.loads((finished.out / path).read_bytes())
    (claim,) = [one for one in claims if one["pointer"] == "error/mean" and one["section"] == "results"][:1]
    claim["text"] = "0.001"
    problems = finished.with_changed(path, json.dumps(claims).encode())
    assert [one for one in problems if f"claims.json at {claim['id']} " in one and "the paper prints 0.001" in one]


@pytest.mark.parametrize(
    "claims",
    [
        *(None, 5, "x", {}, [None], [5], ["x"], [[]], [{}]),
        [{"id": "c1", "source": 5, "pointer": "a", "digits": 1, "text": "1"}],
        [{"id": "c1", "source": "run_1/record.json", "pointer": 5, "digits": 1, "text": "1"}],
        [{"id": "c1", "source": "run_1/record.json", "pointer": "error/mean", "digits": "x", "text": "1"}],
        [{"id": "c1", "source": "run_9/record.json", "pointer": "error/mean", "digits": 1, "text": "1"}],
        [{"id": "c1", "source": "run_1/record.json", "pointer": "error/median", "digits": 1, "text": "1"}],
    ],
)
def test_claims_that_make_no_sense_are_problems_and_no_crash(finished: Finished, claims: Any) -> None:
    problems = finished.with_changed(f"{INSIDE}/claims.json", json.dumps(claims).encode())
    assert [one for one in problems if "claims.json " in one]


def test_a_missing_file_is_named(finished: Finished, copy: Path) -> None:
    (copy / INSIDE / "run_1/samples.json").unlink()
    problems = finished.problems(copy)
    assert f"{INSIDE}/run_1/samples.json is missing" in problems
    assert f"{INSIDE}/run_1/samples.json is named in the record of run_1 and missing" in problems


@pytest.mark.parametrize("place", ["extra.txt", f"{INSIDE}/extra.txt", f"{INSIDE}/run_1/deep/extra.txt"])
def test_an_extra_file_is_named(finished: Finished, copy: Path, place: str) -> None:
    (copy / place).parent.mkdir(parents=True, exist_ok=True)
    (copy / place).write_text("x")
    assert f"{place} is not in the manifest" in finished.problems(copy)


def test_a_file_with_a_name_that_cannot_be_printed_is_named_all_the_same(finished: Finished, copy: Path) -> None:
    Path(os.fsdecode(os.fsencode(copy) + b"/\xff.txt")).write_text("x")
    (problem,) = finished.problems(copy)
    assert problem == "\\udcff.txt is not in the manifest"


def test_a_link_in_a_files_place_is_no_file(finished: Finished, copy: Path, tmp_path: Path) -> None:
    place = copy / INSIDE / "notes.txt"
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert f"{INSIDE}/notes.txt is not a regular file" in finished.problems(copy)


@pytest.mark.parametrize("place", ["manifest.json", f"{INSIDE}/manifest.json"])
def test_a_folder_without_its_manifest_was_never_finished(finished: Finished, copy: Path, place: str) -> None:
    (copy / place).unlink()
    assert f"{place} is missing: the folder was never finished" in finished.problems(copy)


def test_signed_again_with_another_key_it_is_signed_by_an_unknown_key(
    finished: Finished, copy: Path, tmp_path: Path
) -> None:
    other = Ed25519Signer(tmp_path / "theirs")

    def sign_again(place: Path, kind: str) -> None:
        payload = open_envelope(place.read_bytes(), finished.trusted, kind)
        place.write_bytes(other.sign(payload, kind))

    for place in copy.rglob("record.json"):
        sign_again(place, records.PAYLOAD_TYPE)
    for place in sorted(copy.rglob("manifest.json"), key=lambda one: -len(one.parts)):
        files = {
            path.relative_to(place.parent).as_posix(): finished.lab.artifacts.put(path.read_bytes())
            for path in place.parent.rglob("*")
            if path.is_file() and path != place
        }
        place.write_bytes(export.manifest(files, finished.lab.artifacts, other))
    problems = finished.problems(copy)
    unknown = f"signed by unknown key {other.key_id}"
    assert [f"{name}: {unknown}" in problems for name in ("manifest.json", f"{INSIDE}/run_1/record.json")] == [
        True,
        True,
    ]


def test_a_record_of_another_run_does_not_pass_for_this_one(finished: Finished) -> None:
    other = (finished.out / INSIDE / "run_0/record.json").read_bytes()
    problems = finished.with_changed(f"{INSIDE}/run_1/record.json", other)
    assert f"{INSIDE}/run_1/record.json line 1 is not what was signed" in problems


@given(data=st.binary(max_size=300))
def test_a_text_has_a_sum_for_each_line_and_a_change_shows_in_its_line(data: bytes) -> None:
    sums = export.line_sums(data)
    if b"\0" in data:
        assert sums == ""
    else:
        assert len(sums) == 8 * (data.count(b"\n") + 1)


def test_a_report_is_told_as_counts_or_as_places(finished: Finished) -> None:
    report = verification.Report()
    report.count("files", 3)
    assert list(verification.describe(report)) == ["checked 3 files"]
    for number in range(verification.MAX_PROBLEMS + 5):
        report.add(f"problem {number}")
        report.add(f"problem {number}")
    assert len(list(verification.describe(report))) == verification.MAX_PROBLEMS
