"""What is read from the environment, and what is written to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from fumehood.domain.finding import Finding, FindingKind
from fumehood.services.edit_audit.source import Source, text_of

GIVEN = frozenset({"FUMEHOOD_DATA", "FUMEHOOD_INPUTS", "FUMEHOOD_MODELS", "FUMEHOOD_SEEDS"})
"""What the template contract gives a program."""
_MODEL = frozenset({"FUMEHOOD_LLM_MODEL"})
_OURS = "FUMEHOOD_"
_SECRETS = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD", "CREDENTIALS")
_READERS = frozenset({"os.environ.get", "os.getenv", "os.getenvb", "os.environ.setdefault", "os.environ.pop"})
_WRITERS = frozenset({"os.putenv", "os.unsetenv", "os.environ.setdefault", "os.environ.pop"})
_WHOLES = frozenset({"os.environ", "os.environb"})
_ADVICE = "a program is given FUMEHOOD_DATA and FUMEHOOD_SEEDS, and needs nothing else of the platform"


def check(source: Source) -> Iterator[Finding]:
    """Yield reads of what is the platform's own, and every change of what it gives."""
    named: set[int] = set()
    for node in source.nodes:
        if isinstance(node, ast.Subscript) and source.name_of(node.value) in _WHOLES:
            named.add(id(node.value))
            writes = not isinstance(node.ctx, ast.Load)
            yield from _variable(source, node, text_of(node.slice), writes=writes)
        elif isinstance(node, ast.Call) and node.args and (name := source.name_of(node.func)) in _READERS | _WRITERS:
            named.update(id(one) for one in ast.walk(node.func))
            yield from _variable(source, node, text_of(node.args[0]), writes=name in _WRITERS)
        elif isinstance(node, ast.Compare) and any(source.name_of(one) in _WHOLES for one in node.comparators):
            named.update(id(one) for one in node.comparators)
            yield from _variable(source, node, text_of(node.left), writes=False)
    for node in source.nodes:
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in named and source.name_of(node) in _WHOLES:
            what = "takes the environment as a whole"
            yield source.found(FindingKind.ENVIRONMENT, node, what, "name each variable", flagged=True)


def _variable(source: Source, node: ast.AST, name: str, *, writes: bool) -> Iterator[Finding]:
    given = GIVEN | _MODEL if source.rules.may_ask_model else GIVEN
    if not name:
        what = "reads or writes a variable with a computed name"
        yield source.found(FindingKind.ENVIRONMENT, node, what, "name each variable", flagged=True)
    elif writes and name.startswith(_OURS):
        kind = FindingKind.SEEDS if name == "FUMEHOOD_SEEDS" else FindingKind.ENVIRONMENT
        yield source.found(kind, node, f"changes {name}", "leave what the platform gives as it is")
    elif (name.startswith(_OURS) and name not in given) or (name.endswith(_SECRETS) and not source.rules.may_ask_model):
        yield source.found(FindingKind.ENVIRONMENT, node, f"asks for {name}", _ADVICE)
