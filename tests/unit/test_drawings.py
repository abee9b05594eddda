"""What figures rest on: which runs they show, what is kept of them, and what is told where they show what is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.execution import Kind, Spec
from fumehood.domain.experiment import Experiment, ExperimentState
from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.services import drawing_notes, drawings, forks, placeholders, revision, verification
from fumehood.services.drawings import Drawn
from fumehood.services.placeholders import Tools
from tests.fakes import papers
from tests.fakes.laboratory import PNG, TINY, Laboratory, act, script
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox

TITLES = {"run_0": "Baseline", "run_1": "Scale 1", "run_2": "Scale 2"}
TOOLS = Tools(literature=LocalIndex(), typesetter=Latex())
NOTE = "The error of Scale 1 lies above that of the baseline."


def told(*words: str, read: tuple[str, ...] = (), **names: str) -> Drawn:
    return Drawn(words=list(words), names=names, read=list(read))


def data(*words: str, read: tuple[str, ...] = ("run_0/final_info.json", "run_1/final_info.json")) -> bytes:
    """Return what the driver writes of a figure with these words."""
    line = {"axes": 0, "kind": "line", "label": "Scale 1", "n": 2, "x": [0, 1], "y": [2.0, 1.0]}
    axes = [{"title": "", "x": "step", "y": "error"}]
    shape = {"words": list(words), "names": {"run_0": "Untouched"}, "read": list(read), "axes": axes, "series": [line]}
    return json.dumps(shape).encode()


def drawing(files: Mapping[str, bytes]) -> InstantSandbox:
    """Return a sandbox whose `plot.py` leaves these files."""
    return InstantSandbox(lambda spec: Did(files=dict(files)) if spec.kind is Kind.PLOT else act(spec))


WHOLE = {
    "scores.png": PNG,
    "drawn/scores.json": data("Untouched", "scale 1", "error"),
    "scores.csv": b"run,error\nrun_0,1.0\n",
    "table.csv": b"of no figure\n",
}


class TestRunsOfAFigure:
    def test_its_words_name_them_by_label_title_or_folder(self) -> None:
        assert drawings.runs_in(told("Untouched", "scale 2 of all", run_0="Untouched"), TITLES) == (
            ("run_0", "run_2"),
            "labels",
        )
        assert drawings.runs_in(told("run_1 (three seeds)"), TITLES)[0] == ("run_1",)

    def test_a_label_that_was_broken_into_lines_is_the_same(self) -> None:
        titles = {"run_0": "Baseline", "run_1": "Variance-preserving start"}
        assert drawings.runs_in(told("variance- preserving start"), titles)[0] == ("run_1",)

    def test_a_name_within_a_longer_one_is_not_the_shorter(self) -> None:
        titles = {"run_0": "Baseline", "run_1": "Scale", "run_2": "Scale, twice"}
        assert drawings.runs_in(told("Scale, twice"), titles)[0] == ("run_2",)
        assert drawings.runs_in(told("Scaled"), titles)[0] == ("run_0", "run_1", "run_2")

    def test_without_such_words_the_files_that_were_read_say_it(self) -> None:
        assert drawings.runs_in(told("error", read=("run_2/final_info.json",)), TITLES) == (("run_2",), "read")

    @pytest.mark.parametrize("drawn", [None, told("error"), told("error", read=("run_9/x",))])
    def test_and_else_all_that_there_were(self, drawn: Drawn | None) -> None:
        assert drawings.runs_in(drawn, TITLES) == (tuple(TITLES), "given")

    def test_runs_that_there_are_not_are_found(self) -> None:
        assert drawings.strays(told("Run 7", "run 1"), TITLES) == ["run_7"]
        assert drawings.strays(told("error", run_5="Scale 5"), TITLES) == ["run_5"]
        assert drawings.strays(told("As run 9"), {**TITLES, "run_3": "As run 9, for longer"}) == []
        assert drawings.strays(told("trunk 7", "run 12345 steps"), TITLES) == []

    @pytest.mark.parametrize(
        ("source", "strays"),
        [
            (b"labels = {'run_0': 'a', 'run_4': 'b'}", ["run_4"]),
            (b"open('run_3/final_info.json')", ["run_3"]),
            (b'"""Draws run_7."""\nx = "run_7 and run_8"\ny = f"run_{1}"', []),
            (b"not python (", []),
            (b"\xff\x00", []),
        ],
    )
    def test_a_program_names_them_by_their_folders(self, source: bytes, strays: list[str]) -> None:
        assert drawings.strays_of_program(source, TITLES) == strays

    @pytest.mark.parametrize(
        "broken", [b"", b"[]", b'{"words": [1]}', b'{"series": [{"axes": -1, "kind": "x", "n": 1, "x": [], "y": []}]}']
    )
    def test_what_the_sandbox_tells_wrongly_tells_nothing(self, broken: bytes) -> None:
        assert drawings.drawn_of(broken) is None


class Written:
    """An idea carried out until its paper is verified."""

    def __init__(self, lab: Laboratory, runs: int = 2) -> None:
        self.lab = lab
        lab.submit(runs=runs)
        lab.go_on()

    @property
    def experiment(self) -> Experiment:
        return self.lab.experiments()[0]

    def product(self, path: str) -> bytes:
        return self.lab.artifacts.get(self.experiment.products[path])

    def problems(self, folder: Path) -> list[str]:
        key = self.lab.signer.public_key_bytes()
        opened = verification.open_folder(folder)
        return verification.verify_folder(
            opened, lambda envelope, kind: open_envelope(envelope, {key_id_of(key): key}, kind)
        ).problems


@pytest.fixture
def written(make_lab: Callable[..., Laboratory]) -> Callable[..., Written]:
    def make(files: Mapping[str, bytes] = WHOLE, **parts: Any) -> Written:
        model = script(drawing={"notes": [{"file": "scores.png", "note": NOTE}]})
        return Written(make_lab(**{"sandbox": drawing(files), "model": model, **parts}))

    return make


class TestWhatIsKept:
    def test_runs_files_and_series_of_each_figure(self, written: Callable[..., Written]) -> None:
        done = written()
        assert done.experiment.state is ExperimentState.DONE, done.experiment.error
        kept = drawings.read(done.product("drawings.json"))
        assert kept.program == done.experiment.files["plot.py"]
        assert kept.runs == TITLES
        runs = {run.folder: run for run in done.lab.runs()}
        assert kept.files["run_1/samples.json"] == runs["run_1"].outputs["samples.json"]
        assert kept.files["run_2/final_info.json"] == runs["run_2"].final_info
        (one,) = kept.drawings
        assert (one.file, one.runs, one.known_by) == ("scores.png", ("run_0", "run_1"), "labels")
        assert one.read == ("run_0/final_info.json", "run_1/final_info.json")
        assert set(one.data) == {"drawn/scores.json", "drawn/scores.csv"}
        assert done.product("drawn/scores.csv") == WHOLE["scores.csv"]
        assert "drawn/table.csv" not in done.experiment.products

    def test_the_caption_names_the_runs_whoever_wrote_it(self, written: Callable[..., Written]) -> None:
        source = written().product("latex/main.tex").decode()
        assert r"Runs shown: Baseline (\texttt{run\_0}); Scale 1 (\texttt{run\_1}).}" in source
        assert drawings.captions_of(source) == {"scores.png": ("run_0", "run_1")}

    def test_a_figure_of_which_nothing_is_told_shows_all_runs(self, written: Callable[..., Written]) -> None:
        done = written({"scores.png": PNG})
        (one,) = drawings.read(done.product("drawings.json")).drawings
        assert (one.runs, one.known_by, one.read, one.data) == (tuple(TITLES), "given", (), {})
        assert not done.lab.model.asked("drawing"), "nobody is asked to make a note up"

    def test_an_exported_folder_holds_and_each_change_is_named(
        self, written: Callable[..., Written], tmp_path: Path
    ) -> None:
        done = written()
        out = done.lab.export(tmp_path / "out")
        assert done.problems(out) == []
        inside = verification.open_folder(out / "experiments" / "smaller_scale")

        def found(**changed: bytes) -> str:
            given = {name.replace("__", "/").replace("_DOT_", "."): value for name, value in changed.items()}
            folder = dataclasses.replace(inside, read=lambda path: given.get(path) or inside.read(path))
            report = verification.Report()
            key = done.lab.signer.public_key_bytes()
            verification.experiment(
                folder, lambda envelope, kind: open_envelope(envelope, {key_id_of(key): key}, kind), report, ""
            )
            return "\n".join(report.problems)

        def with_listed(change: Callable[[Any], Any]) -> str:
            value = json.loads(inside.read("drawings.json"))
            change(value)
            return found(drawings_DOT_json=json.dumps(value).encode())

        assert found() == ""
        assert "scores.png is not the one that was drawn" in found(scores_DOT_png=b"another")
        assert "drawn/scores.json is not the one that was drawn" in found(drawn__scores_DOT_json=data("Untouched"))
        assert "plot.py is not the program that drew" in found(plot_DOT_py=b"pass\n")
        assert "run_1/samples.json is not the file that was drawn from" in found(run_1__samples_DOT_json=b"[1]")
        assert "scores.png does not show the runs that it names" in with_listed(
            lambda one: one["drawings"][0].update(runs=["run_0", "run_2"])
        )
        assert "there is no run run_9 that was measured" in with_listed(lambda one: one["runs"].update(run_9="x"))
        assert "run_2 was left out of the drawings" in with_listed(lambda one: one["runs"].pop("run_2"))
        assert "scores.png is not in it" in with_listed(lambda one: one["drawings"].clear())
        assert "which it was not given" in with_listed(lambda one: one["drawings"][0].update(read=["run_0/secret"]))
        assert "it cannot be read" in with_listed(lambda one: one.pop("program"))
        source = inside.read("latex/main.tex").replace(rb"; Scale 1 (\texttt{run\_1})", b"")
        assert "the caption of scores.png in latex/main.tex names run_0, and it shows run_0, run_1" in found(
            latex__main_DOT_tex=source
        )

    def test_a_fork_that_only_writes_keeps_them(self, written: Callable[..., Written]) -> None:
        done = written()
        old = done.experiment
        lab = done.lab
        made = forks.fork(lab.store, lab.artifacts, lab.clock, "somebody", old.id, "writing", forks.Edits())
        lab.go_on()
        kept = {path for path in old.products if path.startswith("drawn/") or path == "drawings.json"}
        again = next(one for one in lab.experiments() if one.id == made.id)
        assert again.state is ExperimentState.DONE, again.error
        assert {path: again.products[path] for path in kept} == {path: old.products[path] for path in kept}


class TestFiguresOfRunsThatAreNot:
    def test_a_program_that_names_one_goes_back_to_the_coder_undrawn(self, written: Callable[..., Written]) -> None:
        strange = TINY["plot.py"].encode() + b"labels = {'run_0': 'Baseline', 'run_7': 'Ours'}\n"
        coder = ScriptedCoder({(0, 1): ({"plot.py": strange}, ""), (0, 2): ({"plot.py": TINY["plot.py"].encode()}, "")})
        done = written(coder=coder)
        asked = [call.prompt for call in coder.calls if call.claims.role == "plot"]
        sentence = "plot.py names run_7, and there is no such run to draw: there are run_0, run_1, run_2."
        assert [sentence in prompt for prompt in asked] == [False, True]
        assert len(done.lab.executions(kind=Kind.PLOT)) == 1
        assert f"plot.refused: smaller_scale: {sentence}" in done.lab.told()
        assert done.experiment.state is ExperimentState.DONE

    def test_a_figure_that_shows_one_goes_back_and_is_never_kept(self, written: Callable[..., Written]) -> None:
        strange = {**WHOLE, "drawn/scores.json": data("Untouched", "Run 8")}
        done = written(strange)
        assert len(done.lab.executions(kind=Kind.PLOT)) == 5
        asked = [call.prompt for call in done.lab.coder.calls if call.claims.role == "plot"]
        assert ["plot.py names run_8" in prompt for prompt in asked] == [False, True, True, True]
        assert "scores.png" not in done.experiment.products
        assert "No figure could be drawn: plot.py failed on every attempt." in done.experiment.limitations
        assert done.experiment.state is ExperimentState.DONE, done.experiment.error

    def test_the_coder_is_told_which_runs_there_are(self, written: Callable[..., Written]) -> None:
        done = written()
        (asked,) = [call.prompt for call in done.lab.coder.calls if call.claims.role == "plot"]
        assert '{"runs": ["run_0", "run_1", "run_2"]}' in asked


class TestNotes:
    def test_a_note_is_of_the_series_and_stands_in_the_notebook(self, written: Callable[..., Written]) -> None:
        done = written()
        (asked,) = done.lab.model.asked("drawing")
        facts = json.loads(asked.prompt.partition("<facts>\n")[2].partition("\n</facts>")[0])
        (figure,) = facts["figures"]
        assert figure["runs"] == {"run_0": "Baseline", "run_1": "Scale 1"}
        (series,) = figure["series"]
        assert (series["first"], series["last"], series["lowest"], series["mean"]) == (2.0, 1.0, 1.0, 1.5)
        assert done.experiment.notes.endswith(f"\n## Figures\nscores.png: {NOTE}\n")
        assert any(f"scores.png: {NOTE}" in call.prompt for call in done.lab.model.asked("section"))
        assert NOTE.rstrip(".") in done.product("latex/main.tex").decode()

    @pytest.mark.parametrize(
        "note",
        [
            "The error falls to 0.25 at its end.",
            "Scale 2 lies below all others.",
            "Scale 1 outperforms the baseline.",
            "It is [[num: run_1.error.mean]] there.",
        ],
    )
    def test_numbers_praise_and_other_runs_are_left_out(self, make_lab: Callable[..., Laboratory], note: str) -> None:
        model = script(drawing={"notes": [{"file": "scores.png", "note": f"{note} {NOTE}"}]})
        done = Written(make_lab(sandbox=drawing(WHOLE), model=model))
        assert done.experiment.notes.endswith(f"scores.png: {NOTE}\n")

    def test_an_answer_of_another_figure_or_without_end_is_none(self) -> None:
        form = drawing_notes.form_for(("a.png",))
        for notes in (
            [{"file": "b.png", "note": "x"}],
            [{"file": "a.png", "note": "x" * 401}],
            [{"file": "a.png", "note": "x"}] * 13,
        ):
            with pytest.raises(ValueError, match="validation error"):
                form.model_validate({"notes": notes})

    def test_a_later_drawing_takes_the_place_of_the_notes(self) -> None:
        first = drawing_notes.added("Notes.\n", {"a.png": "One."})
        assert drawing_notes.added(first, {"a.png": "Two."}) == "Notes.\n\n## Figures\na.png: Two.\n"
        assert drawing_notes.added(first, {}) == "Notes.\n"


@pytest.fixture(scope="module")
def facts() -> Any:
    made = papers.make()
    shown = {"kl_by_run.png": ["run_0", "run_1"]}
    return {
        **made,
        "figures": [{**one, "runs": shown.get(one["file"], one["runs"])} for one in made["figures"]],
    }


class TestWords:
    def revise(self, facts: Any, text: str) -> tuple[str, tuple[str, ...]]:
        return revision.revise("results", text, facts, TOOLS)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[[figure: kl_by_run.png | The Stretched linear schedule ends lowest.]]", "'Stretched linear schedule'"),
            ("[[figure: kl_by_run.png | Run 2 ends lowest.]]", "'Stretched linear schedule', which its caption names"),
            ("[[figure: kl_by_run.png | Run 9 ends lowest.]]", "There is no run 9 in this study."),
            ("[[figure: kl_by_run.png | It falls by 0.4321 there.]]", "The number 0.4321 comes from no record"),
            ("[[figure: kl_by_run.png | Ours outperforms all.]]", "This claims more than a screen can show"),
            ("Figure~\\ref{fig:kl_by_run} shows the stretched linear schedule.", "The figure kl_by_run.png does not"),
            ("Run 9 was the best of all.", "There is no run 9 in this study."),
        ],
    )
    def test_of_a_run_that_is_not_or_is_not_shown_go_back(self, facts: Any, text: str, problem: str) -> None:
        kept, problems = self.revise(facts, text)
        assert kept == ""
        assert any(problem in one for one in problems), problems

    @pytest.mark.parametrize(
        "text",
        [
            "[[figure: kl_by_run.png | Cosine schedule beside the baseline.]]",
            "[[figure: train_loss.png | Stretched linear schedule and cosine schedule.]]",
            "Figure~\\ref{fig:train_loss} shows the stretched linear schedule.",
            "Figures~\\ref{fig:kl_by_run} and \\ref{fig:train_loss} show the stretched linear schedule.",
            "The stretched linear schedule moves little.",
        ],
    )
    def test_of_what_is_shown_stay(self, facts: Any, text: str) -> None:
        assert self.revise(facts, text) == (text, ())

    def test_that_a_run_without_a_number_is_missing_may_be_said(self) -> None:
        made: Any = papers.make([{"line": 4}, None])
        text = "The stretched linear schedule gave no number, so Figure~\\ref{fig:kl_by_run} does not have it."
        assert revision.revise("results", text, made, TOOLS) == (text, ())

    def test_a_caption_without_words_is_the_notebooks_and_names_the_runs(self, facts: Any) -> None:
        known = [{**one, "caption": "Divergences & seeds."} for one in facts["figures"]]
        made = placeholders.figure("kl_by_run.png", {**facts, "figures": known}, TOOLS)
        runs = r"Runs shown: Baseline (\texttt{run\_0}); Cosine schedule (\texttt{run\_1})."
        assert rf"\caption{{Divergences \& seeds. {runs}}}" in made


def test_the_plot_is_started_by_the_platforms_own_program(make_lab: Callable[..., Laboratory]) -> None:
    seen: list[Spec] = []

    def does(spec: Spec) -> Did:
        seen.extend([spec] if spec.kind is Kind.PLOT else [])
        return act(spec)

    Written(make_lab(sandbox=InstantSandbox(does)))
    (spec,) = seen
    assert spec.command == ("python", "/in/driver.py")
    given = {item.path for item in spec.inputs}
    assert {"in/driver.py", "work/plot.py", "work/run_1/final_info.json"} <= given
