"""A paper from hand-made runs, typeset by the real LaTeX and read back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from pypdf import PdfReader

from fumehood.gateway.upstreams import offline_paper
from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.services import numbers, paper, placeholders, prose, reviews, revision, tables, writeup
from fumehood.services.placeholders import Tools
from tests.fakes import papers

pytestmark = [
    pytest.mark.latex,
]
TOOLS = Tools(literature=LocalIndex(), typesetter=Latex())
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "openin_any": "p",
    "openout_any": "p",
    "max_print_line": "1000",
}


def typeset(folder: Path, source: str, bibliography: str) -> str:
    """Compile as the platform does and return the log."""
    (folder / "main.tex").write_text(source, encoding="utf-8")
    (folder / "references.bib").write_text(bibliography, encoding="utf-8")
    for name in papers.FIGURES:
        (folder / name).write_bytes(papers.png())
    subprocess.run(["sh", "-c", writeup.COMPILE], cwd=folder, env=ENVIRONMENT, timeout=120, capture_output=True)
    return (folder / "main.log").read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """Write and compile one paper; return its folder, its log and the plain text of its pages."""
    folder = tmp_path_factory.mktemp("paper")
    facts = json.loads(json.dumps(papers.make()))
    seen: set[str] = set()
    parts: dict[str, str] = {}
    keys: set[str] = set()
    for section in writeup.SECTIONS:
        text, problems = revision.revise(
            section, offline_paper.compose(section, facts, papers.playbook()), facts, TOOLS, seen=seen
        )
        assert problems == ()
        seen |= prose.keys(text)
        rendered = placeholders.render(section, text, facts, TOOLS)
        parts[section] = rendered.latex
        keys |= set(rendered.keys)
    source = TOOLS.typesetter.assemble(
        (papers.FOLDER / "latex" / "template.tex").read_text(encoding="utf-8"),
        parts | {"disclosure": "No language model took part."},
        title=parts["title"],
        keywords=("2D diffusion", "inconclusive"),
    )
    assert TOOLS.typesetter.check(source, figures=papers.FIGURES, keys=sorted(keys)) == ()
    entries = "\n".join(TOOLS.literature.bibtex(TOOLS.literature.get(key)) for key in sorted(keys))
    log = typeset(folder, source, entries)
    read = subprocess.run(
        ["pdftotext", "-layout", "main.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
    )
    return folder, log, read.stdout.split("\f")[:-1]


def test_it_compiles_without_a_complaint(made: tuple[Path, str, list[str]]) -> None:
    _, log, pages = made
    assert TOOLS.typesetter.check_log(log) == ()
    assert "Overfull" not in log
    assert "Rerun to get" not in log
    assert len(pages) >= reviews.MIN_PAGES


def test_each_section_stands_once(made: tuple[Path, str, list[str]]) -> None:
    text = "\n".join(made[2])
    for number, name in enumerate(reviews.HEADINGS, start=1):
        assert len(re.findall(rf"^\s*{number}\s+{name}\s*$", text, re.MULTILINE)) == 1, name
    for name in ("Abstract", "Disclosure", "References"):
        assert len(re.findall(rf"^\s*{name}\s*$", text, re.MULTILINE)) == 1, name


def test_figures_and_tables_are_there_and_nothing_is_left_open(made: tuple[Path, str, list[str]]) -> None:
    text = "\n".join(made[2])
    for number in range(1, len(papers.FIGURES) + 1):
        assert f"Figure {number}:" in text
    shown = [name for name in tables.NAMES if tables.has(name, papers.make())]
    assert set(tables.NAMES) - set(shown) == {"confirmation"}
    for number in range(1, len(shown) + 1):
        assert f"Table {number}:" in text
    assert "??" not in text
    assert "[[" not in text
    assert "FUMEHOOD" not in text


def test_no_sentence_stands_twice(made: tuple[Path, str, list[str]]) -> None:
    text = subprocess.run(
        ["pdftotext", "main.pdf", "-"], cwd=made[0], capture_output=True, text=True, check=True
    ).stdout
    body = re.sub(r"-\n", "", text.split("\nReferences\n")[0]).replace("\n", " ")
    found = [one.strip() for one in re.split(r"(?<=[.!?])\s+(?=[A-Z])", body) if len(one.split()) > 5]
    # Figures may show the same runs.
    assert sorted(one for one in set(found) if found.count(one) > 1 and not one.startswith("Runs shown:")) == []


def test_the_printed_numbers_are_the_records(made: tuple[Path, str, list[str]]) -> None:
    text = "\n".join(made[2])
    known = papers.make()["numbers"]
    for dataset in papers.BASE:
        number = known[f"run_1.kl_divergence.{dataset}.mean"]
        assert numbers.rounded(number["value"], number["digits"]) in text


def test_the_pdf_says_what_it_is(made: tuple[Path, str, list[str]]) -> None:
    metadata = PdfReader(made[0] / "main.pdf").metadata
    assert metadata is not None
    assert "AI-generated" in str(metadata["/Keywords"])
    assert "Inconclusive" in str(metadata["/Title"])
    assert "No language model took part" in " ".join("\n".join(made[2]).split())


def test_the_fallback_skeleton_compiles(tmp_path: Path) -> None:
    parts = {name: f"Words of the {name.replace('_', ' ')}." for name in paper.ORDER}
    source = TOOLS.typesetter.assemble("TITLE HERE", parts, title="A Title", keywords=())
    log = typeset(tmp_path, source.replace(r"\bibliography{references}", ""), "")
    assert TOOLS.typesetter.check_log(log) == ()


def test_a_log_with_an_error_names_its_line(tmp_path: Path) -> None:
    parts = {name: f"Words of the {name.replace('_', ' ')}." for name in paper.ORDER} | {
        "results": "A \\nosuchthing b."
    }
    source = TOOLS.typesetter.assemble("", parts, title="A Title", keywords=())
    line = next(at for at, text in enumerate(source.splitlines(), start=1) if "nosuchthing" in text)
    problems = TOOLS.typesetter.check_log(typeset(tmp_path, source, ""))
    assert f"Line {line}: Undefined control sequence." in problems


def test_a_file_outside_cannot_be_read(tmp_path: Path) -> None:
    parts = dict.fromkeys(paper.ORDER, "Words.") | {"results": "\\input{/etc/hostname}"}
    problems = TOOLS.typesetter.check_log(
        typeset(tmp_path, TOOLS.typesetter.assemble("", parts, title="T", keywords=()), "")
    )
    assert problems
