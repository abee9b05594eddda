"""Filling skeletons, escaping, and reading sources and logs."""

from __future__ import annotations

import pytest

from fumehood.latex import log, skeleton
from fumehood.latex.typesetter import Latex

LATEX = Latex()
PARTS = {name: f"Words of the {name.replace('_', ' ')}." for name in (*skeleton.SECTIONS, "abstract")}
FOREIGN = r"""\documentclass{article}
\usepackage{iclr2024_conference}
\begin{document}\title{TITLE HERE}\maketitle ABSTRACT HERE \section{Introduction} INTRO HERE \end{document}"""


def assemble(source: str, **parts: str) -> str:
    return LATEX.assemble(source, PARTS | parts, title="A Title \\& More", keywords=("inconclusive", "toy"))


def test_our_gaps_are_filled_and_none_is_left() -> None:
    source = assemble(skeleton.OWN.read_text())
    assert LATEX.check(source, figures=(), keys=()) == ()
    assert all(source.count(part) == 1 for part in PARTS.values())
    assert "%%FUMEHOOD" not in source


def test_a_foreign_skeleton_is_replaced_by_our_own() -> None:
    source = assemble(FOREIGN)
    assert "iclr2024" not in source
    assert "HERE" not in source
    assert PARTS["results"] in source
    assert assemble("") == source


def test_the_paper_says_that_a_machine_wrote_it_in_print_and_in_the_metadata() -> None:
    source = assemble("", disclosure="No language model took part.")
    assert "produced automatically by Fumehood" in source
    assert "No language model took part." in source
    assert "pdfkeywords={AI-generated, Fumehood, inconclusive, toy}" in source
    assert "pdftitle={A Title \\& More}" in source


def test_a_skeleton_without_a_place_for_the_disclosure_gets_one() -> None:
    bare = skeleton.OWN.read_text().replace("\\section*{Disclosure}\n%%FUMEHOOD:DISCLOSURE%%\n", "")
    source = assemble(bare)
    assert source.index("\\section*{Disclosure}") < source.index("\\bibliographystyle")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("50% of a_b & c#1 {x}", r"50\% of a\_b \& c\#1 \{x\}"),
        ("\u03c3 ≤ 3 — “so”", r"\ensuremath{\sigma} \ensuremath{\leq} 3 --- ``so''"),
        ("Schrödinger", "Schrödinger"),
        ("back\\slash ~^", r"back\textbackslash{}slash \textasciitilde{}\textasciicircum{}"),
        ("日本", ""),
    ],
)
def test_any_text_can_be_printed(text: str, printed: str) -> None:
    assert LATEX.escape(text) == printed


@pytest.mark.parametrize(
    ("fragment", "word"),
    [
        (r"\includegraphics{none.png}", "does not exist"),
        (r"\includegraphics{a.png} \includegraphics{a.png}", "2 times"),
        (r"\citep{nobody2020}", "not in the bibliography"),
        (r"\emph{open", "braces"),
        (r"\begin{itemize} \item x", "never ended"),
        (r"\end{itemize}", "no \\begin"),
        ("$x", "not closed"),
        ("a_b", "outside mathematics"),
        ("x & y", "outside a table"),
        (r"\input{x}", "not allowed"),
        (r"\newcommand{\x}{y}", "not allowed"),
    ],
)
def test_faults_of_a_fragment_are_told(fragment: str, word: str) -> None:
    problems = LATEX.check(fragment, figures=("a.png",), keys=("ho2020denoising",))
    assert any(word in one for one in problems), problems


def test_what_is_right_is_not_complained_of() -> None:
    fragment = r"A 50\% share of $x_1^2$ \citep{k}, see \ref{fig:a_b} [[num: run_1.a_b.mean]]. \texttt{a\_b} \& \{c\}"
    assert LATEX.check(fragment, figures=(), keys=("k",)) == ()


def test_faults_of_a_document_are_told() -> None:
    source = assemble("", results="See \\ref{tab:none}. \\section{Introduction} Again.", method="")
    problems = " ".join(LATEX.check(source, figures=(), keys=()))
    assert "The section Introduction stands 2 times." in problems
    assert "The section Method is empty." in problems
    assert "tab:none points nowhere" in problems


def test_a_log_tells_errors_with_their_line_and_what_is_undefined() -> None:
    text = (
        "./main.tex:12: Undefined control sequence.\nl.12 \\foo\n! Missing $ inserted.\n<inserted text>\nl.40 a_b\n"
        "LaTeX Warning: Reference `fig:x' on page 2 undefined on input line 7.\n"
        "Package natbib Warning: Citation `k' on page 1 undefined on input line 9.\n"
        "Output written on main.pdf (7 pages, 1234 bytes).\n"
    )
    assert LATEX.check_log(text) == (
        "Line 12: Undefined control sequence.",
        "Line 40: Missing $ inserted.",
        "The reference fig:x is undefined.",
        "The citation k is undefined.",
    )
    assert log.pages(text) == 7


def test_a_log_without_pages_is_a_failure() -> None:
    assert LATEX.check_log("! Emergency stop.") == ("Emergency stop.", "No page was written.")
    assert LATEX.check_log("Output written on main.pdf (1 page, 1 bytes).") == ()
