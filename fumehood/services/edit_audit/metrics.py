"""Results that are written down instead of measured."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from fumehood.domain.finding import Finding, FindingKind
from fumehood.services.edit_audit.source import Source, number_of, text_of

_GROUPS = frozenset({"means", "stderrs", "final_info_dict"})
"""The keys of `final_info.json` below which numbers stand."""
_ADVICE = "write what was measured in this run, and nothing else"


def check(source: Source) -> Iterator[Finding]:
    """Yield constants where `final_info.json` has numbers."""
    constants = _constants(source)
    for node in source.nodes:
        if isinstance(node, ast.Dict):
            pairs = [(text_of(key), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Assign):
            pairs = [(_last_key(target), node.value) for target in node.targets]
        else:
            continue
        for key, value in pairs:
            if (key in _GROUPS and _holds(value, constants)) or (
                key in source.rules.metrics and _number(value, constants)
            ):
                what = f"writes a constant as {key}"
                yield source.found(FindingKind.METRIC, value, what, _ADVICE, flagged=True)


def _constants(source: Source) -> dict[str, float]:
    """Return the names that are given a number once and nothing else ever."""
    stored = Counter(node.id for node in source.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    found = {}
    for node in source.nodes:
        if isinstance(node, ast.Assign) and (value := number_of(node.value)) is not None:
            found.update({one.id: value for one in node.targets if isinstance(one, ast.Name) and stored[one.id] == 1})
    return found


def _last_key(target: ast.expr) -> str:
    return text_of(target.slice) if isinstance(target, ast.Subscript) else ""


def _number(node: ast.expr, constants: dict[str, float]) -> float | None:
    if isinstance(node, ast.List | ast.Tuple) and node.elts:
        return next((value for one in node.elts if (value := _number(one, constants))), None)
    # Nothing and infinity are what a sum or a minimum begins from.
    return constants.get(node.id) if isinstance(node, ast.Name) else number_of(node) or None


def _holds(node: ast.expr, constants: dict[str, float]) -> bool:
    if isinstance(node, ast.Dict):
        return any(_number(value, constants) for value in node.values)
    return bool(_number(node, constants))
