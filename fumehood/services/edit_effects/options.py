"""What the options of an experiment's command line are worth in a run: their defaults, and what the run is given."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from fumehood.services.edit_effects.module import Module

Value = bool | int | float | str | None
_FLAGS: Mapping[str, bool] = {"store_true": False, "store_false": True}
_SETS = frozenset({"setattr", "set_defaults"})


def of_run(modules: Sequence[Module], arguments: Sequence[str]) -> dict[str, Value]:
    """Return the value of each option in a run with these arguments, by the attribute it becomes.

    Options are fields of data classes with a plain default, and `add_argument` with one. What the code sets elsewhere,
    or gives two defaults, is left out: nobody knows it beforehand.
    """
    found: dict[str, Value] = {}
    unknown = {name for module in modules for name in _set_elsewhere(module)}
    for module in modules:
        for name, value in (*_fields(module), *_arguments(module)):
            if name in found and found[name] != value:
                unknown.add(name)
            found[name] = value
    for name, given in _given(arguments):
        if name in found and name not in unknown:
            told = _as(found[name], given)
            if told is None:
                unknown.add(name)
            found[name] = told
    return {name: value for name, value in found.items() if name not in unknown}


def _fields(module: Module) -> Iterator[tuple[str, Value]]:
    for one in module.definitions:
        if isinstance(one.node, ast.ClassDef) and any(
            "dataclass" in ast.dump(each) for each in one.node.decorator_list
        ):
            for node in one.node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    default = _default(node.value)
                    if isinstance(default, ast.Constant) and isinstance(default.value, Value):
                        yield node.target.id, default.value


def _default(node: ast.expr | None) -> ast.expr | None:
    if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "field":
        return next((word.value for word in node.keywords if word.arg == "default"), None)
    return node


def _arguments(module: Module) -> Iterator[tuple[str, Value]]:
    for node in module.nodes:
        if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"):
            continue
        names = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        words = {word.arg: word.value for word in node.keywords}
        long = next((name for name in names if name.startswith("--")), "")
        dest = words.get("dest")
        name = str(dest.value) if isinstance(dest, ast.Constant) else long.removeprefix("--").replace("-", "_")
        action, default = words.get("action"), words.get("default")
        flag = _FLAGS.get(str(action.value)) if isinstance(action, ast.Constant) else None
        if name and flag is not None and default is None:
            yield name, flag
        elif name and isinstance(default, ast.Constant) and isinstance(default.value, Value):
            yield name, default.value


def _set_elsewhere(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Call):
            yield from (word.arg for word in node.keywords if word.arg)
            if getattr(node.func, "id", getattr(node.func, "attr", "")) in _SETS:
                yield from (str(one.value) for one in node.args if isinstance(one, ast.Constant))


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, has_value, value = word.removeprefix("--").partition("=")
            if not has_value and words and not words[0].startswith("--"):
                value = words.pop(0)
            yield name.replace("-", "_"), value


def _as(default: Value, given: str) -> Value:
    """Return what was given as what the default is; None where that is not known."""
    if isinstance(default, bool):
        return not default if given == "" else {"true": True, "false": False}.get(given.lower())
    try:
        return type(default)(given) if default is not None and given else None
    except ValueError:
        return None
