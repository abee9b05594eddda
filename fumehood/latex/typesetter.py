"""The typesetter port for LaTeX: text in, text out; compiling is an execution elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fumehood.latex import checks
from fumehood.latex import log as logs
from fumehood.latex import skeleton as skeletons
from fumehood.latex import text as texts


class Latex:
    """Knows LaTeX as text."""

    def escape(self, text: str) -> str:
        """Return plain text as LaTeX that prints it."""
        return texts.escape(text)

    def assemble(self, skeleton: str, parts: Mapping[str, str], *, title: str, keywords: Sequence[str]) -> str:
        """Fill a skeleton with parts by name; adds the disclosure and the PDF's metadata."""
        return skeletons.assemble(skeleton, parts, title=title, keywords=keywords)

    def check(self, source: str, *, figures: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
        """Return what is wrong with a source, one sentence each; without `\\documentclass` it is one section."""
        return checks.check(source, figures=figures, keys=keys)

    def check_log(self, log: str) -> tuple[str, ...]:
        """Return what the compiler's log says went wrong."""
        return logs.check(log)
