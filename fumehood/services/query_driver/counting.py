"""How large a model is: its parameters, and the floating-point operations of an answer, as this process sees them.

It looks at what `serve.load` returns and counts while `serve` answers, after all answers were given, so that these are
what they would be without it. Operations are those of torch's `FlopCounterMode`: multiplications of matrices,
convolutions and attention, each multiplication and addition for itself. It sees none of a model without torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

ANSWERS = 64
"""Most answers that operations are counted of."""
DEEPEST = 5
"""Levels of lists, mappings and objects that are looked into for parameters."""


def parameters(model: object) -> int | None:
    """Return how many numbers a model has learnt: of its torch modules, else of all its arrays; None without either."""
    modules: dict[int, int] = {}
    arrays: dict[int, int] = {}
    for one in _parts(model, DEEPEST):
        if hasattr(one, "named_parameters"):
            modules |= {id(weight): int(weight.numel()) for _, weight in one.named_parameters()}
        elif getattr(getattr(one, "dtype", None), "is_floating_point", False):
            arrays[id(one)] = int(one.numel())
        elif getattr(getattr(one, "dtype", None), "kind", "") == "f":
            arrays[id(one)] = int(one.size)
    found = modules or arrays
    return sum(found.values()) if found else None


def flops(answer: Callable[[], object]) -> int | None:
    """Return the operations of one call; None where torch was never imported, or none of them is counted."""
    if "torch" not in sys.modules:
        return None
    with _counter() as counter:
        answer()
    return int(counter.get_total_flops()) or None


def load() -> None:
    """Import all that counting operations takes, where torch is there at all."""
    with suppress(ImportError), _counter():
        one = importlib.import_module("torch").zeros(1, 1)
        one @ one  # what is imported for the first operation only


def _counter() -> Any:
    # By its name, since only the lab has it.
    torch = importlib.import_module("torch.utils.flop_counter")
    # At its first operation it would load torch's compiler, to be left out by that: 1.7 s, and nothing is compiled.
    counts = getattr(torch._FlopCounterMode.__torch_dispatch__, "__wrapped__", None)
    if counts is not None:
        setattr(counts, "__dynamo_disable", counts)
    return torch.FlopCounterMode(display=False)


def told(serve: Any, model: object, kind: str, inputs: Any, seed: int) -> dict[str, Any]:
    """Return what is known of a model's size; nothing that goes wrong here costs the answers."""
    count = ANSWERS if inputs is None else min(ANSWERS, len(inputs))
    ask = (lambda: serve.sample(model, count, seed)) if inputs is None else lambda: serve.predict(model, inputs[:count])
    return size(model, ask, count, kind)


def size(model: object, ask: Callable[[], object], count: int, kind: str) -> dict[str, Any]:
    """Return what is known of a model and of `count` answers that it is asked for; what fails is known as its error."""
    found: dict[str, Any] = {"parameters": None, "flops": None, "answers": 0, "of": kind}
    try:
        found["parameters"] = parameters(model)
        whole = flops(ask)
        found |= {"flops": whole / count if whole else None, "answers": count}
    except Exception as error:  # noqa: BLE001 - the code of an experiment can fail in any way
        found["error"] = type(error).__name__
    return found


def _parts(of: Any, depth: int) -> Iterator[Any]:
    yield of
    if depth == 0 or hasattr(of, "named_parameters") or hasattr(of, "dtype"):
        return
    if isinstance(of, dict):
        inside = list(of.values())
    elif isinstance(of, (list, tuple, set)):
        inside = list(of)
    else:
        inside = list(getattr(of, "__dict__", {}).values())
    for one in inside:
        yield from _parts(one, depth - 1)
