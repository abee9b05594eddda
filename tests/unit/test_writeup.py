"""The steps from the first section to a reviewed paper, with the offline model and no LaTeX."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TypeVar

import pytest
from pydantic import BaseModel

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.execution import Artifact, Outcome, Usage, Verdict
from fumehood.domain.experiment import Execution, ExperimentState
from fumehood.domain.ids import ExecutionId
from fumehood.domain.step import Side, Step
from fumehood.errors import WorkFailedError
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.latex.typesetter import Latex
from fumehood.literature.index import LocalIndex
from fumehood.llm.prompts import PackagedPrompts
from fumehood.ports import Call, Coder
from fumehood.services import paper, reviews, templates, writeup
from fumehood.services.change import Change
from fumehood.services.world import WriteWorld
from fumehood.store.memory import FixedClock, MemoryStore
from tests.fakes import papers

Shape = TypeVar("Shape", bound=BaseModel)
GOOD_LOG = b"This is pdfTeX\nOutput written on main.pdf (9 pages, 1 bytes).\n"


class Directly:
    """Asks the offline model without a gateway between; single answers can be planted by role and subject."""

    def __init__(self, artifacts: MemoryArtifacts) -> None:
        self._upstream = OfflineModel(artifacts)
        self.planted: dict[tuple[str, str], str] = {}
        self.asked: list[tuple[str, str]] = []

    def text(self, call: Call) -> str:
        """Return the answer as text."""
        role = (call.claims.role, call.claims.subject)
        self.asked.append(role)
        if role in self.planted:
            return self.planted[role]
        body = {"model": "offline", "max_tokens": 10, "messages": [{"role": "user", "content": call.prompt}]}
        return str(self._upstream.send(call.claims, body)["content"][0]["text"])

    def answer(self, call: Call, shape: type[Shape]) -> Shape:
        """Return the answer in this shape."""
        return shape.model_validate_json(self.text(call).removeprefix("```json\n").removesuffix("\n```"))


class NoCoder:
    """Applies nothing; its name is all that a paper needs."""

    name = "search-replace"

    def edit(self, *_: object) -> object:
        """Refuse."""
        raise NotImplementedError


class Bench:
    """A world in memory with one experiment that is ready to be written up."""

    def __init__(self) -> None:
        artifacts = MemoryArtifacts()
        files = templates.snapshot(papers.FOLDER, artifacts)
        self.model = Directly(artifacts)
        coder: Coder = NoCoder()  # type: ignore[assignment]
        self.world = WriteWorld(
            store=MemoryStore(),
            artifacts=artifacts,
            clock=FixedClock(),
            model=self.model,
            coder=coder,
            literature=LocalIndex(),
            prompts=PackagedPrompts(),
            typesetter=Latex(),
        )
        figures = {name: artifacts.put(papers.png(60, 40)) for name in papers.FIGURES}
        self.experiment = papers.experiment(products=figures, outcome=None, label="")
        with self.world.store.begin() as tx:
            tx.directions.save(papers.direction(template_files=files))
            tx.ideas.save(papers.idea())
            tx.experiments.save(self.experiment)
            for index, shift in enumerate(({}, {"dino": -3.0}, {"line": 4.0})):
                statement = {"predicate": papers.record(index, shift)}
                payload = base64.b64encode(json.dumps(statement).encode()).decode()
                signed = artifacts.put(json.dumps({"payload": payload, "signatures": []}).encode())
                tx.runs.save(
                    papers.run(index, record=signed, final_info=artifacts.put(b"{}"), files=templates.workspace(files))
                )

    def step(self, name: str, waits_for: tuple[ExecutionId, ...] = (), **payload: str | int) -> Step:
        """Return a step on the experiment."""
        return Step(
            id="step_1", key="k", name=name, side=Side.WRITE, direction_id=self.experiment.direction_id,
            experiment_id=self.experiment.id, payload=payload, waits_for=waits_for,
        )  # fmt: skip

    def keep(self, change: Change) -> Change:
        """Store what a step wants."""
        with self.world.store.begin() as tx:
            for experiment in change.experiments:
                tx.experiments.save(experiment)
                self.experiment = experiment
            for execution in change.executions:
                tx.executions.save(execution)
        return change

    def write_all(self) -> None:
        """Write every section, following the steps asked for."""
        section: str | None = writeup.SECTIONS[0]
        while section:
            change = self.keep(writeup.write_section(self.world, self.step("write_section", section=section)))
            section = str(change.steps[0].payload["section"]) if change.steps[0].name == "write_section" else None

    def compiled(self, log: bytes, *, pdf: bool = True, attempt: int = 0) -> ExecutionId:
        """Typeset, and pretend that the container left this log."""
        (execution,) = self.keep(writeup.typeset(self.world, self.step("typeset", round=attempt))).executions
        left = {"main.log": log} | ({"main.pdf": b"%PDF-1.5"} if pdf else {})
        put = self.world.artifacts.put
        outcome = Outcome(
            name="fh", verdict=Verdict.SUCCEEDED if pdf else Verdict.FAILED, exit_code=0, usage=Usage(), output_tail="",
            truncated=False, rejected=(), image="",
            artifacts=tuple(Artifact(path=path, bytes=len(data), sha256=put(data)) for path, data in left.items()),
        )  # fmt: skip
        with self.world.store.begin() as tx:
            tx.executions.save(dataclasses.replace(execution, outcome=outcome))
        return execution.id

    def product(self, path: str) -> bytes:
        """Return a product's bytes."""
        return self.world.artifacts.get(self.experiment.products[path])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def written(bench: Bench) -> Bench:
    bench.write_all()
    return bench


def test_each_section_is_one_call_and_the_last_asks_for_typesetting(written: Bench) -> None:
    assert written.model.asked == [("section", section) for section in writeup.SECTIONS]
    assert set(written.experiment.draft) == set(writeup.SECTIONS)
    change = writeup.write_section(written.world, written.step("write_section", section="title"))
    assert (change.steps[0].name, change.steps[0].payload) == ("typeset", {"round": 0})


def test_the_disclosure_says_what_the_offline_model_did_not_read(bench: Bench) -> None:
    def told() -> str:
        return paper.disclosure(paper.read(bench.world, bench.step("typeset")), paper.tools_of(bench.world))

    assert "did not read the direction's text" in told()
    assert "playbook that was written beforehand" in told()
    with bench.world.store.begin() as tx:
        given = tx.directions.get(bench.experiment.direction_id)
        _, task = templates.prompt_of(given.template_files, bench.world.artifacts)
        tx.directions.save(dataclasses.replace(given, text=task))
    assert "direction's text" not in told()


def test_the_outcome_is_decided_before_anything_is_written(written: Bench) -> None:
    assert written.experiment.outcome == "inconclusive"
    assert written.experiment.label == "not_comparable: screen_only"
    assert "Inconclusive" in written.experiment.draft["title"]


def test_writing_a_section_twice_changes_nothing(written: Bench) -> None:
    before = dict(written.experiment.draft)
    for section in writeup.SECTIONS:
        written.keep(writeup.write_section(written.world, written.step("write_section", section=section)))
    assert dict(written.experiment.draft) == before


def test_what_is_wrong_is_told_once_and_then_mended(bench: Bench) -> None:
    bad = "A measured loss of 0.9876 was seen here. An honest sentence stays in the paper."
    bench.model.planted[("section", "introduction")] = bad
    bench.keep(writeup.write_section(bench.world, bench.step("write_section", section="introduction")))
    assert bench.model.asked == [("section", "introduction"), ("refine", "introduction")]
    assert bench.experiment.draft["introduction"] == "An honest sentence stays in the paper."


def test_a_better_second_answer_is_taken(bench: Bench) -> None:
    bench.model.planted[("section", "introduction")] = "A measured loss of 0.9876 was seen here."
    bench.model.planted[("refine", "introduction")] = "The value is [[num: run_1.kl_divergence.mean]] nats here."
    bench.keep(writeup.write_section(bench.world, bench.step("write_section", section="introduction")))
    assert bench.experiment.draft["introduction"] == "The value is [[num: run_1.kl_divergence.mean]] nats here."


def test_typesetting_wants_one_closed_execution(written: Bench) -> None:
    change = writeup.typeset(written.world, written.step("typeset", round=0))
    (wanted,) = change.executions
    assert isinstance(wanted, Execution)
    assert wanted.image == "latex"
    assert "-no-shell-escape" in wanted.command[-1]
    assert wanted.environment["openin_any"] == wanted.environment["openout_any"] == "p"
    assert set(wanted.inputs) == {"work/main.tex", "work/references.bib", *(f"work/{name}" for name in papers.FIGURES)}
    assert change.steps[0].waits_for == (wanted.id,)


def test_a_paper_that_compiles_goes_to_review_with_its_products(written: Bench) -> None:
    done = written.step("typeset_done", (written.compiled(GOOD_LOG),), round=0)
    change = written.keep(writeup.typeset_done(written.world, done))
    assert written.experiment.state is ExperimentState.REVIEWING
    assert {"paper.pdf", "latex/main.tex", "latex/references.bib", "claims.json"} <= set(written.experiment.products)
    assert (change.steps[0].name, change.steps[0].payload) == ("review", {"pages": 9})
    source = written.product("latex/main.tex").decode()
    assert written.world.typesetter.check(source, figures=papers.FIGURES, keys=_keys(written)) == ()


def _keys(bench: Bench) -> list[str]:
    lines = bench.product("latex/references.bib").decode().splitlines()
    return [line.split("{")[1].rstrip(",") for line in lines if line.startswith("@")]


def test_claims_are_numbered_in_the_order_of_the_text_and_name_their_record(written: Bench) -> None:
    written.compiled(GOOD_LOG)
    claims = json.loads(written.product("claims.json"))
    assert [claim["id"] for claim in claims] == [f"c{n + 1}" for n in range(len(claims))]
    assert len(claims) > 80
    assert {claim["source"] for claim in claims} <= {f"run_{n}/record.json" for n in range(3)}
    assert claims[0]["section"] == "abstract"
    assert all(claim["text"] in claim["sentence"] for claim in claims)


def test_a_broken_paragraph_is_dropped_when_nobody_can_mend_it(written: Bench) -> None:
    draft = dict(written.experiment.draft)
    draft["results"] += "\n\nA \\undefinedcommand here breaks it."
    written.keep(Change(experiments=(dataclasses.replace(written.experiment, draft=draft),)))
    written.compiled(GOOD_LOG)
    line = next(
        at
        for at, text in enumerate(written.product("latex/main.tex").decode().splitlines(), start=1)
        if "undefinedcommand" in text
    )
    log = f"./main.tex:{line}: Undefined control sequence.\n".encode() + GOOD_LOG
    done = written.step("typeset_done", (written.compiled(log),), round=0)
    change = written.keep(writeup.typeset_done(written.world, done))
    assert change.steps[0].name == "typeset"
    assert change.steps[0].payload == {"round": 1}
    assert "undefinedcommand" not in written.experiment.draft["results"]
    assert "[[table: results]]" in written.experiment.draft["results"]


def test_typesetting_that_never_succeeds_ends(written: Bench) -> None:
    execution = written.compiled(b"! Emergency stop.\n", pdf=False, attempt=5)
    with pytest.raises(WorkFailedError, match="could not be typeset"):
        writeup.typeset_done(written.world, written.step("typeset_done", (execution,), round=5))


def test_forgotten_figures_and_tables_are_placed(bench: Bench) -> None:
    bench.model.planted[("section", "results")] = "Something was measured and is described here."
    bench.write_all()
    bench.compiled(GOOD_LOG)
    source = bench.product("latex/main.tex").decode()
    assert all(f"{{{name}}}" in source for name in papers.FIGURES)
    assert "\\label{tab:results}" in source


def test_the_review_of_the_offline_model_holds_checks_and_no_judgement(written: Bench) -> None:
    done = written.step("typeset_done", (written.compiled(GOOD_LOG),), round=0)
    written.keep(writeup.typeset_done(written.world, done))
    change = written.keep(reviews.review(written.world, written.step("review", pages=9)))
    review = json.loads(written.product("review.json"))
    assert review["Overall"] is None
    assert review["Decision"] is None
    assert "Overall" in review["not judged"]
    assert [check for check in review["checks"] if not check["held"]] == []
    assert written.experiment.state is ExperimentState.VERIFYING
    assert change.steps[0].key == f"verify:{written.experiment.id}"


def test_a_number_changed_after_the_fact_is_found(written: Bench) -> None:
    done = written.step("typeset_done", (written.compiled(GOOD_LOG),), round=0)
    written.keep(writeup.typeset_done(written.world, done))
    claims = json.loads(written.product("claims.json"))
    claims[3]["text"] = "0.001"
    planted = written.world.artifacts.put(json.dumps(claims).encode())
    products = {**written.experiment.products, "claims.json": planted}
    written.keep(Change(experiments=(dataclasses.replace(written.experiment, products=products),)))
    written.keep(reviews.review(written.world, written.step("review", pages=2)))
    broken = [check["name"] for check in json.loads(written.product("review.json"))["checks"] if not check["held"]]
    assert len(broken) == 2
    assert "printed numbers" in broken[0]
    assert "pages" in broken[1]
