"""Code that changes what other code means, or that is made at run time."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from fumehood.domain.finding import Finding, FindingKind
from fumehood.services.edit_audit.source import Source, text_of, within

_SETTINGS = frozenset({"torch.backends", "torch._dynamo.config", "torch._inductor.config", "matplotlib.rcParams"})
"""Attributes of modules that are there to be set."""
_HOOKS = frozenset(
    {
        *("sys.modules", "sys.path", "sys.meta_path", "sys.path_hooks", "sys.settrace", "sys.setprofile"),
        *("importlib.reload", "importlib.util.spec_from_file_location", "builtins", "unittest.mock", "gc.get_objects"),
        *("__builtins__", "types.CodeType", "types.FunctionType", "sys._getframe", "marshal"),
    }
)
_INNER = frozenset(
    {"__globals__", "__builtins__", "__code__", "__subclasses__", "__bases__", "__mro__", "__closure__", "f_globals"}
)
_RUNNERS = frozenset({"eval", "exec", "compile", "code.interact", "runpy.run_path", "runpy.run_module"})
_LOADERS = frozenset(
    {
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "cloudpickle.load"),
        *("cloudpickle.loads", "joblib.load", "shelve.open", "pandas.read_pickle"),
    }
)
_PATCH = "leave modules as they are; write a function of your own in an editable file"


def check(source: Source) -> Iterator[Finding]:
    """Yield changes to modules, code made from text, and loads that run code."""
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield from _assigned(source, node, source.name_of(node.value), node.attr)
        if isinstance(node, ast.Name | ast.Attribute):
            yield from _used(source, node)
    for node, name in source.imported():
        if within(name, _HOOKS):
            yield source.found(FindingKind.PATCH, node, f"imports {name}", _PATCH)
    for call, name in source.calls():
        yield from _called(source, call, name)


def _assigned(source: Source, node: ast.AST, owner: str, name: str) -> Iterator[Finding]:
    whole = f"{owner}.{name}"
    if owner and owner.partition(".")[0] not in source.own and not within(whole, _SETTINGS):
        yield source.found(FindingKind.PATCH, node, f"assigns to {whole}", _PATCH)


def _used(source: Source, node: ast.Name | ast.Attribute) -> Iterator[Finding]:
    name = source.name_of(node)
    if within(name, _HOOKS):
        yield source.found(FindingKind.PATCH, node, f"uses {name}", _PATCH)
    elif isinstance(node, ast.Attribute) and node.attr in _INNER:
        yield source.found(FindingKind.PATCH, node, f"reaches for {node.attr}", _PATCH)


def _called(source: Source, call: ast.Call, name: str) -> Iterator[Finding]:
    if name in {"setattr", "delattr"} and call.args and (owner := source.name_of(call.args[0])):
        attribute = text_of(call.args[1]) if len(call.args) > 1 else ""
        yield from _assigned(source, call, owner, attribute or "a computed name")
    elif name in {"getattr", "vars"} and call.args and (owner := source.name_of(call.args[0])):
        # Of torch or numpy, research code looks up an activation or an optimiser by its name.
        is_system = owner.partition(".")[0] in sys.stdlib_module_names or owner == "builtins"
        if is_system and (name == "vars" or (len(call.args) > 1 and not text_of(call.args[1]))):
            advice = "write the attribute's name down"
            what = f"looks up a computed name in {owner}"
            yield source.found(FindingKind.DYNAMIC_CODE, call, what, advice, flagged=True)
    elif name in _RUNNERS:
        # Text that is written down can be read by whoever reads the diff; any other text cannot.
        is_literal = bool(call.args) and bool(text_of(call.args[0]))
        advice = "write the code itself in its place"
        yield source.found(FindingKind.DYNAMIC_CODE, call, f"calls {name}", advice, flagged=is_literal)
    elif name in _LOADERS or _trusts(call, name):
        # Some public data sets come as pickles, and the sandbox holds what they might do: seen, not forbidden.
        advice = "use files of plain arrays or JSON, or weights_only=True"
        yield source.found(FindingKind.UNSAFE_LOAD, call, f"calls {name} on what may run code", advice, flagged=True)


def _trusts(call: ast.Call, name: str) -> bool:
    said = {one.arg: one.value.value for one in call.keywords if isinstance(one.value, ast.Constant)}
    return (name == "torch.load" and said.get("weights_only") is False) or (
        name.startswith("numpy.") and said.get("allow_pickle") is True
    )
