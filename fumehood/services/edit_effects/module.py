"""A folder of Python files as its reach is read: what each defines, and what all of them use."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fumehood.services import templates

Function = ast.FunctionDef | ast.AsyncFunctionDef
WRAPPERS = frozenset(
    {"no_grad", "inference_mode", "enable_grad", "staticmethod", "classmethod", "property", "cached_property"}
    | {
        "cache",
        "lru_cache",
        "contextmanager",
        "dataclass",
        "script",
        "compile",
        "jit",
        "njit",
        "wraps",
        "total_ordering",
    }
)
"""Decorators that hand what they decorate to nobody; any other may have registered it."""

LOOK_UPS = frozenset({"getattr", "globals", "locals", "vars", "eval"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function, a class or a method, and where it stands."""

    node: Function | ast.ClassDef
    qualname: str
    owner: ast.ClassDef | None
    """The class whose method it is."""

    @property
    def is_handed_on(self) -> bool:
        """Whether a decorator, a base class or a name that Python calls itself may use it unseen."""
        inherits = self.owner is not None and bool(self.owner.bases)
        dunder = self.node.name.startswith("__") and self.node.name.endswith("__")
        return inherits or dunder or not all(_name_of(one) in WRAPPERS for one in self.node.decorator_list)


class Module:
    """One parsed file."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self.path = path
        self.tree = tree
        self.nodes = list(ast.walk(tree))
        """Parents before their children."""
        self.definitions = tuple(_definitions(tree))
        self.bound = Counter(_bound(self.nodes))
        """How often each name is given a meaning, anywhere in the file."""


def read(files: Mapping[str, bytes]) -> tuple[Module, ...]:
    """Return the files that are Python; what is none is the audit's matter."""
    found = []
    for path, data in sorted(files.items()):
        if path.endswith(".py"):
            try:
                found.append(Module(path, templates.parsed(data, path)))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    return tuple(found)


def uses(nodes: Iterable[ast.AST], *, by_text: bool = False) -> Counter[str]:
    """Count what is looked up: names, attributes, imports, and texts that name something.

    A text does where it is given to a call or an index; with `by_text`, wherever it stands.
    """
    found: Counter[str] = Counter()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Store):
            found[node.attr] += 1
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call | ast.Subscript) and not by_text:
            given = node.args if isinstance(node, ast.Call) else [node.slice]
            found.update(filter(None, map(_text, given)))
        elif by_text and (text := _text(node)):
            found[text] += 1
    return found


def looks_up_by_text(modules: Iterable[Module]) -> bool:
    """Whether a name is made while the code runs and then looked up: any text may then be one."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in LOOK_UPS
        and not (len(node.args) > 1 and _text(node.args[1]))
        for module in modules
        for node in module.nodes
    )


def _text(node: ast.AST) -> str:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    return str(node.value) if is_text else ""  # type: ignore[attr-defined]


def _definitions(tree: ast.Module) -> Iterator[Definition]:
    left: list[tuple[ast.AST, str, ast.ClassDef | None]] = [(tree, "", None)]
    while left:
        parent, above, owner = left.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function | ast.ClassDef):
                name = f"{above}{node.name}"
                yield Definition(node=node, qualname=name, owner=owner)
                left.append((node, f"{name}.", node if isinstance(node, ast.ClassDef) else None))
            else:
                left.append((node, above, owner))


def _bound(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from (name for name in node.names for _ in range(2))  # given a meaning elsewhere too


def _name_of(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
