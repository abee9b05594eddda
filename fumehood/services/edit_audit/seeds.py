"""Seeds that are the edit's own, or that are taken from the platform and then chosen among."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from fumehood.domain.finding import Finding, FindingKind
from fumehood.services.edit_audit.source import Source, number_of

VARIABLE = "FUMEHOOD_SEEDS"
_FIGURES = "plot.py"
"""Measures nothing, so that it may scatter its points as it likes."""
_SEEDERS = frozenset(
    {
        *("torch.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.random.manual_seed"),
        *("random.seed", "random.Random", "numpy.random.seed", "numpy.random.default_rng", "numpy.random.RandomState"),
        *("numpy.random.SeedSequence", "numpy.random.Generator", "numpy.random.PCG64"),
    }
)
_CHOOSERS = frozenset({"min", "max", "random.choice", "random.sample", "itertools.islice", "filter"})
_ADVICE = "take every random number from the seeds of FUMEHOOD_SEEDS, each of them once"


def check(source: Source) -> Iterator[Finding]:
    """Yield seeds that are written down, and places where some of the given ones are left out."""
    if source.path == _FIGURES:
        return
    for call, _, is_fixed in _seedings(source):
        if is_fixed:
            yield source.found(FindingKind.SEEDS, call, "sets a seed of its own", _ADVICE, flagged=True)
    yield from _choices(source)


def compare(before: Sequence[Source], after: Sequence[Source]) -> Iterator[Finding]:
    """Yield the loss of what the code did with the platform's seeds."""
    readers = [source for source in before if reads(source)]
    if readers and not any(map(reads, after)):
        place = next((one for one in after if one.path == readers[0].path), readers[0])
        what = f"no longer reads {VARIABLE}"
        yield place.found(FindingKind.SEEDS, None, what, _ADVICE, flagged=True)
    elif readers and (seeders := [one for one in before if _sets_given(one)]) and not any(map(_sets_given, after)):
        place = next((one for one in after if one.path == seeders[0].path), seeders[0])
        yield place.found(FindingKind.SEEDS, None, "no longer uses the seeds", _ADVICE, flagged=True)


def reads(source: Source) -> bool:
    """Tell whether a file takes the platform's seeds."""
    return any(map(_is_variable, source.nodes))


def _sets_given(source: Source) -> bool:
    return any(not is_fixed for _, _, is_fixed in _seedings(source))


def _seedings(source: Source) -> Iterator[tuple[ast.Call, str, bool]]:
    """Yield calls that seed something, with their name and whether what they take is written down, or nothing."""
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        name = source.name_of(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in _SEEDERS or (not name and method == "manual_seed"):
            given = [*node.args, *(one.value for one in node.keywords)]
            yield node, name or method, all(number_of(one) is not None for one in given)


def _choices(source: Source) -> Iterator[Finding]:
    named = _named_after(source)

    def are_seeds(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in named

    mentioned = _mentions(source)
    for node in source.nodes:
        is_part = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
        if is_part and (are_seeds(node.value) or id(node.value) in mentioned):  # type: ignore[attr-defined]
            yield _choice(source, node, "takes a part of the seeds")
        elif isinstance(node, ast.comprehension) and node.ifs and (are_seeds(node.iter) or id(node.iter) in mentioned):
            yield _choice(source, node.iter, "leaves out some of the seeds")
        elif isinstance(node, ast.For) and are_seeds(node.iter) and _leaves(node):
            yield _choice(source, node, "leaves out some of the seeds")
        elif isinstance(node, ast.Call) and any(map(are_seeds, node.args)) and source.name_of(node.func) in _CHOOSERS:
            yield _choice(source, node, "chooses among the seeds")


def _choice(source: Source, node: ast.AST, what: str) -> Finding:
    return source.found(FindingKind.SEEDS, node, what, _ADVICE, flagged=True)


def _leaves(loop: ast.For) -> bool:
    left: list[ast.AST] = list(loop.body)
    while left:
        one = left.pop()
        if isinstance(one, ast.Break | ast.Continue):
            return True
        if not isinstance(one, ast.For | ast.While | ast.FunctionDef | ast.expr):  # an inner loop is left for itself
            left += ast.iter_child_nodes(one)
    return False


def _named_after(source: Source) -> frozenset[str]:
    """Return the names that stand for the list of seeds."""
    mentioned = _mentions(source)
    names: set[str] = set()
    for node in source.nodes:
        if isinstance(node, ast.Assign) and id(node.value) in mentioned and not isinstance(node.value, ast.Dict):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names)


def _mentions(source: Source) -> frozenset[int]:
    """Return the expressions that have the variable in them; from the leaves up, so that each node is seen once."""
    found: set[int] = set()
    for node in reversed(source.nodes):
        if _is_variable(node) or any(id(child) in found for child in ast.iter_child_nodes(node)):
            found.add(id(node))
    return frozenset(found)


def _is_variable(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == VARIABLE
