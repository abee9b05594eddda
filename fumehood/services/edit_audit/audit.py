"""Comparing what the audit finds in the files before an edit with what it finds after."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath

from fumehood.domain.finding import Finding, FindingKind, Severity
from fumehood.services import templates
from fumehood.services.edit_audit import environment, imports, literals, metrics, patches, paths, seeds
from fumehood.services.edit_audit.source import Rules, Source

MOST_BYTES = 256 * 1024
"""Of one file; nobody writes a longer one for an experiment."""
MOST_NODES = 200_000
"""Of one file's syntax tree."""
_CHECKS: tuple[Callable[[Source], Iterator[Finding]], ...] = (
    imports.check,
    paths.check,
    environment.check,
    seeds.check,
    patches.check,
    literals.check,
    metrics.check,
)


def audit(before: Mapping[str, bytes], after: Mapping[str, bytes], rules: Rules) -> tuple[Finding, ...]:
    """Return what an edit brings; what the files had before is nobody's fault here. Never raises, whatever the text.

    What was moved to another line or file was not brought: findings are matched by what they say, and counted.
    """
    old, new = _Folder(before, rules), _Folder(after, rules)
    known = Counter(_key(one) for one in old.findings())
    # Files that stayed as they were come first, so that what is left over is told of those that changed.
    found = sorted(new.findings(), key=lambda one: before.get(one.path) != after.get(one.path))
    brought = []
    for one in found:
        if known[_key(one)]:
            known[_key(one)] -= 1
        else:
            brought.append(one)
    brought += _files(before, after, rules)
    brought += literals.compare(old.sources, new.sources)
    brought += seeds.compare(old.sources, new.sources)
    if not any(map(seeds.reads, old.sources)):
        # Such a template's results are never compared, and a seed is better than none.
        brought = [one for one in brought if one.kind is not FindingKind.SEEDS]
    unique = dict.fromkeys(sorted(brought, key=lambda one: (one.path, one.line, one.kind)))
    return tuple(unique)


def _key(finding: Finding) -> tuple[str, str]:
    return finding.kind, finding.what


class _Folder:
    """All Python files of one side, read as far as they can be."""

    def __init__(self, files: Mapping[str, bytes], rules: Rules) -> None:
        self.sources: list[Source] = []
        self._unreadable: list[Finding] = []
        own = frozenset(PurePosixPath(path).parts[0].removesuffix(".py") for path in files)
        for path, data in sorted(files.items()):
            if path.endswith(".py"):
                self._read(path, data, own, rules)

    def _read(self, path: str, data: bytes, own: frozenset[str], rules: Rules) -> None:
        if len(data) > MOST_BYTES:
            self._give_up(path, 1, f"has more than {MOST_BYTES // 1024} KiB", "write shorter files, with no data")
            return
        try:
            source = Source(path, _bounded(templates.parsed(data, path)), own, rules)
        except SyntaxError as error:
            self._give_up(path, error.lineno or 1, f"is not valid Python ({error.msg})", "mend it")
        except (ValueError, RecursionError, MemoryError):
            self._give_up(path, 1, "cannot be read as Python", "write plainer code, without deep nesting")
        else:
            self.sources.append(source)

    def _give_up(self, path: str, line: int, what: str, advice: str) -> None:
        finding = Finding(
            kind=FindingKind.UNREADABLE, severity=Severity.REFUSED, path=path, line=line, what=what, advice=advice
        )
        self._unreadable.append(finding)

    def findings(self) -> list[Finding]:
        return [*self._unreadable, *(one for source in self.sources for check in _CHECKS for one in check(source))]


def _bounded(tree: ast.Module) -> ast.Module:
    for count, _ in enumerate(ast.walk(tree)):
        if count > MOST_NODES:
            raise ValueError("too many nodes")
    return tree


def _files(before: Mapping[str, bytes], after: Mapping[str, bytes], rules: Rules) -> Iterator[Finding]:
    """Yield what happened to files that an edit has no right to."""
    taken = sys.stdlib_module_names | rules.packages
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path):
            continue
        name = PurePosixPath(path).parts[0].removesuffix(".py")
        if path not in after:
            yield _file(path, "was removed", "leave every file in its place")
        elif path in before and path not in rules.editable:
            yield _file(path, "was changed, and it is not editable", f"change {', '.join(sorted(rules.editable))} only")
        elif path not in before and not path.endswith(".py"):
            yield _file(path, "was added, and it is no Python module", "add .py files only")
        elif path not in before and name in taken:
            yield _file(path, f"would be imported in place of {name}", "give the module another name")


def _file(path: str, what: str, advice: str) -> Finding:
    return Finding(kind=FindingKind.FILE, severity=Severity.REFUSED, path=path, line=1, what=what, advice=advice)
