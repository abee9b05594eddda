"""Filling a template's `latex/template.tex`, or our own where the template's has other gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fumehood.latex.text import ascii_only, escape, unescaped

SECTIONS = (
    "introduction",
    "related_work",
    "background",
    "method",
    "experimental_setup",
    "results",
    "limitations",
    "conclusion",
)
GAPS = ("title", "abstract", *SECTIONS, "disclosure")
OWN = Path(__file__).with_name("skeleton.tex")
PRODUCER = "Fumehood"
GENERATED = "AI-generated"
DISCLOSURE = (
    "This paper was produced automatically by Fumehood, from the plan of the study to this sentence; "
    "no person checked it before it was typeset. "
    "Every measured number in it was filled in by the platform from the records of the runs, "
    "and the file \\texttt{claims.json} beside the paper says which record each one comes from."
)
_BIBLIOGRAPHY = re.compile(r"\\bibliography\{[^}]*\}")


def gap(name: str) -> str:
    """Return the mark that stands for a part in a skeleton."""
    return f"%%FUMEHOOD:{name.upper()}%%"


def is_ours(skeleton: str) -> bool:
    """Whether a skeleton has a gap for every part that a paper needs."""
    return all(gap(name) in skeleton for name in GAPS if name != "disclosure") and r"\begin{document}" in skeleton


def assemble(skeleton: str, parts: Mapping[str, str], *, title: str, keywords: Sequence[str]) -> str:
    """Fill a skeleton; one written for another system is replaced by our own."""
    source = skeleton if is_ours(skeleton) else OWN.read_text(encoding="utf-8")
    disclosure = f"{DISCLOSURE} {parts.get('disclosure', '')}".strip()
    filled = {name: parts.get(name, "").strip() for name in GAPS} | {"title": title.strip(), "disclosure": disclosure}
    if gap("disclosure") not in source:
        source = _before_end(source, f"\\section*{{Disclosure}}\n{gap('disclosure')}\n")
    for name, text in filled.items():
        source = source.replace(gap(name), ascii_only(text))
    return _with_metadata(source, title, keywords)


def _before_end(source: str, text: str) -> str:
    found = _BIBLIOGRAPHY.search(source)
    style = source.rfind(r"\bibliographystyle", 0, found.start()) if found else -1
    at = style if style >= 0 else found.start() if found else source.index(r"\end{document}")
    return f"{source[:at]}{text}\n{source[at:]}"


def _with_metadata(source: str, title: str, keywords: Sequence[str]) -> str:
    words = ", ".join(dict.fromkeys((GENERATED, PRODUCER, *keywords)))
    fields = {
        "pdftitle": unescaped(ascii_only(title)),
        "pdfauthor": f"{PRODUCER} (automated system)",
        "pdfsubject": f"{GENERATED} research paper",
        "pdfkeywords": words,
        "pdfcreator": PRODUCER,
    }
    setup = ",\n  ".join(f"{key}={{{escape(value)}}}" for key, value in fields.items())
    package = (
        "" if re.search(r"\\usepackage(?:\[[^\]]*\])?\{[^}]*hyperref[^}]*\}", source) else "\\usepackage{hyperref}\n"
    )
    metadata = f"{package}\\hypersetup{{%\n  {setup},\n}}"
    if gap("metadata") in source:
        return source.replace(gap("metadata"), metadata)
    return source.replace(r"\begin{document}", f"{metadata}\n\\begin{{document}}", 1)
