"""What a drafted frozen pair is put to before a person is asked: each time by executions of their own, in the sandbox.

The data that the baseline was measured on are drawn again, under the same key and under others; the evaluator is given
the truth, one answer for all, shuffled answers, and answers that it must refuse. A draft whose data are not the same
each time, or whose evaluator judges what it must refuse, cannot be approved; what else does not hold a person is told,
what costs most first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Verdict
from fumehood.domain.experiment import Execution
from fumehood.errors import BadInputError
from fumehood.ports import Artifacts, Clock
from fumehood.services import final_info, trials
from fumehood.services.draft_arrays import Arrays, Baseline, Cell, array_of, cells, load, named, npy, sha_of, unpacked
from fumehood.services.wanting import wanted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

REFUSED = ("nan", "missing", "misshapen", "no_array")
GIVEN = ("truth", "constant", "shuffled")
NEAR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried."""

    name: str
    held: bool
    sentence: str
    blocks: bool = False
    """Whether a draft without it cannot be approved."""


def wanted_for(
    clock: Clock, direction: Direction, base: Baseline, arrays: Arrays, artifacts: Artifacts
) -> dict[str, Execution]:
    """Return the executions that the checks need, by what each is for."""
    found: dict[str, Execution] = {}
    drawn = base.drew
    context = drawn["train"].key_context

    def draw(name: str, part: str, key: str, *changed: tuple[str, str]) -> None:
        words = tuple(next((new for old, new in changed if one.startswith(old)), one) for one in drawn[part].command)
        found[name] = _again(clock, direction, base, drawn[part], command=words, key_context=key)

    for part in drawn:
        draw(f"again {part}", part, context)
    for part in ("inputs", "answers"):
        draw(f"other {part}", part, f"{context}:{direction.id}:other")
        draw(f"confirm {part}", part, f"{context}:{direction.id}:confirm", ("--arm=", "--arm=confirm"))
    last = base.seeds[-1]
    draw("alone answers", "answers", context, ("--seeds=", f"--seeds={last}"))
    for name in (*GIVEN, *REFUSED):
        answers = {**base.judged.inputs}
        for cell, told in _answers(name, arrays).items():
            path = f"in/outputs/predictions_{cell[0]}_{cell[1]}.npy"
            if told is None:
                del answers[path]
            else:
                answers[path] = artifacts.put(told)
        found[name] = _again(clock, direction, base, base.judged, inputs=answers)
    return found


def look(
    base: Baseline, arrays: Arrays, done: Mapping[str, Execution], artifacts: Artifacts, key: bytes
) -> list[Check]:
    """Return every check, those that block first, then what costs most; `key` is what the baseline's data came from."""
    scores = {name: _score(base, done[name], artifacts) for name in GIVEN}
    return [
        _is_the_same(base, done),
        _refuses(done),
        _shares_no_rows(arrays),
        _holds_no_answers(arrays),
        _holds_no_key(base, artifacts, key),
        _truth_is_best(base, scores),
        _arms_share_no_rows(base, arrays, done, artifacts),
        *(_is_worse(base, name, scores[name]) for name in ("constant", "shuffled")),
        _hangs_on_the_key(base, done),
        _draws_seeds_alone(base, arrays, done, artifacts),
    ]


def _is_the_same(base: Baseline, done: Mapping[str, Execution]) -> Check:
    other = [part for part, one in base.drew.items() if _bytes(done[f"again {part}"]) != _bytes(one)]
    sentence = "prepare.py draws the same bytes from the same key and seeds"
    if other:
        sentence += f"; `--part={other[0]}` came out otherwise"
    return Check(name="same_bytes", held=not other, sentence=sentence, blocks=True)


def _refuses(done: Mapping[str, Execution]) -> Check:
    words = {
        "nan": "answers that are not finite",
        "missing": "answers that are missing",
        "misshapen": "answers of another shape",
        "no_array": "a file that is no array",
    }
    faults = [f"{words[name]}: {why}" for name in REFUSED if (why := _why_no_refusal(done[name]))]
    sentence = "evaluate.py refuses answers that are missing, misshapen or not finite, with status 1 and a sentence"
    if faults:
        sentence += f"; not so {'; '.join(faults)}"
    return Check(name="refuses", held=not faults, sentence=sentence, blocks=True)


def _why_no_refusal(one: Execution) -> str:
    if one.succeeded or "metrics.json" in one.artifacts:
        return "it judged them"
    outcome = one.outcome
    if outcome is None or outcome.verdict is not Verdict.FAILED or outcome.exit_code != 1:
        return f"it ended {trials.verdict_of(one)}"
    if "Traceback (most recent call last)" in outcome.output_tail:
        return "it ended with a traceback"
    return "" if outcome.output_tail.strip() else "it said nothing"


def _shares_no_rows(arrays: Arrays) -> Check:
    shared = {cell: _shared(arrays.inputs[cell], arrays.learnt[cell]) for cell in arrays.inputs}
    return _none_shared("held_out_apart", "no held-out input is among those to learn from", shared, arrays)


def _none_shared(name: str, sentence: str, shared: Mapping[Cell, int], arrays: Arrays) -> Check:
    worst = max(shared, key=lambda cell: shared[cell])
    if shared[worst]:
        sentence += f"; {shared[worst]} of {len(arrays.inputs[worst])} of {worst[0]} seed {worst[1]} are"
    return Check(name=name, held=not shared[worst], sentence=sentence)


def _holds_no_answers(arrays: Arrays) -> Check:
    found = [cell for cell in arrays.inputs if _has_truth(arrays.inputs[cell], arrays.truth[cell])]
    sentence = "no column of the held-out inputs is the answers"
    if found:
        sentence += f"; one is, of {found[0][0]} seed {found[0][1]}"
    return Check(name="no_answers_in_inputs", held=not found, sentence=sentence)


def _has_truth(inputs: Array, truth: Array) -> bool:
    import numpy

    if truth.ndim != 1 or inputs.dtype.kind not in "iufb" or len(numpy.unique(truth)) < 2:
        return False
    columns = inputs.reshape(len(inputs), -1).astype(numpy.float64)
    return bool((numpy.abs(columns - truth.astype(numpy.float64)[:, None]) <= NEAR).all(axis=0).any())


def _holds_no_key(base: Baseline, artifacts: Artifacts, key: bytes) -> Check:
    signs = (key, key.hex().encode())
    found = []
    for part in ("train", "inputs"):
        for path, item in base.drew[part].artifacts.items():
            data = artifacts.get(item.sha256)
            if any(sign in one for one in (data, *unpacked(path, data)) for sign in signs):
                found.append(f"{part}/{path}")
    sentence = "what runs see does not hold the secret key"
    return Check(name="no_key", held=not found, sentence=f"{sentence}; {found[0]} does" if found else sentence)


def _truth_is_best(base: Baseline, scores: Mapping[str, float | str]) -> Check:
    truth = scores["truth"]
    rivals = {"the baseline": base.value, **{name: value for name, value in scores.items() if name != "truth"}}
    if isinstance(truth, str):
        sentence = f"answers that are the truth score best; they were not judged: {truth}"
        return Check(name="truth_is_best", held=False, sentence=sentence)
    better = [name for name, value in rivals.items() if not isinstance(value, str) and _is_better(base, value, truth)]
    sentence = f"answers that are the truth score best ({truth:.4g}, the baseline {base.value:.4g})"
    if better:
        sentence += f"; {better[0]} scores better"
    elif not _is_better(base, truth, base.value):
        sentence += "; the baseline scores as well, so that there is nothing to gain"
    return Check(name="truth_is_best", held=not better, sentence=sentence)


def _is_worse(base: Baseline, name: str, value: float | str) -> Check:
    what = "one answer for all scores" if name == "constant" else "the baseline's answers, shuffled, score"
    sentence = f"{what} worse than the baseline"
    if isinstance(value, str):
        return Check(name=f"{name}_is_worse", held=False, sentence=f"{sentence}; it was not judged: {value}")
    held = _is_better(base, base.value, value)
    sentence += (
        f" ({value:.4g} against {base.value:.4g})" if held else f"; {value:.4g} is no worse than {base.value:.4g}"
    )
    return Check(name=f"{name}_is_worse", held=held, sentence=sentence)


def _is_better(base: Baseline, one: float, other: float) -> bool:
    metric = base.template.metrics[base.template.primary or ""]
    return one > other if metric.direction == "higher" else one < other


def _score(base: Baseline, one: Execution, artifacts: Artifacts) -> float | str:
    """Return the primary metric that the evaluator gave, or why it gave none."""
    if not one.succeeded or "metrics.json" not in one.artifacts:
        return trials.tail_of(one).strip()[-300:] or trials.verdict_of(one)
    try:
        info = final_info.read(artifacts.get(one.artifacts["metrics.json"].sha256), "evaluator")
    except BadInputError as error:
        return str(error)
    series = final_info.overall(info, base.template.primary or "")
    return series.mean if series else f"there is no {base.template.primary} for each data set"


def _arms_share_no_rows(base: Baseline, arrays: Arrays, done: Mapping[str, Execution], artifacts: Artifacts) -> Check:
    name, sentence = "arms_apart", "no input that is held out for confirming was used for screening"
    try:
        theirs = {
            cell: array_of(artifacts, sha_of(done["confirm inputs"], f"{cell[0]}_{cell[1]}.npy"))
            for cell in cells(base)
        }
    except BadInputError as error:
        return Check(name=name, held=False, sentence=f"{sentence}; none could be drawn: {error}")
    shared = dict.fromkeys(theirs, 0)
    for cell, inputs in theirs.items():
        for dataset, seed in theirs:
            if dataset == cell[0]:
                seen = (arrays.inputs[dataset, seed], arrays.learnt[dataset, seed])
                shared[cell] = max(shared[cell], *(_shared(inputs, one) for one in seen))
    return _none_shared(name, sentence, shared, dataclasses.replace(arrays, inputs=theirs))


def _hangs_on_the_key(base: Baseline, done: Mapping[str, Execution]) -> Check:
    others = [done["other inputs"], done["other answers"]]
    held = all(one.succeeded for one in others)
    held &= {**_bytes(others[0]), **_bytes(others[1])} != {
        **_bytes(base.drew["inputs"]),
        **_bytes(base.drew["answers"]),
    }
    return Check(name="hangs_on_key", held=held, sentence="another key holds other data out")


def _draws_seeds_alone(base: Baseline, arrays: Arrays, done: Mapping[str, Execution], artifacts: Artifacts) -> Check:
    import numpy

    name, last = "seeds_alone", base.seeds[-1]
    sentence = "a seed's held-out data are the same, whatever other seeds are asked for"
    try:
        alone = {
            one: load(artifacts.get(sha_of(done["alone answers"], f"{one}.npz"))) for one in base.template.datasets
        }
        told = {one: named(held, f"y_{last}", "answers") for one, held in alone.items()}
    except BadInputError as error:
        return Check(name=name, held=False, sentence=f"{sentence}; {str(error).rstrip('.')}")
    other = [one for one, truth in told.items() if not numpy.array_equal(truth, arrays.truth[one, last])]
    sentence += f"; those of {other[0]} seed {last} are not" if other else ""
    return Check(name=name, held=not other, sentence=sentence)


def _answers(name: str, arrays: Arrays) -> dict[Cell, bytes | None]:
    """Return what the evaluator is given in the place of the baseline's answers; None is no file."""
    import numpy

    order = list(arrays.truth)
    first, last = order[0], order[-1]
    if name == "truth":
        return {cell: npy(truth) for cell, truth in arrays.truth.items()}
    if name == "constant":
        return {cell: npy(numpy.broadcast_to(_middle(truth), truth.shape)) for cell, truth in arrays.truth.items()}
    if name == "shuffled":
        return {
            cell: npy(one[numpy.random.default_rng(0).permutation(len(one))]) for cell, one in arrays.answered.items()
        }
    if name == "nan":
        spoilt = numpy.array(arrays.answered[first], dtype=numpy.float32)
        spoilt.flat[0] = numpy.nan
        return {first: npy(spoilt)}
    if name == "missing":
        return {last: None}
    return {last: npy(arrays.answered[last][:-1]) if name == "misshapen" else b"no array at all\n"}


def _middle(truth: Array) -> Array:
    """Return the one answer for all: the mean of numbers, the most frequent of whole numbers."""
    import numpy

    if truth.dtype.kind == "f":
        return numpy.asarray(truth.mean(axis=0))
    values, counts = numpy.unique(truth, axis=0, return_counts=True)
    return numpy.asarray(values[counts.argmax()])


def _shared(some: Array, others: Array) -> int:
    """Return how many of these rows are among the others."""
    import numpy

    try:
        rows = numpy.asarray(others, dtype=some.dtype)
    except (TypeError, ValueError, OverflowError):
        return 0  # of another kind, as words are beside numbers
    known = {row.tobytes() for row in rows}
    return sum(row.tobytes() in known for row in some)


def _again(clock: Clock, direction: Direction, base: Baseline, one: Execution, **changed: Any) -> Execution:
    asked = {
        "command": one.command,
        "inputs": one.inputs,
        "key_context": one.key_context,
        "collect": one.collect,
        **changed,
    }
    return wanted(clock, direction, base.profile, one.kind, **asked)


def _bytes(one: Execution) -> dict[str, str]:
    return {path: item.sha256 for path, item in one.artifacts.items()}
