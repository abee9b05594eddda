"""What is wrong with a LaTeX source, told before it is compiled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

FORBIDDEN = (
    *("input", "include", "includeonly", "usepackage", "RequirePackage", "documentclass", "write", "immediate"),
    *("openin", "openout", "read", "readline", "closein", "closeout", "catcode", "def", "edef", "gdef", "xdef", "let"),
    *("newcommand", "renewcommand", "providecommand", "csname", "special", "directlua", "ShellEscape", "loop"),
    *("lstinputlisting", "verbatiminput", "bibliography", "bibliographystyle", "includepdf", "pdffiledump", "pdfobj"),
    *("href", "url", "newwrite", "newread", "makeatletter", "endinput", "scantokens", "everypar", "jobname"),
    *("expandafter", "uppercase", "lowercase", "meaning", "afterassignment", "includegraphics*", "subfile", "import"),
)
_FORBIDDEN = re.compile(r"\\(" + "|".join(sorted(map(re.escape, FORBIDDEN), key=len, reverse=True)) + r")(?![A-Za-z])")
_GRAPHICS = re.compile(r"\\includegraphics\s*(?:\[[^\]]*\])?\s*\{([^}]*)\}")
_CITE = re.compile(r"\\cite[a-zA-Z]*\*?(?:\[[^\]]*\])*\{([^}]*)\}")
_SECTION = re.compile(r"\\section\*?\{([^}]*)\}")
_LABEL = re.compile(r"\\label\{([^}]*)\}")
_REF = re.compile(r"\\(?:eq|page|auto)?ref\{([^}]*)\}")
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([^}]*)\}")
_LEFT_OVER = re.compile(r"%%FUMEHOOD:[A-Z_]+%%|\[\[[^\]]*\]\]|\bTODO\b|\bHERE\b(?=\})")
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)
_SILENT = re.compile(
    r"\\ensuremath\{(?:[^{}]|\{[^{}]*\})*\}"
    r"|\\(?:label|ref|eqref|includegraphics|cite[a-z]*)\*?(?:\[[^\]]*\])?\{[^}]*\}"
)
_MARK = re.compile(r"\[\[.*?\]\]", re.DOTALL)
_TABULAR = re.compile(r"\\begin\{tabular.*?\\end\{tabular\*?\}", re.DOTALL)
_DISPLAY = re.compile(
    r"\\begin\{(equation|align|gather|multline|eqnarray|displaymath|math)(\*?)\}.*?\\end\{\1\2\}", re.DOTALL
)


def check(source: str, *, figures: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """Return what is wrong, one sentence each; a text without `\\documentclass` is checked as one section."""
    whole = r"\documentclass" in source
    text = re.sub(r"(?m)(?<!\\)%(?!%FUMEHOOD).*", "", source)
    body = text.split(r"\begin{document}", 1)[-1] if whole else text
    problems = [*_commands(body, whole=whole), *_balance(body), *_figures(body, figures), *_citations(body, keys)]
    problems += (
        [f"The placeholder {match} was left open." for match in dict.fromkeys(_LEFT_OVER.findall(body))]
        if whole
        else []
    )
    if whole:
        problems += _document(text, body)
    return tuple(dict.fromkeys(problems))


def _commands(body: str, *, whole: bool) -> Iterator[str]:
    allowed = {"bibliography", "bibliographystyle"} if whole else set()
    for name in dict.fromkeys(_FORBIDDEN.findall(body)):
        if name not in allowed:
            yield f"The command \\{name} is not allowed."
    if "^^" in body:
        yield "The notation ^^ is not allowed."


def _balance(body: str) -> Iterator[str]:
    bare = body.replace(r"\\", "  ").replace(r"\{", "  ").replace(r"\}", "  ").replace(r"\$", "  ")
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            break
    if depth:
        yield "The braces { and } do not match."
    open_ones: list[str] = []
    for verb, name in _ENVIRONMENT.findall(body.replace(r"\end{document}", "")):
        if verb == "begin":
            open_ones.append(name)
        elif not open_ones or open_ones.pop() != name:
            yield f"\\end{{{name}}} has no \\begin{{{name}}} before it."
            return
    if open_ones:
        yield f"\\begin{{{open_ones[-1]}}} is never ended."
    yield from _mathematics(bare)
    yield from _characters(bare)


def _mathematics(bare: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", bare):
        if paragraph.count("$") % 2:
            yield f"The mathematics opened by $ is not closed near: {' '.join(paragraph.split())[:80]}"
    if bare.count(r"\[") != bare.count(r"\]") or bare.count(r"\(") != bare.count(r"\)"):
        yield "A displayed formula is not closed."


def _characters(bare: str) -> Iterator[str]:
    """Find characters that mean something to LaTeX, outside the places where they do."""
    plain = _FORMULA.sub("", _DISPLAY.sub("", bare))
    plain = _MARK.sub("", _SILENT.sub("", plain))
    if re.search(r"(?<!\\)[_^]", plain):
        yield "There is a _ or ^ outside mathematics."
    if re.search(r"(?<!\\)#", plain):
        yield "There is a # that is not escaped."
    if re.search(r"(?<!\\)&", _TABULAR.sub("", plain)):
        yield "There is an & outside a table."


def _figures(body: str, figures: Sequence[str]) -> Iterator[str]:
    shown = [name.strip() for name in _GRAPHICS.findall(body)]
    for name in dict.fromkeys(shown):
        if name not in figures:
            yield f"The figure {name} does not exist."
        if shown.count(name) > 1:
            yield f"The figure {name} is shown {shown.count(name)} times."


def _citations(body: str, keys: Sequence[str]) -> Iterator[str]:
    for group in _CITE.findall(body):
        names = [name.strip() for name in group.split(",")]
        for name in names:
            if name not in keys:
                yield f"The citation {name} is not in the bibliography."
        if len(set(names)) < len(names):
            yield f"A work is cited twice in one place: {group}."


def _document(text: str, body: str) -> Iterator[str]:
    if r"\begin{document}" not in text or r"\end{document}" not in text:
        yield "The document is never begun or never ended."
    sections = [" ".join(title.split()) for title in _SECTION.findall(body)]
    for title, count in Counter(sections).items():
        if count > 1:
            yield f"The section {title} stands {count} times."
    pieces = re.split(r"\\section\*?\{[^}]*\}|\\bibliographystyle", body)
    for title, piece in zip(sections, pieces[1:], strict=False):
        if not re.sub(r"\\label\{[^}]*\}", "", piece).strip():
            yield f"The section {title} is empty."
    labels = _LABEL.findall(text)
    for name, count in Counter(labels).items():
        if count > 1:
            yield f"The label {name} is defined {count} times."
    for name in dict.fromkeys(_REF.findall(body)):
        if name not in labels:
            yield f"The reference {name} points nowhere."
    for name in labels:
        if name.startswith("fig:") and f"\\ref{{{name}}}" not in body:
            yield f"The figure labelled {name} is never referred to."
