"""Runs an edited experiment with all its seeds in one process, or with each in its own where they are not independent.

Runs inside a `run` execution, in the folder of the run's code, with its training data:
`python /in/driver/together.py --out_dir=run_1 --check=--num_train_steps=8 -- --num_train_steps=10000`.

First the program is run twice, as short as the template says: with two seeds, and with the second of them alone. What
that seed leaves in files of its own (`model_circle_2.pt`, by the seed before the suffix) must be the same both times
but for rounding; so no accelerator is used for that, whose rounding depends on how much it does at once. Then the
program takes this one's place, with all seeds. Else each seed is run by a process of its own, one after the other, and
what they leave is put together as one run would have left it. `together.json` says which.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import runpy
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROGRAM, TOLD, CHECK, APART = "experiment.py", Path("together.json"), Path("together_check"), Path("apart")
ALLOWED = 1e-5
"""How far the numbers of one file may be apart, as a share of their size: the root of the mean square of either."""
SEEDS = "FUMEHOOD_SEEDS"
SLOW = ("torch", "torch._dynamo")
"""What takes seconds to import; an optimiser of torch imports its compiler, too."""


class CheckError(Exception):
    """Nothing can be compared; the message says why."""


def main() -> int:
    """Do the run; exit as the program does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out_dir", required=True)
    parser.add_argument("--check", action="append", default=[])
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in os.environ[SEEDS].split(",")]  # noqa: TID251 - the platform's, as a run finds them
    told = checked([*asked.arguments, *asked.check], seeds[:2])
    TOLD.write_text(json.dumps(told) + "\n", encoding="utf-8")
    if not told["apart"]:
        os.execv(sys.executable, [sys.executable, PROGRAM, f"--out_dir={asked.out_dir}", *asked.arguments])  # noqa: S606
    print(f"Each seed is run by a process of its own, since {told['reason']}.", flush=True)  # noqa: T201
    return run_apart(Path(asked.out_dir), asked.arguments, seeds)


def checked(arguments: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Return whether seeds must be run apart, with how far the second of two came out otherwise, and why."""
    if any(b"torch" in path.read_bytes() for path in Path().glob("*.py")):
        with suppress(ImportError):  # which the short runs would tell of
            for name in SLOW:
                importlib.import_module(name)  # once for both, which are forked
    told: dict[str, Any] = {"apart": True, "seed": seeds[-1], "allowed": ALLOWED, "largest": None, "file": ""}
    try:
        both, alone = (_short(arguments, some) for some in (seeds, seeds[-1:]))
        found = dict(differences(both, alone, seeds[-1]))
        name = max(found, key=lambda file: found[file])
    except CheckError as error:
        return told | {"reason": str(error)}
    finally:
        shutil.rmtree(CHECK, ignore_errors=True)
    largest = found[name]
    told |= {"apart": not largest <= ALLOWED, "largest": largest if math.isfinite(largest) else None, "file": name}
    return told | {"reason": f"{name} came out otherwise beside another seed than alone" if told["apart"] else ""}


def _short(arguments: Sequence[str], seeds: Sequence[int]) -> Path:
    """Run the program for a moment with some seeds, unheard, and return what it left."""
    out, names = CHECK / str(len(seeds)), ",".join(map(str, seeds))
    out.parent.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            os.environ |= {SEEDS: names, "CUDA_VISIBLE_DEVICES": ""}  # noqa: TID251
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            sys.argv, sys.path[0] = [PROGRAM, f"--out_dir={out}", *arguments], str(Path.cwd())
            code = _status_of_program()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise CheckError(f"a short run of seed {names} ended with an error")
    return out


def _status_of_program() -> int:
    try:
        runpy.run_path(PROGRAM, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def differences(both: Path, alone: Path, seed: int) -> Iterator[tuple[str, float]]:
    """Yield how far a seed's own files are apart in two folders, as a share of the numbers in them.

    Raises:
        CheckError: There is no such file, or one cannot be read.
    """
    read = 0
    for path in sorted(alone.rglob("*")):
        if path.is_file() and path.stem.endswith(f"_{seed}") and path.suffix in READERS:
            read += 1
            other = both / path.relative_to(alone)
            if not other.is_file():
                raise CheckError(f"{path.name} is there alone and not beside another seed")
            yield path.name, _apart(_numbers(path), _numbers(other))
    if not read:
        raise CheckError(f"no file is of seed {seed} alone")


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.shape != other.shape:
        return math.inf
    size, off = (float((values.astype(float) ** 2).mean()) if values.size else 0.0 for values in (one, one - other))
    if off == 0:
        return 0.0
    return math.sqrt(off / size) if size and math.isfinite(off) else math.inf


def _numbers(path: Path) -> NDArray[Any]:
    """Return all numbers of a file in a row; what is none, such as a date, says nothing."""
    numpy = importlib.import_module("numpy")
    try:
        found = list(_arrays(READERS[path.suffix](path)))
    except Exception as error:  # noqa: BLE001 - the code of an experiment may write anything
        raise CheckError(f"{path.name} cannot be read ({type(error).__name__})") from None
    return numpy.concatenate([numpy.zeros(0), *found])  # type: ignore[no-any-return]


def _arrays(held: Any) -> Iterator[NDArray[Any]]:
    """Yield the numbers of arrays and tensors, however they are held."""
    if isinstance(held, dict):
        for name in sorted(held, key=str):
            yield from _arrays(held[name])
    elif isinstance(held, (list, tuple)):
        for one in held:
            yield from _arrays(one)
    elif hasattr(held, "detach"):
        yield from _arrays(held.detach().cpu().double().numpy())
    elif getattr(getattr(held, "dtype", None), "kind", None) in {"f", "i", "u", "b"}:
        yield held.astype(float).ravel()


def _npz(path: Path) -> dict[str, Any]:
    with importlib.import_module("numpy").load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _npy(path: Path) -> Any:
    return importlib.import_module("numpy").load(path, allow_pickle=False)


def _pt(path: Path) -> Any:
    return importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)


READERS = {".npz": _npz, ".npy": _npy, ".pt": _pt}


def run_apart(out: Path, arguments: Sequence[str], seeds: Sequence[int]) -> int:
    """Run each seed by itself and put together what they left; return the first status that is an error."""
    shutil.rmtree(APART, ignore_errors=True)
    folders = [APART / str(seed) for seed in seeds]
    for folder, seed in zip(folders, seeds, strict=True):
        folder.parent.mkdir(exist_ok=True)
        environment = {**os.environ, SEEDS: str(seed)}  # noqa: TID251
        done = subprocess.run([sys.executable, PROGRAM, f"--out_dir={folder}", *arguments], env=environment)
        if done.returncode:
            return done.returncode if done.returncode > 0 else 128 - done.returncode
    out.mkdir(parents=True, exist_ok=True)
    join(out, folders)
    shutil.rmtree(APART)
    return 0


def join(out: Path, folders: Sequence[Path]) -> None:
    """Put together what single seeds left: a file of one seed as it is, of a file that all have what each adds."""
    paths = {path.relative_to(folder): None for folder in folders for path in sorted(folder.rglob("*"))}
    for path in paths:
        held = [folder / path for folder in folders if (folder / path).is_file()]
        if not held:
            continue
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        if path.name in JOINED:
            told = JOINED[path.name]([json.loads(one.read_text(encoding="utf-8")) for one in held])
            (out / path).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        elif path.suffix == ".npz" and len(held) > 1:
            arrays: dict[str, Any] = {}
            for one in held:
                arrays = _npz(one) | arrays
            importlib.import_module("numpy").savez(out / path, **arrays)
        else:
            shutil.move(held[0], out / path)


def final_info(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of several seeds out of those of each."""
    info: dict[str, Any] = {}
    for dataset, first in told[0].items():
        values = {}
        for metric, mean in first["means"].items():
            own = [one.get(dataset, {}).get("means", {}).get(metric) for one in told]
            if isinstance(mean, (int, float)) and all(isinstance(one, (int, float)) for one in own):
                values[metric] = [float(one) for one in own]
        info[dataset] = {
            "means": {metric: statistics.fmean(own) for metric, own in values.items()},
            "stderrs": {metric: statistics.stdev(own) / math.sqrt(len(own)) for metric, own in values.items()},
            "final_info_dict": values,
        }
    return info


def parameters(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of the seed that has most of each, as of one model."""
    counts = dict(told[0])
    for name, first in told[0].items():
        own = [one.get(name, first) for one in told]
        if all(isinstance(one, (int, float)) for one in own):
            counts[name] = max(own)
        elif isinstance(first, list):
            counts[name] = [one for one in first if all(one in held for held in own)]
    return counts


JOINED = {"final_info.json": final_info, "parameters.json": parameters}

if __name__ == "__main__":
    sys.exit(main())
