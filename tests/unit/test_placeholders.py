"""Numbers come from records, works exist, and what does not hold is told and taken out."""

from __future__ import annotations

import pytest

from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.services import placeholders, prose, revision
from fumehood.services.placeholders import Tools
from tests.fakes import papers

TOOLS = Tools(literature=LocalIndex(), typesetter=Latex())
FACTS = papers.make()


def revise(text: str, section: str = "results", **more: object) -> tuple[str, tuple[str, ...]]:
    return revision.revise(section, text, FACTS, TOOLS, **more)  # type: ignore[arg-type]


def test_a_number_becomes_its_records_value_and_a_claim() -> None:
    text = "The value is [[num: run_1.kl_divergence.mean]] nats. It is [[num: run_1.kl_divergence.difference]]."
    made = placeholders.render("results", text, FACTS, TOOLS, first=4)
    known = FACTS["numbers"]["run_1.kl_divergence.mean"]
    first, second = made.claims
    assert (first.id, second.id) == ("c4", "c5")
    assert first.text in made.latex
    assert float(first.text) == pytest.approx(known["value"], abs=0.001)
    assert first.source == "run_1/record.json"
    assert first.pointer == "kl_divergence/mean"
    assert first.sentence == f"The value is {first.text} nats."


def test_an_unknown_number_is_a_problem_and_its_sentence_goes() -> None:
    text, problems = revise("It rose. The speed was [[num: run_9.speed.mean]] per second. It fell again.")
    assert text == "It rose. It fell again."
    assert "run_9.speed.mean" in problems[0]


def test_a_typed_measurement_is_a_problem_and_a_constant_is_not() -> None:
    text, problems = revise(
        "We reach a loss of 0.1234 here. The schedule ends at 0.02 as in the code. It won by 37\\%."
    )
    assert text == "The schedule ends at 0.02 as in the code."
    assert len(problems) == 2


def test_formulas_of_the_method_may_hold_constants() -> None:
    sentence = "With these values $\\bar\\alpha_T \\approx 0.3642$ is left."
    assert revise(sentence, "method") == (sentence, ())
    assert revise(sentence, "results")[1]


def test_a_citation_becomes_a_work_that_exists_once_a_sentence() -> None:
    words = "Denoising Diffusion Probabilistic Models"
    made = placeholders.render("method", f"Known [[cite: {words}]] and again [[cite: {words}]].", FACTS, TOOLS)
    assert made.latex == r"Known~\citep{ho2020denoising} and again."
    assert made.keys == ("ho2020denoising",)


def test_a_work_that_does_not_exist_is_left_out_and_told() -> None:
    text, problems = revise("This is known [[cite: quantum basket weaving on Mars; Variational Diffusion Models]].")
    assert "Mars" not in text
    assert "Variational Diffusion Models" in text
    assert len(problems) == 1


def test_typed_citations_stay_only_when_the_work_exists() -> None:
    text, problems = revise("Old \\citep{ho2020denoising} and invented \\cite{nobody2031nothing} works.")
    made = placeholders.render("results", text, FACTS, TOOLS)
    assert made.latex == r"Old~\citep{ho2020denoising} and invented works."
    assert problems


def test_figures_and_tables_become_floats_and_unknown_ones_are_told() -> None:
    text, problems = revise("[[figure: train_loss.png | The loss.]]\n\n[[figure: secret.png]]\n\n[[table: results]]")
    made = placeholders.render("results", text, FACTS, TOOLS)
    assert r"\includegraphics" in made.latex
    assert r"\label{fig:train_loss}" in made.latex
    assert made.latex.count(r"\begin{table}") == 1
    assert "secret" not in made.latex
    assert problems == ("There is no figure secret.png.",)
    assert len(made.claims) >= 2 * 5 * 3


def test_a_float_stands_once_in_a_paper() -> None:
    again = placeholders.render("results", "[[table: setup]]", FACTS, TOOLS, shown={"table:setup"})
    assert again.latex == ""


def test_run_numbers_in_prose_become_titles() -> None:
    text, problems = revise("Run 1 differs from run\\_0 [[num: run_1.kl_divergence.mean]].")
    assert text == "Cosine schedule differs from the baseline [[num: run_1.kl_divergence.mean]]."
    assert len(problems) == 2


def test_a_sentence_said_before_is_taken_out() -> None:
    seen = prose.keys("The network is small and fast to train.")
    text, problems = revise(
        "A new thing. The network is small and fast to train. Again: new words here now.", seen=seen
    )
    assert "network" not in text
    assert len(problems) == 1


@pytest.mark.parametrize(
    "bad",
    [
        r"\input{/etc/passwd}",
        r"\write18{ls}",
        r"\openin5=secret",
        r"\catcode`\@=11",
        r"\def\x{y}",
        r"\usepackage{tikz}",
        r"\href{javascript:alert(1)}{x}",
        r"\includegraphics{../../secret.png}",
        "^^5cinput{x}",
    ],
)
def test_commands_that_reach_out_are_refused(bad: str) -> None:
    text, problems = revise(f"This stays in the paper. Here {bad} is hidden. And this stays too.")
    assert bad not in text
    assert "This stays in the paper." in text
    assert problems


def test_what_does_not_balance_is_dropped_and_the_rest_stays() -> None:
    text, problems = revise(
        "Good words stay here. Bad $x + y is open.\n\n\\begin{itemize} \\item never ended\n\nLast one."
    )
    assert text == "Good words stay here.\n\nLast one."
    assert problems


def test_a_claim_beyond_a_screen_is_refused() -> None:
    text, problems = revise("Our schedule significantly improves the samples. The difference is not shown.")
    assert text == "The difference is not shown."
    assert "promising or not shown" in problems[0]


def test_title_abstract_and_conclusion_say_the_outcome() -> None:
    title, problems = revision.revise("title", "\\title{A Great Idea.}", FACTS, TOOLS)
    assert title == "A Great Idea: An Inconclusive Screening Study"
    assert problems
    assert "inconclusive" in revise("We measured something of interest.", "abstract")[0]
    assert "inconclusive" in revise("We measured something of interest.", "conclusion")[0]


def test_fences_headings_and_comments_are_taken_off() -> None:
    text = "```latex\n\\section{Results}\n% a plan\nThe baseline is shown here. % why\n```"
    assert revise(text) == ("The baseline is shown here.", ())


def test_sentences_are_split_where_they_end() -> None:
    text = "This holds, e.g. here (Fig. 2). The rest, with $x. Y$ and [[num: a.b.mean]], follows. A third?"
    assert len(prose.sentences(text)) == 3
    assert prose.sentences("\\paragraph{Head.} It goes on.") == ["\\paragraph{Head.} It goes on."]
