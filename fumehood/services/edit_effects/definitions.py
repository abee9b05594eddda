"""Functions, classes, constants, attributes and parameters that an edit brings and nothing uses."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

from fumehood.services.edit_effects.module import Definition, Function, Module, looks_up_by_text, uses

ASKED_BY_PLATFORM = frozenset({"load", "sample", "predict"})
"""Of `serve.py`, which the platform imports itself."""
_SERVED = "serve.py"
Told = tuple[str, int, str]
"""Path, line, and what is found there."""


def unused(before: Sequence[Module], after: Sequence[Module], changed: frozenset[str]) -> Iterator[Told]:
    """Yield what the changed files define, did not define before, and no file uses."""
    known = {(type(one.node), one.node.name) for module in before for one in module.definitions}
    held = {name for module in before for name in (*_constants(module), *_attributes(module))}
    by_text = looks_up_by_text(after)
    used: Counter[str] = Counter()
    for module in after:
        used += uses(module.nodes, by_text=by_text)
    for module in after:
        if module.path not in changed:
            continue
        for one in module.definitions:
            if (type(one.node), one.node.name) not in known and _is_unused(module, one, used, by_text=by_text):
                what = "class" if isinstance(one.node, ast.ClassDef) else "function"
                yield module.path, one.node.lineno, f"the {what} {one.qualname} is defined and nothing uses it"
        for name, line in _constants(module).items():
            if name not in held and not used[name]:
                yield module.path, line, f"{name} is set and nothing reads it"
        for name, line in _attributes(module).items():
            if name not in held and not used[name]:
                yield module.path, line, f"self.{name} is made and nothing uses it"


def unused_parameters(before: Sequence[Module], after: Sequence[Module], changed: frozenset[str]) -> Iterator[Told]:
    """Yield parameters that the changed files' functions did not have before, and do not look at."""
    known = {
        (one.qualname, name)
        for module in before
        for one in module.definitions
        if isinstance(one.node, Function)
        for name in _parameters(one.node)
    }
    handed_on = {name for module in after for name in _not_called(module)}
    for module in after:
        for one in module.definitions if module.path in changed else ():
            if not isinstance(one.node, Function) or one.is_handed_on or one.node.name in handed_on:
                continue
            if _is_stub(one.node) or _is_asked(module, one):
                continue
            read = uses((inner for statement in one.node.body for inner in ast.walk(statement)), by_text=True)
            for name in _parameters(one.node):
                if (one.qualname, name) not in known and not read[name]:
                    yield module.path, one.node.lineno, f"{one.qualname} takes {name} and does not use it"


def _is_unused(module: Module, one: Definition, used: Counter[str], *, by_text: bool) -> bool:
    if one.is_handed_on or _is_asked(module, one):
        return False
    inside = uses(ast.walk(one.node), by_text=by_text)  # what calls only itself is not called
    return used[one.node.name] <= inside[one.node.name]


def _is_asked(module: Module, one: Definition) -> bool:
    return module.path == _SERVED and one.qualname in ASKED_BY_PLATFORM


def _constants(module: Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in module.tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                found.setdefault(target.id, target.lineno)
    return found


def _attributes(module: Module) -> dict[str, int]:
    """Return attributes of `self` that something is built for, such as a layer; others may be a base class's own."""
    found: dict[str, int] = {}
    for node in module.nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                    found.setdefault(target.attr, target.lineno)
    return found


def _parameters(node: Function) -> list[str]:
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [one.arg for one in given if one.arg not in {"self", "cls"} and not one.arg.startswith("_")]


def _not_called(module: Module) -> Iterator[str]:
    """Yield names that are handed on as they are: whoever calls them decides what they take."""
    called = {id(node.func) for node in module.nodes if isinstance(node, ast.Call)}
    for node in module.nodes:
        if id(node) not in called and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif id(node) not in called and isinstance(node, ast.Attribute):
            yield node.attr


def _is_stub(node: Function) -> bool:
    """Whether a function only says that there is one."""
    return all(
        isinstance(one, ast.Pass | ast.Raise) or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        for one in node.body
    )
