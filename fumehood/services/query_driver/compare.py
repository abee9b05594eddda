"""Compares a curve with what the checkpoints of its run answer, and with stretches of it that were done once more.

Runs inside a `compare` execution, which has no code of the experiment:
`python /in/driver/compare.py --plan=/in/driver/plan.json --curves=/in/curves --recalled=/in/recalled
--stretches=/in/stretches --out=check.json`. A curve is an archive of `steps` (E,) and `predictions` (E, n), classes, or
(E, n, ...), values. Two answers are apart by the share of inputs that they differ on, or by the root of their mean
square. They may be apart by `tolerance` times what the recorded answers move there: from one evaluation to those beside
it for a checkpoint, and since its beginning for a stretch. By `LEAST` they may be apart in any case, or by one input:
where two classes are as good as tied, another size of a batch can turn them round.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


LEAST = {"classes": 1e-3, "values": 1e-5}
"""A share of the inputs, or of the root of the mean square of the recorded values."""


class UnusableError(Exception):
    """A file is no curve; the message says why."""


def main() -> int:
    """Write `{"checkpoints": [...], "stretches": [...], "problems": [...]}`; without problems both hold."""
    parser = argparse.ArgumentParser()
    for name in ("--plan", "--curves", "--recalled", "--stretches", "--out"):
        parser.add_argument(name, type=Path, required=True)
    asked = parser.parse_args()
    plan = json.loads(asked.plan.read_text(encoding="utf-8"))
    told: dict[str, Any] = {"checkpoints": [], "stretches": [], "problems": []}
    for part, found in (("checkpoints", _checkpoints), ("stretches", _stretches)):
        try:
            told[part] = list(found(asked, plan))
        except UnusableError as error:
            told["problems"].append(str(error))
        told["problems"] += [_sentence(part, one) for one in told[part] if not one["holds"]]
    asked.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


def read(path: Path, plan: dict[str, Any]) -> tuple[list[int], Array]:
    """Return a curve's steps (E,) and predictions (E, n, ...); `UnusableError` for what is none."""
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            steps, predictions = archive["steps"], archive["predictions"]
    except Exception as error:  # noqa: BLE001 - a hostile header can fail in the tokeniser, in the parser, in a cast
        raise UnusableError(
            f"{path.name} is not an archive of steps and predictions ({type(error).__name__})."
        ) from None
    kinds = "iu" if plan["answers"] == "classes" else "f"
    if steps.ndim != 1 or steps.dtype.kind not in "iu" or predictions.dtype.kind not in kinds:
        raise UnusableError(f"{path.name} has steps {steps.dtype} {steps.shape} and predictions {predictions.dtype}.")
    if not 0 < len(steps) == len(predictions) or len(steps) > plan["evaluations"] or predictions.ndim < 2:
        raise UnusableError(f"{path.name} has {len(steps)} steps and predictions {predictions.shape}.")
    if steps[0] < 1 or (numpy.diff(steps.astype(numpy.int64)) < 1).any():
        raise UnusableError(f"{path.name} has steps that do not grow from 1 on.")
    return [int(step) for step in steps], predictions


def apart(one: Array, other: Array, answers: str) -> float:
    """Return how far two answers to the same inputs are apart; those of another shape, or not finite, infinitely."""
    if one.shape != other.shape:
        return float("inf")
    if answers == "classes":
        return float((one != other).mean())
    square = float(((one.astype(numpy.float64) - other.astype(numpy.float64)) ** 2).mean())
    return square**0.5 if numpy.isfinite(square) else float("inf")


def _checkpoints(asked: argparse.Namespace, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kept in plan["checkpoints"]:
        dataset, seed, step = kept["dataset"], kept["seed"], kept["step"]
        steps, recorded = read(asked.curves / f"curve_{dataset}_{seed}.npz", plan)
        if step not in steps:
            raise UnusableError(f"A checkpoint of {dataset} seed {seed} is of step {step}, which its curve has not.")
        at = steps.index(step)
        recalled = numpy.load(asked.recalled / f"recalled_{dataset}_{seed}_{step}.npy", allow_pickle=False)
        beside = [recorded[other] for other in (at - 1, at + 1) if 0 <= other < len(steps)]
        moved = [apart(recorded[at], one, plan["answers"]) for one in beside]
        found = apart(recorded[at], recalled, plan["answers"])
        allowed = _allowed(recorded[at], plan, sum(moved) / len(moved) if moved else 0.0)
        yield _entry(kept, found, sum(moved) / len(moved) if moved else 0.0, allowed)


def _stretches(asked: argparse.Namespace, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    counted = asked.stretches / "updates.json"
    updates = json.loads(counted.read_text(encoding="utf-8")) if counted.is_file() else {}
    for stretch in plan["stretches"]:
        dataset, seed, start, stop = (stretch[name] for name in ("dataset", "seed", "start", "stop"))
        steps, recorded = read(asked.curves / f"curve_{dataset}_{seed}.npz", plan)
        again_steps, again = read(asked.stretches / f"{dataset}_{seed}_{start}_{stop}.npz", plan)
        inside = [at for at, step in enumerate(steps) if start < step <= stop]
        if not inside or again_steps != [steps[at] for at in inside]:
            raise UnusableError(
                f"{dataset} seed {seed} was evaluated {len(inside)} times after step {start} and until {stop}, "
                f"and {len(again_steps)} times when it was done again, or at other steps."
            )
        # From the beginning there is nothing to have moved from but the first answers.
        reference = recorded[steps.index(start)] if start in steps else recorded[inside[0]]
        places = inside if start in steps or len(inside) > 1 else [*inside, *[min(inside[0] + 1, len(steps) - 1)]]
        moved = max(apart(recorded[at], reference, plan["answers"]) for at in places)
        found = max(apart(recorded[at], one, plan["answers"]) for at, one in zip(inside, again, strict=True))
        # Training may go on after the last evaluation, up to the end of the stretch.
        made, steps_done = updates.get(f"{dataset}_{seed}_{start}_{stop}", 0), (steps[inside[-1]] - start, stop - start)
        is_counted = not made or steps_done[0] <= made <= steps_done[1]
        allowed = _allowed(recorded[inside[-1]], plan, moved)
        entry = _entry(stretch, found, moved, allowed) | {"evaluations": len(inside), "updates": made}
        yield entry | {"holds": entry["holds"] and is_counted}


def _allowed(recorded: Array, plan: dict[str, Any], moved: float) -> float:
    """Return how far from these recorded answers others may be."""
    if plan["answers"] == "classes":
        least = max(LEAST["classes"], 1 / recorded.size)
    else:
        least = LEAST["values"] * float(numpy.sqrt((recorded.astype(numpy.float64) ** 2).mean()))
    return max(float(plan["tolerance"] * moved), least if numpy.isfinite(least) else 0.0)


def _entry(of: dict[str, Any], found: float, moved: float, allowed: float) -> dict[str, Any]:
    told = {name: of[name] for name in ("dataset", "seed", "step", "start", "stop") if name in of}
    largest = min(found, 1e300)  # JSON knows no infinity
    return told | {
        "apart": largest,
        "moved": min(moved, 1e300),
        "allowed": min(allowed, 1e300),
        "holds": found <= allowed,
    }


def _sentence(part: str, one: dict[str, Any]) -> str:
    of = f"{one['dataset']} seed {one['seed']}"
    what = (
        f"the checkpoint of step {one['step']} answers"
        if part == "checkpoints"
        else f"the steps from {one['start']} to {one['stop']}, done again, answer"
    )
    if one["apart"] <= one["allowed"]:
        return f"{of}: {one['updates']} updates were counted from step {one['start']} to {one['stop']}, done again."
    apart_by = f"{one['apart']:.3g} apart where {one['allowed']:.3g} are allowed"
    return f"{of}: {what} otherwise than was written down, {apart_by}."


if __name__ == "__main__":
    sys.exit(main())
