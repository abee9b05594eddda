"""What an edit has no effect with: found where nothing reaches it, and never where something does."""

from __future__ import annotations

import json
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain.experiment import Run
from fumehood.domain.fidelity import PointKind
from fumehood.domain.ids import DirectionId, RunId
from fumehood.llm import search_replace
from fumehood.services.edit_effects import Measured, compared, is_same_output, unreached, untrained

SHIPPED = Path(__file__).parents[2] / "templates/2d_diffusion"
START = """\
import argparse
from dataclasses import dataclass, field

import torch
from torch import nn

DEPTH = 3


@dataclass
class Config:
    width: int = 128
    schedule: str = field(default="linear", metadata={"choices": ("linear", "cosine")})
    clip: bool = False


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first = nn.Linear(2, config.width)

    def forward(self, x):
        return self.first(x)


def main():
    config = Config()
    if config.clip:
        print(DEPTH)
    return Net(config)


if __name__ == "__main__":
    main()
"""


def brought(old: str, new: str, arguments: tuple[str, ...] = (), more: str = "") -> list[str]:
    """Return what is told of an edit that puts `new` in the place of `old` and appends `more`."""
    assert START.count(old) == 1
    before = {"experiment.py": START.encode(), "plot.py": b"print(1)\n"}
    text = START.replace(old, new).replace("if __name__", f"{textwrap.dedent(more)}\n\nif __name__")
    found = unreached(before, {**before, "experiment.py": text.encode()}, arguments)
    assert {one.kind for one in found} <= {PointKind.WITHOUT_EFFECT}
    assert {one.path for one in found} <= {"experiment.py"}
    return [one.sentence.partition(": ")[2] for one in found]


SCHEDULE = '    schedule: str = field(default="linear", metadata={"choices": ("linear", "cosine")})\n'
USED = "    return Net(config)\n"
WITHOUT_EFFECT: dict[str, tuple[str, str, str]] = {
    "a function nobody calls": (
        USED, f"{USED}\n\ndef cosine(steps):\n    return torch.cos(steps)\n",
        "the function cosine is defined and nothing uses it.",
    ),
    "one that calls only itself": (
        USED, f"{USED}\n\ndef halved(n):\n    return halved(n // 2)\n",
        "the function halved is defined and nothing uses it.",
    ),
    "a class": (
        "class Net(", "class Gate(nn.Module):\n    def forward(self, x):\n        return x\n\n\nclass Net(",
        "the class Gate is defined and nothing uses it.",
    ),
    "a wrapped function": (
        USED, f"{USED}\n\n@torch.no_grad()\ndef walk(x):\n    return x\n",
        "the function walk is defined and nothing uses it.",
    ),
    "a constant": ("DEPTH = 3\n", "DEPTH = 3\nDROPOUT = 0.1\n", "DROPOUT is set and nothing reads it."),
    "a layer": (
        "        self.first = nn.Linear(2, config.width)\n",
        "        self.first = nn.Linear(2, config.width)\n        self.gate = nn.Linear(2, 2)\n",
        "self.gate is made and nothing uses it.",
    ),
    "a parameter": (
        USED, "    return scaled(Net(config), 2)\n\n\ndef scaled(net, factor):\n    return net\n",
        "scaled takes factor and does not use it.",
    ),
    "a parameter of an old function": (
        "def main():", "def main(rate=0.1):", "main takes rate and does not use it.",
    ),
    "a branch that is off": (
        USED, f"    if False:\n        config.width = 3\n{USED}",
        "the branch under `False` is never gone into with the run's arguments.",
    ),
    "a loop that is off": (
        USED, f"    while 0:\n        print(2)\n{USED}",
        "the branch under `0` is never gone into with the run's arguments.",
    ),
    "a switch that is off": (
        "DEPTH = 3\n", "DEPTH = 3\nGATED = False\nSCALE = 2 if GATED else 1\nprint(SCALE)\n",
        "the branch under `GATED` is never gone into with the run's arguments.",
    ),
    "an option that is off": (
        USED, f'    if config.schedule == "cosine":\n        print(3)\n{USED}',
        "the branch under `config.schedule == 'cosine'` is never gone into with the run's arguments.",
    ),
    "an option of the command line": (
        USED,
        "    parser = argparse.ArgumentParser()\n    parser.add_argument('--use-gate', action='store_true')\n"
        f"    args = parser.parse_args()\n    if args.use_gate and config.width:\n        print(3)\n{USED}",
        "the branch under `args.use_gate and config.width` is never gone into with the run's arguments.",
    ),
    "a threshold": (
        USED, f"    if config.width > 500:\n        print(3)\n{USED}",
        "the branch under `config.width > 500` is never gone into with the run's arguments.",
    ),
    "behind a return": (
        USED, f"{USED}    print('never')\n", "what stands behind line 30 is never reached.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_nothing_reaches_is_told(name: str) -> None:
    old, new, told = WITHOUT_EFFECT[name]
    assert brought(old, new) == [told]


HONEST: dict[str, tuple[str, str]] = {
    "a function that is called": (USED, "    return cosine(Net(config))\n\n\ndef cosine(net):\n    return net\n"),
    "a function that is handed on": (
        USED, "    return torch.vmap(loss)(Net(config))\n\n\ndef loss(net, unused):\n    return net\n",
    ),
    "a function by its name": (
        USED, "    return globals()['cosine'](Net(config))\n\n\ndef cosine(net):\n    return net\n",
    ),
    "a registered function": (USED, f"{USED}\n\n@torch.library.custom_op\ndef fused(x):\n    return x\n"),
    "a hook of a base class": (
        "    def forward(self, x):", "    def reset_parameters(self, std):\n        pass\n\n    def forward(self, x):",
    ),
    "a method that Python calls": (
        "    def forward(self, x):", "    def __len__(self):\n        return 1\n\n    def forward(self, x):",
    ),
    "a layer that is used": (
        "        return self.first(x)\n\n\ndef main",
        "        self.gate = nn.Linear(2, 2)\n        return self.gate(self.first(x))\n\n\ndef main",
    ),
    "an option that is on": (SCHEDULE, SCHEDULE.replace('default="linear"', 'default="cosine"')),
    "a condition that is known only later": (USED, f"    if torch.rand(1) > 2:\n        print(2)\n{USED}"),
    "a width that the code sets": (
        USED, f"    config.width = 900\n    if config.width > 500:\n        print(3)\n{USED}",
    ),
    "a parameter by habit": (USED, "    return scaled(Net(config), 2)\n\n\ndef scaled(net, _):\n    return net\n"),
    "a function that is only promised": (
        USED, "    return later(config)\n\n\ndef later(config):\n    raise NotImplementedError\n",
    ),
    "a changed number": ("DEPTH = 3", "DEPTH = 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_what_something_reaches_is_not(name: str) -> None:
    assert brought(*HONEST[name]) == []


def test_the_arguments_of_the_run_decide_which_branch_is_taken() -> None:
    new = f'    if config.schedule == "cosine":\n        print(3)\n{USED}'
    assert brought(USED, new, ("--schedule=cosine",)) == []
    assert brought(USED, new, ("--width", "64", "--schedule", "cosine")) == []
    assert len(brought(USED, new, ("--schedule=linear",))) == 1
    assert brought(USED, f"    if config.width > 500:\n        print(3)\n{USED}", ("--width=900",)) == []
    assert brought(USED, f"    if config.width > 500:\n        print(3)\n{USED}", ("--width=wide",)) == []


def test_an_option_with_two_defaults_decides_nothing() -> None:
    other = "@dataclass\nclass Other:\n    schedule: str = 'cosine'\n\n\nprint(Other())\n"
    assert brought(USED, f'    if config.schedule == "cosine":\n        print(3)\n{USED}', more=other) == []


def test_what_was_there_before_or_moved_is_not_brought() -> None:
    dead = START.replace(USED, f"    if False:\n        print(2)\n{USED}\n\ndef old(x, y):\n    return x\n")
    before = {"experiment.py": dead.encode()}
    assert unreached(before, {"experiment.py": dead.replace("DEPTH = 3", "DEPTH = 4").encode()}) == ()
    moved = {"experiment.py": START.encode(), "parts.py": b"def old(x, y):\n    return x\n"}
    assert [one.path for one in unreached(before, moved)] == []


def test_other_files_may_use_what_one_defines() -> None:
    after = {"experiment.py": START.replace("DEPTH = 3", "DEPTH = 3\nOFFSET = 2").encode(), "plot.py": b"print(1)\n"}
    before = {"experiment.py": START.encode(), "plot.py": b"print(1)\n"}
    assert len(unreached(before, after)) == 1
    assert unreached(before, {**after, "plot.py": b"from experiment import OFFSET\nprint(OFFSET)\n"}) == ()


def test_what_the_platform_asks_is_used() -> None:
    before = {"serve.py": b"print(1)\n"}
    served = b"def load(path, dataset, seed):\n    return path\n\n\ndef other(x):\n    return x\n"
    assert [one.sentence for one in unreached(before, {"serve.py": served})] == [
        "Line 5: the function other is defined and nothing uses it."
    ]


def test_no_edit_of_the_shipped_playbook_is_told_of_but_the_one_that_is_mended() -> None:
    """The code before each edit is that of the run before it, as the platform takes it."""
    playbook = tomllib.loads((SHIPPED / "offline.toml").read_text())
    arguments = tomllib.loads((SHIPPED / "template.toml").read_text())["profiles"]["tiny"]["arguments"]
    names = ("experiment.py", "plot.py", "serve.py")
    start = {name: (SHIPPED / name).read_bytes() for name in names}
    told: list[tuple[str, str, str]] = []
    for idea in playbook["ideas"]:
        before = start
        for run in idea["runs"]:
            after = before
            for attempt in run["attempts"]:
                for reply in filter(None, (attempt["reply"], attempt.get("mended"))):
                    blocks = search_replace.parse(reply).blocks
                    after = dict(search_replace.apply(blocks, after, names, frozen={}).files)
                    told += [(idea["name"], run["title"], one.sentence) for one in unreached(before, after, arguments)]
            before = after
    assert told == TOLD_OF_THE_PLAYBOOK


TOLD_OF_THE_PLAYBOOK = [
    (
        "cosine_noise_schedule",
        "Cosine schedule",
        "Line 139: the branch under `config.beta_schedule == 'cosine'` is never gone into with the run's arguments.",
    )
]
"""The playbook's own slip, which goes back to its coder once."""


@pytest.mark.parametrize("text", ["def (", "", "x" * 300_000, "(" * 3000, "\x00", "if" * 9])
def test_what_is_no_python_says_nothing(text: str) -> None:
    assert unreached({"experiment.py": START.encode()}, {"experiment.py": text.encode()}) == ()


@given(st.text(max_size=300))
def test_no_text_upsets_it(text: str) -> None:
    before = {"experiment.py": START.encode()}
    unreached(before, {"experiment.py": f"{START}{text}".encode(errors="replace")}, (text,))


def run(index: int, outputs: dict[str, str], seeds: tuple[int, ...] = (1, 2)) -> Run:
    return Run(
        id=RunId(f"run_{index}"), direction_id=DirectionId("d"), experiment_id=None, index=index, outputs=outputs,
        seeds=seeds,
    )  # fmt: skip


def metrics(source: str = "evaluator", **values: float) -> dict[str, Any]:
    return {
        name: {"source": source, "datasets": {"circle": {"seeds": [value, value + 1]}}}
        for name, value in values.items()
    }


class TestResults:
    def told(self, ours: Measured, *others: Measured) -> list[str]:
        return [one.sentence for one in compared(ours, others)]

    def test_the_same_bytes_as_the_baselines_are_told(self) -> None:
        base = Measured(run=run(0, {"a.npy": "1", "b.json": "2"}), metrics=metrics(kl=1.0))
        same = Measured(run=run(1, {"b.json": "2", "a.npy": "1"}), metrics=metrics(kl=1.0))
        assert self.told(same, base) == ["run_1 left the same bytes in every file as the baseline at the same seeds."]
        assert is_same_output(same.run, base.run)

    def test_the_same_numbers_are_told_also_where_a_file_differs(self) -> None:
        base = Measured(run=run(2, {"a.npy": "1"}), metrics=metrics(kl=1.0) | metrics("self", train_loss=4.0))
        same = Measured(run=run(3, {"a.npy": "9"}), metrics=metrics(kl=1.0) | metrics("self", train_loss=5.0))
        assert self.told(same, base) == ["run_3 measured exactly the numbers of run_2 at every seed and data set."]

    def test_what_a_run_says_of_itself_counts_where_nobody_else_measured_but_for_times(self) -> None:
        base = Measured(run=run(0, {}), metrics=metrics("self", loss=1.0, train_time=3.0))
        same = Measured(run=run(1, {}), metrics=metrics("self", loss=1.0, train_time=4.0))
        other = Measured(run=run(1, {}), metrics=metrics("self", loss=2.0, train_time=3.0))
        assert len(self.told(same, base)) == 1
        assert self.told(other, base) == []

    def test_what_a_template_calls_a_time_is_one_whatever_its_name(self) -> None:
        def timed(value: float) -> dict[str, Any]:
            return {"wait": {**metrics("self", wait=value)["wait"], "is_time": True}}

        base = Measured(run=run(0, {}), metrics=metrics("self", loss=1.0) | timed(3.0))
        same = Measured(run=run(1, {}), metrics=metrics("self", loss=1.0) | timed(4.0))
        assert len(self.told(same, base)) == 1

    def test_a_baseline_with_more_seeds_is_compared_at_those_of_the_run(self) -> None:
        def told(name: str, seeds: tuple[int, ...], values: list[float]) -> Measured:
            own = {"kl": {"source": "evaluator", "datasets": {"circle": {"seeds": values}}}}
            return Measured(run=run(0 if name == "base" else 1, {"a": name}, seeds), metrics=own)

        base = told("base", (1, 2, 3), [1.0, 2.0, 3.0])
        assert self.told(told("same", (2, 1), [2.0, 1.0]), base) == [
            "run_1 measured exactly the numbers of the baseline at every seed and data set."
        ]
        assert self.told(told("other", (1, 2), [1.0, 2.5]), base) == []
        assert self.told(told("fresh", (7, 8), [1.0, 2.0]), base) == []
        assert self.told(told("fewer", (1, 2), [1.0]), base) == []

    def test_other_seeds_and_nothing_at_all_are_no_same_result(self) -> None:
        base = Measured(run=run(0, {"a": "1"}), metrics=metrics(kl=1.0))
        assert self.told(Measured(run=run(1, {"a": "1"}, (7, 8)), metrics=metrics(kl=1.0)), base) == []
        assert self.told(Measured(run=run(1, {}), metrics={}), Measured(run=run(0, {}), metrics={})) == []
        assert self.told(Measured(run=run(1, {"a": "2"}), metrics=metrics(kl=1.5)), base) == []

    def test_parameters_without_a_gradient_are_those_that_the_baseline_has_not(self) -> None:
        told = json.dumps({"parameters": 4, "without_gradient": ["gate.weight", "gate.bias", 7, "x" * 500]}).encode()
        names = untrained(told, b'{"without_gradient": ["gate.bias"]}')
        assert names == ("gate.weight", "x" * 100)
        for nothing in (b"", b"[]", b"{}", b'{"without_gradient": "all"}', b"[" * 100_000, b"\xff"):
            assert untrained(nothing) == ()
