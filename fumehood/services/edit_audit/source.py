"""One Python file as the audit reads it: its nodes, and what its names mean as far as imports say it."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fumehood.domain.finding import Finding, FindingKind, Severity

MOST_LINKS = 12
"""Of a dotted name; a longer one is none of a library's."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for the code of one experiment."""

    editable: frozenset[str]
    packages: frozenset[str] = frozenset()
    """What can be imported beside the standard library; empty where nobody knows."""
    metrics: frozenset[str] = frozenset()
    may_ask_model: bool = False


class Source:
    """A parsed file."""

    def __init__(self, path: str, tree: ast.Module, own: frozenset[str], rules: Rules) -> None:
        self.path = path
        self.nodes = list(ast.walk(tree))
        """Parents before their children."""
        self.own = own
        """The names of the folder's own modules."""
        self.rules = rules
        self.docstrings = frozenset(_docstrings(self.nodes))
        self._known: dict[str, str] = {}
        self._bound: Counter[str] = Counter()
        for node in self.nodes:
            self._learn_import(node)
            self._learn_binding(node)
        for _ in range(2):  # `a = os` and then `b = a.system`
            for node in self.nodes:
                self._learn_alias(node)

    def _learn_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                self._known[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                self._known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _learn_binding(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._bound[node.name] += 1
        elif isinstance(node, ast.arg):
            self._bound[node.arg] += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self._bound[node.id] += 1

    def _learn_alias(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute | ast.Call):
            meaning = self.name_of(node.value)
            for target in node.targets if meaning else ():
                # A name that is given other things too stands for none of them everywhere.
                if isinstance(target, ast.Name) and self._bound[target.id] == 1:
                    self._known.setdefault(target.id, meaning)

    def name_of(self, node: ast.AST | None) -> str:
        """Return the dotted name that an expression stands for, such as `os.system`; empty where it is unknown."""
        links: list[str] = []
        while isinstance(node, ast.Attribute) and len(links) < MOST_LINKS:
            links.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            # Only an unbound name is a builtin: `self.compile` and an argument called `open` are somebody's own.
            root = self._known.get(node.id, node.id if node.id in _BUILTINS and node.id not in self._bound else "")
        else:
            root = self._called(node) if isinstance(node, ast.Call) else ""
        return ".".join((root, *reversed(links))).removeprefix("builtins.") if root else ""

    def _called(self, call: ast.Call) -> str:
        """Return what a call gives that only looks something up: a module by its name, an attribute by its."""
        if not isinstance(call.func, ast.Name | ast.Attribute) or not call.args:
            return ""
        if isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Name):
            return ""
        does = self.name_of(call.func)
        if does in IMPORTERS:
            return text_of(call.args[0])
        if does == "getattr" and len(call.args) > 1:  # as deep as the parser's brackets at most
            owner, name = self.name_of(call.args[0]), text_of(call.args[1])
            return f"{owner}.{name}" if owner and name else ""
        return ""

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Yield each call with the name of what it calls, where that is known."""
        for node in self.nodes:
            if isinstance(node, ast.Call) and (name := self.name_of(node.func)):
                yield node, name

    def imported(self) -> Iterator[tuple[ast.AST, str]]:
        """Yield each import with the dotted name it asks for; of `from a import b` both `a` and `a.b`."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node, node.module
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and node.args and self.name_of(node.func) in IMPORTERS:
                yield node, text_of(node.args[0])

    def found(
        self, kind: FindingKind, node: ast.AST | None, what: str, advice: str, *, flagged: bool = False
    ) -> Finding:
        """Return a finding at a node, or in the file as a whole."""
        return Finding(
            kind=kind,
            severity=Severity.FLAGGED if flagged else Severity.REFUSED,
            path=self.path,
            line=getattr(node, "lineno", 1),
            what=what,
            advice=advice,
        )


IMPORTERS = frozenset({"__import__", "importlib.import_module", "importlib.__import__"})


def text_of(node: ast.AST | None) -> str:
    """Return a literal text, put together from parts where it is; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts.append(_text(node.right))
        node = node.left
    return "".join((_text(node), *reversed(parts)))


def _text(node: ast.AST | None) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "\0" for part in node.values)  # a gap is a part that nobody knows
    value = node.value if isinstance(node, ast.Constant) else ""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def number_of(node: ast.AST | None) -> int | float | None:
    """Return a literal number, with its sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def within(name: str, names: frozenset[str]) -> bool:
    """Tell whether a dotted name is one of these or lies below one."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def _docstrings(nodes: list[ast.AST]) -> Iterator[int]:
    for node in nodes:
        body = getattr(node, "body", None) if isinstance(node, _SCOPES) else None
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            yield id(body[0].value)
