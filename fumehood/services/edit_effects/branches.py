"""Branches that an edit brings and no run goes into: the condition is known before it starts."""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from fumehood.services.edit_effects import options
from fumehood.services.edit_effects.definitions import Told
from fumehood.services.edit_effects.module import Module

Branch = ast.If | ast.While | ast.IfExp
_ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_COMPARES: Mapping[type[ast.cmpop], Callable[[Any, Any], object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


class Unknown:
    """The value of what is known only while the code runs."""


UNKNOWN: Final = Unknown()


def not_taken(
    before: Sequence[Module], after: Sequence[Module], changed: frozenset[str], arguments: Sequence[str]
) -> Iterator[Told]:
    """Yield the branches of the changed files that were not there before and that a run with `arguments` passes by."""
    known = {_key(node) for module in before for node in module.nodes if isinstance(node, Branch)}
    given = options.of_run(after, arguments)
    for module in after:
        values = _Values(module, given)
        for node in module.nodes if module.path in changed else ():
            if not isinstance(node, Branch) or _key(node) in known:
                continue
            value = values.of(node.test)
            if not isinstance(value, Unknown) and not value:
                why = ast.unparse(node.test)[:80]
                yield module.path, node.lineno, f"the branch under `{why}` is never gone into with the run's arguments"


def after_end(before: Sequence[Module], after: Sequence[Module], changed: frozenset[str]) -> Iterator[Told]:
    """Yield statements of the changed files that stand behind one that leaves their block."""
    known = {ast.dump(node) for module in before for node in _behind(module)}
    for module in after:
        for node in _behind(module) if module.path in changed else ():
            if ast.dump(node) not in known:
                yield module.path, node.lineno, f"what stands behind line {node.lineno - 1} is never reached"


def _behind(module: Module) -> Iterator[ast.stmt]:
    for node in module.nodes:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            for one, following in itertools.pairwise(block) if isinstance(block, list) else ():
                if isinstance(one, _ENDS):
                    yield following
                    break


def _key(node: Branch) -> str:
    # Without the other side: a branch that comes to stand before another leaves that as it was.
    body = node.body if isinstance(node.body, list) else [node.body]
    return "\n".join(map(ast.dump, (node.test, *body)))


class _Values:
    """What expressions of one file are worth before anything runs."""

    def __init__(self, module: Module, given: Mapping[str, options.Value]) -> None:
        self._given = given
        self._constants = {
            target.id: node.value.value
            for node in module.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and module.bound[target.id] == 1
        }

    def of(self, node: ast.expr) -> object:
        """Return a value, or `UNKNOWN`."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._constants.get(node.id, UNKNOWN)
        if isinstance(node, ast.Attribute):
            return self._given.get(node.attr, UNKNOWN) if _is_plain_owner(node.value) else UNKNOWN
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            parts = [self.of(one) for one in node.elts]
            return UNKNOWN if any(isinstance(one, Unknown) for one in parts) else tuple(parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            value = self.of(node.operand)
            return UNKNOWN if isinstance(value, Unknown) else not value
        if isinstance(node, ast.BoolOp):
            return self._joined(node)
        return self._compared(node) if isinstance(node, ast.Compare) else UNKNOWN

    def _joined(self, node: ast.BoolOp) -> object:
        """One side that decides is enough."""
        values = [self.of(one) for one in node.values]
        decides = isinstance(node.op, ast.Or)
        if any(not isinstance(one, Unknown) and bool(one) is decides for one in values):
            return decides
        return UNKNOWN if any(isinstance(one, Unknown) for one in values) else not decides

    def _compared(self, node: ast.Compare) -> object:
        if len(node.ops) != 1:
            return UNKNOWN
        ours, theirs = self.of(node.left), self.of(node.comparators[0])
        if isinstance(ours, Unknown) or isinstance(theirs, Unknown):
            return UNKNOWN
        try:
            return _COMPARES[type(node.ops[0])](ours, theirs)
        except TypeError:
            return UNKNOWN


def _is_plain_owner(node: ast.expr) -> bool:
    """Whether it reads like a configuration: `config.x`, `args.x`, `self.config.x`."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in {"config", "cfg", "conf", "args", "arguments", "opt", "options", "params", "settings", "hparams"}
