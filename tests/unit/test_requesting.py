"""What an idea asks for of the catalogue: given with a baseline on it, or waiting for an admin; nothing is lost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain import catalogue as entries
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.domain.experiment import Arm, Experiment, ExperimentState, Run
from fumehood.domain.ids import ExperimentId
from fumehood.domain.ledger import Claims
from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Subject
from fumehood.domain.step import Side, StepState
from fumehood.domain.tenant import LOCAL_ACTOR
from fumehood.errors import BadInputError, ConflictError
from fumehood.ports import Call, Delivered, Delivery
from fumehood.services import approvals, catalogue, facts, forks, requesting, steps, templates, verification
from tests.fakes.laboratory import CONFIRMING, IDEAS, SCORE, TINY, Laboratory, act, script
from tests.fakes.sandbox import Did, InstantSandbox
from tests.fakes.store import KilledError, Moment, MortalStore
from tests.unit.test_confirmations import SHORT

TEXT = b"It is a truth universally acknowledged\n" * 3
SHA = hashlib.sha256(TEXT).hexdigest()
HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 4
TAKES = '[catalogue]\nformats = ["text"]\nmodels = true\n'
FILES = {**TINY, "template.toml": TINY["template.toml"] + TAKES}
PLACE = "in/template/data/catalogue/austen.txt"


class Gateway:
    """Brings what it was told to, and remembers who asked for what."""

    def __init__(self, lab: Laboratory, *answers: Delivery) -> None:
        self.lab = lab
        self.answers = list(answers)
        self.asked: list[tuple[Claims, str]] = []
        self.files = {"austen": TEXT, "weights": WEIGHTS, "bronte": b"Reader, I married him.\n"}

    def fetch(self, claims: Claims, name: str) -> Delivery:
        self.asked.append((claims, name))
        if self.answers:
            return self.answers.pop(0)
        return Delivery(state=Delivered.HERE, sha256=self.lab.artifacts.put(self.files[name]))


def offer(name: str = "austen", data: bytes = TEXT, **changes: Any) -> catalogue.Offer:
    told: dict[str, Any] = {
        "name": name,
        "kind": "data",
        "title": "Six novels",
        "url": f"https://texts.example/{name}",
        "licence": "public domain",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "format": "text",
    }
    return catalogue.offer(**{**told, **changes})


def asking(*requests: list[str]) -> dict[str, Any]:
    """Return a script whose ideas ask for these, one after the other."""

    def idea(call: Call) -> dict[str, Any]:
        scores = dict.fromkeys(("interestingness", "feasibility", "novelty_score"), SCORE)
        return {**IDEAS[call.claims.index], **scores, "requests": requests[call.claims.index]}

    return script(idea=idea)


def does(spec: Spec) -> Did | None:
    """Do as the tiny template's programs do; a text of the catalogue is one more data set."""
    given = {item.path for item in spec.inputs}
    more = "in/data/austen.txt" in given or "in/held_out/austen.txt" in given
    if spec.kind is Kind.PREPARE and PLACE in given:
        part = spec.command[3].encode()
        return Did(files={"data.txt": part, "austen.txt": part + b" austen"})
    did = act(spec)
    if not more:
        return did
    files = {path: _with_austen(path, data) for path, data in did.files.items()}
    return dataclasses.replace(did, files=files)


def _with_austen(path: str, data: bytes) -> bytes:
    if not path.endswith(("final_info.json", "metrics.json")):
        return data
    told = json.loads(data)
    return json.dumps({**told, "austen": told["circle"]}).encode()


@pytest.fixture
def make(make_lab: Callable[..., Laboratory]) -> Callable[..., Laboratory]:
    def made(*requests: list[str], answers: tuple[Delivery, ...] = (), **parts: Any) -> Laboratory:
        lab = make_lab(**{"files": FILES, "model": asking(*requests), "sandbox": InstantSandbox(does), **parts})
        lab.write = dataclasses.replace(lab.write, fetcher=Gateway(lab, *answers))
        return lab

    return made


def add(lab: Laboratory, *offers: catalogue.Offer) -> None:
    for one in offers:
        catalogue.add(lab.store, lab.clock, "key_admin", one)


def fetched(lab: Laboratory) -> Gateway:
    assert isinstance(lab.write.fetcher, Gateway)
    return lab.write.fetcher


def baseline_of(lab: Laboratory, experiment: Experiment) -> Run:
    with lab.store.begin(write=False) as tx:
        return tx.runs.get(str(experiment.baseline_id))


def record(lab: Laboratory, run: Run) -> dict[str, Any]:
    return dict(facts.predicate(lab.artifacts.get(run.record)))


def held(lab: Laboratory) -> list[str]:
    return [one.why for one in approvals.waiting(lab.store, lab.artifacts)]


def approve(lab: Laboratory, word: str = "approve") -> None:
    (one,) = approvals.waiting(lab.store, lab.artifacts)
    getattr(approvals, word)(lab.store, lab.clock, LOCAL_ACTOR, one.id)


def checked(lab: Laboratory, out: Path) -> verification.Report:
    key = lab.signer.public_key_bytes()
    folder = verification.open_folder(lab.export(out))
    return verification.verify_folder(folder, lambda data, kind: open_envelope(data, {key_id_of(key): key}, kind))


class TestGiven:
    def test_an_idea_is_measured_on_what_it_asked_for_and_its_baseline_again(self, make: Any, tmp_path: Path) -> None:
        lab = make(["austen"], [])
        add(lab, offer())
        asked = lab.submit(ideas=2, runs=1)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()
        first, second = lab.experiments()
        plain, own = baseline_of(lab, second), baseline_of(lab, first)
        assert set(lab.get(plain.final_info)) == {"circle"}
        assert set(lab.get(own.final_info)) == {"circle", "austen"}
        assert plain.cache_key != own.cache_key
        (run,) = [one for one in lab.runs() if one.experiment_id == first.id]
        assert set(lab.get(run.final_info)) == {"circle", "austen"}
        told = [record(lab, one) for one in (own, run)]
        assert told[0]["template"] == told[1]["template"] != record(lab, plain)["template"]
        for one in told:
            source = one["sources"]["austen"]
            assert (source["from"], source["url"]) == ("catalogue", "https://texts.example/austen")
            assert (source["licence"], source["sha256"]) == ("public domain", SHA)
        # Who is given it is never asked for again, and nobody else's files change.
        assert [(claims.direction_id, name) for claims, name in fetched(lab).asked] == [(asked.id, "austen")]
        assert lab.direction().template_files == asked.template_files
        assert second.added == {}
        assert checked(lab, tmp_path / "out").problems == []

    def test_what_the_paper_says(self, make: Any) -> None:
        lab = make(["austen"])
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        (experiment,) = lab.experiments()
        (sentence,) = [one for one in experiment.limitations if "catalogue" in one]
        for word in ("Six novels", "https://texts.example/austen", "public domain", SHA):
            assert word in sentence
        source = lab.artifacts.get(experiment.products["latex/main.tex"]).decode()
        assert "installation's catalogue" in source
        assert "Six novels, public domain" in source

    def test_nobody_but_the_platforms_programs_reads_it(self, make: Any) -> None:
        lab = make(["austen"])
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        (experiment,) = lab.experiments()
        drawn = lab.executions(kind=Kind.PREPARE, experiment_id=experiment.id)
        assert len(drawn) == 2
        others = lab.executions(kind=Kind.PREPARE, experiment_id=None)
        assert {one.inputs[PLACE] for one in drawn} == {SHA}
        assert not any(PLACE in one.inputs for one in others)
        # The key is another than that of the template's own data, and the same for both parts.
        assert len({one.key_context for one in drawn} | {one.key_context for one in others}) == 2
        for run in lab.executions(kind=Kind.RUN):
            assert not [path for path in run.inputs if "catalogue" in path]
            assert run.network == "none"

    def test_it_is_in_the_audit_and_in_the_events(self, make: Any) -> None:
        lab = make(["austen"])
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        with lab.store.begin(write=False) as tx:
            told = {one.action: one for one in tx.audit.since()}
        assert told["catalogue.added"].actor == "key_admin"
        given = told["catalogue.given"]
        assert (given.subject, given.tenant, given.detail["sha256"]) == ("austen", lab.direction().tenant, SHA)
        assert f"given austen (public domain, SHA-256 {SHA})" in lab.told()

    def test_two_ideas_that_ask_for_the_same_share_data_and_baseline(self, make: Any) -> None:
        lab = make(["austen"], ["austen"])
        add(lab, offer())
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()
        first, second = lab.experiments()
        assert first.baseline_id == second.baseline_id
        assert first.added == second.added
        assert len(lab.executions(kind=Kind.PREPARE)) == 4
        assert len([one for one in lab.runs() if one.index == 0]) == 2

    def test_the_order_of_names_is_no_matter(self, make: Any) -> None:
        lab = make(["austen", "bronte"], ["bronte", "austen", "bronte"])
        add(lab, offer(), offer("bronte", b"Reader, I married him.\n"))
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        first, second = lab.experiments()
        assert first.added == second.added
        assert first.baseline_id == second.baseline_id
        assert lab.ideas()[1].requests == ("bronte", "austen")

    def test_models_are_what_runs_and_questions_find_and_nobody_else(self, make: Any) -> None:
        toml = FILES["template.toml"] + '[query]\nkind = "sample"\n'

        def answering(spec: Spec) -> Did | None:
            return Did(files={"answers/samples.json": b"[7.0]"}) if spec.kind is Kind.QUERY else does(spec)

        files = {**FILES, "template.toml": toml, "serve.py": "x = 1\n"}
        lab = make(["weights"], files=files, sandbox=InstantSandbox(answering))
        add(lab, offer("weights", WEIGHTS, kind="model", format="safetensors"))
        lab.submit(runs=1)
        lab.go_on()
        (experiment,) = lab.experiments()
        assert experiment.state is ExperimentState.DONE, lab.told()
        run = lab.runs()[-1]
        place, sha = "in/models/weights.safetensors", hashlib.sha256(WEIGHTS).hexdigest()
        for one in lab.executions(run_id=run.id):
            has = one.kind in {Kind.RUN, Kind.QUERY}
            assert (one.inputs.get(place) == sha) is has
            assert one.environment.get("FUMEHOOD_MODELS") == ("/in/models" if has else None)
        assert not any("weights" in path for one in lab.executions(kind=Kind.PREPARE) for path in one.inputs)
        assert record(lab, run)["sources"]["weights"]["kind"] == "model"
        plain = next(one for one in lab.runs() if one.index == 0)
        assert all(place not in one.inputs for one in lab.executions(run_id=plain.id))

    def test_a_confirmation_has_a_baseline_of_its_own_on_the_same_data(self, make: Any, tmp_path: Path) -> None:
        files = {**CONFIRMING, "template.toml": CONFIRMING["template.toml"] + TAKES}
        lab = make(["austen"], [], files=files)
        lab.write = dataclasses.replace(lab.write, confirm=SHORT)
        add(lab, offer())
        lab.submit(profile="confirming", ideas=2, runs=1)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()
        first, second = lab.experiments()
        pools = [one for one in lab.runs() if one.arm is Arm.CONFIRM and one.index == 0]
        assert {one.experiment_id for one in pools} == {first.id, None}
        ours = next(one for one in pools if one.experiment_id == first.id)
        assert set(lab.get(ours.final_info)) == {"circle", "austen"}
        assert set(lab.get(next(one for one in pools if one is not ours).final_info)) == {"circle"}
        drawn = [one for one in lab.executions(kind=Kind.PREPARE) if "--arm=confirm" in one.command]
        assert {one.inputs.get(PLACE) for one in drawn if one.experiment_id == first.id} == {SHA}
        assert {one.inputs.get(PLACE) for one in drawn if one.experiment_id == second.id} == {None}
        assert len({one.key_context for one in lab.executions(kind=Kind.PREPARE)}) == 4
        assert checked(lab, tmp_path / "out").problems == []

    def test_a_fork_keeps_what_was_given(self, make: Any) -> None:
        lab = make(["austen"])
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        (source,) = lab.experiments()
        catalogue.remove(lab.store, lab.clock, "key_admin", "austen")
        made = forks.fork(lab.store, lab.artifacts, lab.clock, "key_1", ExperimentId(source.id), "run_1", forks.Edits())
        lab.go_on()
        fork = next(one for one in lab.experiments() if one.id == made.id)
        assert fork.state is ExperimentState.DONE, lab.told()
        assert (fork.added, fork.baseline_id) == (source.added, source.baseline_id)
        (run,) = [one for one in lab.runs() if one.experiment_id == fork.id]
        assert set(lab.get(run.final_info)) == {"circle", "austen"}


class TestOffered:
    def test_ideas_are_shown_what_they_may_have_and_only_that(self, make: Any) -> None:
        lab = make([])
        add(lab, offer(), offer("bronte", b"x", format="parquet"), offer("jane", b"x", templates=["other"]))
        lab.submit(runs=1)
        lab.go_on_to("schedule")
        shown = lab.model.asked("idea")[0].prompt + lab.model.asked("reflection")[0].prompt
        assert shown.count("austen: Six novels; data, text of 117 bytes, licence: public domain") == 2
        assert "bronte" not in shown
        assert "jane" not in shown

    def test_a_template_that_takes_nothing_hears_of_nothing_and_drops_what_is_asked_for(self, make: Any) -> None:
        lab = make(["austen"], files=TINY)
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE
        assert "austen" not in lab.model.asked("idea")[0].prompt
        assert lab.ideas()[0].requests == ()
        assert fetched(lab).asked == []

    def test_no_template_brings_the_document_itself(self, lab: Laboratory) -> None:
        (lab.template / "catalogue.json").write_text("{}")
        with pytest.raises(BadInputError, match="that name is kept"):
            templates.snapshot(lab.template, lab.artifacts)

    def test_what_takes_of_the_catalogue_needs_the_frozen_pair(self, lab: Laboratory) -> None:
        files = {path: lab.artifacts.put(text.encode()) for path, text in FILES.items() if path != "prepare.py"}
        assert any("needs prepare.py" in one for one in templates.check(files, lab.artifacts, "tiny"))


class TestWaiting:
    def test_what_is_not_in_the_catalogue_waits_until_an_admin_has_added_it(self, make: Any) -> None:
        lab = make(["austen"])
        lab.submit(runs=1)
        lab.go_on()
        direction = lab.direction()
        assert (direction.state, direction.hold) == (DirectionState.IDEATING, Hold.POLICY)
        assert held(lab) == ["it asks for austen, which is not in the catalogue, or not for this tenant and template"]
        assert "austen, which is not in the catalogue" in lab.told()
        assert lab.experiments() == ()
        with pytest.raises(ConflictError, match="Add it to the catalogue first"):
            approve(lab)
        add(lab, offer())
        approve(lab)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()
        assert set(lab.get(lab.runs()[-1].final_info)) == {"circle", "austen"}

    def test_an_admin_may_refuse_it(self, make: Any) -> None:
        lab = make(["austen"], [])
        lab.submit(runs=1, ideas=2)
        lab.go_on()
        approve(lab, "refuse")
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE
        assert [one.name for one in lab.experiments()] == ["momentum"]

    def test_anothers_entry_is_as_if_it_were_not_there(self, make: Any) -> None:
        lab = make(["austen"])
        with lab.store.begin() as tx:
            tx.catalogue.save(
                entries.Entry(**{**offer().model_dump(exclude={"name"}), "id": "austen", "tenants": ("ten_other",)})
            )
        lab.submit(runs=1)
        lab.go_on()
        assert held(lab) == ["it asks for austen, which is not in the catalogue, or not for this tenant and template"]
        assert "austen" not in lab.model.asked("idea")[0].prompt
        with pytest.raises(ConflictError):
            approve(lab)
        assert fetched(lab).asked == []

    def test_what_is_removed_while_an_idea_waits_is_not_given(self, make: Any) -> None:
        lab = make(["austen"])
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on_to("fetch_asked")
        catalogue.remove(lab.store, lab.clock, "key_admin", "austen")
        lab.go_on()
        (experiment,) = lab.experiments()
        assert (experiment.state, experiment.hold) == (ExperimentState.BASELINE, Hold.POLICY)
        assert "not in the catalogue" in held(lab)[0]
        assert fetched(lab).asked == []
        approve(lab, "refuse")
        lab.go_on()
        assert lab.experiments()[0].state is ExperimentState.REFUSED

    def test_what_is_replaced_while_it_is_fetched_is_looked_up_anew(self, make: Any) -> None:
        lab = make(["austen"], answers=(Delivery(state=Delivered.HERE, sha256="0" * 64),))
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on(until=lambda: len(fetched(lab).asked) == 1)
        catalogue.remove(lab.store, lab.clock, "key_admin", "austen")
        fetched(lab).files["austen"] = b"another edition\n"
        add(lab, offer(data=b"another edition\n"))
        lab.clock.advance(60)
        lab.go_on()
        assert (
            lab.experiments()[0].added["data/catalogue/austen.txt"] == hashlib.sha256(b"another edition\n").hexdigest()
        )

    def test_what_is_on_its_way_is_waited_for(self, make: Any) -> None:
        lab = make(["austen"], answers=(Delivery(state=Delivered.UNDER_WAY),) * 40)
        add(lab, offer())
        lab.submit(runs=1)
        for _ in range(45):
            lab.go_on()
            lab.clock.advance(requesting.LOOK_AGAIN_S)
        assert lab.direction().state is DirectionState.DONE, lab.told()
        assert len(fetched(lab).asked) == 41

    def test_where_nothing_can_be_had_it_waits_and_is_looked_for_again(self, make: Any) -> None:
        away = Delivery(state=Delivered.AWAY, reason="https://texts.example/austen could not be fetched: no route.")
        lab = make(["austen"], answers=(away,) * (requesting.AWAY_TRIES + 1))
        add(lab, offer())
        lab.submit(runs=1)
        for _ in range(requesting.AWAY_TRIES + 1):
            lab.go_on()
            lab.clock.advance(100)
        (experiment,) = lab.experiments()
        assert (experiment.state, experiment.hold) == (ExperimentState.BASELINE, Hold.POLICY)
        assert "cannot be had now" in held(lab)[0]
        assert "no route" in held(lab)[0]
        approve(lab)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()

    def test_what_is_not_what_it_says_waits_with_the_reason(self, make: Any) -> None:
        refused = Delivery(state=Delivered.REFUSED, reason="The file of austen is a pickle.")
        lab = make(["austen"], answers=(refused,))
        add(lab, offer())
        lab.submit(runs=1)
        lab.go_on()
        assert held(lab) == ["it asks for austen, which cannot be used: The file of austen is a pickle."]
        assert not lab.executions(experiment_id=lab.experiments()[0].id)

    def test_without_a_gateway_what_is_here_already_will_do(self, make: Any) -> None:
        for data, is_done in ((TEXT, True), (b"\x80\x04K\x01.", False)):
            lab = make(["austen"])
            lab.write = dataclasses.replace(lab.write, fetcher=None)
            lab.artifacts.put(data)
            add(lab, offer(data=data))
            lab.submit(runs=1)
            lab.go_on()
            assert (lab.direction().state is DirectionState.DONE) is is_done, lab.told()
        assert "The file of austen is a pickle" in held(lab)[0]

    def test_the_policy_wants_its_own_word_besides(self, make: Any) -> None:
        rule = Rule(
            name="scales",
            applies_to=frozenset({Subject.IDEA}),
            terms=("scale",),
            verdict=PolicyVerdict.NEEDS_A_PERSON,
            reason="Scales are looked at.",
        )
        lab = make(["austen"], policy=Policy(rules=(rule,), sha256="f" * 64))
        lab.submit(runs=1)
        lab.go_on()
        (why,) = held(lab)
        assert "Scales are looked at" in why
        assert "austen" in why
        # To let a whole direction's ideas go on adds nothing to the catalogue.
        with pytest.raises(ConflictError):
            approve(lab)
        add(lab, offer())
        approve(lab)
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()


class TestEnding:
    def test_data_that_cannot_be_drawn_end_the_experiment_alone(self, make: Any) -> None:
        def failing(spec: Spec) -> Did | None:
            has = any(item.path == PLACE for item in spec.inputs)
            return Did(verdict=Verdict.FAILED, output="too short a text") if has else does(spec)

        lab = make(["austen"], [], sandbox=InstantSandbox(failing))
        add(lab, offer())
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        first, second = lab.experiments()
        assert (first.state, second.state) == (ExperimentState.FAILED, ExperimentState.DONE)
        assert first.error == "with what was asked for of the catalogue prepare.py ended failed: too short a text"

    def test_a_baseline_that_fails_on_it_ends_the_experiment_alone(self, make: Any) -> None:
        def failing(spec: Spec) -> Did | None:
            has = any(item.path == "in/data/austen.txt" for item in spec.inputs)
            return Did(verdict=Verdict.FAILED, output="boom") if has and spec.kind is Kind.RUN else does(spec)

        lab = make(["austen"], [], sandbox=InstantSandbox(failing))
        add(lab, offer())
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        first, second = lab.experiments()
        assert (first.state, second.state) == (ExperimentState.FAILED, ExperimentState.DONE)
        assert "the template's own experiment.py ended failed: boom" in first.error
        assert lab.coder.calls
        assert all(call.claims.experiment_id == second.id for call in lab.coder.calls)

    @pytest.mark.parametrize("seed", range(4))
    def test_killed_at_its_commits_it_ends_the_same(self, make: Any, seed: int) -> None:
        store, chance = MortalStore(), random.Random(seed)
        lab = make(["austen"], ["austen"], store=store)
        add(lab, offer())
        lab.submit(ideas=2, runs=1)
        store.fate = lambda _: chance.choice((Moment.BEFORE, Moment.AFTER)) if chance.random() < 0.1 else None
        for _ in range(5000):
            try:
                if not lab.once():
                    if lab.direction().is_final and all(one.state is StepState.DONE for one in lab.steps()):
                        break
                    lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
            except KilledError:
                continue
        assert [one.state for one in lab.experiments()] == [ExperimentState.DONE] * 2, lab.told()
        assert len([one for one in lab.runs() if one.index == 0]) == 2
        assert {one.added["data/catalogue/austen.txt"] for one in lab.experiments()} == {SHA}


def test_an_offer_that_is_none_is_refused() -> None:
    with pytest.raises(BadInputError):
        offer(sha256="")
