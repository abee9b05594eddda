"""The data of a drafted template as its one form has them, read out of what the baseline's executions left.

Programs that nobody knows wrote these files: nothing is unpickled, and no archive is unpacked beyond a size.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fumehood.domain.experiment import Execution
from fumehood.domain.template import Profile, Template
from fumehood.errors import BadInputError
from fumehood.ports import Artifacts
from fumehood.services import final_info, trials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_BYTES = 512 * 1024 * 1024
"""Of the arrays of one archive, unpacked."""
Cell = tuple[str, int]
"""A data set and a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was measured of a draft: its executions, and the numbers."""

    template: Template
    profile: Profile
    seeds: tuple[int, ...]
    drew: Mapping[str, Execution]
    """By part."""
    judged: Execution
    value: float
    """The primary metric, its mean over data sets and seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """The data of a draft, as its own form has them."""

    truth: Mapping[Cell, Array]
    inputs: Mapping[Cell, Array]
    learnt: Mapping[Cell, Array]
    """The inputs to learn from."""
    answered: Mapping[Cell, Array]


def of_baseline(
    template: Template, profile: Profile, seeds: tuple[int, ...], jobs: tuple[Execution, ...], numbers: bytes
) -> Baseline:
    """Return what is put to the test; `BadInputError` where the baseline does not have it."""
    drew = {part: one for one in jobs for part in ("train", "inputs", "answers") if f"--part={part}" in one.command}
    judged = [one for one in jobs if one.command[1:2] == ("/in/template/evaluate.py",)]
    primary = template.primary or ""
    series = final_info.overall(final_info.read(numbers, "record"), primary)
    if len(drew) < 3 or not judged or series is None or not seeds:
        raise BadInputError(f"The baseline has not {primary} of each data set and seed from evaluate.py.")
    return Baseline(template=template, profile=profile, seeds=seeds, drew=drew, judged=judged[-1], value=series.mean)


def arrays_of(base: Baseline, artifacts: Artifacts) -> Arrays:
    """Return the data that the baseline was measured on; `BadInputError` where they are not in a draft's form."""
    train, answers = (_archives(base, artifacts, part) for part in ("train", "answers"))
    inputs = {
        cell: array_of(artifacts, sha_of(base.drew["inputs"], f"{cell[0]}_{cell[1]}.npy")) for cell in cells(base)
    }
    answered = {
        cell: array_of(artifacts, base.judged.inputs.get(f"in/outputs/predictions_{cell[0]}_{cell[1]}.npy", ""))
        for cell in cells(base)
    }
    truth = {cell: named(answers[cell[0]], f"y_{cell[1]}", "answers") for cell in cells(base)}
    learnt = {cell: named(train[cell[0]], f"x_{cell[1]}", "train") for cell in cells(base)}
    for cell in cells(base):
        if not len(truth[cell]) or len(truth[cell]) != len(inputs[cell]):
            raise BadInputError(
                f"{cell[0]} seed {cell[1]} has {len(inputs[cell])} inputs for {len(truth[cell])} answers."
            )
        if truth[cell].shape != answered[cell].shape:
            raise BadInputError(
                f"predict() answers {answered[cell].shape} for {cell[0]} seed {cell[1]}, whose y_{cell[1]} is"
                f" {truth[cell].shape}: answers have the shape of the truth."
            )
        for name, array in ((f"y_{cell[1]}", truth[cell]), ("what predict() answers", answered[cell])):
            if array.dtype.kind not in "iufb":
                raise BadInputError(f"{name} of {cell[0]} seed {cell[1]} is {array.dtype}, and must be numbers.")
    return Arrays(truth=truth, inputs=inputs, learnt=learnt, answered=answered)


def cells(base: Baseline) -> list[Cell]:
    """Return every data set and seed."""
    return [(dataset, seed) for dataset in base.template.datasets for seed in base.seeds]


def sha_of(one: Execution, path: str) -> str:
    """Return the SHA-256 of what an execution wrote; `BadInputError` says why there is none."""
    if path not in one.artifacts:
        why = "" if one.succeeded else f" (it ended {trials.verdict_of(one)}: {trials.tail_of(one).strip()[-300:]})"
        raise BadInputError(f"prepare.py wrote no {path}{why}.")
    return one.artifacts[path].sha256


def _archives(base: Baseline, artifacts: Artifacts, part: str) -> dict[str, dict[str, Array]]:
    return {name: load(artifacts.get(sha_of(base.drew[part], f"{name}.npz"))) for name in base.template.datasets}


def named(arrays: Mapping[str, Array], name: str, part: str) -> Array:
    """Return one array of an archive; `BadInputError` where it is not there."""
    if name not in arrays:
        raise BadInputError(
            f"prepare.py --part={part} wrote no {name}; it wrote {', '.join(sorted(arrays)) or 'none'}."
        )
    return _with_rows(arrays[name], name)


def _with_rows(array: Array, name: str) -> Array:
    if not array.ndim:
        raise BadInputError(f"{name} is a single value, and must have one for each case.")
    return array


def load(data: bytes) -> dict[str, Array]:
    """Return the arrays of an archive; `BadInputError` where it is none of plain arrays, or too large."""
    import numpy

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(archive)
        with numpy.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a hostile archive can fail in zip, in zlib, in the tokeniser, in a cast
        raise BadInputError(f"What prepare.py wrote is no archive of plain arrays ({str(error)[:200]}).") from error


def _check_size(archive: zipfile.ZipFile) -> None:
    if sum(item.file_size for item in archive.infolist()) > MOST_BYTES:
        raise BadInputError(f"An archive of prepare.py holds more than {MOST_BYTES // 2**20} MiB.")


def array_of(artifacts: Artifacts, sha: str) -> Array:
    """Return the array of a `.npy` file; `BadInputError` where it is none."""
    import numpy

    if not sha:
        raise BadInputError("serve.py left no answers for each data set and seed.")
    data = artifacts.get(sha)
    try:
        array = numpy.asarray(numpy.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
    except Exception as error:  # a hostile header can fail in the tokeniser, in the parser, in a cast
        raise BadInputError(f"A file that must be a plain .npy array is none ({str(error)[:200]}).") from error
    return _with_rows(array, "An array of inputs or answers")


def npy(array: Array) -> bytes:
    """Return an array as the `.npy` file of an answer, in float32."""
    import numpy

    buffer = io.BytesIO()
    numpy.lib.format.write_array(buffer, numpy.array(array, dtype=numpy.float32), allow_pickle=False)
    return buffer.getvalue()


def unpacked(path: str, data: bytes) -> list[bytes]:
    """Return the bytes of an archive's arrays, none of another file; `BadInputError` where it cannot be read."""
    if not path.endswith(".npz"):
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(archive)
            return [archive.read(item) for item in archive.infolist()]
    except Exception as error:  # as above
        raise BadInputError(f"prepare.py wrote {path}, which is no archive ({str(error)[:200]}).") from error
