"""Imports that fail in the sandbox, and ways to networks, processes and limits that it closes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from fumehood.domain.finding import Finding, FindingKind
from fumehood.domain.template import FROZEN_FILES
from fumehood.services.edit_audit.source import Source, within

WEB = frozenset(
    {
        *(
            "http.client",
            "http.server",
            "http.cookiejar",
            "urllib.request",
            "urllib.robotparser",
            "urllib3",
            "requests",
        ),
        *("httpx", "aiohttp", "anthropic", "openai"),
    }
)
"""What a template that may ask a model is allowed."""
NETWORK = frozenset(
    {
        *("socket", "_socket", "ssl", "_ssl", "socketserver", "ftplib", "smtplib", "poplib", "imaplib", "nntplib"),
        *("telnetlib", "xmlrpc", "websockets", "paramiko", "asyncio.open_connection", "asyncio.open_unix_connection"),
        *("asyncio.start_server", "torch.hub", "torch.distributed.init_process_group", "torch.distributed.rpc"),
    }
)
PROCESS = frozenset(
    {
        *("subprocess", "_posixsubprocess", "pty", "ctypes", "_ctypes", "cffi", "asyncio.create_subprocess_exec"),
        *("asyncio.create_subprocess_shell", "multiprocessing.set_executable", "torch.utils.cpp_extension"),
        *("torch.ops.load_library", "torch.classes.load_library", "numpy.ctypeslib.load_library"),
        *(f"os.{name}" for name in ("system", "popen", "fork", "forkpty", "kill", "killpg", "startfile", "setsid")),
        *(f"os.exec{end}" for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
        *(f"os.spawn{end}" for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
        *("os.posix_spawn", "os.posix_spawnp", "posix", "signal.pidfd_send_signal"),
    }
)
LIMITS = frozenset(
    {
        *("resource.setrlimit", "resource.prlimit", "os.setpriority", "os.sched_setaffinity", "os.sched_setscheduler"),
        *("os.setuid", "os.setgid", "os.chroot", "os.mount", "os.unshare", "os.setns", "signal.pthread_kill"),
    }
)
_FROZEN = frozenset(path.removesuffix(".py") for path in FROZEN_FILES)
_WALLS = (
    (NETWORK, FindingKind.NETWORK, "a run has no network; work with the data under FUMEHOOD_DATA"),
    (PROCESS, FindingKind.PROCESS, "a run is one Python program; do the work in Python, without other programs"),
    (LIMITS, FindingKind.LIMITS, "limits and priorities are the platform's; leave them alone"),
)
_OPTIONAL = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def check(source: Source) -> Iterator[Finding]:
    """Yield imports that the image has not, and whatever reaches for a network, a process or a limit."""
    optional = _optional(source)
    for node, name in source.imported():
        if isinstance(node, ast.Call) and not name:
            advice = "write the module's name as a plain import"
            yield source.found(FindingKind.IMPORT, node, "imports a module by a computed name", advice, flagged=True)
        elif name.endswith(".*") and name.partition(".")[0] not in source.own:
            # Whatever is used of it afterwards has no module's name any more.
            yield source.found(FindingKind.IMPORT, node, f"imports {name}", "name what you import")
        elif name:
            yield from _module(source, node, name.split(".")[0], is_optional=id(node) in optional)
    for node, name in _uses(source):
        yield from _behind_walls(source, node, name)


def _module(source: Source, node: ast.AST, top: str, *, is_optional: bool) -> Iterator[Finding]:
    packages = source.rules.packages
    if top in _FROZEN and top not in source.own:
        what, advice = f"imports {top}", f"{top}.py is frozen and is not there when the code runs; do without it"
        yield source.found(FindingKind.HELD_OUT, node, what, advice)
    elif packages and top not in sys.stdlib_module_names | source.own | packages:
        advice = "the image has no such package and nothing is installed; write what you need with those it has"
        yield source.found(FindingKind.IMPORT, node, f"imports {top}", advice, flagged=is_optional)


def _uses(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Yield every dotted name that is imported or used, once for the longest form of it."""
    yield from source.imported()
    inner = {id(node.value) for node in source.nodes if isinstance(node, ast.Attribute)}
    for node in source.nodes:
        is_whole = isinstance(node, ast.Name | ast.Attribute | ast.Call) and id(node) not in inner
        if is_whole and (name := source.name_of(node)):
            yield node, name


def _behind_walls(source: Source, node: ast.AST, name: str) -> Iterator[Finding]:
    for names, kind, advice in _WALLS:
        banned = names if kind is not FindingKind.NETWORK or source.rules.may_ask_model else names | WEB
        if within(name, banned):
            yield source.found(kind, node, f"uses {name}", advice)


def _optional(source: Source) -> frozenset[int]:
    """Return the imports whose failure is caught: without the package, the code goes on."""
    found: set[int] = set()
    for node in source.nodes:
        if isinstance(node, ast.Try) and any(_catches_import(handler) for handler in node.handlers):
            found |= {id(one) for one in node.body if isinstance(one, ast.Import | ast.ImportFrom)}
    return frozenset(found)


def _catches_import(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in _OPTIONAL) for kind in kinds)
