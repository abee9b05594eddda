"""The shipped templates' seeds, alone and beside another: of their own code, of all playbooks' edits, of leaks."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fumehood.llm import search_replace
from fumehood.services.query_driver import TOGETHER

ROOT = Path(__file__).parents[2] / "templates"
LOOK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import together
for folder in json.loads(sys.argv[2]):
    os.chdir(folder)
    print(json.dumps(together.checked(sys.argv[3:], [1, 2])), flush=True)
"""
"""Looks at the seeds of each folder's code as the platform does, with torch imported once for all of them."""


@dataclass(frozen=True, kw_only=True)
class Small:
    """A template as small as it can be."""

    prepare: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    leaks: tuple[tuple[str, str], ...] = ()
    """Places of `experiment.py`, and what makes one seed depend on another there."""


TEMPLATES = {
    "2d_diffusion": Small(
        prepare=("--train_points=500", "--held_out_points=50"),
        run=("--train_batch_size=64", "--hidden_size=32", "--embedding_dim=8", "--learning_rate=3e-3", "--threads=1"),
        leaks=(
            (
                "clip_gradients(list(weights.values()), config.clip_norm)",
                "nn.utils.clip_grad_norm_(list(weights.values()), config.clip_norm)",
            ),
            (
                'generators = [torch.Generator().manual_seed(member.random_seed("batches")) for member in members]',
                "generators = [torch.Generator().manual_seed(1)] * len(members)",
            ),
            ("losses.sum().backward()", "losses.mean().backward()"),
        ),
    ),
    "grokking": Small(
        prepare=("--modulus=7", "--letters=3"),
        run=("--train_batch_size=8", "--width=16", "--heads=2", "--layers=1", "--threads=1"),
        leaks=(
            (
                "        optimiser.step()\n",
                "        nn.utils.clip_grad_norm_(list(weights.values()), 0.5)\n        optimiser.step()\n",
            ),
            ('f"batches {draw}"', 'f"batches {draw}{len(members)}"'),
        ),
    ),
    "nanogpt_lite": Small(
        prepare=("--held_out_characters=256", "--most_characters=60000"),
        run=("--block_size=16", "--n_layer=1", "--n_head=1", "--n_embd=16", "--warmup=1", "--threads=1"),
        leaks=(('    torch.manual_seed(member.random_seed("weights and dropout"))\n', ""),),
    ),
    "epidemic": Small(
        prepare=("--outbreaks=2",),
        run=("--starts=2",),
        leaks=(
            (
                'rng = np.random.default_rng(zlib.crc32(f"{dataset} {seed}".encode()))\n',
                "rng = globals().setdefault('_draws', np.random.default_rng(0))\n",
            ),
        ),
    ),
    "self": Small(prepare=("--pairs=20",)),
}


def codes(template: Path, leaks: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the code of the baseline, of every run of the playbook as its last attempt leaves it, and of each leak."""
    own = {path.name: path.read_bytes() for path in template.glob("*.py")}
    own = {name: data for name, data in own.items() if name not in {"prepare.py", "evaluate.py"}}
    editable = tomllib.loads((template / "template.toml").read_text())["editable"]
    yield "baseline", own
    for idea in tomllib.loads((template / "offline.toml").read_text())["ideas"]:
        files = own
        for number, run in enumerate(idea["runs"], start=1):
            for reply in (each for one in run["attempts"] for each in (one["reply"], one.get("mended")) if each):
                applied = search_replace.apply(search_replace.parse(reply).blocks, files, editable, {})
                assert not applied.problems
                files = dict(applied.files)
            yield f"{idea['name']}_{number}", files
    for place, (old, new) in enumerate(leaks):
        text = own["experiment.py"].decode()
        assert text.count(old) == 1, old
        yield f"leak_{place}", {**own, "experiment.py": text.replace(old, new).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_seeds_are_independent_in_all_but_what_makes_them_depend(name: str, lab_python: Path, tmp_path: Path) -> None:
    small, template = TEMPLATES[name], ROOT / name
    (tmp_path / "key").write_bytes(bytes(range(32)))
    own = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "FUMEHOOD_DATA": str(tmp_path / "train")}
    own["FUMEHOOD_INPUTS"] = str(tmp_path / "inputs")
    for part in ("train", "inputs"):
        asked = ("--arm=screen", f"--part={part}", f"--key={tmp_path / 'key'}", "--seeds=1,2")
        words = [lab_python, "-B", template / "prepare.py", *asked, f"--out_dir={tmp_path / part}", *small.prepare]
        subprocess.run(words, env=own, check=True, capture_output=True, timeout=120)
    folders = []
    for variant, files in codes(template, small.leaks):
        folders.append(tmp_path / variant)
        folders[-1].mkdir()
        for path, data in files.items():
            (folders[-1] / path).write_bytes(data)
    check = tomllib.loads((template / "template.toml").read_text())["together"]["check"]
    words = [lab_python, "-B", "-c", LOOK, TOGETHER.parent, json.dumps([*map(str, folders)]), *small.run, *check]
    done = subprocess.run(words, env=own, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    told = {folder.name: json.loads(line) for folder, line in zip(folders, done.stdout.splitlines(), strict=True)}
    assert len(told) > len(small.leaks) + 5
    for variant, one in told.items():
        assert one["apart"] is variant.startswith("leak"), (variant, one)
        assert one["largest"] is not None, (variant, one)
