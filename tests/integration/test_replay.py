"""A record answers in the provider's place: to the same calls the same, to any other with the place that differs."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cost
from fumehood.domain.execution import Spec
from fumehood.domain.experiment import ExperimentState
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError
from fumehood.gateway.record import NAMED, Record, difference
from fumehood.gateway.upstream import UpstreamError
from fumehood.gateway.upstreams.replay import NAME, Replay, models_of
from fumehood.services import repeating
from fumehood.services.verification import Folder, open_folder
from tests.fakes.laboratory import Laboratory
from tests.fakes.sandbox import Did, InstantSandbox

Make = Callable[..., Laboratory]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a direction that the provider's double wrote."""
    folder = tmp_path_factory.mktemp("record")
    lab = Laboratory(folder / "lab", files=cost.template(), sandbox=InstantSandbox(cost.programs))
    cost.measure(lab, 1, 2)
    yield lab.export(folder / "out")
    lab.artifacts.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Laboratory] = []

    def lab(files: dict[str, str] | None = None, act: Any = cost.programs) -> Laboratory:
        files = files or cost.template()
        made.append(Laboratory(tmp_path / f"lab{len(made)}", files=files, sandbox=InstantSandbox(act)))
        return made[-1]

    yield lab
    for one in made:
        one.artifacts.close()


def again(lab: Laboratory, folder: Path, out: Path) -> tuple[Record, repeating.Repeated]:
    record = Record.read(folder)
    cost.carry_out(lab, {NAME: Replay(record)}, models_of(record), 1, 2)
    (name,) = [one.name for one in lab.experiments()] or ["cosine_noise_schedule"]
    old, new = (open_folder(one).below(f"experiments/{name}/") for one in (folder, lab.export(out)))
    return record, repeating.compare(old, new, name)


def elsewhere(spec: Spec) -> Did:
    """Do the same on another machine, whose numbers are others."""
    did = cost.programs(spec)
    files = {path: data.replace(b"0.50", b"0.52").replace(b"41.0", b"67.0") for path, data in did.files.items()}
    return dataclasses.replace(did, files=files, output=f"{did.output} on another machine in 12 s")


def test_everything_is_the_same_and_nothing_is_paid(recorded: Path, make: Make, tmp_path: Path) -> None:
    lab = make()
    record, found = again(lab, recorded, tmp_path / "out")
    assert found.different == []
    assert found.measured == []
    assert record.left() == []
    told = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (told["cost_usd"], told["papers"]) == (0, 1)


def test_where_numbers_differ_the_text_is_compared_with_the_recorded_ones(
    recorded: Path, make: Make, tmp_path: Path
) -> None:
    _, found = again(make(act=elsewhere), recorded, tmp_path / "out")
    assert found.different == []
    assert any("kl_divergence/mean of run_0/record.json was 0.50" in one for one in found.measured)
    assert any(one.endswith("latex/main.tex, with the recorded numbers") for one in found.same)


def test_a_call_that_is_not_the_recorded_one_ends_with_its_first_difference(
    recorded: Path, make: Make, tmp_path: Path
) -> None:
    files = cost.template()
    files["experiment.py"] = files["experiment.py"].replace("0.02", "0.03")
    lab = make(files)
    again(lab, recorded, tmp_path / "out")
    assert (
        "The call of role idea is not the recorded one (llm_calls.jsonl line 1): `messages[0]` differs in" in lab.told()
    )
    assert not [one for one in lab.experiments() if one.state is ExperimentState.DONE]


class TestRecord:
    """What is read of a folder, and what is refused."""

    @pytest.fixture
    def folder(self, recorded: Path, tmp_path: Path) -> Path:
        shutil.copytree(recorded, tmp_path / "copy")
        return tmp_path / "copy"

    def test_a_missing_one_is_named(self, folder: Path) -> None:
        (folder / "llm_calls.jsonl").unlink()
        with pytest.raises(BadInputError, match=r"llm_calls\.jsonl is missing, and without it"):
            Record.read(folder)

    @pytest.mark.parametrize("left", [0.3, 0.5, 0.99])
    def test_one_that_was_cut_off_is_named_with_its_line(self, folder: Path, left: float) -> None:
        file = folder / "llm_calls.jsonl"
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * left)])
        with pytest.raises(
            BadInputError, match=r"llm_calls\.jsonl line \d+ is no recorded call: it was cut off or changed"
        ):
            Record.read(folder)

    @pytest.mark.parametrize("bad", ["[]", "5", "{}", '{"claims": 1}', "\x00", "[" * 100_000])
    def test_one_that_holds_something_else_is_named(self, folder: Path, bad: str) -> None:
        (folder / "llm_calls.jsonl").write_text(bad)
        with pytest.raises(BadInputError, match="line 1 is no recorded call"):
            Record.read(folder)

    def test_one_without_any_call_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "llm_calls.jsonl").write_text("")
        with pytest.raises(BadInputError, match=r"nothing to repeat"):
            Record.read(tmp_path)

    def test_each_answer_is_given_once_and_in_order(self, folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "llm_calls.jsonl").read_text().splitlines()]
        replay = Replay(Record.read(folder))
        for line in lines:
            named = {name: line["claims"][name] for name in NAMED}
            claims = Claims(tenant=TenantId("t"), direction_id=DirectionId("d"), model=cost.MODEL, **named)
            assert replay.send(claims, line["request"]) == line["reply"]
            with pytest.raises(UpstreamError, match="The record holds no further call of role"):
                replay.send(claims, line["request"])


def asked_by_a_program(folder: Path, *calls: tuple[str, str, str]) -> Record:
    """Return the record of one run's calls, each of a launch's token: what was asked, and what was answered."""
    claims = {"role": "execution", "idea": "a", "index": 0, "run": 1, "attempt": 1, "subject": ""}
    lines = [
        {
            "claims": {**claims, "id": token},
            "request": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]},
            "reply": {"content": [{"type": "text", "text": answer}]},
            "status": 200,
        }
        for token, text, answer in calls
    ]
    (folder / "llm_calls.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Record.read(folder)


def answers(record: Record, *texts: str, **changes: Any) -> list[str]:
    claims = Claims(
        tenant=TenantId("t"), direction_id=DirectionId("d"), role="execution", model="m", idea="a", run=1, attempt=1
    )
    request = {"model": "m", "max_tokens": 9, **changes}
    found = [record.take(claims, {**request, "messages": [{"role": "user", "content": text}]}) for text in texts]
    return [one["content"][0]["text"] for one in found]


def test_what_a_program_asks_twice_is_answered_twice(tmp_path: Path) -> None:
    record = asked_by_a_program(tmp_path, ("tok_1", "Why?", "one"), ("tok_1", "Why?", "two"))
    assert answers(record, "Why?", "Why?") == ["one", "two"]
    assert record.left() == []


def test_what_a_launch_asked_that_was_lost_is_not_answered_again(tmp_path: Path) -> None:
    lost = [("tok_1", "Why?", "lost"), ("tok_1", "How?", "lost")]
    assert answers(asked_by_a_program(tmp_path, *lost, ("tok_2", "Why?", "kept")), "Why?") == ["kept"]


def test_a_program_may_ask_in_another_order_and_in_other_words(tmp_path: Path) -> None:
    calls = [("tok_1", "first", "1"), ("tok_1", "it took 3 s", "2"), ("tok_1", "last", "3")]
    assert answers(asked_by_a_program(tmp_path, *calls), "last", "first", "it took 4 s") == ["3", "1", "2"]
    with pytest.raises(BadInputError, match="`max_tokens` was 9 and is 8"):
        answers(asked_by_a_program(tmp_path, *calls), "first", max_tokens=8)


REQUEST: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "temperature": 0.7,
    "system": "Be brief.",
    "messages": [
        {
            "role": "user",
            "content": "Do it.\n<facts>\n"
            '{"runs": [{"title": "Run of 3", "mean": 0.5, "word": "higher"}], "label": "open"}\n</facts>\n'
            'It said:\n<untrusted from="a program">\nloss 0.5\n</untrusted>\n'
            '<untrusted from="the notebook">\nThe error is 0.5 now.\n</untrusted>\nThe end.',
        }
    ],
}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loss 0.5", "Traceback of line 9", ""),
        ("error is 0.5 now", "error is 0.71 now", ""),
        ('"mean": 0.5', '"mean": -1.5e-3', ""),
        ('"word": "higher"', '"word": "lower"', ""),
        ("error is 0.5 now", "mistake is 0.5 now", "in what is from the notebook"),
        ('"label": "open"', '"label": "promising"', "in facts/label: 'open' became 'promising'"),
        ('"mean": 0.5', '"median": 0.5', "in facts/runs/0: mean is gone"),
        ('"mean": 0.5', '"mean": null', "in facts/runs/0/mean: 0.5 became null"),
        ("Do it.", "Do that.", "`messages[0]` differs in the prompt: 'user: Do it."),
        ("The end.", "The end. More.", "`messages[0]` differs in the prompt"),
    ],
)
def test_what_is_measured_may_differ_and_nothing_else(old: str, new: str, words: str) -> None:
    changed = copy.deepcopy(REQUEST)
    changed["messages"][0]["content"] = changed["messages"][0]["content"].replace(old, new)
    found = difference(REQUEST, changed)
    assert (words in found) if words else (found == "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "n"), ("max_tokens", 11), ("temperature", 0.1), ("system", "Be long."), ("tools", [{}])],
)
def test_the_first_field_that_differs_is_named(name: str, value: Any) -> None:
    assert difference(REQUEST, {**REQUEST, name: value}).startswith(f"`{name}` was ")


def test_blocks_and_wishes_to_keep_them_are_no_difference() -> None:
    text = REQUEST["messages"][0]["content"]
    blocks = [
        {"type": "text", "text": text[:9], "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": text[9:]},
    ]
    assert difference(REQUEST, {**REQUEST, "messages": [{"role": "user", "content": blocks}]}) == ""


def paper(source: str, *claims: tuple[str, str], code: bytes = b"x = 1") -> Folder:
    told = [{"section": "results", "source": "run_1/record.json", "pointer": one, "text": text} for one, text in claims]
    files = {"latex/main.tex": source.encode(), "claims.json": json.dumps(told).encode(), "run_1.py": code}
    return Folder(paths=tuple(files), read=files.__getitem__)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (paper("It is 0.6 of 12.", ("a/mean", "0.6")), ""),
        (paper("It is 0.6 of 13.", ("a/mean", "0.6")), "12 became 13, and is no measured number"),
        (paper("It was 0.6 of 12.", ("a/mean", "0.6")), "'It is' became 'It was'"),
        (paper("It is 0.6 of 12.", ("b/mean", "0.6")), "0.5 became 0.6, and is no measured number"),
        (paper("It is 0.5 of 12.", ("a/mean", "0.5"), code=b"x = 2"), "run_1.py: its SHA-256 was"),
    ],
)
def test_code_and_text_are_compared_and_only_measured_numbers_may_differ(new: Folder, words: str) -> None:
    found = repeating.compare(paper("It is 0.5 of 12.", ("a/mean", "0.5")), new, "e")
    assert found.holds == (not words)
    assert all(words in one for one in found.different)
