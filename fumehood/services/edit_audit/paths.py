"""Paths that lead out of the experiment's folder, and names that only the evaluator's folders have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from fumehood.domain.finding import Finding, FindingKind
from fumehood.domain.template import FROZEN_FILES
from fumehood.services.edit_audit.source import Source, text_of, within

_OPENERS = frozenset(
    {
        *("open", "io.open", "io.FileIO", "codecs.open", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath"),
        *("glob.glob", "glob.iglob", "fileinput.input", "linecache.getline", "runpy.run_path", "shutil", "tempfile"),
        *("torch.load", "torch.save", "torch.from_file", "torch.jit.load", "zipfile.ZipFile", "tarfile.open"),
        *("h5py.File", "sqlite3.connect", "joblib.load", "joblib.dump", "PIL.Image.open", "imageio", "gzip.open"),
        *("bz2.open", "lzma.open", "mmap.mmap", "os.path", "dbm.open", "shelve.open"),
        *(f"os.{name}" for name in ("open", "listdir", "scandir", "walk", "stat", "remove", "unlink", "rename")),
        *(f"os.{name}" for name in ("replace", "symlink", "link", "readlink", "mkdir", "makedirs", "access", "chmod")),
        *(f"numpy.{name}" for name in ("load", "loadtxt", "genfromtxt", "fromfile", "memmap", "save", "savez")),
        *("numpy.savetxt", "numpy.savez_compressed", "numpy.fromregex", "numpy.DataSource"),
        *("pandas.ExcelFile", "pandas.HDFStore", "matplotlib.pyplot.savefig", "matplotlib.pyplot.imread"),
    }
)
"""Functions that take a path, and modules of such."""
_METHODS = frozenset(
    {"joinpath", "with_name", "open", "glob", "rglob", "savefig", "relative_to", "symlink_to", "hardlink_to", "rename"}
)
_WAYS_OUT = frozenset(
    {"os.chdir", "os.fchdir", "os.path.expanduser", "os.pardir", "pathlib.Path.home", "pathlib.Path.expanduser"}
)
_OWN_TEXT = frozenset({"inspect.getsource", "inspect.getsourcelines", "inspect.getsourcefile", "linecache.getlines"})
_SYSTEM = ("/in", "/etc", "/proc", "/sys", "/dev", "/home", "/root", "/usr", "/var", "/run", "/mnt", "/media", "/opt")
_WORK = PurePosixPath("/work")
_INSIDE = "read what lies under FUMEHOOD_DATA and write below --out_dir only"


def check(source: Source) -> Iterator[Finding]:
    """Yield paths that lead out of the folder, and whatever looks for the held-out data or the code's own text."""
    spoken: set[int] = set()
    for node in source.nodes:
        for value in _paths_in(source, node):
            spoken.update(id(part) for part in ast.walk(value))
            yield from _path(source, value)
    for node in source.nodes:
        if isinstance(node, ast.Constant) and id(node) not in spoken | source.docstrings:
            yield from _constant(source, node)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _name(source, node)
        elif isinstance(node, ast.Call) and _reads_own_text(source, node):
            yield _own_text(source, node)


def _paths_in(source: Source, node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions of a node that are paths for certain."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and text_of(node.right):
        yield node.right
        if text_of(node.left):
            yield node.left
    elif isinstance(node, ast.Call):
        name = source.name_of(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if within(name, _OPENERS) or name.startswith("pandas.read_") or (not name and method in _METHODS):
            yield from (one for one in node.args if not isinstance(one, ast.Starred))
            yield from (one.value for one in node.keywords if one.arg in {"file", "path", "filepath", "fname", "dir"})


def _path(source: Source, value: ast.expr) -> Iterator[Finding]:
    text = text_of(value)
    path = PurePosixPath(text)
    if ".." in path.parts or (path.is_absolute() and not path.is_relative_to(_WORK)) or text.startswith("~"):
        what = f"has the path {text[:60]!r}, which leads out of its folder"
        yield source.found(FindingKind.PATH, value, what, _INSIDE)
    else:
        yield from _held_out(source, value, text)


def _own_text(source: Source, node: ast.AST) -> Finding:
    # A comment is in no syntax tree, so that data in one is seen by nothing else here.
    advice = "data has no place in code; read it from FUMEHOOD_DATA"
    return source.found(FindingKind.DYNAMIC_CODE, node, "reads its own text", advice)


def _reads_own_text(source: Source, call: ast.Call) -> bool:
    """Tell whether a call opens the program's own file, as `open(__file__)` and `Path(__file__).read_text()` do."""
    if source.name_of(call.func) in {"open", "io.open", "codecs.open"}:
        return any(map(_is_file, call.args))
    is_read = isinstance(call.func, ast.Attribute) and call.func.attr in {"read_text", "read_bytes", "open"}
    made = call.func.value if isinstance(call.func, ast.Attribute) else None
    return is_read and isinstance(made, ast.Call) and any(map(_is_file, made.args))


def _is_file(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "__file__"


def _constant(source: Source, node: ast.Constant) -> Iterator[Finding]:
    if not isinstance(node.value, str):
        return
    text = node.value
    is_system = text in _SYSTEM or text.startswith(tuple(f"{folder}/" for folder in _SYSTEM))
    if text != "/dev/null" and " " not in text and (is_system or text == ".." or text.startswith("../")):
        what = f"has the path {text[:60]!r}, which leads out of its folder"
        yield source.found(FindingKind.PATH, node, what, _INSIDE)
    else:
        yield from _held_out(source, node, text)


def _held_out(source: Source, node: ast.AST, text: str) -> Iterator[Finding]:
    parts = text.split("/") if len(text) < 200 else ()
    if any(part.partition(".")[0] == "held_out" or part in FROZEN_FILES for part in parts):
        advice = "held-out data and its programs are not there; split the training data for a validation of your own"
        yield source.found(FindingKind.HELD_OUT, node, f"asks for {text[:60]!r}", advice)


def _name(source: Source, node: ast.Name | ast.Attribute) -> Iterator[Finding]:
    name = source.name_of(node)
    if name in _WAYS_OUT:
        yield source.found(FindingKind.PATH, node, f"uses {name}", _INSIDE)
    elif name in _OWN_TEXT:
        yield _own_text(source, node)
    elif isinstance(node, ast.Attribute) and node.attr in {"parent", "parents"} and _climbs(node):
        yield source.found(FindingKind.PATH, node, "climbs above the folder that it lies in", _INSIDE)


def _climbs(node: ast.Attribute) -> bool:
    """Tell whether a chain of parents begins at the program's own file and goes beyond its folder."""
    ups, inner = 0, node
    while isinstance(inner, ast.Attribute | ast.Call) and ups < 9:
        if isinstance(inner, ast.Attribute):
            ups += 2 if inner.attr == "parents" else inner.attr == "parent"
            inner = inner.value  # type: ignore[assignment]
        else:
            if any(map(_is_file, inner.args)):
                return ups > 1
            inner = inner.func
    return False
