"""What each held-out example gave, where a template's held-out data are the same for every seed.

Fresh seeds do not average out which examples happen to be held out. So the evaluator of such a template writes
`examples.npz`: `<dataset>_<seed>`, a float for each example, or for each document where examples of one document
resemble each other, in one order for all seeds, whose mean is the primary metric of that seed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fumehood.errors import BadInputError
from fumehood.services import estimates
from fumehood.services.estimates import HeldOut, Transform

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Values = NDArray[numpy.float64]

FILE = "examples.npz"
MAX_BYTES = 256 * 1024 * 1024
"""Of the arrays of one run together."""
NEAR = 1e-6
"""How far a mean over examples may be from the metric, as a share of it: sums in another order differ."""

Cells = Mapping[str, Sequence[float | None]]


def read(data: bytes, metric: Cells, seeds: Sequence[int]) -> dict[str, Values]:
    """Return the examples of each data set, (seeds, N).

    Args:
        data: The evaluator's `examples.npz`.
        metric: What it gave as the metric, by data set, one a seed.
        seeds: The run's.

    Raises:
        BadInputError: They are not the same examples for each seed, or their mean is not the metric.
    """
    import numpy

    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise BadInputError(f"{FILE} holds more than {MAX_BYTES // 2**20} MiB")
        with numpy.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for dataset in metric:
                found[dataset] = numpy.stack([arrays[f"{dataset}_{seed}"].astype(numpy.float64) for seed in seeds])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{FILE} has not the same examples for each data set and seed ({error})") from error
    for dataset, values in found.items():
        if values.ndim != 2 or values.shape[1] < 2 or not numpy.isfinite(values).all():
            raise BadInputError(f"{FILE} has no two finite examples of {dataset} for each seed")
        if len(metric[dataset]) != len(seeds):
            raise BadInputError(f"the evaluator gave {len(metric[dataset])} values of {dataset} for {len(seeds)} seeds")
        for seed, own, said in zip(seeds, values.mean(axis=1), metric[dataset], strict=True):
            if said is None or abs(own - said) > NEAR * max(abs(said), abs(own)):
                raise BadInputError(f"{FILE}: the examples of {dataset} seed {seed} have the mean {own:g}, not {said}")
    return found


def joined(parts: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """Return the examples of several runs of one arm as those of one, their seeds one after the other.

    Raises:
        BadInputError: They have not the same number of examples.
    """
    import numpy

    found = {}
    for dataset in dict.fromkeys(name for part in parts for name in part):
        some = [part[dataset] for part in parts if dataset in part]
        if len({one.shape[1] for one in some}) > 1:
            raise BadInputError(f"the runs of one arm have different numbers of examples of {dataset}")
        found[dataset] = numpy.concatenate(some)
    return found


def errors(
    base: Mapping[str, Values], looks: Sequence[Mapping[str, Values]], transform: Transform
) -> dict[str, HeldOut]:
    """Return the held-out error of a difference, by data set.

    Args:
        base: The baseline's examples, (seeds, N).
        looks: The run's, one a look; their seeds count together.
        transform: What is done to the metric.

    Raises:
        BadInputError: The two were not measured on the same number of examples, or have no logarithm.
    """
    import numpy

    found = {}
    for dataset, theirs in base.items():
        ours = [look[dataset] for look in looks if dataset in look]
        if not ours:
            continue
        if {one.shape[1] for one in ours} != {theirs.shape[1]}:
            raise BadInputError(f"run and baseline have another number of examples of {dataset}")
        means = [numpy.concatenate(ours).mean(axis=0), theirs.mean(axis=0)]
        if transform == "log" and min(float(one.mean()) for one in means) <= 0:
            continue  # the decision itself finds no logarithm
        found[dataset] = estimates.held_out(means[0].tolist(), means[1].tolist(), transform)
    return found
