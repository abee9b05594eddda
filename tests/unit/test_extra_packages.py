"""What is asked for beside the lab's packages: read, settled with a direction's files, and found by what runs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain import extra_packages as extra
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.extra_packages import ExtraPackages, Pin
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.template import Profile, Template
from fumehood.errors import BadInputError
from fumehood.services import extra_packages, templates, wanting
from fumehood.store.memory import FixedClock
from tests.fakes.laboratory import TINY, Laboratory
from tests.fakes.model import ScriptedCoder
from tests.fakes.wheels import write_wheel

SHA = "a1" * 32
DIRECTION = Direction(
    id=DirectionId("dir_1"),
    tenant=TenantId("ten_1"),
    template="t",
    text="",
    model="m",
    review_model="m",
    profile="tiny",
    ideas=1,
    runs=1,
)


def test_a_list_is_parted_by_commas_and_spaces_and_hashes_stay_with_their_package() -> None:
    found = extra.pins([f"Tiny_Thing==1.0  --hash=sha256:{SHA}, other==2", "third==3.0.1+cpu"])
    assert found == (Pin("tiny-thing", "1.0", (SHA,)), Pin("other", "2"), Pin("third", "3.0.1+cpu"))
    assert found[0].line == f"tiny-thing==1.0 --hash=sha256:{SHA}"


@pytest.mark.parametrize(
    "text",
    [
        "tiny",
        "tiny>=1",
        "tiny==1.*",
        "tiny @ https://elsewhere.example/tiny.whl",
        "-r list.txt",
        "tiny[more]==1",
        "a==",
    ],
)
def test_what_does_not_name_one_version_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(BadInputError, match="NAME==VERSION"):
        extra.pins([text] if " " not in text else [text.replace(" ", "\t")])


def test_one_package_is_asked_for_once() -> None:
    same = extra.merged(extra.pins(["tiny==1.0", "tiny==1.0"]), {})
    assert same == ExtraPackages(pins=(Pin("tiny", "1.0"),))
    with pytest.raises(BadInputError, match="asked for twice"):
        extra.merged(extra.pins(["tiny==1.0", "tiny==2.0"]), {})
    with pytest.raises(BadInputError, match="asked for twice"):
        extra.merged(extra.pins(["tiny==1.0"]), {"tiny-1.0-py3-none-any.whl": SHA})
    with pytest.raises(BadInputError, match="asked for twice"):
        extra.merged((), {"tiny-1.0-py3-none-any.whl": SHA, "Tiny-2.0-py3-none-any.whl": SHA})


@pytest.mark.parametrize("name", ["tiny-1.0.tar.gz", "tiny.whl", "../tiny-1.0-py3-none-any.whl", "tiny-1.0-py3.whl"])
def test_only_a_wheel_is_taken_as_a_file(name: str) -> None:
    with pytest.raises(BadInputError, match="only wheels are taken"):
        extra.of_wheel(name)


def test_what_is_asked_for_has_one_name_in_whatever_order() -> None:
    one = extra.merged(extra.pins(["b==2, a==1"]), {"c-1-py3-none-any.whl": SHA})
    other = extra.merged(extra.pins(["a==1, b==2"]), {"c-1-py3-none-any.whl": SHA})
    assert one.to_json() == other.to_json()
    assert ExtraPackages.from_json(one.to_json()) == one
    assert one.names == {"a", "b", "c"}


class TestSettled:
    def test_declared_and_added_packages_are_one_file_among_the_templates(self, tmp_path: Path) -> None:
        artifacts = MemoryArtifacts()
        template = Template(title="t", packages=("numpy", "tiny==1.0"))
        files = {"experiment.py": artifacts.put(b"")}
        wheel = write_wheel(tmp_path, "second")
        settled = extra_packages.settle(files, artifacts, template, ["third==3"], [wheel])
        sha = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert settled[f"wheels/{wheel.name}"] == sha
        assert extra_packages.read(settled, artifacts) == ExtraPackages(
            pins=(Pin("third", "3"), Pin("tiny", "1.0")), wheels={wheel.name: sha}
        )
        assert extra.image_of(settled) == f"lab-{settled['extra_packages.json']}"
        assert extra_packages.holds(settled, artifacts, ["third==3"], [wheel])
        assert not extra_packages.holds(settled, artifacts, ["third==4"], [])
        # A wheel of the same name with other bytes is another one.
        other = write_wheel(tmp_path / "other", "second", files={"second.py": "OTHER = 1\n"})
        assert not extra_packages.holds(settled, artifacts, [], [other])

    def test_a_template_that_asks_for_nothing_keeps_its_files_and_the_lab(self) -> None:
        artifacts = MemoryArtifacts()
        files = {"experiment.py": artifacts.put(b"")}
        assert extra_packages.settle(files, artifacts, Template(title="t", packages=("torch",))) == files
        assert extra.image_of(files) == "lab"
        assert not extra_packages.read(files, artifacts)

    def test_a_template_cannot_write_the_platforms_file(self) -> None:
        artifacts = MemoryArtifacts()
        files = {"extra_packages.json": artifacts.put(b'{"packages": ["tiny==1.0"], "wheels": {}}')}
        with pytest.raises(BadInputError, match="which the platform writes"):
            extra_packages.settle(files, artifacts, Template(title="t"))

    def test_a_wheel_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="cannot be read: No such file"):
            extra_packages.settle(
                {}, MemoryArtifacts(), Template(title="t"), wheels=[tmp_path / "tiny-1.0-py3-none-any.whl"]
            )

    def test_what_can_be_imported_is_what_is_named_and_what_is_known_of_the_lab(self) -> None:
        artifacts = MemoryArtifacts()
        template = Template(title="t", packages=("numpy", "tiny-thing==1.0"))
        files = extra_packages.settle({}, artifacts, template)
        known = {extra.image_of(files): frozenset({"tinything", "needed"})}
        assert extra_packages.importable(files, artifacts, template, lambda image: known[image]) == {
            *("numpy", "tiny_thing", "tinything", "needed")
        }


def test_a_template_says_what_is_wrong_with_its_packages() -> None:
    artifacts = MemoryArtifacts()
    words = {name: text.encode() for name, text in TINY.items()}

    def problems(told: str, **more: bytes) -> str:
        held = {**words, "template.toml": f"{told}\n".encode() + words["template.toml"], **more}
        return " ".join(templates.check({path: artifacts.put(data) for path, data in held.items()}, artifacts, "tiny"))

    assert problems('packages = ["numpy", "tiny==1.0"]') == ""
    assert "NAME==VERSION" in problems('packages = ["tiny>=1"]')
    assert "asked for twice" in problems('packages = ["tiny==1", "tiny==2"]')
    assert "names the wheel wheels/tiny-1.0-py3-none-any.whl" in problems(
        'wheels = ["wheels/tiny-1.0-py3-none-any.whl"]'
    )
    assert "wrong at wheels" in problems('wheels = ["../tiny-1.0-py3-none-any.whl"]')
    assert "not a wheel's name" in problems('wheels = ["wheels/tiny.whl"]', **{"wheels/tiny.whl": b""})


class TestDirections:
    def test_code_of_experiments_finds_them_and_what_draws_data_and_evaluates_does_not(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        lab = make_lab()
        direction = lab.submit(packages=("tiny==1.0",))
        lab.go_on(until=lambda: bool(lab.steps("propose")))
        derived = f"lab-{direction.template_files['extra_packages.json']}"
        images = {spec.kind: spec.image for spec in lab.sandbox.launched}
        assert images == {Kind.PREPARE: "lab", Kind.RUN: derived, Kind.EVALUATE: "lab"}
        # And no execution is given the list, or a wheel, but as a frozen file.
        assert not any("extra_packages.json" in item.path for item in lab.sandbox.launched[-2].inputs)

    def test_which_kinds_those_are(self) -> None:
        files = {"extra_packages.json": SHA, "wheels/tiny-1.0-py3-none-any.whl": SHA, "experiment.py": SHA}
        direction = dataclasses.replace(DIRECTION, template_files=files)
        images = {
            kind: wanting.wanted(FixedClock(), direction, Profile(), kind, command=("true",)).image for kind in Kind
        }
        derived = {kind for kind, image in images.items() if image == f"lab-{SHA}"}
        assert derived == {Kind.RUN, Kind.QUERY, Kind.RESUME, Kind.PLOT}
        assert {images[kind] for kind in set(Kind) - derived} == {"lab"}
        assert set(templates.workspace(files)) == {"experiment.py"}
        assert "wheels/tiny-1.0-py3-none-any.whl" not in wanting.frozen(direction, ())

    def test_a_baseline_with_other_packages_is_another_one(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = make_lab()
        for asked in ((), ("tiny==1.0",), ("tiny==1.0",), ("tiny==2.0",)):
            lab.submit(packages=asked)
            lab.go_on()
        baselines = [run for run in lab.runs() if run.index == 0]
        keys = [run.cache_key for run in baselines]
        assert len(set(keys)) == 3
        assert keys[1] == keys[2]
        assert lab.told().count("taken from the cache") == 1

    def test_an_edit_may_import_what_the_lab_has_more(self, make_lab: Callable[..., Laboratory]) -> None:
        coder = ScriptedCoder({(1, 1): ({"experiment.py": TINY["experiment.py"].encode() + b"import needed\n"}, "")})
        found = {}
        for known in (frozenset({"needed"}), frozenset[str]()):
            lab = make_lab(coder=coder)
            lab.submit(packages=("tiny==1.0",))
            image = extra.image_of(lab.direction().template_files)
            lab.write = dataclasses.replace(
                lab.write, packages=frozenset({"numpy"}), extra_imports={image: known}.__getitem__
            )
            lab.go_on()
            found[known] = [attempt.verdict for attempt in lab.runs()[1].attempts]
        assert found == {frozenset({"needed"}): [], frozenset(): ["refused"]}
